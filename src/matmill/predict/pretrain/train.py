"""Pretrain an encoder on crystals without the property that it will be used for."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from matmill import __version__
from matmill.config import Settings
from matmill.data.table import LabelledCrystals
from matmill.errors import DataError, InputError, UnknownNameError
from matmill.graphs.graph import Graph, build_cached
from matmill.predict.networks import (
    best_precision,
    degree_read,
    make_network,
    reads_compositions,
    takes_merged,
)
from matmill.predict.pretrain.encoder import save_encoder
from matmill.predict.pretrain.surrogates import (
    SURROGATES,
    Surrogate,
    shuffled,
    surrogate,
    with_wrong_labels,
)
from matmill.predict.pretrain.task import (
    OBJECTIVES,
    WITHOUT_LABELS,
    BalancedBatches,
    PretrainTask,
)
from matmill.progress import Event, OnEvent, ignore
from matmill.randomness import child_seed
from matmill.training.checkpoint import write_atomically
from matmill.training.fit import FitSettings, fit
from matmill.training.trackers import Tracker

_FEWEST_CRYSTALS = 20

# How fast a predictor trains the layers that it takes, beside its fresh ones. Crystal Twins has
# 0.2; with 500 rows and 280 steps errors were 11 % higher with 0.2 than with 1
# (python benchmarks/spmat_report.py, pilot).
_TAKEN_RATE = 1.0


class PretrainSettings(Settings):
    """How to pretrain.

    Attributes:
        objective: ``simclr``, ``barlow``, ``supervised-simclr``, ``supervised-barlow``, or
            ``multi-task``, which predicts the surrogates directly.
        surrogates: Classes to learn from; the supervised objectives use one.
        epochs: Passes over the crystals.
        batch: Crystals in a batch; two views of each.
        delta: Largest noise on a distance in Å (GNDN); 0 is without.
        atom_mask: Share of masked atoms.
        edge_mask: Share of masked edges.
        wrong_labels: Share of labels that are replaced by wrong ones, to see what that does.
        random_labels: Deal the labels out at random, to see what they are worth.
        network: Name of the network.
        width: Features of an atom.
        hidden: Width after pooling.
        n_layers: Convolutions or attention layers.
        n_neighbors: Nearest neighbours of each atom.
        cutoff_angstrom: Farthest neighbour.
        max_atoms: Larger cells are left out.
        projection: Width in which views are compared.
        temperature: Of the contrastive objectives.
        other_weight: Weight of pairs of different classes in supervised-barlow.
        unsupervised_share: How much unsupervised loss the supervised objectives mix in.
        learning_rate: Peak rate.
        precision: ``auto`` takes bfloat16 where it pays.
        accelerator: Lightning's name of the device.
    """

    objective: str = "supervised-barlow"
    surrogates: tuple[str, ...] = ("metal",)
    epochs: Annotated[int, Field(gt=0)] = 15
    batch: Annotated[int, Field(ge=2)] = 256
    delta: Annotated[float, Field(ge=0.0)] = 0.5
    atom_mask: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    edge_mask: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    wrong_labels: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    random_labels: bool = False
    network: str = "cgcnn"
    width: Annotated[int, Field(gt=0)] = 64
    hidden: Annotated[int, Field(gt=0)] = 128
    n_layers: Annotated[int, Field(gt=0)] = 3
    n_neighbors: Annotated[int, Field(gt=0)] = 12
    cutoff_angstrom: Annotated[float, Field(gt=0.0)] = 8.0
    max_atoms: Annotated[int, Field(gt=0)] = 200
    projection: Annotated[int, Field(gt=0)] = 64
    temperature: Annotated[float, Field(gt=0.0)] = 0.2
    other_weight: Annotated[float, Field(ge=0.0)] = 1.0
    unsupervised_share: Annotated[float, Field(ge=0.0)] = 0.3
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    precision: Any = "auto"
    accelerator: str = "auto"

    def network_card(self) -> dict[str, Any]:
        """Return what `make_network` and a predictor that starts from the encoder need."""
        return {
            "network": self.network,
            "network_settings": {
                "width": self.width,
                "hidden": self.hidden,
                "n_layers": self.n_layers,
                "cutoff": self.cutoff_angstrom,
            },
            "n_neighbors": self.n_neighbors,
            "cutoff_angstrom": self.cutoff_angstrom,
            "taken_rate": _TAKEN_RATE,
        }


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A pretrained network and its card."""

    network: nn.Module
    card: dict[str, Any]

    def save(self, path: Path | str) -> Path:
        """Write the encoder, see `pretrain.encoder`."""
        return save_encoder(path, self.network, self.card)


