"""How long `matmill --help` takes, beside the bare interpreter, in one run.

    python benchmarks/startup.py

Each command is run ten times as a whole process; the median wall time is printed. That no heavy
library is loaded is a test: tests/layout.
"""

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "matmill --help": [sys.executable, "-m", "matmill.cli.main", "--help"],
}


def main():
    for name, command in COMMANDS.items():
        seconds = []
        for _ in range(10):
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            seconds.append(time.perf_counter() - start)
        print(f"{name}: {statistics.median(seconds):.3f} s")


if __name__ == "__main__":
    main()
