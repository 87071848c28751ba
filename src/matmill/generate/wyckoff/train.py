"""Likelihood training of the Wyckoff model."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from matmill.generate.wyckoff.encoding import TemplateBatch
from matmill.generate.wyckoff.network import WyckoffNetwork, WyckoffSettings
from matmill.generate.wyckoff.vocabulary import group_systems

_COMPOSITION_WEIGHT = 0.3  # drawing compositions is the lesser task
_HULL_SHOWN = 0.8
_SIZE_SHOWN = 0.4
_GROUP_SHOWN = 0.25
_SYSTEM_SHOWN = 0.15


class WyckoffTask(nn.Module):
    """The network with its loss: minus the log likelihood of a template, in nats per crystal."""

    def __init__(self, settings: WyckoffSettings) -> None:
        super().__init__()
        self.network = WyckoffNetwork(settings)

    def loss(self, batch: TemplateBatch, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the loss and its parts; conditions are hidden at random."""
        b = len(batch)
        draws = torch.rand(4, b, generator=rng).to(batch.hull.device)
        hull = batch.hull.masked_fill(draws[0] >= _HULL_SHOWN, torch.nan)
        shown = TemplateBatch(
            elements=batch.elements,
            counts=batch.counts,
            space_group=batch.space_group,
            letters=batch.letters,
            slots=batch.slots,
            hull=hull,
        )
        group, orbits = template_loss(self.network, shown)
        composition = composition_loss(
            self.network,
            shown,
            size=batch.counts.sum(1) * (draws[1] < _SIZE_SHOWN),
            space_group=batch.space_group * (draws[2] < _GROUP_SHOWN),
            system=group_systems().to(hull.device)[batch.space_group] * (draws[3] < _SYSTEM_SHOWN),
        )
        group, orbits, composition = group.mean(), orbits.mean(), composition.mean()
        return {
            "loss": group + orbits + _COMPOSITION_WEIGHT * composition,
            "group": group.detach(),
            "orbits": orbits.detach(),
            "composition": composition.detach(),
        }


def template_loss(
    network: WyckoffNetwork, batch: TemplateBatch
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Return -log p(group | composition) and -log p(orbits | group, composition)."""
    groups, positions = network.template(batch)
    group = functional.cross_entropy(groups, batch.space_group, reduction="none")
    targets = batch.letters
    flat = functional.cross_entropy(
        positions[:, :-1].transpose(1, 2), targets, reduction="none", ignore_index=-1
    )
    return group, flat.sum(1)


def composition_loss(
    network: WyckoffNetwork,
    batch: TemplateBatch,
    *,
    size: Int[Tensor, " b"],
    space_group: Int[Tensor, " b"],
    system: Int[Tensor, " b"],
) -> Float[Tensor, " b"]:
    """Return -log p(elements and their numbers | what was asked for)."""
    logits, hidden = network.composition(batch, size=size, space_group=space_group, system=system)
    targets = functional.pad(batch.elements, (0, 1))  # 0 is also the end
    ended = functional.pad(batch.elements == 0, (1, 0))  # true behind the end
    element = functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    counts = network.counts(hidden[:, :-1], batch.elements)
    number = functional.cross_entropy(
        counts.transpose(1, 2), batch.counts.masked_fill(batch.elements == 0, 1), reduction="none"
    )
    return (element * ~ended).sum(1) + (number * (batch.elements > 0)).sum(1)


class TemplateBatches:
    """Shuffled batches of templates of similar length.

    Args:
        data: All training templates.
        size: Templates a batch.
    """

    def __init__(self, data: TemplateBatch, size: int) -> None:
        self.data, self.size = data, size

    def epoch(self, number: int, rng: torch.Generator) -> Iterator[TemplateBatch]:  # noqa: ARG002
        """Yield the batches of one epoch."""
        n = len(self.data)
        order = torch.randperm(n, generator=rng)
        length = (self.data.letters >= 0).sum(1)[order]
        # Sorting by length saves padding; the stable sort keeps the shuffled order within one.
        order = order[length.sort(stable=True).indices]
        starts = torch.arange(0, n, self.size)
        for start in starts[torch.randperm(len(starts), generator=rng)].tolist():
            yield self.data.select(order[start : start + self.size])