def pretrain(
    table: LabelledCrystals,
    *,
    settings: PretrainSettings | None = None,
    folder: Path,
    seed: int = 0,
    graph: Graph | None = None,
    on_event: OnEvent = ignore,
    trackers: tuple[Tracker, ...] = (),
    about: dict[str, Any] | None = None,
) -> Pretrained:
    """Pretrain a network; a killed call continues when repeated.

    Args:
        table: Crystals, with the columns that the surrogates follow from.
        settings: Objective, augmentations and network.
        folder: For checkpoints, logs and cached graphs.
        seed: Everything random follows from it.
        graph: Graphs of the table's crystals, where the caller has them already.
        on_event: Told about loss, effective rank, spread and class separation.
        trackers: Further places for training numbers.
        about: Entries for the card: source, licence, command.

    Raises:
        DataError: If a surrogate's column is missing, there are too few crystals, or the
            features collapse.
        UnknownNameError: If the objective, a surrogate or the network does not exist.
    """
    settings = settings or PretrainSettings()
    _check(settings)
    if graph is None:
        table = _usable(table, settings.max_atoms)
    names = () if settings.objective in WITHOUT_LABELS else settings.surrogates
    found = [surrogate(table, name) for name in names]
    labels = _labels(found, settings, seed, len(table))
    card = _card(table, found, settings, seed, about or {})
    _claim(folder, card)
    if graph is None:
        graph = build_cached(
            table.crystals,
            settings.n_neighbors,
            settings.cutoff_angstrom,
            folder=folder / "graphs",
            is_merged=takes_merged(settings.network),
            degree=degree_read(settings.network),
            on_event=on_event,
        )
    batches = BalancedBatches(graph, labels, size=settings.batch)
    task = make_task(settings, [len(one.classes) for one in found], seed)
    result = fit(
        task,
        batches,
        settings=FitSettings(
            max_epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            decay="cosine",
            clip_norm=10.0,
            ema_decay=0.99,
            precision=best_precision(settings.network, settings.precision),
            accelerator=settings.accelerator,
        ),
        folder=folder,
        seed=child_seed(seed, "pretrain"),
        on_event=_with_health(on_event, task),
        trackers=trackers,
    )
    last = task.monitor.latest
    card["training"] = {
        "steps": result.step,
        "epochs": result.epoch,
        "seconds": round(result.seconds, 1),
        "skipped": result.skipped,
        "health": None if last is None else {k: round(v, 4) for k, v in last.as_values().items()},
    }
    return Pretrained(task.network.eval().requires_grad_(False), card)


def make_task(settings: PretrainSettings, n_classes: Sequence[int], seed: int) -> PretrainTask:
    """Return an untrained network with its loss."""
    with torch.random.fork_rng():
        torch.manual_seed(child_seed(seed, "pretrain", "initial weights"))
        return PretrainTask(
            make_network({**settings.network_card(), "columns_trained": ["none"]}),
            hidden=settings.hidden,
            objective=settings.objective,
            n_classes=tuple(n_classes),
            projection=settings.projection,
            temperature=settings.temperature,
            other_weight=settings.other_weight,
            unsupervised_share=settings.unsupervised_share,
            atom_mask=settings.atom_mask,
            edge_mask=settings.edge_mask,
            delta=settings.delta,
        )


