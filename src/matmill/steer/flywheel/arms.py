"""What each arm of a run learns from.

All arms of a run share its split, its seed and the way in which other rows are mixed with real
ones, so that a difference between two of them is what the rows of one brought.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.data.table import LabelledCrystals
from matmill.randomness import child, child_seed
from matmill.steer.flywheel.filters import weights_of_synthetic
from matmill.steer.flywheel.fitting import FitInput
from matmill.steer.flywheel.rows import ExtraRows, RunRows, training_table
from matmill.steer.flywheel.settings import FlywheelSettings, PredictorChoice
from matmill.steer.flywheel.study import BOTH, LONGER, PSEUDO, SHUFFLED, SYNTHETIC
from matmill.steer.flywheel.synthesis import Made, Turn

_LEAST_SYNTHETIC = 10


def arms_of(turn: Turn, settings: FlywheelSettings) -> Sequence[str]:
    """Return the arms that a turn of the wheel brings, with the controls if they are wanted."""
    if not settings.controls:
        return (SYNTHETIC, BOTH)
    pseudo = (PSEUDO,) if turn.mode == "semi-supervised" else ()
    longer = (LONGER,) if settings.predictor(turn.predictor).longer(1.0) else ()
    return (SYNTHETIC, BOTH, SHUFFLED, *pseudo, *longer)


def base_fit(rows: RunRows, name: str, settings: FlywheelSettings) -> FitInput:
    """Return the fit of a predictor on the real rows of a run, asked about all rows."""
    return _fit(rows, name, settings.predictor(name), real=rows.labelled)


def arm_fit(turn: Turn, made: Made, arm: str, settings: FlywheelSettings) -> FitInput | None:
    """Return the fit of an arm; None where too few synthetic crystals are left."""
    rows, name = turn.rows, turn.predictor
    if arm == LONGER:
        n_real = len(rows.labelled)
        longer = settings.predictor(name).longer(1.0 + len(made.crystals) / n_real)
        return None if longer is None else _fit(rows, name, longer, real=rows.labelled)
    if arm == PSEUDO:
        unlabelled = ~rows.is_labelled
        crystals = rows.table.crystals.select(rows.train[unlabelled])
        labels, std = turn.labels[unlabelled], turn.std[unlabelled]
    elif len(made.crystals) < _LEAST_SYNTHETIC:
        return None
    else:
        crystals, labels, std = made.crystals, made.labels, made.std
    if arm == SHUFFLED:
        labels = labels[torch.randperm(len(labels), generator=child(rows.seed, "shuffled labels"))]
    choice = settings.predictor(name)
    if arm == SYNTHETIC:
        extra = ExtraRows(crystals, labels)
        return _fit(rows, name, choice, real=rows.labelled[:0], extra=extra)
    weights, is_first = None, settings.mixing == "finetuned"
    if settings.mixing == "weighted":
        factor = settings.synthetic_weight
        weights = weights_of_synthetic(std, len(rows.labelled), factor=factor)
    elif settings.synthetic_weight != 1.0 and not is_first:
        weights = torch.full_like(labels, settings.synthetic_weight)
    extra = ExtraRows(crystals, labels, weights)
    return _fit(rows, name, choice, real=rows.labelled, extra=extra, is_first=is_first)


def n_added(turn: Turn, made: Made, arm: str) -> int:
    """Return how many rows an arm has beside, or instead of, the labelled real ones."""
    if arm == LONGER:
        return 0
    return int((~turn.rows.is_labelled).sum()) if arm == PSEUDO else len(made.crystals)


def asked_of(table: LabelledCrystals, rows: Tensor | None = None) -> CrystalBatch:
    """Return crystals without their labels: no predictor gets what it is asked for."""
    batch = table.crystals if rows is None else table.crystals.select(rows)
    return replace(batch, properties={}, ids=())


def _fit(
    rows: RunRows,
    name: str,
    choice: PredictorChoice,
    *,
    real: Tensor,
    extra: ExtraRows | None = None,
    is_first: bool = False,
) -> FitInput:
    """Return a fit to real rows and more crystals with labels and weights.

    Args:
        rows: The run.
        name: Of the predictor.
        choice: It, with its settings.
        real: Real training rows.
        extra: Further crystals.
        is_first: Learn from the further crystals first and from the real rows after.
    """
    with_val = choice.holds_out
    first = None
    if is_first:
        first = training_table(rows, real[:0], extra, with_val=with_val)
        extra = None
    return FitInput(
        key="",
        choice=choice,
        table=training_table(rows, real, extra, with_val=with_val),
        first=first,
        asked=asked_of(rows.table),
        column=rows.column,
        seed=child_seed(rows.seed, "fit", name),
    )
