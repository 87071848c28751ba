"""What the measurements of the matcher share: the peer, given crystals, samples made from them."""

import json
import math
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.convert import to_structure
from matmill.crystals.matching import Matcher
from matmill.data.table import open_table


class Peer:
    """pymatgen's matcher with every crystal reduced once."""

    def __init__(self, batch, tolerance):
        from pymatgen.analysis.structure_matcher import StructureMatcher

        self.batch, self.kept = batch, {}
        self.judge = StructureMatcher(
            ltol=tolerance.ltol, stol=tolerance.stol, angle_tol=tolerance.angle_tol
        )

    def structure(self, i):
        """Return a crystal as pymatgen reduces it."""
        if i not in self.kept:
            whole = to_structure(self.batch, i)
            self.kept[i] = whole.get_reduced_structure().get_primitive_structure()
        return self.kept[i]

    def fit(self, i, j, other=None):
        """Return whether crystal i is crystal j of another."""
        second = (other or self).structure(j)
        return bool(self.judge.fit(self.structure(i), second, skip_structure_reduction=True))

    def rms(self, i, j, other=None):
        """Return the rms, NaN for none: `get_rms_dist` without reducing again."""
        a, b = self.structure(i), (other or self).structure(j)
        if a.composition.reduced_formula != b.composition.reduced_formula:
            return math.nan
        found = self.judge._match(
            *self.judge._preprocess(a, b, skip_structure_reduction=True), use_rms=True
        )
        return math.nan if found is None else float(found[0])


def table(name, data):
    """Return the crystals of a given table, without their properties."""
    batch = open_table(Path(data) / f"{name}.parquet").crystals
    ids = batch.ids or [str(i) for i in range(len(batch))]
    return CrystalBatch(
        lattice=batch.lattice,
        frac_coords=batch.frac_coords,
        atomic_numbers=batch.atomic_numbers,
        n_atoms=batch.n_atoms,
        ids=tuple(f"{name}:{key}" for key in ids),
    )


def by_formula(batch):
    """Return the rows of each formula that has several."""
    rows = defaultdict(list)
    for i, formula in enumerate(batch.formula):
        rows[formula].append(i)
    return {formula: members for formula, members in rows.items() if len(members) > 1}


def disturbed(batch, rng, *, step=(0.02, 0.5), strain=0.05):
    """Return the crystals strained and rattled, by amounts that differ from one to the next."""
    widths = np.exp(rng.uniform(*np.log(step), len(batch)))[batch.crystal_index.numpy()]
    moves = rng.normal(size=(len(widths), 3)) * widths[:, None]
    cells = batch.lattice.double().numpy()
    inverse = np.linalg.inv(cells)[batch.crystal_index.numpy()]
    frac = batch.frac_coords.double().numpy() + np.einsum("ai,aij->aj", moves, inverse)
    strains = np.eye(3) + rng.normal(size=cells.shape) * rng.uniform(0, strain, (len(batch), 1, 1))
    return CrystalBatch(
        lattice=torch.from_numpy(cells @ strains),
        frac_coords=torch.from_numpy(frac - np.floor(frac)),
        atomic_numbers=batch.atomic_numbers,
        n_atoms=batch.n_atoms,
        ids=tuple(f"sample:{i}" for i in range(len(batch))),
    )


def timed(run):
    """Return what it gives, and CPU seconds."""
    begin = time.process_time()
    found = run()
    return found, time.process_time() - begin


def warm_up():
    """Load the compiled kernels, or compile them, and return the seconds that it took."""
    begin = time.perf_counter()
    # Once it is loaded, a few pairs no longer go to pymatgen.
    import matmill.crystals.match_search  # noqa: F401

    batch = CrystalBatch.from_lists([np.eye(3) * 4] * 2, [[[0, 0, 0], [0.5] * 3]] * 2, [[6, 6]] * 2)
    Matcher(batch).groups()
    Matcher(batch).distances([(0, 1)])
    return time.perf_counter() - begin


def shown(lines):
    """Return cells as text."""
    return [[f"{x:.3g}" if isinstance(x, float) else str(x) for x in line] for line in lines]


def keep_json(content, file):
    """Write JSON so that a kill never leaves half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(file)
