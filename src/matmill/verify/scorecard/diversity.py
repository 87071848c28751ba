"""How varied the set is, how far from the training set, and how scarce what it is made of."""

import torch
from torch import Tensor

from matmill.randomness import child
from matmill.verify.diversity import diversity as effective_numbers
from matmill.verify.drift import combined_supply_risk, lanthanide_share, radioactive_share
from matmill.verify.metrics import Metric
from matmill.verify.scorecard.findings import Findings
from matmill.verify.scorecard.number import Number, mean_of
from matmill.verify.scorecard.subject import CONTINUOUS, Subject

_LABELS = {
    "uniqueness": "continuous uniqueness",
    "novelty": "continuous novelty, nearest of the reference",
}
_KEYS = (
    "effective_elements",
    "effective_space_groups",
    "effective_cell_sizes",
    "effective_formulas",
    "effective_crystals",
)
_MOST_FINGERPRINTS = 1000


def diversity(subject: Subject) -> Findings:
    """Return effective numbers, continuous uniqueness and novelty, scarce and rare elements.

    All are about the crystals of valid geometry: fingerprints of atoms on top of each other mean
    nothing.
    """
    rows = torch.nonzero(subject.is_sound).flatten()
    if not len(rows):
        return Findings(notes=["no crystal has a valid geometry: nothing to call varied"])
    batch = subject.batch.select(rows.tolist()).to(dtype=torch.float64)
    symprec = subject.protocol.symmetry.symprec_a
    found = effective_numbers(
        batch, child(subject.seed, "diversity"), symprec=symprec, most=_MOST_FINGERPRINTS
    )
    note = "1 for copies of one; grows with the set, so compare sets of one size"
    numbers = [_plain(key, m, note) for key, m in zip(_KEYS, found, strict=True)]
    notes = []
    if subject.reference is None:
        notes.append("continuous novelty is the distance to --reference")
    columns = {}
    for key, values in subject.continuous.items():
        label = f"{_LABELS[key]} ({CONTINUOUS})"
        numbers.append(_mean(f"continuous_{key}", label, values, subject.seed))
        columns[f"continuous_{key}"] = values
    numbers += [
        _share("lanthanides", lanthanide_share(batch)),
        _share("radioactive", radioactive_share(batch)),
        _plain("supply_risk", combined_supply_risk(batch), "0 to 10; hydrides are left out"),
    ]
    return Findings(numbers=numbers, columns=columns, notes=notes)


def _plain(key: str, metric: Metric, note: str) -> Number:
    return Number(
        key=key,
        label=metric.name,
        value=metric.value,
        denominator=int(metric.denominator),
        of="with valid geometry",
        note=note,
    )


def _share(key: str, metric: Metric) -> Number:
    return Number(
        key=key,
        label=metric.name,
        value=metric.value,
        numerator=metric.numerator,
        denominator=int(metric.denominator),
        of="with valid geometry",
        is_share=True,
    )


def _mean(key: str, label: str, values: Tensor, seed: int) -> Number:
    note = "0 for copies, towards 1 for what is like nothing else"
    return mean_of(key, label, values.numpy(), "with a fingerprint", seed=seed, note=note)
