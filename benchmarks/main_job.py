"""Time, memory and yield of the main job, as a user runs it.

    python benchmarks/main_job.py --out runs/main_job.json -- -t "band_gap = 2.0 eV" \
        --elements Ga,N,O -n 20

Everything after ``--`` goes to ``matmill design``. Memory is the sum of the resident sizes of the
command and its worker processes, looked at four times a second; shared pages count in each.
"""

import argparse
import json
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from matmill.campaign.provenance import machine

DEFAULT = ["-t", "band_gap = 2.0 eV", "--elements", "Ga,N,O", "--n-atoms", "4-16", "-n", "20"]


def resident_gb(pid: int) -> float:
    """Return the resident memory of a process and all its descendants, in GB."""
    total, waiting = 0.0, [pid]
    while waiting:
        one = waiting.pop()
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
            pages = int(Path(f"/proc/{one}/statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += pages * 4096 / 1e9
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/main_job.json"))
    parser.add_argument("arguments", nargs="*", help="for matmill design, after --")
    given = parser.parse_args()
    arguments = given.arguments or DEFAULT
    folder = Path(tempfile.mkdtemp()) / "run"
    command = ["design", *arguments, "--out", str(folder), "--json"]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "matmill.cli.main", *command], stdout=output
        )
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, resident_gb(process.pid))
            time.sleep(0.25)
        seconds = time.perf_counter() - start
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        output.seek(0)
        text = output.read()
    if process.returncode:
        sys.exit(f"matmill design failed with status {process.returncode}")
    result = json.loads(text)
    rows, funnel = result["delivered"], result["funnel"]
    near = [row for row in rows if row["energy_above_hull_ev_per_atom"] < 0.1]
    record = {
        "command": shlex.join(["matmill", "design", *arguments]),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_memory_gb": round(peak, 2),
        "n_delivered": len(rows),
        "n_below_0.1_ev_per_atom": len(near),
        "n_novel": sum(row["is_novel"] for row in rows),
        "n_on_target": result["n_on_target"],
        "funnel": funnel,
        "fates": result["fates"],
        "warnings": result["warnings"],
        "seconds_by_stage": json.loads((folder / "run.json").read_text())["seconds"],
        "machine": machine(),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(record, indent=2) + "\n")
    sys.stdout.write(json.dumps(record, indent=2) + f"\nFiles: {folder}\n")


if __name__ == "__main__":
    main()
