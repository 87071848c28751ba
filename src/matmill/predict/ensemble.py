"""Deep ensembles: mean, error bar and conformal interval from several networks in one file."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from matmill.crystals.batch import CrystalBatch
from matmill.data.table import LabelledCrystals
from matmill.errors import DataError, InputError, UnknownNameError
from matmill.graphs.graph import Graph
from matmill.predict.calibrate import factor_for
from matmill.predict.networks import graphs_for, make_network
from matmill.predict.protocol import DEFAULT_COVERAGE, Prediction, empty_prediction
from matmill.predict.scaling import TargetScale
from matmill.progress import OnEvent, ignore
from matmill.training import checkpoint

KIND = "matmill predictor"
_CHUNK_ATOMS = 4096


@dataclass(frozen=True, eq=False)
class RawOutputs:
    """What the members say on the learned scale.

    Attributes:
        mean: Mean over the members, ``(n_crystals, n_targets)``.
        std: Uncalibrated: spread of the members and the noise that they expect, same shape.
        distance: How far the learned features lie from the training set's, ``(n_crystals,)``.
        members: Mean of each member, ``(n_members, n_crystals, n_targets)``.
    """

    mean: Float[Tensor, "n_crystals n_targets"]
    std: Float[Tensor, "n_crystals n_targets"]
    distance: Float[Tensor, " n_crystals"]
    members: Float[Tensor, "n_members n_crystals n_targets"]


class EnsembleModel:
    """All members and what calibrates them; one file can predict several properties.

    Args:
        members: Networks of one kind, in evaluation mode.
        card: Settings, scales and calibration, as `predict.train` writes them.
        domain: ``mean`` and ``whitener`` of the first member's features over the training set.
    """

    def __init__(
        self, members: Sequence[nn.Module], card: dict[str, Any], domain: dict[str, Tensor]
    ) -> None:
        self.members, self.card, self.domain = list(members), card, domain
        self.scales = [TargetScale(**entry) for entry in card["scales"]]
        self.columns: list[str] = list(card["columns"])
        self.seen = torch.zeros(119, dtype=torch.bool)
        self.seen[card["elements_z"]] = True

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.members[0].parameters()).device

    def to(self, device: str | torch.device) -> "EnsembleModel":
        """Move the networks; returns the same object."""
        for member in self.members:
            member.to(device)
        self.domain = {name: values.to(device) for name, values in self.domain.items()}
        return self

    def graphs(self, batch: CrystalBatch) -> Graph:
        """Return the graphs that the networks read."""
        return graphs_for(self.card, batch)

    @torch.no_grad()
    def raw(self, graph: Graph) -> RawOutputs:
        """Return what the members say about graphs, in chunks of bounded size."""
        parts = [self._raw_chunk(chunk.to(self.device)) for chunk in chunks(graph)]
        return RawOutputs(
            mean=torch.cat([part.mean for part in parts]).cpu(),
            std=torch.cat([part.std for part in parts]).cpu(),
            distance=torch.cat([part.distance for part in parts]).cpu(),
            members=torch.cat([part.members for part in parts], dim=1).cpu(),
        )

    def _raw_chunk(self, graph: Graph) -> RawOutputs:
        means, noises = [], []
        features = None
        for member in self.members:
            own = member.embedding(graph)  # pyright: ignore[reportCallIssue]
            features = own if features is None else features
            means.append(member.out(own).double())  # pyright: ignore[reportCallIssue]
            noises.append(member.noise(own).double())  # pyright: ignore[reportCallIssue]
        assert features is not None
        stacked = torch.stack(means)
        # The noise head gives the log of a mean absolute error b of a Laplace law: variance 2 b².
        noise = 2.0 * torch.exp(2.0 * torch.stack(noises).clamp(-8.0, 4.0)).mean(0)
        spread = stacked.var(0, unbiased=len(means) > 1) if len(means) > 1 else 0.0
        distance = torch.zeros(len(graph), dtype=torch.float64, device=noise.device)
        if self.domain:
            centred = features.double() - self.domain["mean"]
            distance = (centred @ self.domain["whitener"]).norm(dim=1)
        return RawOutputs(
            mean=stacked.mean(0),
            std=(noise + spread).sqrt(),
            distance=distance,
            members=stacked,
        )

    def in_domain(
        self, graph: Graph, distance: Float[Tensor, " n_crystals"]
    ) -> Bool[Tensor, " n_crystals"]:
        """Return which crystals are like the training set.

        Three questions: are all elements known, is the shortest bond of a usual length, and do
        the learned features (``distance``) lie where those of known crystals lie?
        """
        unseen = (~self.seen[graph.atomic_numbers.cpu().long()]).long()
        crystal_index = graph.crystal_index.cpu()
        n_unseen = torch.zeros(len(graph), dtype=torch.long).index_add(0, crystal_index, unseen)
        is_in = (n_unseen == 0) & (distance <= self.card.get("domain_limit", float("inf")))
        if "shortest_bond_angstrom" in self.card:
            low, high = self.card["shortest_bond_angstrom"]
            bond = shortest_bond(graph).cpu()
            is_in &= (bond >= low) & (bond <= high)
        return is_in

    def predict_all(
        self,
        batch: CrystalBatch,
        columns: Sequence[str] | None = None,
        *,
        coverage: float = DEFAULT_COVERAGE,
    ) -> dict[str, Prediction]:
        """Return predictions of several properties for the work of one.

        Args:
            batch: Crystals; none of them may hold masked atoms (Z = 0).
            columns: Which properties; all by default.
            coverage: Share of true values that the intervals should hold, in (0, 1).

        Raises:
            InputError: If an atom has no known element, or the coverage is not a share.
        """
        columns = list(columns or self.columns)
        if not 0.0 < coverage < 1.0:
            raise InputError(f"coverage is {coverage}; give a share between 0 and 1, e.g. 0.9.")
        if not len(batch):
            return {column: empty_prediction(column, coverage) for column in columns}
        if not bool(((batch.atomic_numbers >= 1) & (batch.atomic_numbers <= 118)).all()):
            raise InputError("Some atoms are no element (Z outside 1-118); nothing to predict.")
        graph = self.graphs(batch)
        raw = self.raw(graph)
        in_domain = self.in_domain(graph, raw.distance)
        return {
            column: self._prediction(raw, self.columns.index(column), coverage, in_domain)
            for column in columns
        }

    def _prediction(
        self, raw: RawOutputs, target: int, coverage: float, in_domain: Bool[Tensor, " n_crystals"]
    ) -> Prediction:
        column, scale = self.columns[target], self.scales[target]
        calibration = self.card["calibration"][column]
        mean = raw.mean[:, target]
        std = raw.std[:, target] * calibration["std_factor"]
        reach = std * factor_for(calibration["conformal_factors"], coverage)
        return Prediction(
            mean=scale.from_learned(mean),
            std=scale.std_from_learned(mean, std),
            low=scale.from_learned(mean - reach),
            high=scale.from_learned(mean + reach),
            column=column,
            coverage=coverage,
            in_domain=in_domain,
        )

    def view(self, column: str | None = None) -> "EnsemblePredictor":
        """Return the predictor of one property.

        Raises:
            UnknownNameError: If the file does not predict it.
            InputError: If the file predicts several and none was named.
        """
        if column is None:
            if len(self.columns) > 1:
                raise InputError(
                    f"This file predicts several properties: {', '.join(self.columns)}. Say which."
                )
            return EnsemblePredictor(self, self.columns[0])
        names = [c for c in self.columns if c == column or c.startswith(f"{column}_")]
        if not names:
            raise UnknownNameError("property of this predictor", column, self.columns)
        return EnsemblePredictor(self, column if column in names else names[0])

    def save(self, path: Path | str) -> Path:
        """Write ``NAME.safetensors`` and ``NAME.json``."""
        tensors = {f"domain.{name}": values for name, values in self.domain.items()}
        for number, member in enumerate(self.members):
            state = member.state_dict().items()
            tensors |= {f"member.{number}.{name}": values for name, values in state}
        return checkpoint.save(path, tensors, self.card)


@dataclass(frozen=True, eq=False)
class EnsemblePredictor:
    """One property of an ensemble; implements `predict.protocol.Predictor`.

    Attributes:
        model: The ensemble, shared by all properties of its file.
        column: Name of the property with its unit.
    """

    model: EnsembleModel
    column: str

    network: ClassVar[str] = "cgcnn"

    @classmethod
    def fit(
        cls,
        table: LabelledCrystals,
        target: str,
        *,
        folder: Path,
        seed: int = 0,
        on_event: OnEvent = ignore,
        **settings: float | str | None,
    ) -> "EnsemblePredictor":
        """Return a predictor trained on a table; see `predict.train` for settings and resuming."""
        from matmill.predict.train import TrainSettings, train_predictor

        chosen = TrainSettings.model_validate({"network": cls.network, **settings})
        model = train_predictor(
            table, [target], settings=chosen, folder=folder, seed=seed, on_event=on_event
        )
        return cls(model, model.columns[0])

    @property
    def card(self) -> dict[str, Any]:
        """Data, settings, measured scores and limits."""
        return self.model.card

    def predict(self, batch: CrystalBatch, *, coverage: float = DEFAULT_COVERAGE) -> Prediction:
        """Return the property of each crystal."""
        return self.model.predict_all(batch, [self.column], coverage=coverage)[self.column]

    def to(self, device: str | torch.device) -> "EnsemblePredictor":
        """Move the networks to a device; other properties of the file move along."""
        self.model.to(device)
        return self


class CompositionPredictor(EnsemblePredictor):
    """The same on compositions alone: for formulas without structures, and as a baseline."""

    network: ClassVar[str] = "composition"


def load_model(path: Path | str) -> EnsembleModel:
    """Return the ensemble in a file; the same file is read once per process and content.

    Raises:
        DataError: If the file is missing, damaged or no predictor.
    """
    file = checkpoint.weights_path(path)
    if not file.exists():
        raise DataError(f"There is no predictor {file}.")
    return _load_model(file.resolve(), file.stat().st_mtime_ns)


def open_predictor(path: Path, column: str | None) -> EnsemblePredictor:
    """Return one property of an ensemble's file; see `load_model` and `EnsembleModel.view`."""
    return load_model(path).view(column)


