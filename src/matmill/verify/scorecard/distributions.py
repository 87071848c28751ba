"""Do density, size and composition look like those of real crystals? Wasserstein-1 distances."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.facts import density, n_elements, volume_per_atom
from matmill.randomness import child
from matmill.verify.confidence import bootstrap
from matmill.verify.distributions import MOST_COMPARED, mmd
from matmill.verify.metrics import wasserstein
from matmill.verify.scorecard.findings import Findings
from matmill.verify.scorecard.number import Number
from matmill.verify.scorecard.subject import Subject
from matmill.verify.scorecard.symmetry import comparison

OF: dict[str, tuple[str, str, Callable[[CrystalBatch], Tensor]]] = {
    "density": ("density", "g/cm³", density),
    "volume_per_atom": ("volume per atom", "Å³", volume_per_atom),
    "n_sites": ("number of sites", "", lambda batch: batch.n_atoms.double()),
    "n_elements": ("number of elements", "", n_elements),
}
"""Label, unit and function of each quantity that can be compared."""

_RESAMPLES = 200


def distributions(subject: Subject) -> Findings:
    """Return the distance of each quantity to the reference, and the noise floor beside it.

    The floor is the distance of as many crystals, drawn from the reference itself: no generator can
    be expected to do better.
    """
    rule = subject.protocol.distributions
    other = comparison(subject)
    if other is None:
        return Findings(notes=["distributions are compared with --reference or --test"])
    name, reference = other
    rows = torch.nonzero(subject.among(rule.among)).flatten().numpy()
    of = {"parsed": "parsed", "geometry": "with valid geometry", "valid": "valid"}[rule.among]
    if rule.draws is not None:
        if len(rows) < rule.draws:
            note = f"the distances need {rule.draws} {of} crystals, there are {len(rows)}"
            return Findings(notes=[f"{note}: the original protocol fails too"])
        draw = np.random.default_rng(subject.seed).choice(len(rows), rule.draws, replace=False)
        rows = rows[np.sort(draw)]
        of = f"{of}, drawn"
    if not len(rows):
        return Findings(notes=[f"no crystal is {of}: no distribution to compare"])
    batch = subject.batch.select(rows.tolist())
    quantities = {key: OF[key] for key in rule.quantities}
    if "density" in quantities:
        label, unit, _ = quantities["density"]
        quantities["density"] = label, unit, lambda batch: density(batch, masses=rule.masses)
    if subject.energies is not None:
        quantities["energy"] = ("predicted energy", "eV/atom", subject.energies)
    numbers = []
    for key, (label, unit, values_of) in quantities.items():
        mine, theirs = values_of(batch).double(), values_of(reference).double()
        numbers += _distance(key, label, unit, mine, theirs, name, of, subject.seed)
        if key in rule.kernel:
            numbers.append(_kernel(key, label, unit, mine, theirs, name, of, subject.seed))
    return Findings(numbers=numbers)


def _distance(
    key: str, label: str, unit: str, mine: Tensor, theirs: Tensor, name: str, of: str, seed: int
) -> list[Number]:
    mine, theirs = mine[torch.isfinite(mine)], theirs[torch.isfinite(theirs)]
    low, high = bootstrap(
        mine.numpy(),
        lambda values: wasserstein(torch.from_numpy(values), theirs),
        seed=seed,
        n_resamples=_RESAMPLES,
    )
    order = np.random.default_rng(seed).permutation(len(theirs))
    chosen = order[: min(len(mine), len(order) // 2)]
    rest = np.setdiff1d(order, chosen)
    floor = wasserstein(theirs[chosen], theirs[rest]) if len(chosen) else float("nan")
    return [
        Number(
            key=f"w1_{key}",
            label=f"{label}, Wasserstein-1",
            value=wasserstein(mine, theirs),
            low=low,
            high=high,
            denominator=len(mine),
            of=of,
            unit=unit,
            note=f"against {len(theirs):,} of the {name} set",
        ),
        Number(
            key=f"w1_{key}_floor",
            label=f"{label}, noise floor",
            value=floor,
            denominator=len(chosen),
            of=f"of the {name} set, drawn",
            unit=unit,
            note="so many crystals of the set itself against the rest of it",
        ),
    ]


def _kernel(
    key: str, label: str, unit: str, mine: Tensor, theirs: Tensor, name: str, of: str, seed: int
) -> Number:
    """Return the maximum mean discrepancy to a draw from the reference, and that of its rest."""
    rng = child(seed, "kernel", key)
    mine, theirs = (v[torch.isfinite(v)] for v in (mine, theirs))
    mine, theirs = (v[torch.randperm(len(v), generator=rng)] for v in (mine, theirs))
    n = min(len(mine), len(theirs) // 2, MOST_COMPARED)
    rest = theirs[n : n + MOST_COMPARED]
    value, width = mmd(mine[:MOST_COMPARED], rest)
    floor, _ = mmd(theirs[:n], rest, width=width)
    return Number(
        key=f"mmd_{key}",
        label=f"{label}, maximum mean discrepancy",
        value=value,
        denominator=min(len(mine), MOST_COMPARED),
        of=of,
        note=f"against the {name} set, width {width:.3g} {unit}; so many of the set itself against "
        f"the rest of it: {floor:.3g}",
    )
