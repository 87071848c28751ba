"""Which synthetic crystals may teach, and how much each counts. Every drop has a reason."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.steer.flywheel.rows import RunRows
from matmill.steer.flywheel.settings import FilterSettings

UNREADABLE = ("not_finite", "cell_impossible", "unknown_element", "volume_implausible")
"""Fates of what no predictor can be asked about."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Judged:
    """What a predictor says about synthetic crystals.

    Attributes:
        mean: Predicted values, ``(n,)``.
        std: Predicted errors, ``(n,)``.
        low: Lower ends of intervals with the coverage of the filter, ``(n,)``.
        high: Upper ends.
    """

    mean: Float[Tensor, " n"]
    std: Float[Tensor, " n"]
    low: Float[Tensor, " n"]
    high: Float[Tensor, " n"]

    @classmethod
    def of(cls, result: dict[str, Any]) -> "Judged":
        """Read the result of a fit."""
        return cls(
            **{
                k: torch.tensor(result[k], dtype=torch.float64)
                for k in ("mean", "std", "low", "high")
            }
        )

    def select(self, rows: Tensor) -> "Judged":
        """Return these rows."""
        return Judged(
            mean=self.mean[rows], std=self.std[rows], low=self.low[rows], high=self.high[rows]
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Filtered:
    """What the filters left.

    Attributes:
        kept: Row numbers of the crystals that may teach.
        dropped: Reason to number of crystals, each counted under its first reason.
    """

    kept: Tensor
    dropped: dict[str, int]


def sift(
    synthetic: CrystalBatch,
    conditions: Float[Tensor, " n"],
    facts: dict[str, Any],
    rows: RunRows,
    settings: FilterSettings,
    *,
    judged: Judged | None = None,
    above_hull: Float[Tensor, " n"] | None = None,
) -> Filtered:
    """Return which crystals may teach.

    A crystal whose formula is a validation or test row's is always dropped: no arm may see those.

    Args:
        synthetic: All of them.
        conditions: What each was asked to be.
        facts: What `looking.look` found.
        rows: The run.
        settings: Which filters are on.
        judged: What the labeller says; needed by ``agreement`` and ``certainty``.
        above_hull: eV/atom, NaN where it could not be had; needed by ``stability``.
    """
    n = len(synthetic)
    left = torch.ones(n, dtype=torch.bool)
    dropped: dict[str, int] = {}

    def drop(bad: Bool[Tensor, " n"], reason: str) -> None:
        nonlocal left
        dropped[reason] = int((bad & left).sum())
        left &= ~bad

    broken = torch.tensor([fate is not None for fate in facts["fate"]])
    unreadable = torch.tensor([fate in UNREADABLE for fate in facts["fate"]])
    drop(broken if settings.valid else unreadable, "no crystal")
    held_out, readable = rows.held_out_formulas, torch.nonzero(~unreadable).flatten()
    shared = torch.zeros(n, dtype=torch.bool)
    formulas = synthetic.select(readable).formula
    shared[readable] = torch.tensor([f in held_out for f in formulas], dtype=torch.bool)
    drop(shared, "formula of a test row")
    if settings.known_elements:
        drop(_with_new_elements(synthetic, rows), "element that no training row has")
    if settings.neutral:
        drop(~torch.tensor(facts["is_neutral"]), "charges do not balance")
    if settings.copies:
        drop(torch.tensor(facts["copy_of"]) >= 0, "copy of a training row")
        drop(torch.tensor(facts["is_repeat"]), "repeated crystal")
    if settings.near:
        far = torch.tensor(facts["distance_a"], dtype=torch.float64) > facts["reach_a"]
        drop(far, "far from every training row")
    if judged is not None and settings.agreement:
        outside = (conditions < judged.low) | (conditions > judged.high)
        drop(outside, "predicted value off its condition")
    if above_hull is not None and settings.stability != "off":
        high = ~(above_hull <= settings.max_above_hull_ev_per_atom)
        drop(high, "energy too far above the hull")
    if judged is not None and settings.certainty:
        limit = judged.std[left].quantile(1.0 - settings.certainty) if bool(left.any()) else 0.0
        drop(judged.std > limit, "uncertain prediction")
    return Filtered(kept=torch.nonzero(left).flatten(), dropped=dropped)


def weights_of_synthetic(
    std: Float[Tensor, " n"], n_real: int, *, factor: float
) -> Float[Tensor, " n"]:
    """Return how much synthetic rows count where a real row counts 1.

    ``w = factor · exp(−u / u₀)`` with the predicted error u and its median u₀; all together at
    most as much as the real rows, so that these are never outvoted.
    """
    if not len(std):
        return std.double()
    middle = std.double().median().clamp_min(1e-12)
    weights = factor * torch.exp(-std.double() / middle)
    return weights * min(1.0, n_real / float(weights.sum()))


def _with_new_elements(synthetic: CrystalBatch, rows: RunRows) -> Bool[Tensor, " n"]:
    known = torch.zeros(128, dtype=torch.bool)
    known[rows.table.crystals.select(rows.train).atomic_numbers] = True
    strange = ~known[synthetic.atomic_numbers.clamp(0, 127)]
    count = torch.zeros(len(synthetic), dtype=torch.int64)
    return count.index_add(0, synthetic.crystal_index, strange.long()) > 0
