"""Train an ensemble on labelled crystals, calibrate it, and score it on held-out rows."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from matmill import __version__
from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch
from matmill.data.compositions import Table, items
from matmill.data.folds import formula_folds
from matmill.data.parts import (
    COLUMN,
    LEAST_ROWS,
    WEIGHT,
    divided,
    is_synthetic,
    rows_of,
    weights_of,
)
from matmill.data.table import LabelledCrystals
from matmill.errors import DataError, InputError
from matmill.graphs.graph import Graph, build_cached
from matmill.predict.ensemble import KIND, EnsembleModel
from matmill.predict.finish import calibrate_model, describe_domain
from matmill.predict.networks import (
    best_precision,
    degree_read,
    graphs_for,
    reads_compositions,
    require_readable,
    takes_merged,
)
from matmill.predict.scaling import TargetScale
from matmill.predict.scores import score_model
from matmill.predict.settings import TrainSettings
from matmill.predict.start import Start, open_start
from matmill.predict.task import GraphBatches, PlainBatches, PropertyTask, mean_error
from matmill.progress import Event, OnEvent, ignore
from matmill.randomness import child_seed
from matmill.training.checkpoint import write_atomically
from matmill.training.fit import FitSettings, fit
from matmill.training.trackers import Tracker

__all__ = ["TrainSettings", "train_predictor"]

_DOMAIN_ROWS = 20_000
_STEPS = 20_000  # of a member, unless the data are few
_MOST_EPOCHS = 300


@dataclass(frozen=True, eq=False)
class Parts:
    """Row numbers of the three parts of a table."""

    train: Tensor
    val: Tensor
    test: Tensor


def train_predictor(
    table: Table,
    targets: Sequence[str],
    *,
    auxiliary: Sequence[str] = (),
    settings: TrainSettings | None = None,
    folder: Path,
    seed: int = 0,
    start_from: str | None = None,
    on_event: OnEvent = ignore,
    trackers: tuple[Tracker, ...] = (),
    about: dict[str, Any] | None = None,
) -> EnsembleModel:
    """Train, calibrate and score an ensemble; a killed call continues when repeated.

    Rows are divided by the table's ``split`` column (train, val, test) where there is one, and
    otherwise by formula, 80/10/10: no formula is in two parts; see `data.parts.divided`. A column
    ``training_weight`` says how much each row counts; rows whose ``origin`` is ``synthetic``
    calibrate nothing while there are real ones.

    Args:
        table: Crystals or compositions with labels; rows without any of the targets are left
            out.
        targets: Columns or property names to predict.
        auxiliary: Further columns that are learned along but not offered.
        settings: Network and training.
        folder: For checkpoints, logs and cached graphs.
        seed: Everything random follows from it.
        start_from: An encoder or a predictor whose lower layers the members start from: a path,
            ``"shipped"`` or ``"shipped-encoder"``; see `predict.start`. With few rows of your
            own that is worth more than any setting. Sizes that were not asked for are those of
            the file, and layers from an encoder learn at the rate that its card says.
        on_event: Told about progress.
        trackers: Further places for training numbers.
        about: Entries for the card: source, licence, command.

    Raises:
        DataError: If there are too few labelled rows, or a target is constant.
        UnknownNameError: If a column does not exist.
    """
    settings = settings or TrainSettings()
    start = open_start(start_from, settings)
    settings = start.settings(settings)
    require_readable(settings.network, items(table))
    columns = [table.column_name(name) for name in targets]
    helpers = [table.column_name(name) for name in auxiliary]
    if len({*columns, *helpers}) < len(columns) + len(helpers) or not columns:
        raise InputError("Give at least one target, and each column only once.")
    # Before rows go: a part whose rows have no label is an error, not a reason to divide.
    is_divided = "train" in table.notes.get(COLUMN, ())
    table = divided(table, seed=seed) if is_divided else table
    table = _usable(table, [*columns, *helpers], settings.max_atoms)
    values = torch.stack([table.column(name).double() for name in [*columns, *helpers]], dim=1)
    parts = _parts(table if is_divided else divided(table, seed=seed), values[:, : len(columns)])
    names = [*columns, *helpers]
    learned = torch.cat([parts.train, parts.val]).sort().values
    settings = settings.for_rows(len(learned))
    n_members = settings.n_members or 1
    is_folded = settings.calibration == "folds"
    learned = learned if is_folded else parts.train
    scales = [
        TargetScale.of(name, values[learned, i], is_plain=settings.scale == "mean", seed=seed)
        for i, name in enumerate(names)
    ]
    labels = torch.stack([s.to_learned(values[:, i]) for i, s in enumerate(scales)], dim=1).float()
    card: dict[str, Any] = {
        "kind": KIND,
        "matmill_version": __version__,
        "network": settings.network,
        "network_settings": settings.network_settings(),
        "n_members": n_members,
        "n_neighbors": settings.n_neighbors,
        "cutoff_angstrom": settings.cutoff_angstrom,
        "columns": columns,
        "columns_trained": names,
        "scales": [scale.as_card() for scale in scales],
        "elements_z": _elements(table.select(learned)),
        "settings": settings.model_dump(),
        "seed": seed,
        "started_from": start_from,
        "data": _data_card(table, values, names, parts),
        **(about or {}),
    }
    _claim(folder, card)
    graph = _graphs(card, items(table), folder, on_event)
    folds = None
    if is_folded:
        folds = formula_folds(
            tuple(items(table.select(learned)).formula),
            values[learned, 0],
            n_members,
            classify=len(names) == 1 and scales[0].is_class,
            seed=seed,
        )
    members_rows = [learned if folds is None else learned[folds != k] for k in range(n_members)]
    weights = None
    if WEIGHT in table.columns:
        weights = weights_of(table.select(learned)).new_zeros(len(table))
        weights[learned] = weights_of(table.select(learned))
    members, card["training"] = _train_members(
        card,
        start,
        [
            (graph.select(rows), labels[rows], None if weights is None else weights[rows])
            for rows in members_rows
        ],
        (graph.select(parts.val), labels[parts.val]),
        settings=settings,
        n_main=len(columns),
        folder=folder,
        seed=seed,
        on_event=on_event,
        trackers=trackers,
    )
    model = EnsembleModel(members, card, {})
    describe_domain(model, graph.select(members_rows[0][:_DOMAIN_ROWS]))
    held_out = parts.val if folds is None else learned
    real = ~is_synthetic(table)[held_out]
    if bool(real.any()):
        held_out, folds = held_out[real], None if folds is None else folds[real]
    calibrate_model(model, graph.select(held_out), labels[held_out], folds)
    card["scores"] = score_model(model, graph.select(parts.test), values[parts.test])
    return model


def _train_members(
    card: dict[str, Any],
    start: Start,
    learned: Sequence[tuple[Graph, Tensor, Tensor | None]],
    val: tuple[Graph, Tensor],
    *,
    settings: TrainSettings,
    n_main: int,
    folder: Path,
    seed: int,
    on_event: OnEvent,
    trackers: tuple[Tracker, ...],
) -> tuple[list[nn.Module], dict[str, Any]]:
    """Return the trained members and how each training went.

    ``learned`` has the rows of each member with their weights; a stem shares those of the first.
    """
    kind = {
        "even": GraphBatches,
        "by-size": partial(GraphBatches, is_by_size=True),
        "plain": PlainBatches,
    }[settings.batches]
    weights = torch.ones(learned[0][1].shape[1])
    weights[n_main:] = settings.auxiliary_weight
    is_class = torch.tensor([scale["is_class"] for scale in card["scales"]])
    names = [f"member-{number}" for number in range(len(learned))]
    if settings.stem_seconds:
        names.insert(0, "stem")
    members: list[nn.Module] = []
    summaries: dict[str, Any] = {}
    for place, name in enumerate(names):
        network, factors = start.network(card, child_seed(seed, name, "initial weights"))
        is_stem = name == "stem"
        rows, values, counts = learned[len(members)]
        batches = kind(rows, values, n_crystals=settings.batch_crystals, weights=counts)
        plan = _plan(settings, steps_per_epoch=batches.n_steps)
        limits = {"max_epochs": None, "max_seconds": settings.stem_seconds, "decay": "none"}
        task = PropertyTask(
            network,
            batches.shares,
            weights,
            is_class=is_class,
            loss=settings.loss,
            rate_factors=factors,
        )
        result = fit(
            task,
            batches,
            settings=plan.model_copy(update=limits) if is_stem else plan,
            folder=folder / name,
            seed=child_seed(seed, name),
            validate=partial(mean_error, *val) if settings.keeps_best else None,
            on_event=_staged(on_event, f"train {place + 1}/{len(names)}"),
            trackers=trackers,
        )
        if is_stem:
            start = Start(tensors=dict(network.state_dict()), name="the stem")
        else:
            members.append(network.eval().requires_grad_(False))
        summaries[name] = {
            "steps": result.step,
            "epochs": result.epoch,
            "seconds": round(result.seconds, 1),
            "skipped": result.skipped,
            "ended_by": result.reason,
        }
    return members, summaries


def _plan(settings: TrainSettings, *, steps_per_epoch: int) -> FitSettings:
    """Return how to fit one member."""
    epochs = settings.epochs
    if epochs is None and settings.seconds_per_member is None:
        epochs = min(_MOST_EPOCHS, max(1, round(_STEPS / steps_per_epoch)))
    common = {
        "max_epochs": epochs,
        "max_seconds": settings.seconds_per_member,
        "optimizer": settings.optimizer,
        "learning_rate": settings.learning_rate,
        "drop_epochs": settings.drop_epochs,
        "precision": best_precision(settings.network, settings.precision),
        "devices": settings.devices,
        "accelerator": settings.accelerator,
        "validate_every_steps": steps_per_epoch if settings.keeps_best else 0,
    }
    if settings.optimizer == "sgd":
        return FitSettings(
            **common, decay="none", warmup_steps=0, weight_decay=0.0, clip_norm=0.0, ema_decay=0.0
        )
    return FitSettings(
        **common,
        decay="cosine" if settings.seconds_per_member is None else "linear-tail",
        decay_tail=0.5,
        clip_norm=10.0,
        ema_decay=0.999 if steps_per_epoch * (epochs or 1000) > 5000 else 0.99,
    )


def _elements(table: Table) -> list[int]:
    """Return the atomic numbers that occur."""
    if isinstance(table, LabelledCrystals):
        return table.crystals.atomic_numbers.unique().tolist()
    return torch.nonzero(table.compositions.amounts.any(0)).flatten().tolist()


def _usable(table: Table, columns: list[str], max_atoms: int) -> Table:
    values = torch.stack([table.column(name) for name in columns], dim=1)
    is_known = torch.isfinite(values).any(1)
    if isinstance(table, LabelledCrystals):
        numbers = table.crystals.atomic_numbers
        is_known &= table.crystals.n_atoms <= max_atoms
        is_known[table.crystals.crystal_index[(numbers < 1) | (numbers > 118)]] = False
        is_known &= table.crystals.volume > 1e-6
    if int(is_known.sum()) < LEAST_ROWS:
        raise DataError(
            f"Only {int(is_known.sum())} of {len(table)} rows have a value of "
            f"{', '.join(columns)} and at most {max_atoms} atoms; at least {LEAST_ROWS} are "
            "needed."
        )
    return table.select(is_known)


def _parts(table: Table, values: Tensor) -> Parts:
    parts = Parts(**rows_of(table))
    for name, rows in (("training", parts.train), ("validation", parts.val)):
        if not bool(torch.isfinite(values[rows]).any(0).all()):
            raise DataError(
                f"No {name} row has a value of some target; give more rows, or check the split "
                "column."
            )
    return parts


def _claim(folder: Path, card: dict[str, Any]) -> None:
    """Mark the folder as that of this training, or refuse to mix two trainings in it."""
    facts = {
        "data": card["data"],
        "seed": card["seed"],
        "columns": card["columns_trained"],
        "network": [card["network"], card["network_settings"]],
        "started_from": card["started_from"],
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    mark = folder / "training.json"
    if mark.exists() and json.loads(mark.read_text(encoding="utf-8"))["hash"] != digest:
        raise InputError(
            f"{folder} holds a training on other data, targets, seed or network. Delete the "
            "folder, or write to another place."
        )
    write_atomically(mark, json.dumps({"hash": digest, **facts}, indent=1).encode())


def _graphs(
    card: dict[str, Any],
    crystals: CrystalBatch | CompositionBatch,
    folder: Path,
    on_event: OnEvent,
) -> Graph:
    if reads_compositions(card["network"]) or isinstance(crystals, CompositionBatch):
        return graphs_for(card, crystals)
    return build_cached(
        crystals,
        card["n_neighbors"],
        card["cutoff_angstrom"],
        folder=folder / "graphs",
        is_merged=takes_merged(card["network"]),
        degree=degree_read(card["network"]),
        on_event=on_event,
    )


def _data_card(table: Table, values: Tensor, names: list[str], parts: Parts) -> dict[str, Any]:
    counts = {
        name: {
            part: int(torch.isfinite(values[rows, i]).sum())
            for part, rows in (("train", parts.train), ("val", parts.val), ("test", parts.test))
        }
        for i, name in enumerate(names)
    }
    ids = hashlib.sha256("\0".join(table.ids).encode()).hexdigest()[:32]
    about: dict[str, Any] = {
        "source": Path(table.source).name,
        "content_hash": table.hash,
        "ids_hash": ids,
        "n_crystals": len(table),
        "labels": counts,
    }
    if isinstance(table, LabelledCrystals):
        about["largest_cell_atoms"] = int(table.crystals.n_atoms.max())
    return about


def _staged(on_event: OnEvent, stage: str) -> OnEvent:
    def tell(event: Event) -> None:
        on_event(replace(event, stage=stage))

    return tell
