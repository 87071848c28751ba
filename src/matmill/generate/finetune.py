"""Train an adapter for a property of the user's own table, on a frozen generator."""

import copy
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from matmill.config import Settings
from matmill.data.splits import split
from matmill.data.table import LabelledCrystals
from matmill.errors import DataError, InputError, UnknownNameError
from matmill.generate.adapters import Adapter, AdapterStack, AddedProperty, unit_of
from matmill.generate.conditions import SCALARS, ConditionEncoder, Conditions
from matmill.generate.effect import Effect, HeldOut
from matmill.generate.flow import FlowGenerator
from matmill.generate.labelled import LabelledSet, groups_of, placeable
from matmill.generate.network import Denoiser
from matmill.generate.process import Velocity
from matmill.generate.state import NoisyState
from matmill.generate.task import FlowSettings, FlowTask
from matmill.progress import OnEvent, ignore
from matmill.quantities import find
from matmill.randomness import child_seed
from matmill.training.checkpoint import write_atomically
from matmill.training.fit import FitResult, FitSettings, fit

MIN_LABELS = 30
_NAME = re.compile(r"[a-z][a-z0-9_]*")


class FinetuneSettings(Settings):
    """How to train an adapter.

    Attributes:
        rank: Of the addition to each block's modulation.
        held_out: Share of the labels, by formula, that decides when to stop.
        n_tokens: Atoms plus lattice tokens in a batch.
        point_share: Share of the views that show the value; the others show a range around it.
        fit: Limits, optimiser, precision.
    """

    rank: Annotated[int, Field(gt=0)] = 16
    held_out: Annotated[float, Field(gt=0, lt=0.5)] = 0.15
    n_tokens: Annotated[int, Field(gt=1)] = 600
    point_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    fit: FitSettings = FitSettings(
        max_steps=500,
        max_seconds=180.0,
        learning_rate=3e-3,
        weight_decay=0.05,
        warmup_steps=50,
        decay="cosine",
        ema_decay=0.99,
        validate_every_steps=50,
        patience=5,
        checkpoint_every_seconds=30.0,
    )


@dataclass(frozen=True, kw_only=True)
class Finetuned:
    """What came of it.

    Attributes:
        path: The adapter's file.
        learnt: The property.
        fit: Of the training.
        effect: What the condition changes on held-out rows.
        n_given: Rows of the table with a label.
        n_used: Rows that the base can be trained on, held-out ones included.
    """

    path: Path
    learnt: AddedProperty
    fit: FitResult
    effect: Effect
    n_given: int
    n_used: int


def finetune(
    generator: FlowGenerator,
    table: LabelledCrystals,
    name: str,
    *,
    column: str | None = None,
    unit: str | None = None,
    settings: FinetuneSettings | None = None,
    folder: Path,
    seed: int = 0,
    facts: dict[str, Any] | None = None,
    on_event: OnEvent = ignore,
    resume: bool = True,
) -> Finetuned:
    """Train an adapter, resuming what an earlier call left in ``folder``, and write it there.

    Args:
        generator: The base; it stays as it is.
        table: Crystals with the property among their columns, NaN where unknown.
        name: What the property will be called in requests.
        column: Its column; found by ``name`` when None.
        unit: Of the column; guessed from the column's name when None.
        settings: How to train.
        folder: Where the file ``NAME.safetensors``, its card, checkpoints and the log go.
        seed: Everything random follows from it.
        facts: Provenance for the card: attribution, command.
        on_event: Receives progress.
        resume: False starts anew.

    Raises:
        InputError: If the name cannot be used, or the folder holds another training.
        UnknownNameError: If there is no such column.
        DataError: If there are too few usable labels, or all are alike.
    """
    settings = settings or FinetuneSettings()
    name, known_unit = request_name(name)
    column = table.column_name(column or name)
    where = table.source or "the table"
    labelled = table.select(torch.isfinite(table.column(column)))
    if len(labelled) < MIN_LABELS:
        raise DataError(
            f"Only {len(labelled)} of {len(table)} rows of {where} have a value of '{column}'; at "
            f"least {MIN_LABELS} are needed, and 200 are better."
        )
    kept = placeable(labelled, generator.card)
    if len(kept) < MIN_LABELS:
        raise DataError(
            f"Only {len(kept)} of {len(labelled)} labelled rows of {where} can be learnt from "
            f"(elements that the base knows, at most {generator.card['max_atoms']} atoms in the "
            f"primitive cell); at least {MIN_LABELS} are needed."
        )
    unit = unit if unit is not None else known_unit or unit_of(column)
    learnt = AddedProperty.fit(name, kept.column(column), unit=unit)
    _claim(folder, generator, kept, learnt, column, settings, seed=seed, resume=resume)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(child_seed(seed, "adapter"))
        adapter = Adapter(learnt, generator.denoiser.size, rank=settings.rank)
    adapted = Adapted(generator.denoiser, AdapterStack([adapter]))
    task = FlowTask(adapted, _flow_settings(generator))  # pyright: ignore[reportArgumentType]
    parts = split(
        kept,
        "formula",
        seed=child_seed(seed, "held out"),
        fractions=(1 - settings.held_out, settings.held_out, 0.0),
    )
    scale = generator.denoiser.scale
    crystals = LabelledSet(
        kept.select(parts.train),
        column,
        learnt,
        scale,
        n_tokens=settings.n_tokens,
        point_share=settings.point_share,
    )
    held_out = HeldOut(groups_of(kept.select(parts.val), column, scale), seed=seed)
    result = fit(
        task,
        crystals,
        settings=settings.fit,
        folder=folder,
        seed=seed,
        validate=lambda module: held_out.score(module.denoiser),  # pyright: ignore[reportArgumentType]
        on_event=on_event,
        resume=resume,
    )
    effect = held_out.effect(task.denoiser)
    card = {
        "base": {"name": generator.card.get("name", "flow"), "size": generator.card.get("size")},
        "data": {
            "source": table.source,
            "hash": kept.hash,
            "column": column,
            "labels_given": len(labelled),
            "labels_used": len(kept),
            "held_out": len(parts.val),
        },
        "training": {
            "seed": seed,
            "steps": result.step,
            "seconds": round(result.seconds, 1),
            "ended_by": result.reason,
            "settings": settings.model_dump(mode="json"),
        },
        "check": effect.card,
        **(facts or {}),
    }
    path = adapter.save(folder / name, base_hash=generator.hash, facts=card)
    return Finetuned(
        path=path,
        learnt=learnt,
        fit=result,
        effect=effect,
        n_given=len(labelled),
        n_used=len(kept),
    )


