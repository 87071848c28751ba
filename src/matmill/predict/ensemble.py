"""Deep ensembles: mean, error bar and conformal interval from several networks in one file."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch
from matmill.data.compositions import Table
from matmill.errors import DataError, InputError, UnknownNameError
from matmill.graphs.graph import Graph
from matmill.predict.calibrate import factor_for
from matmill.predict.chemistry import families
from matmill.predict.domain import elements_of, read_domain, shortest_bond
from matmill.predict.intervals import CalibrationRows, Factors, Kind, plain_factors
from matmill.predict.members import RawOutputs, raw_outputs
from matmill.predict.networks import graphs_for, make_network
from matmill.predict.protocol import DEFAULT_COVERAGE, Prediction, empty_prediction
from matmill.predict.scaling import TargetScale
from matmill.progress import OnEvent, ignore
from matmill.training import checkpoint
from matmill.training.trackers import Tracker

KIND = "matmill predictor"


class EnsembleModel:
    """All members and what calibrates them; one file can predict several properties.

    Args:
        members: Networks of one kind, in evaluation mode.
        card: Settings, scales and calibration, as `predict.train` writes them.
        tensors: What belongs to the weights, by name: ``domain.*`` and ``calibration.*``. None
            yet while the ensemble is made.
    """

    def __init__(
        self, members: Sequence[nn.Module], card: dict[str, Any], tensors: dict[str, Tensor]
    ) -> None:
        self.members, self.card = list(members), card
        self.scales = [TargetScale(**entry) for entry in card["scales"]]
        self.columns: list[str] = list(card["columns"])
        self.domain = read_domain(_below("domain.", tensors), card)
        kept = _below("calibration.", tensors)
        self.calibration_rows = CalibrationRows.of(kept) if kept else None

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.members[0].parameters()).device

    def to(self, device: str | torch.device) -> "EnsembleModel":
        """Move the networks; returns the same object."""
        for member in self.members:
            member.to(device)
        self.domain = self.domain.to(device) if self.domain else None
        return self

    @property
    def interval_kinds(self) -> tuple[str, ...]:
        """Which kinds of interval this file can give; see `predict.intervals`."""
        return get_args(Kind) if self.calibration_rows else get_args(Kind)[:1]

    def graphs(self, batch: CrystalBatch | CompositionBatch) -> Graph:
        """Return the graphs that the networks read."""
        return graphs_for(self.card, batch)

    def raw(self, graph: Graph) -> RawOutputs:
        """Return what the members say about graphs, in chunks of bounded size."""
        is_class = [scale.is_class for scale in self.scales]
        return raw_outputs(self.members, self.domain, graph, is_class)

    def judge(
        self, graph: Graph, distance: Float[Tensor, " n_crystals"]
    ) -> tuple[Bool[Tensor, " n_crystals"], tuple[str, ...]]:
        """Return which crystals are like the training set, and why the others are not.

        Three questions: are all elements known, is the shortest bond of a usual length, and do
        the learned features (``distance``) lie where those of known crystals lie?
        """
        if self.domain is None:
            return torch.ones(len(graph), dtype=torch.bool), ("",) * len(graph)
        has_bonds = graph.distance.shape[1] > 0
        return self.domain.judge_distance(
            distance, elements_of(graph), shortest_bond=shortest_bond(graph) if has_bonds else None
        )

    def predict_all(
        self,
        batch: CrystalBatch | CompositionBatch,
        columns: Sequence[str] | None = None,
        *,
        coverage: float = DEFAULT_COVERAGE,
        intervals: Kind = "split",
    ) -> dict[str, Prediction]:
        """Return predictions of several properties for the work of one.

        Args:
            batch: Crystals; none of them may hold masked atoms (Z = 0).
            columns: Which properties; all by default.
            coverage: Share of true values that the intervals should hold, in (0, 1).
            intervals: Kind of interval, see `CalibrationRows.factors`. ``shifted`` compares the
                whole batch with the calibration crystals, so give all crystals in one call.

        Raises:
            InputError: If an atom has no known element, the coverage is not a share, or the file
                was saved without what this kind of interval needs.
        """
        columns = list(columns or self.columns)
        found = self.predict_levels(batch, columns, coverages=(coverage,), intervals=intervals)
        return {column: levels[coverage] for column, levels in found.items()}

    def predict_levels(
        self,
        batch: CrystalBatch | CompositionBatch,
        columns: Sequence[str],
        *,
        coverages: Sequence[float],
        intervals: Kind = "split",
    ) -> dict[str, dict[float, Prediction]]:
        """Return `predict_all` at several coverages, by column and coverage, for one's work."""
        for coverage in coverages:
            if not 0.0 < coverage < 1.0:
                raise InputError(f"coverage is {coverage}; give a share between 0 and 1, e.g. 0.9.")
        if intervals not in self.interval_kinds and intervals in get_args(Kind):
            raise InputError(
                f"This predictor was saved without its calibration rows, which intervals of the "
                f"kind '{intervals}' need. Train it again, or ask for plain intervals."
            )
        if not len(batch):
            return {c: {level: empty_prediction(c, level) for level in coverages} for c in columns}
        if isinstance(batch, CrystalBatch):
            numbers = batch.atomic_numbers
            if not bool(((numbers >= 1) & (numbers <= 118)).all()):
                raise InputError("Some atoms are no element (Z outside 1-118); nothing to predict.")
        graph = self.graphs(batch)
        raw = self.raw(graph)
        judged = self.judge(graph, raw.distance)
        kinds = families(elements_of(graph))
        found: dict[str, dict[float, Prediction]] = {column: {} for column in columns}
        for column, level in itertools.product(columns, coverages):
            found[column][level] = self._prediction(raw, kinds, column, level, judged, intervals)
        return found

    def ends(
        self,
        raw: RawOutputs,
        kinds: Int[Tensor, " n_crystals"],
        column: str,
        coverage: float,
        intervals: Kind = "split",
    ) -> tuple[Float[Tensor, " n_crystals"], Float[Tensor, " n_crystals"], Factors]:
        """Return both ends of each interval on the learned scale, and what stands behind them.

        Args:
            raw: What the members say.
            kinds: Family of compounds of each crystal.
            column: Property.
            coverage: Share of true values that the intervals should hold, in (0, 1).
            intervals: Kind of interval; see `CalibrationRows.factors`.
        """
        target = self.columns.index(column)
        calibration, rows = self.card["calibration"][column], self.calibration_rows
        factor = calibration["std_factor"]
        if intervals == "split" and rows is not None and rows.folds is not None:
            stds = raw.member_stds[..., target] * factor
            return rows.across_folds(column, coverage, raw.members[..., target], stds)
        mean, std = raw.mean[:, target], raw.std[:, target] * factor
        if intervals == "split" or rows is None:
            plain = factor_for(calibration["conformal_factors"], coverage)
            found = plain_factors(plain, calibration["n_calibration"], len(mean))
        else:
            found = rows.factors(column, coverage, raw.features, kinds, kind=intervals)
        return mean - std * found.factor, mean + std * found.factor, found

    def _prediction(
        self,
        raw: RawOutputs,
        kinds: Int[Tensor, " n_crystals"],
        column: str,
        coverage: float,
        judged: tuple[Bool[Tensor, " n_crystals"], tuple[str, ...]],
        intervals: Kind,
    ) -> Prediction:
        target = self.columns.index(column)
        scale = self.scales[target]
        calibration = self.card["calibration"][column]
        mean = raw.mean[:, target]
        std = raw.std[:, target] * calibration["std_factor"]
        low, high, found = self.ends(raw, kinds, column, coverage, intervals)
        return Prediction(
            mean=scale.from_learned(mean),
            std=scale.std_from_learned(mean, std),
            low=scale.from_learned(low),
            high=scale.from_learned(high),
            column=column,
            coverage=coverage,
            in_domain=judged[0],
            reasons=judged[1],
            interval=found.names,
            effective_size=found.effective_size,
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
        tensors: dict[str, Tensor] = {}
        for head, part in (("domain", self.domain), ("calibration", self.calibration_rows)):
            if part is not None:
                tensors |= {f"{head}.{name}": values for name, values in part.tensors().items()}
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
    preset: ClassVar[str] = "tuned"

    @classmethod
    def fit(
        cls,
        table: Table,
        target: str,
        *,
        folder: Path,
        seed: int = 0,
        start_from: str | None = None,
        on_event: OnEvent = ignore,
        trackers: tuple[Tracker, ...] = (),
        **settings: float | str | None,
    ) -> Self:
        """Return a predictor trained on a table; see `predict.train` for settings and resuming."""
        from matmill.predict.train import TrainSettings, train_predictor

        chosen = TrainSettings.model_validate(
            {"preset": cls.preset, "network": cls.network, **settings}
        )
        model = train_predictor(
            table,
            [target],
            settings=chosen,
            folder=folder,
            seed=seed,
            start_from=start_from,
            on_event=on_event,
            trackers=trackers,
        )
        return cls(model, model.columns[0])

    @property
    def card(self) -> dict[str, Any]:
        """Data, settings, measured scores and limits."""
        return self.model.card

    @property
    def interval_kinds(self) -> tuple[str, ...]:
        """Which kinds of interval ``predict`` can give."""
        return self.model.interval_kinds

    def predict(
        self,
        batch: CrystalBatch | CompositionBatch,
        *,
        coverage: float = DEFAULT_COVERAGE,
        intervals: Kind = "split",
    ) -> Prediction:
        """Return the property of each crystal; see `EnsembleModel.predict_all`."""
        columns = [self.column]
        found = self.model.predict_all(batch, columns, coverage=coverage, intervals=intervals)
        return found[self.column]

    def predict_levels(
        self, batch: CrystalBatch | CompositionBatch, coverages: Sequence[float], **kind: Kind
    ) -> dict[float, Prediction]:
        """Return the property of each crystal with intervals of several coverages."""
        columns = [self.column]
        return self.model.predict_levels(batch, columns, coverages=coverages, **kind)[self.column]

    def save(self, path: Path | str) -> Path:
        """Write the whole ensemble: ``NAME.safetensors`` and ``NAME.json``."""
        return self.model.save(path)

    def to(self, device: str | torch.device) -> Self:
        """Move the networks to a device; other properties of the file move along."""
        self.model.to(device)
        return self


class CompositionPredictor(EnsemblePredictor):
    """The same on compositions alone: for formulas without structures, and as a baseline."""

    network: ClassVar[str] = "composition"
    reads: ClassVar[str] = "composition"


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
    members = []
    for number in range(card["n_members"]):
        network = make_network(card)
        state = _below(f"member.{number}.", tensors)
        checkpoint.load_into(network, state, source=str(path))
        members.append(network.eval().requires_grad_(False))
    return EnsembleModel(members, card, tensors)


def _below(head: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names start with ``head``, without it."""
    return {
        name.removeprefix(head): values for name, values in tensors.items() if name.startswith(head)
    }