@lru_cache(maxsize=16)
def _load_model(path: Path, stamp: int) -> EnsembleModel:  # noqa: ARG001 - part of the cache key
    tensors, card = checkpoint.load(path)
    if card.get("kind") != KIND:
        raise DataError(f"{path} holds a {card.get('kind', 'file of unknown kind')}, no predictor.")
    groups: dict[str, dict[str, Tensor]] = {}
    for name, values in tensors.items():
        head, rest = name.rsplit(".", 1) if name.startswith("domain.") else _member_of(name)
        groups.setdefault(head, {})[rest] = values
    members = []
    for number in range(card["n_members"]):
        network = make_network(card)
        state = groups.get(f"member.{number}", {})
        checkpoint.load_into(network, state, source=str(path))
        members.append(network.eval().requires_grad_(False))
    return EnsembleModel(members, card, groups.get("domain", {}))


def _member_of(name: str) -> tuple[str, str]:
    head, number, rest = name.split(".", 2)
    return f"{head}.{number}", rest


def shortest_bond(graph: Graph) -> Float[Tensor, " n_crystals"]:
    """Return the smallest neighbour distance of each crystal in Å."""
    nearest = graph.distance[:, 0]
    smallest = torch.full((len(graph),), torch.inf, device=nearest.device)
    return smallest.scatter_reduce(0, graph.crystal_index, nearest, "amin")


def chunks(graph: Graph) -> list[Graph]:
    """Return the graph cut into parts of bounded size, in order."""
    if len(graph.atomic_numbers) <= _CHUNK_ATOMS:
        return [graph]
    ends = graph.n_atoms.cumsum(0)
    groups = ((ends - 1) // _CHUNK_ATOMS).cpu()
    return [graph.select(torch.nonzero(groups == g).flatten()) for g in groups.unique()]
