"""Redundancy control: keep materials that are far from each other, and group the rest with them.

Materials databases hold long series of near-copies. Divided at random, a test row then has a twin
in the training rows, and scores look better than they are on anything new.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch
from matmill.data.redundancy.greedy import keep_far
from matmill.data.redundancy.metrics import Items, batch_of, choose, compositions_of, make_space
from matmill.data.redundancy.spaces import nearest_rows
from matmill.errors import InputError
from matmill.progress import OnEvent, ignore

FIRST = {"composition": "H2O", "structure": "SrTiO3"}
"""Formula that is kept first where the data have it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reduced:
    """What is left of a table without its near-copies.

    Attributes:
        keep: Rows that are kept, ascending, ``(n_kept,)``.
        cluster_id: Cluster of each row: the place in ``keep`` of the nearest kept row, ``(n,)``.
        distance: To that row, in the unit of the metric; 0 for kept rows, at most the threshold
            for the others, ``(n,)``.
        settings: ``by``, ``metric``, ``threshold``, ``first`` and what else decided.
    """

    keep: Int[Tensor, " n_kept"]
    cluster_id: Int[Tensor, " n"]
    distance: Float[Tensor, " n"]
    settings: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keep)

    @property
    def representative(self) -> Int[Tensor, " n"]:
        """The kept row that each row is grouped with; itself for kept ones."""
        return self.keep[self.cluster_id]

    @property
    def sizes(self) -> Int[Tensor, " n_kept"]:
        """Number of rows of each cluster."""
        return torch.bincount(self.cluster_id, minlength=len(self.keep))


def reduce(
    data: Items,
    by: str = "composition",
    threshold: float | None = None,
    metric: str | None = None,
    *,
    first: str | None = None,
    max_atoms: int | None = None,
    on_event: OnEvent = ignore,
) -> Reduced:
    """Return which rows to keep so that all kept ones are further apart than the threshold.

    Greedy, as MD-HIT: rows in order of their number of atoms (of the reduced formula by
    composition, of the cell by structure; equals in table order), each kept when its smallest
    distance to those kept before exceeds the threshold. Every row then belongs to the kept row
    nearest to it, ties to the one kept first.

    Args:
        data: A table, crystals or compositions.
        by: ``composition`` or ``structure``.
        threshold: In the unit of the metric, at least 0; see `metrics.METRICS`.
        metric: By composition ``mendeleev``, ``pettifor``, ``electronegativity``, ``radius``,
            ``atomic`` (mover's distances on these scales) or ``facts``; by structure ``xrd`` or
            ``ofm``.
        first: Id or reduced formula of the row that is kept before all others; by default H2O by
            composition and SrTiO3 by structure where the data have it, else the smallest.
        max_atoms: Leave out larger rows: they are not kept, and belong to the nearest kept row
            however far it is.
        on_event: Told about progress.

    Raises:
        InputError: If there is nothing to reduce, ``first`` is not there, or structures are
            needed and there are none.
        UnknownNameError: If the kind or the metric is unknown.

    Source:
        Li et al., MD-HIT: Machine learning for material property prediction with dataset
        redundancy control (2024).
    """
    name, limit = choose(by, metric, threshold)
    batch = batch_of(data)
    if not len(batch):
        raise InputError("There are no rows to reduce.")
    n_atoms = _sizes(batch, by)
    order = torch.argsort(n_atoms, stable=True)
    if max_atoms is not None:
        order = order[n_atoms[order] <= max_atoms]
        if not len(order):
            raise InputError(f"Every row has more than {max_atoms} atoms: raise max_atoms.")
    start = _first(batch, order, by, first)
    order = torch.cat([torch.tensor([start]), order[order != start]])
    space = make_space(batch, name, on_event)
    kept = keep_far(space, order, limit, on_event=on_event)
    place, distance = nearest_rows(space, torch.arange(len(batch)), kept, limit=limit or 1e-6)
    # With max_atoms or rounding a kept row could have another as near as itself.
    place[kept], distance[kept] = torch.arange(len(kept)), 0.0
    keep, by_row = torch.sort(kept)
    rank = torch.empty_like(by_row)
    rank[by_row] = torch.arange(len(kept))
    settings = {"by": by, "metric": name, "threshold": limit, "first": _name(batch, start)}
    if max_atoms is not None:
        settings["max_atoms"] = max_atoms
    return Reduced(keep=keep, cluster_id=rank[place], distance=distance, settings=settings)


def _sizes(batch: CrystalBatch | CompositionBatch, by: str) -> Float[Tensor, " n"]:
    """Return the number of atoms that decides the order."""
    if by == "structure" and isinstance(batch, CrystalBatch):
        return batch.n_atoms.cpu().double()
    amounts = compositions_of(batch).amounts.cpu()
    whole = amounts.round().long()
    # Fractional amounts have no common divisor; they count as written.
    is_whole = ((amounts - whole).abs() < 1e-6).all(1) & (whole.sum(1) > 0)
    divisor = torch.zeros(len(amounts), dtype=torch.int64)
    for column in torch.nonzero(whole.sum(0)).flatten().tolist():
        divisor = torch.gcd(divisor, whole[:, column])
    return amounts.sum(1) / torch.where(is_whole, divisor, 1)


def _first(
    batch: CrystalBatch | CompositionBatch, order: Tensor, by: str, first: str | None
) -> int:
    """Return the row that is kept first."""
    formulas = batch.formula
    rows: Sequence[int] = order.tolist()
    wanted = first or FIRST[by]
    found = next((row for row in rows if batch.ids and batch.ids[row] == wanted), None)
    if found is None:
        found = next((row for row in rows if formulas[row] == wanted), None)
    if found is None and first is not None:
        raise InputError(f"'{first}' is neither an id nor a reduced formula of the data.")
    return rows[0] if found is None else found


def _name(batch: CrystalBatch | CompositionBatch, row: int) -> str:
    return batch.ids[row] if batch.ids else batch.formula[row]
