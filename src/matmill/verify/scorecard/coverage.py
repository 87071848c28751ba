"""Coverage of the test set: COV-R and COV-P by fingerprints, or by matches."""

import torch
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.symmetry import datasets
from matmill.verify import coverage as fingerprints
from matmill.verify.patience import patiently
from matmill.verify.scorecard import sameness
from matmill.verify.scorecard.findings import Findings
from matmill.verify.scorecard.number import Number, mean_of, share_of
from matmill.verify.scorecard.subject import Subject
from matmill.verify.statuses import Status

MOST_SITES = 100
"""Sites of a crystal that are looked at at most: each costs 20 to 40 ms."""

_SECONDS_EACH = 4.0  # what 100 sites cost; more is spent only on cells that neighbours are lost in


def coverage(subject: Subject) -> Findings:
    """Return COV-R, COV-P and the mean smallest distances behind them.

    Fingerprints cost about a tenth of a second a crystal on either side.
    """
    if subject.test is None:
        return Findings(notes=["coverage needs --test"])
    rule = subject.protocol.coverage
    if rule.kind == "matches":
        return _by_matches(subject, subject.test)
    usable = subject.is_sound & (subject.room >= 0.5)
    if rule.sites == "all":
        usable = torch.ones_like(usable)  # the original looks at crystals that are not valid, too
    wanted = torch.nonzero(usable).flatten().tolist()
    mine = _structures(subject, subject.batch, wanted, "fingerprints")
    bad = [i for i in wanted if bool(torch.isnan(mine[i]).any())]
    reasons = [f"no neighbours could be told, over {MOST_SITES} sites, or too slow"] * len(bad)
    subject.mark(bad, Status.FINGERPRINT_FAILED, reasons)
    everyone = list(range(len(subject.test)))
    theirs = _structures(subject, subject.test, everyone, "fingerprints of the test set")
    near = fingerprints.nearest(
        (mine, fingerprints.composition_fingerprints(subject.batch)),
        (theirs, fingerprints.composition_fingerprints(subject.test)),
    )
    cutoffs = (rule.structure_cutoff, rule.composition_cutoff)
    is_covered = [(s <= cutoffs[0]) & (c <= cutoffs[1]) for s, c in near]
    name = f"({cutoffs[0]:g}/{cutoffs[1]:g})"
    recall = share_of(
        "cov_r",
        f"COV-R {name}",
        int(is_covered[1].sum()),
        len(subject.test),
        "of the test set",
        note="grows with the number of samples",
    )
    precision = subject.share("cov_p", f"COV-P {name}", is_covered[0])
    return Findings(
        numbers=[
            recall,
            precision,
            _mean("amsd_r", "AMSD-R, mean smallest structure distance", near[1][0], subject.seed),
            _mean("amsd_p", "AMSD-P, mean smallest structure distance", near[0][0], subject.seed),
            _mean("amcd_r", "AMCD-R, mean smallest composition distance", near[1][1], subject.seed),
            _mean("amcd_p", "AMCD-P, mean smallest composition distance", near[0][1], subject.seed),
        ],
        columns={
            "nearest_structure_distance": near[0][0],
            "nearest_composition_distance": near[0][1],
            "is_covered": is_covered[0],
        },
    )


def _structures(subject: Subject, batch: CrystalBatch, rows: list[int], stage: str) -> Tensor:
    """Return structure fingerprints; NaN for crystals that were not asked for, or that fail."""
    every_site = subject.protocol.coverage.sites == "all"

    def count(part: list[int]) -> list[int]:
        if every_site:
            return batch.n_atoms[part].tolist()
        found = datasets(batch.select(part), symprec=0.01)
        sizes = batch.n_atoms[part].tolist()
        return [
            n if data is None else len(set(data.orbits))
            for n, data in zip(sizes, found, strict=True)
        ]

    n_sites, _ = patiently(count, rows)
    wanted = [row for row in rows if n_sites.get(row, MOST_SITES + 1) <= MOST_SITES]
    found, _ = patiently(
        lambda part: list(
            fingerprints.structure_fingerprints(batch.select(part), every_site=every_site)
        ),
        wanted,
        seconds=_SECONDS_EACH,
        chunk=1,
        on_done=subject.reporter(stage, len(wanted)),
    )
    nothing = torch.full((fingerprints.N_STRUCTURE,), torch.nan, dtype=torch.float64)
    prints = [found.get(i, nothing) for i in range(len(batch))]
    return torch.stack(prints) if prints else nothing[None][:0]


def _by_matches(subject: Subject, test: CrystalBatch) -> Findings:
    rule = subject.protocol.matching
    rows = torch.nonzero(subject.among(rule.among)).flatten().tolist()
    found, failed = sameness.in_set(subject.batch, rows, test, rule.tolerance)
    subject.mark(list(failed), Status.MATCHER_TIMEOUT, list(failed.values()))
    hits = sum(match is not None for match in found.values())
    return Findings(
        numbers=[
            Number(
                key="coverage_matches",
                label="samples that match a test crystal, over test crystals",
                value=hits / len(test),
                numerator=hits,
                denominator=len(test),
                of="of the test set",
                note="exceeds 1 when there are more samples than test crystals",
            )
        ]
    )


def _mean(key: str, label: str, values: Tensor, seed: int) -> Number:
    return mean_of(key, label, values.numpy(), "with fingerprints", seed=seed)
