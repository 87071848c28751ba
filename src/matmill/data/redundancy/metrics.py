"""The distances between compositions and between structures, by name."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch
from matmill.data.compositions import Table, items
from matmill.data.redundancy.elements import SCALES, cumulative, fact_vectors
from matmill.data.redundancy.spaces import Euclid, Manhattan, Space
from matmill.errors import InputError, UnknownNameError
from matmill.progress import OnEvent, ignore

Items = Table | CrystalBatch | CompositionBatch
KINDS = ("composition", "structure")


@dataclass(frozen=True)
class Metric:
    """A distance.

    Attributes:
        by: ``composition`` or ``structure``.
        what: One line on what it measures, with its unit.
        threshold: A usual threshold.
    """

    by: str
    what: str
    threshold: float


_MOVER = "mover's distance, in places on the scale of the elements"
METRICS = {
    **{name: Metric("composition", f"{_MOVER} '{name}'", 1.0) for name in SCALES},
    "facts": Metric(
        "composition", "Euclid on mean and average deviation of standardised element facts", 0.3
    ),
    "xrd": Metric("structure", "Euclid on powder patterns, 901 points to 90°, Cu Kα", 0.6),
    "ofm": Metric("structure", "Euclid on orbital field matrices, 1,024 numbers", 0.2),
}
DEFAULTS = {"composition": "mendeleev", "structure": "xrd"}


def choose(by: str, metric: str | None, threshold: float | None) -> tuple[str, float]:
    """Return the name of the metric and the threshold, with the usual ones where none is given.

    Raises:
        UnknownNameError: If the kind or the metric is unknown.
        InputError: If the metric is of the other kind, or the threshold is negative or no number.
    """
    if by not in KINDS:
        raise UnknownNameError("kind of redundancy", by, list(KINDS))
    name = metric or DEFAULTS[by]
    fitting = [known for known, about in METRICS.items() if about.by == by]
    if name not in METRICS:
        raise UnknownNameError(f"metric of {by}", name, fitting)
    if METRICS[name].by != by:
        raise InputError(
            f"'{name}' measures {METRICS[name].by}, not {by}. By {by}: {', '.join(fitting)}."
        )
    limit = METRICS[name].threshold if threshold is None else float(threshold)
    if not 0 <= limit < float("inf"):
        raise InputError(f"The threshold is {limit}, but must be 0 or more.")
    return name, limit


def batch_of(data: Items) -> CrystalBatch | CompositionBatch:
    """Return the crystals or compositions of a table; a batch is returned as it is."""
    return data if isinstance(data, CrystalBatch | CompositionBatch) else items(data)


def compositions_of(batch: CrystalBatch | CompositionBatch) -> CompositionBatch:
    """Return what the items are made of."""
    return CompositionBatch.of(batch) if isinstance(batch, CrystalBatch) else batch


def make_space(
    batch: CrystalBatch | CompositionBatch, metric: str, on_event: OnEvent = ignore
) -> Space:
    """Return the items as points under a metric.

    Raises:
        InputError: If structures are needed and there are only compositions, or an element is
            unknown to the metric.
    """
    if METRICS[metric].by == "structure":
        if not isinstance(batch, CrystalBatch):
            raise InputError(
                f"The metric '{metric}' compares structures, but there are only formulas. "
                "Compare by composition."
            )
        _check_finite(batch)
        return Euclid(_fingerprints(metric)(batch, on_event=on_event))
    compositions = compositions_of(batch)
    if metric == "facts":
        return Euclid(fact_vectors(compositions))
    return Manhattan(cumulative(compositions, metric))


def _fingerprints(metric: str) -> Callable[..., Float[Tensor, "n n_columns"]]:
    if metric == "xrd":
        from matmill.crystals.diffraction import patterns

        return patterns
    from matmill.crystals.orbital_field import orbital_field

    return orbital_field


def _check_finite(batch: CrystalBatch) -> None:
    """Check cells and coordinates: a search for neighbours without a place would never end."""
    bad_atoms = ~torch.isfinite(batch.frac_coords).all(1)
    is_bad = ~torch.isfinite(batch.lattice).flatten(1).all(1)
    is_bad[batch.crystal_index[bad_atoms]] = True
    if is_bad.any():
        row = int(is_bad.long().argmax())
        name = batch.ids[row] if batch.ids else f"row {row}"
        raise InputError(
            f"{int(is_bad.sum())} crystal(s) have a cell or coordinates that are not finite, the "
            f"first is {name}. Leave them out."
        )
