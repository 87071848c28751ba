"""Unique, new, and not in the training set: the discrete forms, by the matcher."""

import torch
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.verify.scorecard import sameness
from matmill.verify.scorecard.findings import Findings
from matmill.verify.scorecard.number import Number
from matmill.verify.scorecard.subject import Same, Subject
from matmill.verify.statuses import Status


def novelty(subject: Subject) -> Findings:
    """Return uniqueness, novelty and their like, of the crystals that the protocol judges."""
    rule = subject.protocol.matching
    n = len(subject.batch)
    name = f"{rule.ltol:g}/{rule.stol:g}/{rule.angle_tol:g}"
    if rule.judged_on == "relaxed":
        if not subject.n_relax:
            note = "uniqueness and novelty are judged on relaxed crystals: they need --relax"
            return Findings(notes=[note])
        relaxed = subject.relaxation
        masks = masks_of(subject.same_relaxed, len(relaxed.batch))
        good = {key: relaxed.spread(mask, n) for key, mask in masks.items()}
        good |= {
            key: relaxed.spread(mask, n)
            for key, mask in _framework_masks(subject, relaxed.batch, masks).items()
        }
        return Findings(
            numbers=_shares(subject, good, f"{name}, relaxed", tried_only=True),
            columns={f"is_{key}": mask for key, mask in good.items()},
        )
    same = subject.same
    good = masks_of(same, n)
    good |= _framework_masks(subject, subject.batch, good)
    numbers = _shares(subject, good, name, tried_only=False)
    if rule.uniqueness == "pairs":
        numbers[0] = _by_pairs(subject)
    known = [same.known.get(i) for i in range(n)]
    return Findings(
        numbers=numbers,
        columns={
            **{f"is_{key}": mask for key, mask in good.items()},
            "same_as": [_name(subject, same.first.get(i)) for i in range(n)],
            "known_as": [None if match is None else match[0] for match in known],
            "known_is_confirmed": [None if match is None else match[1] for match in known],
        },
    )


def masks_of(same: Same, n: int) -> dict[str, Tensor]:
    """Return which of n crystals are unique, novel and both; what was not compared is neither."""
    masks = {
        "unique": _mask(n, [i for i, first in same.first.items() if i == first]),
        "novel": _mask(n, [i for i, match in same.known.items() if match is None]),
    }
    if same.trained:
        masks["train_novel"] = _mask(n, [i for i, match in same.trained.items() if match is None])
    new = masks["novel"] & masks.get("train_novel", masks["novel"])
    masks["unique_novel"] = masks["unique"] & new
    return masks


def _framework_masks(
    subject: Subject, batch: CrystalBatch, masks: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return which novel crystals stay so when lanthanides are one element, and which do not."""
    if "train_novel" not in masks:
        return {}
    rows = torch.nonzero(masks["novel"] & masks["train_novel"]).flatten().tolist()
    found = subject.frameworks(batch, rows)
    return {
        "framework_novel": _mask(len(batch), [i for i in rows if found[i] is None]),
        "lanthanide_swap": _mask(len(batch), [i for i in rows if found[i] is not None]),
    }


def _shares(
    subject: Subject, good: dict[str, Tensor], name: str, *, tried_only: bool
) -> list[Number]:
    index = subject.known_index
    labels = {
        "unique": (f"unique ({name})", "the first of its kind counts, in the order given"),
        "novel": (f"novel ({name})", f"not in {index.name}"),
        "train_novel": ("not in the training set", "by the matcher, against --reference"),
        "unique_novel": ("unique and novel", "novel by the index and by the training set"),
        "framework_novel": (
            "novel as a framework",
            "novel, and not in the training set when all lanthanides are one element",
        ),
        "lanthanide_swap": (
            "novel by a swap of lanthanides alone",
            "a training crystal with another lanthanide",
        ),
    }
    return [
        subject.share(key, labels[key][0], mask, tried_only=tried_only, note=labels[key][1])
        for key, mask in good.items()
    ]


def _by_pairs(subject: Subject) -> Number:
    rule = subject.protocol.matching
    rows = torch.nonzero(subject.among(rule.among)).flatten().tolist()
    value, failed = sameness.pair_density(subject.batch, rows, rule.tolerance)
    subject.mark(list(failed), Status.MATCHER_TIMEOUT, list(failed.values()))
    return Number(
        key="unique_pairs",
        label="uniqueness as one minus the density of pairs that match",
        value=value,
        denominator=len(rows),
        of="compared",
        note="tends to 1 for large sets whatever they hold",
    )


def _mask(n: int, rows: list[int]) -> Tensor:
    mask = torch.zeros(n, dtype=torch.bool)
    mask[rows] = True
    return mask


def _name(subject: Subject, crystal: int | None) -> str | None:
    if crystal is None:
        return None
    return subject.samples.entries[int(subject.samples.place[crystal])].name
