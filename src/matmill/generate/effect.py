"""Does a new condition change anything? Held-out losses with true and with shuffled labels.

A condition that is ignored gives the same loss whatever it says: "conditioning without effect".
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from matmill.generate.conditions import Conditions
from matmill.generate.dataset import TrainingBatch
from matmill.generate.process import Targets, Velocity, add_noise, losses
from matmill.generate.state import NoisyState
from matmill.randomness import child

# Draws of noise for each held-out crystal: in every score during training, and at the end.
_SCORE_DRAWS, _EFFECT_DRAWS = 4, 12
_MIN_Z = 2.0
_Rows = TypeVar("_Rows", NoisyState, Targets)


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Mean losses on held-out crystals, the same noise for each label.

    Attributes:
        n: Crystals.
        base: Loss of the base, told nothing.
        true: Loss with the right labels.
        shuffled: Loss with labels of other held-out crystals.
        gain: Mean over crystals of ``shuffled - true``.
        error: Standard error of the gain over crystals.
    """

    n: int
    base: float
    true: float
    shuffled: float
    gain: float
    error: float

    @property
    def is_seen(self) -> bool:
        """Whether true labels help more than chance would explain, by two standard errors."""
        return self.gain > _MIN_Z * self.error

    @property
    def card(self) -> dict[str, Any]:
        """All numbers, for a card."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**values, "is_seen": self.is_seen}


class HeldOut:
    """Crystals that the adapter does not learn from, by size, with their labels.

    Args:
        groups: Of one size each; labels as ``conditions.added``.
        seed: Of the noise, which is the same in every call.
    """

    def __init__(self, groups: dict[int, TrainingBatch], *, seed: int) -> None:
        self.groups, self.seed = groups, seed

    @torch.no_grad()
    def score(self, network: nn.Module) -> float:
        """Return the mean loss with the right labels; lower is better."""
        total, count = 0.0, 0
        device = next(network.parameters()).device
        for draw in range(_SCORE_DRAWS):
            for n, group in self.groups.items():
                state, targets = add_noise(group.crystals, child(self.seed, "score", draw, n))
                state, targets = _to(state, device), _to(targets, device)
                velocity = network(state, _told(group.conditions).to(device))
                total += len(group.crystals) * float(losses(velocity, targets, state)["loss"])
                count += len(group.crystals)
        return total / count

    @torch.no_grad()
    def effect(self, network: nn.Module) -> Effect:
        """Return what true, shuffled and no labels give, crystal by crystal."""
        labels = torch.cat([group.conditions.added for group in self.groups.values()])
        sums = torch.zeros(3, len(labels), dtype=torch.float64)
        starts = torch.tensor([0, *(len(g.crystals) for g in self.groups.values())]).cumsum(0)
        for draw in range(_EFFECT_DRAWS):
            order = torch.randperm(len(labels), generator=child(self.seed, "shuffle", draw))
            for start, (n, group) in zip(starts.tolist(), self.groups.items(), strict=False):
                state, targets = add_noise(group.crystals, child(self.seed, "effect", draw, n))
                told = _told(group.conditions)
                rows = slice(start, start + len(group.crystals))
                other = labels[order[rows]]
                for arm, added in enumerate((torch.nan * other, told.added, other)):
                    velocity = network(state, replace(told, added=added))
                    sums[arm, rows] += _each(velocity, targets, state)
        base, true, shuffled = sums / _EFFECT_DRAWS
        gain = shuffled - true
        return Effect(
            n=len(gain),
            base=float(base.mean()),
            true=float(true.mean()),
            shuffled=float(shuffled.mean()),
            gain=float(gain.mean()),
            error=float(gain.std() / len(gain) ** 0.5) if len(gain) > 1 else float("inf"),
        )


def _told(known: Conditions) -> Conditions:
    """Return what the sampler tells the network: symmetry and what adapters are asked for."""
    told = Conditions.none(len(known))
    return replace(
        told,
        space_group=known.space_group,
        crystal_system=known.crystal_system,
        added=known.added,
    )


def _each(velocity: Velocity, targets: Targets, state: NoisyState) -> Tensor:
    """Return the loss of each crystal by itself."""
    tensors, rebuild = _flat((velocity, targets, state))

    def alone(*row: Tensor) -> Tensor:
        return losses(*rebuild(tuple(values[None] for values in row)))["loss"]

    return torch.vmap(alone)(*tensors).double()


def _to(rows: _Rows, device: torch.device) -> _Rows:
    tensors, rebuild = _flat((rows,))
    return rebuild(tuple(values.to(device) for values in tensors))[0]


def _flat(parts: tuple[Any, ...]) -> tuple[tuple[Tensor, ...], Callable[..., tuple[Any, ...]]]:
    """Return the tensors of dataclasses, nested ones included, and what rebuilds them."""
    tensors: list[Tensor] = []

    def collect(part: Any) -> Any:  # noqa: ANN401 - a tree of dataclasses
        if isinstance(part, Tensor):
            tensors.append(part)
            return lambda given: next(given)
        if is_dataclass(part):
            makers = {f.name: collect(getattr(part, f.name)) for f in fields(part)}
            return lambda given: type(part)(**{k: make(given) for k, make in makers.items()})
        return lambda given: part  # noqa: ARG005

    makers = [collect(part) for part in parts]

    def rebuild(values: tuple[Tensor, ...]) -> tuple[Any, ...]:
        given = iter(values)
        return tuple(make(given) for make in makers)

    return tuple(tensors), rebuild
