"""Where a predictor may be trusted: near the crystals it was made from, and why not elsewhere."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matmill.crystals.elements import MAX_NUMBER, SYMBOLS
from matmill.errors import InputError
from matmill.graphs.graph import Graph
from matmill.randomness import child

N_AXES = 32  # directions of the projected features
N_REFERENCE = 2000  # training crystals that are kept to measure distances from
N_NEAREST = 5
LIMIT = 99  # percent of known crystals that lie nearer than the limit
_CHUNK_ROWS = 4096
_FEW = 200  # held-out crystals, below which their 99th percentile is mostly luck
_BOND_TAIL = 0.001  # the outermost on each side are more often slips than chemistry
_SMALLEST_VARIANCE = 1e-3  # of the largest; directions that hardly vary must not decide


@dataclass(frozen=True, kw_only=True, eq=False)
class Domain:
    """What the training crystals of a predictor were like.

    Any features will do: learned ones, or columns of descriptors (NaN is allowed). They are
    standardised, turned onto their principal axes and scaled to unit variance there; distances
    are then mean distances to the nearest training crystals.

    Attributes:
        center: Mean of each feature, ``(n_features,)``.
        scale: Standard deviation of each feature, ``(n_features,)``.
        whitener: Axes with their scales, ``(n_features, n_axes)``.
        reference: Projected training crystals, ``(n_reference, n_axes)``; may be empty, then
            distances are those from the mean (Mahalanobis).
        distances: Percentiles 0-100 of the distance of known crystals, ``(101,)``.
        elements: True for each atomic number that occurred, ``(119,)``.
        bonds: Usual range of the shortest bond in Å, ``(2,)``; 0 and infinity when not known.
    """

    center: Float[Tensor, " n_features"]
    scale: Float[Tensor, " n_features"]
    whitener: Float[Tensor, "n_features n_axes"]
    reference: Float[Tensor, "n_reference n_axes"]
    distances: Float[Tensor, " 101"]
    elements: Bool[Tensor, " 119"]
    bonds: Float[Tensor, " 2"]

    @classmethod
    def fit(
        cls,
        features: Float[Tensor, "n_crystals n_features"],
        elements: Float[Tensor, "n_crystals 119"],
        *,
        shortest_bond: Float[Tensor, " n_crystals"] | None = None,
        held_out: Float[Tensor, "n_held_out n_features"] | None = None,
        seed: int = 0,
    ) -> "Domain":
        """Return the domain of these training crystals.

        Args:
            features: Of the training crystals; NaN where a feature is not defined.
            elements: Amount of each element, column = atomic number; anything above 0 counts.
            shortest_bond: Shortest bond of each in Å, where there are structures.
            held_out: Features of crystals that were not trained on; percentiles are then theirs,
                which is fairer for learned features. By default those of the training crystals
                among one another.
            seed: Decides which training crystals are kept as reference.

        Raises:
            InputError: If there are no crystals.
        """
        if not len(features):
            raise InputError("A domain needs at least one training crystal.")
        features = features.double()
        center = features.nanmean(0).nan_to_num(0.0)
        filled = torch.where(torch.isnan(features), center, features)
        scale = filled.std(0, correction=0)
        scale = torch.where(scale > 1e-12, scale, torch.ones_like(scale))
        standard = (filled - center) / scale
        values, axes = torch.linalg.eigh(standard.T @ standard / len(standard))
        values, axes = values.flip(0)[:N_AXES], axes.flip(1)[:, :N_AXES]
        floor = max(_SMALLEST_VARIANCE * float(values[0]), 1e-12)
        whitener = (axes / values.clamp_min(floor).sqrt()).contiguous()
        projected = (standard @ whitener).float()
        order = torch.randperm(len(projected), generator=child(seed, "domain"))
        kept, rest = order[:N_REFERENCE], order[N_REFERENCE:]
        reference = projected[kept].contiguous()
        bonds = torch.tensor([0.0, math.inf], dtype=torch.float64)
        if shortest_bond is not None:
            tails = torch.tensor([_BOND_TAIL, 1 - _BOND_TAIL], dtype=torch.float64)
            bonds = shortest_bond.double().quantile(tails)
        domain = cls(
            center=center,
            scale=scale,
            whitener=whitener,
            reference=reference,
            distances=torch.full((101,), math.inf, dtype=torch.float64),
            elements=(elements > 0).any(0),
            bonds=bonds,
        )
        if len(rest):
            found = _mean_nearest(projected[rest], reference)
        else:
            found = _mean_nearest(reference, reference, skip_self=True)
        domain = replace(domain, distances=found.quantile(_percents(), interpolation="higher"))
        if held_out is None or not len(held_out):
            return domain
        return domain.measured_on(domain.distance(held_out))

    def measured_on(self, distance: Float[Tensor, " n_held_out"]) -> "Domain":
        """Return the domain with percentiles of crystals that were not trained on.

        Learned features lie nearer for crystals that they were learned from, so held-out ones are
        the fairer measure. Of few held-out crystals the outer percentiles are hardly known; those
        of training then stand where they are larger.

        Args:
            distance: Of each held-out crystal, from `distance`.
        """
        found = distance.double().to(self.distances.device).quantile(_percents().to(distance))
        if len(distance) < _FEW:
            found = torch.where(self.distances.isinf(), found, found.maximum(self.distances))
        return replace(self, distances=found)

    def project(
        self, features: Float[Tensor, "n_crystals n_features"]
    ) -> Float[Tensor, "n_crystals n_axes"]:
        """Return features on the principal axes of training, unit variance there, float32."""
        features = features.double()
        filled = torch.where(torch.isnan(features), self.center, features)
        return ((filled - self.center) / self.scale @ self.whitener).float()

    def distance(
        self, features: Float[Tensor, "n_crystals n_features"]
    ) -> Float[Tensor, " n_crystals"]:
        """Return how far each crystal lies from the training crystals, float64."""
        return self.distance_of_projected(self.project(features))

    def distance_of_projected(
        self, projected: Float[Tensor, "n_crystals n_axes"]
    ) -> Float[Tensor, " n_crystals"]:
        """Return the same as `distance` for features that went through `project`."""
        if not len(self.reference):
            return projected.double().norm(dim=1)
        return _mean_nearest(projected, self.reference)

    def judge(
        self,
        features: Float[Tensor, "n_crystals n_features"],
        elements: Float[Tensor, "n_crystals 119"],
        *,
        shortest_bond: Float[Tensor, " n_crystals"] | None = None,
    ) -> tuple[Bool[Tensor, " n_crystals"], tuple[str, ...]]:
        """Return which crystals are like the training crystals, and why the others are not.

        Args:
            features: As in `fit`.
            elements: As in `fit`. An element that was never seen puts a crystal outside,
                whatever its features say.
            shortest_bond: Of each crystal in Å; not judged where not given.

        Returns:
            True where a crystal is inside, ``(n_crystals,)``; and one text each, empty inside.
        """
        return self.judge_distance(self.distance(features), elements, shortest_bond=shortest_bond)

    def judge_distance(
        self,
        distance: Float[Tensor, " n_crystals"],
        elements: Float[Tensor, "n_crystals 119"],
        *,
        shortest_bond: Float[Tensor, " n_crystals"] | None = None,
    ) -> tuple[Bool[Tensor, " n_crystals"], tuple[str, ...]]:
        """Return the same as `judge` for distances that are known already."""
        distance, elements = distance.cpu(), elements.cpu()
        unseen = (elements > 0) & ~self.elements.cpu()
        is_far = distance > self.distances[LIMIT].cpu()
        is_new = unseen.any(1)
        is_odd = torch.zeros_like(is_far)
        if shortest_bond is not None:
            low, high = self.bonds.tolist()
            is_odd = (shortest_bond.cpu() < low) | (shortest_bond.cpu() > high)
        in_domain = ~(is_new | is_far | is_odd)
        reasons = [""] * len(distance)
        for row in torch.nonzero(~in_domain).flatten().tolist():
            found = []
            if is_new[row]:
                names = [SYMBOLS[z] for z in torch.nonzero(unseen[row]).flatten().tolist()]
                found.append(f"element{'s' * (len(names) > 1)} {', '.join(names)} never seen")
            if is_far[row]:
                found.append(f"farther than {LIMIT} % of training crystals")
            if is_odd[row] and shortest_bond is not None:
                found.append(f"shortest bond {float(shortest_bond[row]):.2f} Å")
            reasons[row] = "; ".join(found)
        return in_domain, tuple(reasons)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything by name, for a safetensors file."""
        return {
            "center": self.center,
            "scale": self.scale,
            "whitener": self.whitener,
            "reference": self.reference,
            "distances": self.distances,
            "elements": self.elements,
            "bonds": self.bonds,
        }

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> "Domain":
        """Return the domain that `tensors` gave."""
        return cls(**tensors)

    def to(self, device: str | torch.device) -> "Domain":
        """Return a copy on ``device``."""
        return Domain.of({name: values.to(device) for name, values in self.tensors().items()})


