"""Tasks of the wheel that look at synthetic crystals: facts that filters and the report need."""

import time
from dataclasses import dataclass
from typing import Any

import torch

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.fingerprint import amd
from matmill.steer.flywheel.making import to_plain
from matmill.steer.flywheel.settings import Stability
from matmill.verify.hull import Hull
from matmill.verify.novelty import first_of_each
from matmill.verify.potentials import load_chgnet
from matmill.verify.relax import RelaxSettings, relax
from matmill.verify.validity import Limits, check, smact_valid

TABLE = "icsd24"  # of oxidation states


@dataclass(frozen=True, eq=False, kw_only=True)
class LookInput:
    """Synthetic crystals, and the real ones that they are held against.

    Attributes:
        synthetic: In the order of their conditions; float64, without properties, as ``real``.
        real: The training crystals.
        limits: What counts as a crystal.
    """

    synthetic: CrystalBatch
    real: CrystalBatch
    limits: Limits


def look(given: LookInput) -> dict[str, Any]:
    """Return facts about each synthetic crystal, in order.

    ``fate`` is the first objection to its geometry or None, ``is_neutral`` whether charges can
    balance, ``copy_of`` a training row that the matcher takes for the same crystal (-1: none),
    ``is_repeat`` whether an earlier synthetic crystal is the same, ``distance_a`` the AMD distance
    to the nearest training row in Å (infinite for what is no crystal), and ``reach_a`` how far the
    training rows are from each other in the 99th percentile.
    """
    torch.set_num_threads(1)
    started = time.process_time()
    n = len(given.synthetic)
    fates = check(given.synthetic, given.limits)
    sound = torch.tensor([i for i, fate in enumerate(fates) if fate is None], dtype=torch.int64)
    neutral, copy_of, repeat = [False] * n, [-1] * n, [False] * n
    distance = [float("inf")] * n
    reach = _reach(given.real)
    if len(sound):
        good = given.synthetic.select(sound)
        charges = smact_valid(good, TABLE, mixed_valence=True).tolist()
        near = torch.cdist(amd(good).double(), amd(given.real).double(), p=torch.inf).amin(1)
        # Real rows first: the first of each group is then a real row where there is one.
        first = first_of_each(concatenate([given.real, good]))
        n_real = len(given.real)
        for place, row in enumerate(sound.tolist()):
            same = first[n_real + place]
            neutral[row] = bool(charges[place])
            copy_of[row] = same if same < n_real else -1
            repeat[row] = n_real <= same < n_real + place
            distance[row] = float(near[place])
    return {
        "fate": [None if fate is None else str(fate) for fate in fates],
        "is_neutral": neutral,
        "copy_of": copy_of,
        "is_repeat": repeat,
        "distance_a": distance,
        "reach_a": reach,
        "cpu_s": round(time.process_time() - started, 3),
    }


@dataclass(frozen=True, eq=False, kw_only=True)
class SettleInput:
    """A few sound crystals whose energies are wanted.

    Attributes:
        crystals: To compute.
        stability: Whether to relax first.
    """

    crystals: CrystalBatch
    stability: Stability


class Settle:
    """Asks the embedded potential how far above the hull crystals are."""

    def warm_up(self) -> None:
        """Load the potential and the hull."""
        self._potential, self._hull = load_chgnet(), Hull.load()

    def __call__(self, given: SettleInput) -> dict[str, Any]:
        """Return energies above the hull in eV/atom (NaN: none) and the crystals they belong to."""
        torch.set_num_threads(1)
        if not hasattr(self, "_hull"):
            self.warm_up()
        started = time.process_time()
        batch = given.crystals
        if given.stability == "relaxed":
            relaxed = relax(batch, self._potential, RelaxSettings())
            energy = torch.where(relaxed.converged, relaxed.energy_ev, torch.nan)
            batch = relaxed.batch
        else:
            energy = self._potential.compute(batch, forces=False).energy_ev
        return {
            "above_hull_ev_per_atom": self._hull.energy_above(energy, batch).tolist(),
            "hull": self._hull.name,
            "crystals": to_plain(batch),
            "cpu_s": round(time.process_time() - started, 3),
        }


def _reach(real: CrystalBatch) -> float:
    """Return the 99th percentile of the distances of training rows to their nearest others, Å."""
    prints = amd(real).double()
    apart = torch.cdist(prints, prints, p=torch.inf)
    apart.fill_diagonal_(torch.inf)
    return float(apart.amin(1).quantile(0.99))