def request_name(name: str) -> tuple[str, str | None]:
    """Return how requests will call a property, and its unit where it is a known quantity.

    Raises:
        InputError: If the name cannot be typed in a target, or the base knows the property.
    """
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    try:
        quantity = find(plain)
    except UnknownNameError:
        if _NAME.fullmatch(plain):
            return plain, None
        raise InputError(
            f"'{name}' cannot name a property: use letters, digits and _, e.g. exfoliation_energy."
        ) from None
    if quantity.column in SCALARS:
        raise InputError(
            f"Generators know {quantity.name} without an adapter. Ask for it as it is, or give "
            f"yours another name, e.g. --property my_{quantity.name} --column {quantity.column}."
        )
    return quantity.column, quantity.unit


class Adapted(nn.Module):
    """A frozen denoiser with adapters, of which only the adapters are this module's parameters.

    Args:
        denoiser: The base; a copy of it is used.
        stack: The adapters.
    """

    def __init__(self, denoiser: Denoiser, stack: AdapterStack) -> None:
        super().__init__()
        self.stack = stack
        # In a tuple the base is no submodule: it is neither trained, averaged nor saved.
        self._base = (copy.deepcopy(denoiser).requires_grad_(False).eval(),)

    @property
    def encoder(self) -> ConditionEncoder:
        """The base's."""
        return self._base[0].encoder

    def forward(self, state: NoisyState, conditions: Conditions) -> Velocity:
        """Return velocities and element logits in float32."""
        (base,) = self._base
        if base.scale_mean.device != state.crystals.y.device:
            base.to(state.crystals.y.device)
        return base(state, conditions, self.stack)


def _flow_settings(generator: FlowGenerator) -> FlowSettings:
    """Return how noise was made and losses weighed when the base was trained."""
    told = generator.card.get("training", {}).get("settings", {}).get("flow", {})
    known = {name: value for name, value in told.items() if name in FlowSettings.model_fields}
    return FlowSettings.model_validate(known)


def _claim(
    folder: Path,
    generator: FlowGenerator,
    table: LabelledCrystals,
    learnt: AddedProperty,
    column: str,
    settings: FinetuneSettings,
    *,
    seed: int,
    resume: bool,
) -> None:
    """Note what is trained in this folder; refuse to go on with something else.

    Raises:
        InputError: If the folder holds the training of another adapter.
    """
    what = {
        "property": learnt.name,
        "column": column,
        "base_sha256": generator.hash,
        "data_hash": table.hash,
        "rank": settings.rank,
        "held_out": settings.held_out,
        "seed": seed,
    }
    note = folder / "adapter_run.json"
    if resume and note.exists():
        before = json.loads(note.read_text(encoding="utf-8"))
        other = [key for key, value in what.items() if before.get(key) != value]
        if other:
            raise InputError(
                f"{folder} holds the training of another adapter ({', '.join(other)} differ). "
                "Use another folder (--out), or repeat the command that began it."
            )
    write_atomically(note, (json.dumps(what, indent=2) + "\n").encode())
