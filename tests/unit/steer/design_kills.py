"""Run a design, kill it with SIGKILL at a chosen event, resume it, and print what came out.

A script of its own, so that a forked child can be killed without harm to the test run. Every
child starts from the same imports, which makes a kill cheap.
"""

import json
import os
import signal
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "campaign"))
import campaign_fakes as fakes  # noqa: E402

from matmill.campaign.plan import CampaignSettings  # noqa: E402
from matmill.campaign.request import make_request  # noqa: E402
from matmill.campaign.workers import InlineWorkers  # noqa: E402
from matmill.steer.design import design  # noqa: E402

STAGES = (
    "propose",
    "screen",
    "single points",
    "coarse relax",
    "shortlist",
    "relax",
    "hull",
    "novelty",
    "predict",
    "found",
    "write",
)
REQUEST = make_request(targets=["band_gap = 3 eV"], exclude="As", n=14, seed=5)
# Two rounds, several tasks in each stage.
SETTINGS = CampaignSettings(
    proposals_per_wanted=2.0, relaxations_per_wanted=0.7, task_size=10, chunk_atoms=6
)


def run(folder, *, resume=False, on_event=lambda event: None):  # noqa: ARG005
    return design(
        REQUEST,
        SETTINGS,
        folder=folder,
        parts=fakes.parts(),
        workers=InlineWorkers(),
        resume=resume,
        on_event=on_event,
    )


def killed_at(folder, stage, occurrence):
    """Run in a child that kills itself at the n-th event of a stage; return whether it did."""
    child = os.fork()
    if child == 0:
        seen = 0

        def listen(event):
            nonlocal seen
            seen += event.stage == stage
            if event.stage == stage and seen == occurrence:
                os.kill(os.getpid(), signal.SIGKILL)

        run(folder, on_event=listen)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def table(folder):
    """Return everything in the final table but the names of the files."""
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "candidates.parquet").to_pylist()
    record = json.loads((folder / "run.json").read_text())
    kept = {k: record[k] for k in ("rounds", "funnel", "fates", "stopped_because", "warnings")}
    return {"rows": rows, "record": kept, "cif": sorted(p.name for p in (folder / "cif").iterdir())}


def main(base, stages, occurrences):
    run(base / "whole")
    run(base / "again")
    expected = table(base / "whole")
    report = {
        "n_rows": len(expected["rows"]),
        "rounds": expected["record"]["rounds"],
        "same seed": table(base / "again") == expected,
    }
    for stage in stages:
        for occurrence in occurrences:
            folder = base / f"{stage}-{occurrence}"
            if killed_at(folder, stage, occurrence):
                run(folder, resume=True)
                report[f"{stage}-{occurrence}"] = table(folder) == expected
    # Killed again and again, at each stage once, and resumed every time.
    folder = base / "often"
    for stage in STAGES:
        child = os.fork()
        if child == 0:

            def listen(event, stage=stage):
                if event.stage == stage and event.done:
                    os.kill(os.getpid(), signal.SIGKILL)

            run(folder, resume=True, on_event=listen)
            os._exit(0)
        os.waitpid(child, 0)
    run(folder, resume=True)
    report["often"] = table(folder) == expected
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    if sys.argv[2] == "all":
        main(Path(sys.argv[1]), STAGES, (1, 2, 5))
    else:
        main(Path(sys.argv[1]), (), ())
