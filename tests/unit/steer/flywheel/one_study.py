"""Runs a small study in the named folder, with two worker processes; killed from outside."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from wheel_tables import quick, salts

from matmill.campaign.workers import LocalWorkers
from matmill.steer.flywheel.driver import run_flywheel

if __name__ == "__main__":
    run_flywheel(quick(rounds=2), folder=sys.argv[1], table=salts(), workers=LocalWorkers(2))
