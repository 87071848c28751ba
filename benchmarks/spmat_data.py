"""Crystals of the pretraining study: the pool, the fine-tuning sets, and that they share nothing.

The pool has crystals above the hull (and, to fill it up, some of unknown hull distance); the
fine-tuning sets have stable ones. No reduced formula is in the pool and in any fine-tuning set.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from matmill.data.splits import matbench_folds
from matmill.data.table import LabelledCrystals, open_table
from matmill.graphs.graph import Graph, build_cached
from matmill.predict.scaling import TargetScale
from matmill.randomness import child

POOL = 61_000
MOST_ATOMS = 20
N_TEST, N_TEST_MODULUS = 2_000, 600
NEAR_HULL = 0.1  # eV/atom; for moduli, of which there are few
LARGE = 20_000

MAIN = {
    "formation energy": "formation_energy_per_atom_ev",
    "band gap": "band_gap_ev",
    "Fermi energy": "fermi_energy_ev",
    "density": "density_g_cm3",
    "atomic density": "atomic_density_per_a3",
}
MODULUS = {"bulk modulus": "bulk_modulus_vrh_gpa"}
LARGE_TARGET = {"formation energy (large)": "formation_energy_per_atom_ev"}
SLABS = {"exfoliation energy": "exfoliation_energy_mev_atom"}
TARGETS = [*MAIN, *MODULUS]


@dataclass(frozen=True)
class FineTuning:
    """Graphs and labels of one group of targets, and which rows may train and which test."""

    graph: Graph
    values: dict[str, torch.Tensor]
    train: torch.Tensor
    test: torch.Tensor
    formulas: frozenset[str]

    def rows(self, n, seed):
        """Return the training rows of a seed."""
        order = torch.randperm(len(self.train), generator=child(seed, "rows", len(self.train)))
        return self.train[order[:n]]

    def labels(self, target, rows):
        """Return the scale for these training rows and the labels of all rows on it."""
        values = self.values[target]
        scale = TargetScale.of(column_of(target), values[rows])
        return scale, scale.to_learned(values).float()


def column_of(target):
    """Return the column of a target."""
    return {**MAIN, **MODULUS, **LARGE_TARGET, **SLABS}[target]


def hull_distance(table):
    """Return the tabulated hull distance, else the recomputed one; NaN where neither is known."""
    known = table.column("energy_above_hull_ev")
    return torch.where(torch.isfinite(known), known, table.column("energy_above_hull_est_ev"))


class Data:
    """Everything that the study reads; graphs are cached in ``folder``."""

    def __init__(self, data: Path, folder: Path):
        table = open_table(data / "mp_union.parquet")
        crystals = table.crystals
        crystals.properties["atomic_density_per_a3"] = 1.0 / table.column("volume_per_atom_a3")
        slabs = open_table(data / "properties" / "matbench_jdft2d.parquet")
        hull, formulas = hull_distance(table), crystals.formula
        is_small = crystals.n_atoms <= MOST_ATOMS
        has_all = torch.stack([torch.isfinite(table.column(c)) for c in MAIN.values()]).all(0)
        main = (hull <= 0.0) & is_small & has_all
        modulus = torch.isfinite(table.column(*MODULUS.values())) & (hull <= NEAR_HULL) & is_small
        self.counts = {"stable with all labels": int(main.sum()), "moduli": int(modulus.sum())}
        self.main_rows = torch.nonzero(main).flatten()
        self.main_formula = [formulas[i] for i in self.main_rows.tolist()]
        self.main = self._group(table, main, MAIN, N_TEST, folder)
        self.modulus = self._group(table, modulus, MODULUS, N_TEST_MODULUS, folder)
        self.large = self._large(table, hull, folder)
        self.slabs = self._slabs(slabs, folder)
        self.taken = frozenset().union(
            *(s.formulas for s in (self.main, self.modulus, self.large, self.slabs))
        )
        stable = {formulas[i] for i in torch.nonzero(hull <= 0.0).flatten().tolist()}
        barred = self.taken | stable
        is_free = torch.tensor([formula not in barred for formula in formulas])
        unstable = torch.nonzero(is_free & (hull > 0.0)).flatten()
        has_gap = torch.isfinite(table.column("band_gap_ev"))
        unknown = torch.nonzero(is_free & ~torch.isfinite(hull) & has_gap).flatten()
        order = torch.randperm(len(unknown), generator=child(0, "pool"))
        extra = unknown[order[: max(0, POOL - len(unstable))]]
        self.pool = table.select(torch.cat([unstable, extra]).sort().values)
        self.counts |= {
            "pool": len(self.pool),
            "pool above the hull": len(unstable),
            "pool of unknown hull distance": len(extra),
        }
        self.pool_graph = _graph(self.pool, folder)
        shared = set(self.pool.crystals.formula) & self.taken
        assert not shared, f"{len(shared)} formulas are in the pool and in a fine-tuning set"

    def _group(self, table, wanted, targets, n_test, folder):
        part = table.select(wanted)
        train, test = by_formula(part.crystals.formula, n_test)
        values = {name: part.column(column).double() for name, column in targets.items()}
        return FineTuning(
            _graph(part, folder), values, train, test, frozenset(part.crystals.formula)
        )

    def _large(self, table, hull, folder):
        """All stable crystals, then the nearest to the hull, tested on the rows of the main set."""
        tested = {self.main_formula[i] for i in self.main.test.tolist()}
        is_tested = torch.tensor([f in tested for f in table.crystals.formula])
        known = torch.isfinite(table.column("formation_energy_per_atom_ev"))
        order = torch.argsort(torch.where(known & ~is_tested, hull.clamp_min(0.0), torch.inf))
        keep = torch.zeros(len(table), dtype=torch.bool)
        keep[order[:LARGE]] = True
        self.counts["large set: farthest from the hull (meV/atom)"] = round(
            1000 * float(hull[keep].max()), 1
        )
        keep[self.main_rows[self.main.test]] = True
        part = table.select(keep)
        is_test = torch.tensor([f in tested for f in part.crystals.formula])
        values = {"formation energy (large)": part.column("formation_energy_per_atom_ev").double()}
        rows = torch.nonzero(~is_test).flatten(), torch.nonzero(is_test).flatten()
        return FineTuning(_graph(part, folder), values, *rows, frozenset(part.crystals.formula))

    def _slabs(self, slabs: LabelledCrystals, folder):
        values = {"exfoliation energy": slabs.column("exfoliation_energy_mev_atom").double()}
        none = torch.zeros(0, dtype=torch.int64)
        self.folds = matbench_folds(len(slabs))
        formulas = frozenset(slabs.crystals.formula)
        return FineTuning(_graph(slabs, folder), values, none, none, formulas)

    def group(self, target):
        """Return the set that a target belongs to."""
        groups = {"main": MAIN, "modulus": MODULUS, "large": LARGE_TARGET, "slabs": SLABS}
        return getattr(self, next(name for name, targets in groups.items() if target in targets))


def by_formula(formulas, n_test):
    """Return training and test rows; formulas are dealt out at random until the test is full."""
    names = sorted(set(formulas))
    order = torch.randperm(len(names), generator=child(0, "test formulas", len(names))).tolist()
    rows = {}
    for row, formula in enumerate(formulas):
        rows.setdefault(formula, []).append(row)
    test = []
    for place in order:
        if len(test) >= n_test:
            break
        test += rows[names[place]]
    is_test = torch.zeros(len(formulas), dtype=torch.bool)
    is_test[test] = True
    return torch.nonzero(~is_test).flatten(), torch.nonzero(is_test).flatten()


def _graph(table, folder):
    return build_cached(table.crystals, 12, 8.0, folder=folder / "graphs", is_merged=True)
