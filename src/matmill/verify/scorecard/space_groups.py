"""Space groups by a protocol's library, each crystal within its time limit."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.symmetry import find
from matmill.verify.patience import patiently
from matmill.verify.protocols import Protocol


def groups_of(
    batch: CrystalBatch,
    protocol: Protocol,
    symprec: float,
    rows: Sequence[int] | None = None,
    on_done: Callable[[int], None] | None = None,
) -> tuple[Tensor, Bool[Tensor, " n_crystals"], dict[int, str]]:
    """Return space-group numbers by a protocol's library, 1 where none is found in time.

    Args:
        batch: The crystals.
        protocol: For library and tolerance on angles.
        symprec: Tolerance in Å.
        rows: Crystals that are searched; all unless given.
        on_done: Told how many are finished.

    Returns:
        Numbers, where one was found, and the reason where the search broke.
    """
    rule = protocol.symmetry

    def search(part: list[int]) -> list[tuple[int, bool]]:
        answer: Any = find(
            batch.select(part),
            symprec=symprec,
            library=rule.library,
            angle_tolerance=rule.angle_tolerance_degrees,
        )
        return list(zip(answer.number.tolist(), answer.found.tolist(), strict=True))

    wanted = range(len(batch)) if rows is None else rows
    found, failed = patiently(search, wanted, on_done=on_done)
    answers = [found.get(i, (1, False)) for i in range(len(batch))]
    numbers = torch.tensor([number for number, _ in answers], dtype=torch.int64)
    return numbers, torch.tensor([good for _, good in answers], dtype=torch.bool), failed
