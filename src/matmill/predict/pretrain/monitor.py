"""Whether learned features still tell crystals apart: rank, spread and class separation."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.errors import DataError

SMALLEST_RANK = 4.0
"""An effective rank below it is a collapse."""

_KEEP = 1024  # rows that a measurement looks at; a few batches
_GRACE_STEPS = 200
_PATIENCE = 3  # measurements in a row below the limit before the training is stopped


@dataclass(frozen=True, slots=True)
class Health:
    """State of the learned features.

    Attributes:
        effective_rank: Number of directions that carry variance, from 1 to the width.
        spread: Mean standard deviation of a feature of unit-length rows, times √width; 1 when
            rows fill all directions alike, 0 when all rows are equal.
        separation: Accuracy with which the five nearest rows tell the class, less what guessing
            the most common class gives, of what is left: 1 is perfect, 0 is no better than that.
    """

    effective_rank: float
    spread: float
    separation: float

    def as_values(self) -> dict[str, float]:
        """Return the numbers by name, for a progress line."""
        return {"rank": self.effective_rank, "spread": self.spread, "separation": self.separation}


def effective_rank(rows: Float[Tensor, "n d"]) -> float:
    """Return the exponential of the entropy of the shares of variance.

    Source:
        Roy and Vetterli, The effective rank (2007), on the covariance of the rows.
    """
    centred = rows.double() - rows.double().mean(0)
    values = torch.linalg.eigvalsh(centred.T @ centred).clamp_min(0.0)
    total = values.sum()
    if not bool(total > 1e-12 * rows.shape[0]):
        return 1.0
    shares = values / total
    return float(torch.exp(-(shares * shares.clamp_min(1e-30).log()).sum()))


def separation(rows: Float[Tensor, "n d"], labels: Int[Tensor, " n"], k: int = 5) -> float:
    """Return how well neighbours tell the class, see `Health`; NaN with one class only."""
    is_known = labels >= 0
    rows, labels = rows[is_known].double(), labels[is_known]
    counts = torch.bincount(labels)
    if int((counts > 0).sum()) < 2 or len(rows) <= k:
        return float("nan")
    distance = torch.cdist(rows, rows)
    distance.fill_diagonal_(torch.inf)
    near = labels[distance.topk(k, largest=False).indices]
    votes = torch.nn.functional.one_hot(near, len(counts)).sum(1)
    right = float((votes.argmax(1) == labels).double().mean())
    guess = float(counts.max() / len(labels))
    return (right - guess) / (1.0 - guess)


def health(rows: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Health:
    """Return rank, spread and separation of rows of features."""
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    spread = float(unit.std(0, unbiased=False).mean()) * rows.shape[1] ** 0.5
    return Health(effective_rank(rows), spread, separation(unit, labels))


class Monitor:
    """Collects features while a network trains, and stops it when they collapse.

    Args:
        every: Steps between measurements.
        grace_steps: Steps before a low rank counts; untrained networks have one too.
        smallest_rank: Effective rank below which the training is stopped.
    """

    def __init__(
        self,
        *,
        every: int = 20,
        grace_steps: int = _GRACE_STEPS,
        smallest_rank: float = SMALLEST_RANK,
    ) -> None:
        self.every, self.grace_steps, self.smallest_rank = every, grace_steps, smallest_rank
        self.latest: Health | None = None
        self._rows: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._n_low = 0

    def add(self, step: int, rows: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> None:
        """Take the features of one batch.

        Raises:
            DataError: If the features have collapsed.
        """
        self._rows.append(rows.detach().float().cpu())
        self._labels.append(labels.detach().cpu())
        while sum(len(part) for part in self._rows[1:]) >= _KEEP:
            del self._rows[0], self._labels[0]
        if self.latest is not None and step % self.every:
            return
        self.latest = health(torch.cat(self._rows), torch.cat(self._labels))
        is_low = step >= self.grace_steps and self.latest.effective_rank < self.smallest_rank
        self._n_low = self._n_low + 1 if is_low else 0
        if self._n_low >= _PATIENCE:
            raise DataError(
                f"The features collapsed: effective rank {self.latest.effective_rank:.1f}, below "
                f"{self.smallest_rank:g}, at step {step}. Mix in more of the unsupervised loss "
                "(--unsupervised-share 0.5), take larger batches, or a lower learning rate."
            )