def _check(settings: PretrainSettings) -> None:
    if settings.objective not in OBJECTIVES:
        raise UnknownNameError("pretraining objective", settings.objective, list(OBJECTIVES))
    for name in settings.surrogates:
        if name not in SURROGATES:
            raise UnknownNameError("surrogate", name, sorted(SURROGATES))
    if settings.objective.startswith("supervised") and len(settings.surrogates) != 1:
        raise InputError(
            f"{settings.objective} takes exactly one surrogate, not {len(settings.surrogates)}; "
            "multi-task takes several."
        )
    if reads_compositions(settings.network):
        raise InputError(
            f"The network {settings.network} reads no structures: there is nothing to mask. Use "
            "cgcnn or transformer."
        )


def _usable(table: LabelledCrystals, max_atoms: int) -> LabelledCrystals:
    numbers = table.crystals.atomic_numbers
    is_fine = (table.crystals.n_atoms <= max_atoms) & (table.crystals.volume > 1e-6)
    is_fine[table.crystals.crystal_index[(numbers < 1) | (numbers > 118)]] = False
    if int(is_fine.sum()) < _FEWEST_CRYSTALS:
        raise DataError(
            f"Only {int(is_fine.sum())} of {len(table)} crystals can be used (at most {max_atoms} "
            f"atoms); at least {_FEWEST_CRYSTALS} are needed to pretrain on."
        )
    return table if bool(is_fine.all()) else table.select(is_fine)


def _labels(
    found: Sequence[Surrogate], settings: PretrainSettings, seed: int, n_crystals: int
) -> Tensor:
    columns = []
    for one in found:
        labels = one.labels
        if settings.random_labels:
            labels = shuffled(labels, child_seed(seed, one.name))
        if settings.wrong_labels:
            labels = with_wrong_labels(labels, settings.wrong_labels, child_seed(seed, one.name))
        columns.append(labels)
    return torch.stack(columns, dim=1) if columns else torch.zeros(n_crystals, 0).long()


def _card(
    table: LabelledCrystals,
    found: Sequence[Surrogate],
    settings: PretrainSettings,
    seed: int,
    about: dict[str, Any],
) -> dict[str, Any]:
    return {
        "matmill_version": __version__,
        **settings.network_card(),
        "objective": settings.objective,
        "surrogates": {one.name: one.counts for one in found},
        "settings": settings.model_dump(),
        "seed": seed,
        "elements_z": table.crystals.atomic_numbers.unique().tolist(),
        "data": {
            "source": Path(table.source).name,
            "n_crystals": len(table),
            "largest_cell_atoms": int(table.crystals.n_atoms.max()),
            "structure_hash": table.structure_hash,
            "ids_hash": hashlib.sha256("\0".join(table.ids).encode()).hexdigest()[:32],
        },
        **about,
    }


def _claim(folder: Path, card: dict[str, Any]) -> None:
    """Mark the folder as that of this training, or refuse to mix two trainings in it."""
    facts = {name: card[name] for name in ("data", "seed", "settings", "surrogates")}
    text = json.dumps(facts, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    mark = folder / "pretraining.json"
    if mark.exists() and json.loads(mark.read_text(encoding="utf-8"))["hash"] != digest:
        raise InputError(
            f"{folder} holds a pretraining with other data, seed or settings. Delete the folder, "
            "or write to another place."
        )
    write_atomically(mark, json.dumps({"hash": digest, **facts}, indent=1).encode())


def _with_health(on_event: OnEvent, task: PretrainTask) -> OnEvent:
    """Return a listener that adds rank, spread and separation to the training's events."""

    def tell(event: Event) -> None:
        found = task.monitor.latest
        if event.stage == "train" and found is not None:
            known = {name: value for name, value in found.as_values().items() if value == value}
            event = replace(event, stage="pretrain", values={**event.values, **known})
        on_event(event)

    return tell