def read_domain(tensors: dict[str, Tensor], card: dict[str, Any]) -> Domain | None:
    """Return the domain in a file; older files know only mean and spread of the features.

    Args:
        tensors: Those of the domain by name; empty where there is none.
        card: The file's card.
    """
    if not tensors or "center" in tensors:
        return Domain.of(tensors) if tensors else None
    mean, whitener = tensors["mean"], tensors["whitener"]
    distances = torch.full((101,), math.inf, dtype=torch.float64)
    distances[LIMIT] = card.get("domain_limit", math.inf)
    seen = torch.zeros(MAX_NUMBER + 1, dtype=torch.bool)
    seen[card["elements_z"]] = True
    bonds = card.get("shortest_bond_angstrom", [0.0, math.inf])
    return Domain(
        center=mean,
        scale=torch.ones_like(mean),
        whitener=whitener,
        reference=torch.zeros(0, whitener.shape[1]),
        distances=distances,
        elements=seen,
        bonds=torch.tensor(bonds, dtype=torch.float64),
    )


def elements_of(graph: Graph) -> Bool[Tensor, "n_crystals 119"]:
    """Return which elements each crystal has; column = atomic number."""
    has = torch.zeros(len(graph), MAX_NUMBER + 1, dtype=torch.bool)
    has[graph.crystal_index.cpu().long(), graph.atomic_numbers.cpu().long()] = True
    return has


def shortest_bond(graph: Graph) -> Float[Tensor, " n_crystals"]:
    """Return the smallest neighbour distance of each crystal in Å."""
    nearest = graph.distance[:, 0]
    smallest = torch.full((len(graph),), torch.inf, device=nearest.device)
    return smallest.scatter_reduce(0, graph.crystal_index, nearest, "amin")


def _percents() -> Float[Tensor, " 101"]:
    return torch.linspace(0.0, 1.0, 101, dtype=torch.float64)


def _mean_nearest(
    rows: Float[Tensor, "n n_axes"],
    reference: Float[Tensor, "n_reference n_axes"],
    *,
    skip_self: bool = False,
) -> Float[Tensor, " n"]:
    """Return the mean distance of each row to its nearest reference rows.

    ``skip_self``: the rows are the reference, and none is its own neighbour.
    """
    k = min(N_NEAREST, len(reference) - skip_self)
    if k < 1:
        return torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    found = []
    for start in range(0, len(rows), _CHUNK_ROWS):
        apart = torch.cdist(rows[start : start + _CHUNK_ROWS], reference)
        if skip_self:
            apart.diagonal(start).fill_(math.inf)
        found.append(apart.topk(k, largest=False).values.double().mean(1))
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64, device=rows.device)
