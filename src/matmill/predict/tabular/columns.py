"""From a table of features to the columns that a learner reads: filled, scaled, projected."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.predict.descriptors.table import Features
from matmill.predict.tabular.selection import ranked, usable

View = Literal["plain", "standard", "ranked"]
N_AXES = 32  # principal axes of learned features; trees drown in the columns themselves
LEARNED_BLOCKS = ("potential",)
_CLIP = 4.0  # standard deviations; a farther value says no more than "far"


@dataclass(frozen=True, kw_only=True, eq=False)
class Preparation:
    """How features become columns; fitted to training rows only.

    Attributes:
        names: Features that are used as they are, in order.
        projected: Features that go through their principal axes.
        is_standard: Centre, scale, clip, and put the centre where a value is unknown; trees need
            none of this and read gaps as they are.
        center: Median of each used feature, ``(n_names + n_projected,)``.
        scale: Standard deviation of each.
        axes: Principal axes of the projected features, ``(n_projected, n_axes)``.
    """

    names: tuple[str, ...]
    projected: tuple[str, ...]
    is_standard: bool
    center: Float[Tensor, " n_used"]
    scale: Float[Tensor, " n_used"]
    axes: Float[Tensor, "n_projected n_axes"]

    @property
    def n_columns(self) -> int:
        """Number of columns that come out."""
        return len(self.names) + self.axes.shape[1]

    def apply(self, features: Features) -> Float[Tensor, "n n_columns"]:
        """Return the columns of some rows, float32."""
        used = features.select_columns([*self.names, *self.projected]).values
        standard = self._standard(used)
        n = len(self.names)
        first = standard[:, :n] if self.is_standard else used[:, :n]
        return torch.cat([first, standard[:, n:] @ self.axes], dim=1).float()

    def _standard(self, used: Tensor) -> Tensor:
        scaled = ((used - self.center) / self.scale).nan_to_num(nan=0.0)
        return scaled.clamp(-_CLIP, _CLIP)

    def tensors(self) -> dict[str, Tensor]:
        """Return what has to be stored as tensors; see `as_card` for the rest."""
        return {"center": self.center, "scale": self.scale, "axes": self.axes}

    def as_card(self) -> dict[str, Any]:
        """Return names and flags as plain values."""
        return {
            "names": list(self.names),
            "projected": list(self.projected),
            "is_standard": self.is_standard,
        }

    @classmethod
    def of(cls, card: dict[str, Any], tensors: dict[str, Tensor]) -> "Preparation":
        """Return the preparation that was stored."""
        return cls(
            names=tuple(card["names"]),
            projected=tuple(card["projected"]),
            is_standard=card["is_standard"],
            **tensors,
        )


def prepare(
    features: Features,
    target: Float[Tensor, " n"],
    *,
    blocks: Sequence[str],
    view: View,
    most: int = 256,
) -> Preparation:
    """Return a preparation fitted to training rows.

    Args:
        features: Of the training rows.
        target: Values on the learned scale, or classes; only ``"ranked"`` looks at them.
        blocks: Blocks to use.
        view: ``"plain"`` for trees: all usable columns as they are, learned features projected.
            ``"standard"`` for kernels: all usable columns, scaled. ``"ranked"`` for networks: the
            most relevant columns first, scaled.
        most: How many columns a ranked view has at most.
    """
    names = [name for name in features.names if name.split(".")[0] in blocks]
    used = features.select_columns(names)
    if view == "ranked":
        order = ranked(used.values, target, most).tolist()
        plain, projected = [names[i] for i in order], []
    else:
        kept = usable(used.values).tolist()
        names = [name for name, is_kept in zip(names, kept, strict=True) if is_kept]
        is_learned = [view == "plain" and name.split(".")[0] in LEARNED_BLOCKS for name in names]
        plain = [name for name, learned in zip(names, is_learned, strict=True) if not learned]
        projected = [name for name, learned in zip(names, is_learned, strict=True) if learned]
    values = features.select_columns([*plain, *projected]).values.double()
    center = values.nanmedian(0).values.nan_to_num(nan=0.0)
    filled = torch.where(values.isnan(), center, values)
    scale = filled.std(0, correction=0)
    scale = torch.where(scale > 1e-12, scale, torch.ones_like(scale))
    bare = Preparation(
        names=tuple(plain),
        projected=tuple(projected),
        is_standard=view != "plain",
        center=center,
        scale=scale,
        axes=torch.zeros(len(projected), 0, dtype=torch.float64),
    )
    if not projected:
        return bare
    axes = _principal_axes(bare._standard(values)[:, len(plain) :])
    return Preparation(**{**vars(bare), "axes": axes})


def _principal_axes(standard: Float[Tensor, "n c"]) -> Float[Tensor, "c n_axes"]:
    centred = standard - standard.mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    axes = vectors.flip(1)[:, : min(N_AXES, len(standard) - 1)]
    # The sign of an axis is arbitrary: make its largest entry positive, so that runs agree.
    signs = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return (axes * signs).contiguous()
