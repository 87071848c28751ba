"""What the networks of an ensemble say, on the learned scale and before any calibration."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from matmill.graphs.graph import Graph
from matmill.predict.domain import Domain
from matmill.predict.networks import chunks

_SUREST = 0.998  # of classes learned as -1 and 1: no probability beyond 0.001 and 0.999


@dataclass(frozen=True, eq=False)
class RawOutputs:
    """What the members say on the learned scale.

    Attributes:
        mean: Mean over the members, ``(n_crystals, n_targets)``.
        std: Uncalibrated: spread of the members and the noise that they expect, same shape; of
            classes what their probability leaves open.
        features: Learned features on the principal axes of training, ``(n_crystals, n_axes)``.
        distance: How far these lie from the training set's, ``(n_crystals,)``.
        members: Mean of each member, ``(n_members, n_crystals, n_targets)``.
        member_stds: Uncalibrated deviation that each member alone expects, same shape.
    """

    mean: Float[Tensor, "n_crystals n_targets"]
    std: Float[Tensor, "n_crystals n_targets"]
    features: Float[Tensor, "n_crystals n_axes"]
    distance: Float[Tensor, " n_crystals"]
    members: Float[Tensor, "n_members n_crystals n_targets"]
    member_stds: Float[Tensor, "n_members n_crystals n_targets"]


@torch.no_grad()
def raw_outputs(
    members: Sequence[nn.Module], domain: Domain | None, graph: Graph, is_class: Sequence[bool]
) -> RawOutputs:
    """Return what the members say about graphs, in chunks of bounded size, on the CPU.

    Args:
        members: Networks in evaluation mode, all on one device.
        domain: What projects the learned features; None leaves them as they are.
        graph: Of the crystals.
        is_class: Which targets are classes.
    """
    device = next(members[0].parameters()).device
    parts = [_of_chunk(members, domain, part.to(device), is_class) for part in chunks(graph)]
    return RawOutputs(
        mean=torch.cat([part.mean for part in parts]).cpu(),
        std=torch.cat([part.std for part in parts]).cpu(),
        features=torch.cat([part.features for part in parts]).cpu(),
        distance=torch.cat([part.distance for part in parts]).cpu(),
        members=torch.cat([part.members for part in parts], dim=1).cpu(),
        member_stds=torch.cat([part.member_stds for part in parts], dim=1).cpu(),
    )


def _of_chunk(
    members: Sequence[nn.Module], domain: Domain | None, graph: Graph, is_class: Sequence[bool]
) -> RawOutputs:
    means, noises = [], []
    features = members[0].embedding(graph)  # pyright: ignore[reportCallIssue]
    for place, member in enumerate(members):
        own = member.embedding(graph) if place else features  # pyright: ignore[reportCallIssue]
        means.append(member.out(own).double())  # pyright: ignore[reportCallIssue]
        noises.append(member.noise(own).double())  # pyright: ignore[reportCallIssue]
    classes = torch.tensor(list(is_class)).to(features.device)
    stacked = torch.stack(means)
    # Of classes the output is the log of the odds. A factor, not a clamp: it keeps the order.
    stacked = torch.where(classes, _SUREST * torch.tanh(0.5 * stacked), stacked)
    # The noise head gives the log of a mean absolute error b of a Laplace law: variance 2 b².
    noise = 2.0 * torch.exp(2.0 * torch.stack(noises).clamp(-8.0, 4.0))
    variance = noise.mean(0) + (stacked.var(0) if len(means) > 1 else 0.0)
    # Classes are learned as -1 and 1, where p (1 - p) is a quarter of this.
    variance = torch.where(classes, 1.0 - stacked.mean(0).square(), variance)
    noise = torch.where(classes, 1.0 - stacked.square(), noise)
    distance = torch.zeros(len(graph), dtype=torch.float64, device=noise.device)
    if domain is not None:
        features = domain.project(features)
        distance = domain.distance_of_projected(features)
    return RawOutputs(
        mean=stacked.mean(0),
        std=variance.sqrt(),
        features=features,
        distance=distance,
        members=stacked,
        member_stds=noise.sqrt(),
    )
