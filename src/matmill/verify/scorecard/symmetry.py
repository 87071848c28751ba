"""Space groups and crystal systems: does the generator make anything but P1?"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.symmetry import CRYSTAL_SYSTEMS, crystal_system
from matmill.verify.confidence import bootstrap
from matmill.verify.distributions import jensen_shannon
from matmill.verify.metrics import wasserstein
from matmill.verify.scorecard.findings import Findings
from matmill.verify.scorecard.number import Number
from matmill.verify.scorecard.space_groups import groups_of
from matmill.verify.scorecard.subject import Subject

MOST_REFERENCE = 5000
"""Crystals of a reference whose symmetry is searched; more make nothing sharper."""


def symmetry(subject: Subject) -> Findings:
    """Return P1 shares at every tolerance, crystal systems, and distances to the reference."""
    rule = subject.protocol.symmetry
    numbers: list[Number] = []
    columns: dict[str, Tensor | Sequence[object]] = {}
    for symprec in rule.symprecs_a:
        group, _ = subject.space_groups(symprec)
        label = f"P1 at symprec {symprec:g} Å ({rule.library})"
        note = "what fails counts as P1"
        numbers.append(subject.share(f"p1_{symprec:g}", label, group == 1, note=note))
        columns[f"space_group_{symprec:g}"] = group
    group, was_found = subject.space_groups(rule.symprec_a)
    systems = [crystal_system(number) for number in group.tolist()]
    columns["crystal_system"] = systems
    for name in CRYSTAL_SYSTEMS:
        is_it = torch.tensor([system == name for system in systems], dtype=torch.bool)
        label = f"{name} at symprec {rule.symprec_a:g} Å"
        numbers.append(subject.share(f"system_{name}", label, is_it))
    numbers.append(
        Number(
            key="n_space_groups",
            label="different space groups",
            value=float(len(set(group[was_found].tolist()))),
            denominator=int(was_found.sum()),
            of="with a group",
        )
    )
    numbers += _distances(subject, group)
    return Findings(numbers=numbers, columns=columns)


def reference_groups(subject: Subject) -> Tensor | None:
    """Return the space groups of the set that distributions are compared with, if there is one."""
    other = comparison(subject)
    if other is None:
        return None
    crystals = drawn(other[1], subject.seed)
    return groups_of(crystals, subject.protocol, subject.protocol.symmetry.symprec_a)[0]


def comparison(subject: Subject) -> tuple[str, CrystalBatch] | None:
    """Return name and crystals of the set that distributions are compared with."""
    sets = {"test": subject.test, "reference": subject.reference}
    first = subject.protocol.distributions.against
    for name in (first, "reference" if first == "test" else "test"):
        batch = sets[name]
        if batch is not None and len(batch):
            return name, batch
    return None


def drawn(batch: CrystalBatch, seed: int, most: int = MOST_REFERENCE) -> CrystalBatch:
    """Return at most so many crystals, drawn at random, in their order."""
    if len(batch) <= most:
        return batch
    rows = np.random.default_rng(seed).choice(len(batch), most, replace=False)
    return batch.select(np.sort(rows).tolist())


def group_number_score(reference: Tensor, generated: Tensor) -> float:
    """Return one minus a ratio of Wasserstein distances of space-group numbers; 0 if all are P1.

    Source:
        sparks-baird/matbench-genmetrics, core/metrics.py, validity, its half by space groups.
    """
    nothing = torch.ones(1)
    return 1.0 - wasserstein(reference.double(), generated.double()) / wasserstein(
        reference.double(), nothing
    )


def _distances(subject: Subject, group: Tensor) -> list[Number]:
    theirs = reference_groups(subject)
    if theirs is None or not len(group):
        return []
    other = comparison(subject)
    assert other is not None  # else there were no groups of it
    name = f"{len(theirs):,} of the {other[0]} set"
    if subject.protocol.distributions.space_group_distance == "numbers":
        value = group_number_score(theirs, group)
        low, high = bootstrap(
            group.numpy(),
            lambda v: group_number_score(theirs, torch.from_numpy(v)),
            seed=subject.seed,
        )
        return [
            Number(
                key="validity_by_groups",
                label="validity by space-group numbers",
                value=value,
                low=low,
                high=high,
                denominator=len(group),
                of="parsed",
                note=f"against {name}; numbers of space groups have no metric meaning",
            )
        ]
    numbers = []
    for key, label, of in (
        ("jsd_space_group", "space groups, Jensen–Shannon distance", int),
        ("jsd_crystal_system", "crystal systems, Jensen–Shannon distance", crystal_system),
    ):
        reference = Counter(of(v) for v in theirs.tolist())
        mine = np.array([of(v) for v in group.tolist()])
        value = jensen_shannon(Counter(mine.tolist()), reference)
        low, high = bootstrap(
            mine,
            lambda v, reference=reference: jensen_shannon(Counter(v.tolist()), reference),
            seed=subject.seed,
        )
        note = f"against {name}; 0 is equal, 1 disjoint"
        numbers.append(
            Number(
                key=key,
                label=label,
                value=value,
                low=low,
                high=high,
                denominator=len(group),
                of="parsed",
                note=note,
            )
        )
    return numbers
