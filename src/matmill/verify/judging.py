"""Did crystals get the property that was asked for? Two predictors answer.

Crystals of known value say what their answers are worth. The predictor that steered, labelled or
ranked says "hit" too often: crystals that exploit its errors are chosen. A judge of another family,
taught by other crystals, errs elsewhere. What a "hit" of either means is read off crystals of known
value that neither has seen: how many of those that it calls hits are hits, and how many it finds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch


@dataclass(frozen=True, kw_only=True, eq=False)
class Opinion:
    """What a predictor says of some crystals.

    Attributes:
        mean: Best guesses, ``(n,)``.
        std: Standard deviations of their errors, same unit.
        in_domain: False where a crystal is unlike all that it learned from.
    """

    mean: Float[Tensor, " n"]
    std: Float[Tensor, " n"]
    in_domain: Bool[Tensor, " n"]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A predictor by name.

    Attributes:
        name: With a hash of its weights.
        look: Returns its opinion of crystals.
    """

    name: str
    look: Callable[[CrystalBatch], Opinion]


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """Crystals of known value that neither predictor has learned from; all ``(n,)``.

    Attributes:
        truth: The values.
        steering: What the steering predictor says.
        judge: What the judge says.
        judge_coverage: Share of the truths inside the judge's 90 % intervals, None if not known.
    """

    truth: Float[Tensor, " n"]
    steering: Float[Tensor, " n"]
    judge: Float[Tensor, " n"]
    judge_coverage: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Aim:
    """What was asked for, and who says whether it is so.

    Attributes:
        name: Of the property.
        text: What was asked, for people.
        unit: Of the property.
        low: Smallest value that is a hit, inclusive; may be infinite.
        high: Largest value that is a hit, inclusive; may be infinite.
        value: The value asked for, None for a range.
        steering: The predictor that steered, labelled or ranked.
        judge: The independent one.
        known: Crystals that tell what both are worth, None without any.
    """

    name: str
    text: str
    unit: str
    low: float
    high: float
    value: float | None
    steering: Judge
    judge: Judge
    known: Known | None = None

    @property
    def center(self) -> float:
        """A value inside the range: the one asked for, the middle, or the only bound."""
        if self.value is not None:
            return self.value
        ends = [end for end in (self.low, self.high) if abs(end) != float("inf")]
        return sum(ends) / len(ends) if ends else 0.0

    def is_hit(self, values: Float[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Return which values are in the range; NaN is not."""
        return (values >= self.low) & (values <= self.high)


def expected_hits(opinion: Opinion, aim: Aim) -> Float[Tensor, " n"]:
    """Return the chance of each crystal to be a hit, if errors are normal as the predictor says.

    A predictor that errs by more than the width of the range calls few true hits and many others:
    the mean of these chances is what its error bars support.

    Returns:
        In [0, 1]; 0 where there is no opinion.
    """
    std = opinion.std.clamp_min(1e-9)
    ends = torch.tensor([aim.low, aim.high], dtype=torch.float64)
    below = torch.special.ndtr((ends[:, None] - opinion.mean) / std)
    return (below[1] - below[0]).nan_to_num(nan=0.0).clamp(0.0, 1.0)


def kappa(a: Bool[Tensor, " n"], b: Bool[Tensor, " n"]) -> float:
    """Return Cohen's kappa of two verdicts: 1 full agreement, 0 what chance alone would give.

    NaN when chance alone would agree always.

    Source:
        Cohen, A Coefficient of Agreement for Nominal Scales (1960).
    """
    if not len(a):
        return float("nan")
    p, q = float(a.double().mean()), float(b.double().mean())
    observed = float((a == b).double().mean())
    chance = p * q + (1 - p) * (1 - q)
    return (observed - chance) / (1 - chance) if chance < 1 else float("nan")


def true_hits(
    aim: Aim, known: Known, verdicts: Sequence[Bool[Tensor, " n"]]
) -> tuple[int, int, int]:
    """Return how many known crystals all verdicts call hits, how many of these are, and all hits.

    Args:
        aim: The range.
        known: Crystals of known value.
        verdicts: Of one or more predictors about them.
    """
    called = torch.stack(list(verdicts)).all(0)
    truth = aim.is_hit(known.truth)
    return int(called.sum()), int((called & truth).sum()), int(truth.sum())
