"""Which fresh crystals are drawn again: no relaxation could repair them."""

import torch
from jaxtyping import Bool
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.verify.validity import Limits, check

SCREEN = Limits(min_distance_ratio=0.6)
MAX_REDRAWS = 6


def overlapping(batch: CrystalBatch) -> Bool[Tensor, " n_crystals"]:
    """Return which crystals have overlapping atoms, or are no crystals at all."""
    return torch.tensor([fate is not None for fate in check(batch, SCREEN)], dtype=torch.bool)
