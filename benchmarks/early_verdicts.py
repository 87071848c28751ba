"""How early relaxation can tell that a crystal will not come near the hull, and at what price.

    python benchmarks/early_verdicts.py --folder runs/relax [-n 400] [--limit 0.1]

Crystals of the shipped generator, half soft, half hard, are relaxed to the end while energies and
forces are written down at every step. The rule of `matmill.verify.hopeless` is then replayed with
many factors: for each, how many of the crystals that end within the limit it would have given up,
and how many steps it saves. The factor is fitted on one half and judged on the other.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from matmill.crystals.batch import CrystalBatch
from matmill.verify import hopeless
from matmill.verify.hull import Hull
from matmill.verify.moving import cell_scale
from matmill.verify.potentials import Potential, PotentialOutput, load_chgnet
from matmill.verify.relax import RelaxSettings, relax
from relax import generated

_PIECE = 50
FACTORS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
MARGINS = (0.0, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0)
ALLOWED = 0.01  # share of the useful crystals that may be given up


class Recorder:
    """Writes down energy per atom and squared forces per atom of every crystal at every step."""

    def __init__(self, potential: Potential) -> None:
        self.potential, self.name, self.hash = potential, potential.name, potential.hash
        self.scheme = potential.scheme
        self.path: dict[str, list[tuple[float, float]]] = {}

    def compute(self, batch: CrystalBatch, *, forces: bool = True) -> PotentialOutput:
        output = self.potential.compute(batch, forces=forces)
        scale = -batch.volume / cell_scale(batch.n_atoms)
        square = (output.stress_ev_per_a3 * scale[:, None, None]).square().sum((1, 2))
        square = square.index_add(0, batch.crystal_index, output.forces_ev_per_a.square().sum(1))
        values = zip(
            batch.ids,
            (output.energy_ev / batch.n_atoms).tolist(),
            (square / batch.n_atoms).tolist(),
            strict=True,
        )
        for key, energy, pull in values:
            self.path.setdefault(key, []).append((energy, pull))
        return output


def recorded(arguments: argparse.Namespace) -> dict:
    """Return the paths of all crystals, relaxed once and kept piece by piece."""
    batch = generated(arguments.n, arguments.folder, arguments.crystals)
    batch = batch.with_ids([str(i) for i in range(len(batch))])
    recorder, hull = Recorder(load_chgnet()), Hull.load()
    whole: dict = {"cpu_s": 0.0, "path": [], "converged": [], "n_atoms": [], "hull": []}
    for start in range(0, len(batch), _PIECE):
        file = arguments.folder / f"paths-{start:04d}-{_PIECE}.json"
        if not file.exists():
            part = batch.select(torch.arange(start, min(start + _PIECE, len(batch))))
            begin = time.process_time()
            result = relax(part, recorder, RelaxSettings(max_steps=arguments.max_steps))
            zero = torch.zeros(len(part), dtype=torch.float64)
            piece = {
                "cpu_s": time.process_time() - begin,
                "path": [recorder.path[key] for key in part.ids],
                "converged": result.converged.tolist(),
                "n_atoms": part.n_atoms.tolist(),
                "hull": (-hull.energy_above(zero, part)).tolist(),
            }
            file.write_text(json.dumps(piece))
        for key, values in json.loads(file.read_text()).items():
            whole[key] += values
    return whole


def replay(found: dict, limit: float, factor: float, margin: float, rows: range) -> dict:
    """Return what the rule costs and saves on some crystals."""
    lost = useful = given_up = 0
    steps = saved = atoms = atoms_saved = 0
    for i in rows:
        path, hull = found["path"][i], found["hull"][i]
        taken = len(path) - 1
        steps += taken + 1
        atoms += (taken + 1) * found["n_atoms"][i]
        is_useful = found["converged"][i] and path[-1][0] - hull <= limit
        useful += is_useful
        stop = next(
            (
                k
                for k in range(hopeless.MIN_STEPS, taken)
                if path[k][0] - factor * path[k][1] - margin > hull + limit
            ),
            None,
        )
        if stop is not None:
            given_up += 1
            lost += is_useful
            saved += taken - stop
            atoms_saved += (taken - stop) * found["n_atoms"][i]
    return {
        "factor": factor,
        "margin": margin,
        "useful": useful,
        "given_up": given_up,
        "lost": lost,
        "lost_share": lost / max(1, useful),
        "steps_saved_share": saved / max(1, steps),
        "work_saved_share": atoms_saved / max(1, atoms),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=400)
    parser.add_argument("--folder", type=Path, default=Path("runs/relax"))
    parser.add_argument("--crystals", type=Path, nargs="*", default=[])
    parser.add_argument("--limit", type=float, default=0.1)
    parser.add_argument("--max-steps", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    found = recorded(arguments)
    n = len(found["path"])
    fit, judge = range(0, n, 2), range(1, n, 2)
    grid = [replay(found, arguments.limit, f, m, fit) for f in FACTORS for m in MARGINS]
    fewest = min(row["lost_share"] for row in grid)
    good = [row for row in grid if row["lost_share"] <= max(ALLOWED, fewest)]
    best = max(good, key=lambda row: row["work_saved_share"])
    shipped = (hopeless.GAIN_A2_PER_EV, hopeless.MARGIN_EV_PER_ATOM)
    report = {
        "crystals": n,
        "limit_ev_per_atom": arguments.limit,
        "cpu_s": found["cpu_s"],
        "best_on_fitted_half": best,
        "the_same_on_the_other_half": replay(
            found, arguments.limit, best["factor"], best["margin"], judge
        ),
        "as_shipped_on_all": replay(found, arguments.limit, *shipped, range(n)),
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
