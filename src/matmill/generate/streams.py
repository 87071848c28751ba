"""Random numbers of crystals, each crystal with a stream of its own.

What a crystal becomes must not depend on which others are made beside it: on how many, in which
batches, or how often a neighbour was drawn again. So there is no common generator to share; every
number follows from the seed of the run, the number of the crystal and the number of the attempt.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.randomness import child

Purpose = Literal["plan", "sample", "latent"]
_PURPOSES: tuple[Purpose, ...] = ("plan", "sample", "latent")
_MASK = (1 << 64) - 1
_RUN = (1 << 40) - 1  # no run makes so many crystals


@dataclass(frozen=True, kw_only=True)
class Streams:
    """One stream of random numbers for each of some crystals.

    Attributes:
        seed: Of the whole run, in [0, 2**64).
        crystal: Number of each crystal in the plan of the run, ``(b,)``.
        attempt: How often it was drawn before, ``(b,)``.

    Source:
        Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011): Philox, whose numbers
        follow from key and position alone.
    """

    seed: int
    crystal: Int[Tensor, " b"]
    attempt: Int[Tensor, " b"]

    @classmethod
    def of(cls, rng: torch.Generator, n: int) -> "Streams":
        """Return first-attempt streams of crystals 0 to n - 1; takes one number from ``rng``."""
        seed = int(torch.randint(2**63 - 1, (), generator=rng))
        return cls(seed=seed, crystal=torch.arange(n), attempt=torch.zeros(n, dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.crystal)

    def select(self, index: Tensor) -> "Streams":
        """Return the streams of these crystals."""
        return replace(self, crystal=self.crystal[index], attempt=self.attempt[index])

    def of_run(self) -> "Streams":
        """Return the stream of what all crystals of the run share."""
        all_ones = torch.full((1,), _RUN, dtype=torch.int64)
        return replace(self, crystal=all_ones, attempt=torch.zeros(1, dtype=torch.int64))

    def at_attempt(self, attempt: int) -> "Streams":
        """Return the streams of the same crystals when they are drawn again."""
        return replace(self, attempt=torch.full_like(self.attempt, attempt))

    def uniform(self, purpose: Purpose, count: int) -> Float[Tensor, "b count"]:
        """Return the first numbers of each stream, in (0, 1), multiples of 2**-24, float32.

        Args:
            purpose: Streams of different purposes have nothing in common.
            count: Numbers for each crystal; more of them begin with the same ones.
        """
        rows = np.empty((len(self), count), dtype=np.float32)
        kind = _PURPOSES.index(purpose)
        names = (kind << 56) | (self.attempt << 40) | self.crystal
        for row, name in enumerate(names.tolist()):
            key = np.array([self.seed & _MASK, name], np.uint64)
            rows[row] = np.random.Philox(key=key).random_raw(count) >> np.uint64(41)
        # 23 bits and a half: exact in single precision, and never 0 or 1.
        rows += np.float32(0.5)
        rows *= np.float32(2.0**-23)
        return torch.from_numpy(rows)

    def generator(self, row: int) -> torch.Generator:
        """Return a torch generator for one crystal, for what draws its own numbers."""
        return child(self.seed, int(self.crystal[row]), int(self.attempt[row]))
