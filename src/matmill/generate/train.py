"""Train the flow on a batch of crystals and write a checkpoint that `FlowGenerator` loads."""

from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Int
from pydantic import Field, field_validator
from torch import Tensor

from matmill.config import Settings
from matmill.crystals import symmetry
from matmill.crystals.batch import CrystalBatch
from matmill.crystals.facts import density
from matmill.data.table import open_table
from matmill.errors import InputError
from matmill.generate.conditions import (
    RANGE_WEIGHTS,
    SCALARS,
    ConditionEncoder,
    ScalarSchema,
)
from matmill.generate.dataset import SizedBatches, TrainingSet, usable
from matmill.generate.network import SIZES, Denoiser, NetworkSize
from matmill.generate.state import LatticeScale
from matmill.generate.symmetric import SymmetricSet, WithSymmetric
from matmill.generate.task import FlowSettings, FlowTask
from matmill.generate.validation import SampleScore, SampleSettings
from matmill.progress import OnEvent, ignore
from matmill.training import checkpoint
from matmill.training.fit import FitResult, FitSettings, fit

_LIMITS = ("max_steps", "max_epochs", "max_seconds")
_FIT = FitSettings(
    max_seconds=7200.0,
    learning_rate=1e-3,
    warmup_steps=500,
    ema_decay=0.9995,
    validate_every_share=0.05,
    keep_best=3,
)


class GeneratorSettings(Settings):
    """What to train.

    Attributes:
        size: Preset of the network: tiny, S, M or L.
        max_atoms: Largest primitive cell to learn from.
        n_tokens: Atoms plus lattice tokens in a batch.
        ranges: Teach ranges of scalars as such; else a range is asked for as values drawn in it.
        symmetric_passes: How often each crystal is seen in the symmetric mode (see `orbits`) while
            it is seen once in the general one; 0 leaves that mode out. Crystals on disk (shards)
            are seen in the general mode only.
        flow: Noise, coupling, weights of the loss.
        samples: How samples score the weights, where ``fit.validate_every_share`` or
            ``fit.validate_every_steps`` asks for it.
        fit: Limits, optimiser, precision. Where it is given by keys, those that are absent have
            the defaults of this class, not of `FitSettings`.
    """

    size: str = "S"
    max_atoms: Annotated[int, Field(gt=0, le=64)] = 20
    n_tokens: Annotated[int, Field(gt=0)] = 1660
    ranges: bool = False
    symmetric_passes: Annotated[int, Field(ge=0)] = 1
    flow: FlowSettings = FlowSettings()
    samples: SampleSettings = SampleSettings()
    fit: FitSettings = _FIT

    @field_validator("size")
    @classmethod
    def _is_known(cls, size: str) -> str:
        network_size(size)
        return size

    @field_validator("fit", mode="before")
    @classmethod
    def _over_the_defaults(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        kept = _FIT.model_dump()
        if any(given.get(name) is not None for name in _LIMITS):
            kept |= dict.fromkeys(_LIMITS)
        return kept | given


def train(
    batch: CrystalBatch,
    space_group: Int[Tensor, " n"],
    *,
    settings: GeneratorSettings,
    folder: Path,
    seed: int,
    symmetric: CrystalBatch | None = None,
    start_from: Path | None = None,
    facts: dict[str, Any] | None = None,
    on_event: OnEvent = ignore,
    resume: bool = True,
) -> FitResult:
    """Train on crystals in memory; see `train_on`.

    Args:
        batch: Crystals with the scalars of `SCALARS` among their properties where known.
        space_group: Numbers 1..230, 0 where unknown, ``(n_crystals,)``.
        symmetric: Crystals for the symmetric mode, where they are not the same.
        settings: What to train and for how long.
        folder: Where checkpoints and the log go.
        seed: Everything random follows from it.
        start_from: Checkpoint whose weights to start from; its lattice scale is kept.
        facts: Provenance for the card: data, attribution, command.
        on_event: Receives progress.
        resume: False starts anew.

    Raises:
        InputError: If the size is unknown or ``start_from`` is of another size.
        DataError: If no crystal can be trained on.
    """
    network_size(settings.size)
    before = len(batch)
    batch = usable(batch.with_properties(_space_group=space_group), max_atoms=settings.max_atoms)
    data = TrainingSet(
        batch,
        batch.properties["_space_group"].long(),
        scale=scale_of(start_from),
        n_tokens=settings.n_tokens,
    )
    used = {"crystals_given": before, "crystals_used": len(data)}
    both: SizedBatches = data
    if settings.symmetric_passes:
        own = batch if symmetric is None else usable(symmetric, max_atoms=settings.max_atoms)
        in_groups = SymmetricSet(own, data.scale, max_atoms=settings.max_atoms)
        both = WithSymmetric(data, in_groups, passes=settings.symmetric_passes)
        used["crystals_in_symmetric_mode"] = len(in_groups)
    facts = {"data": used, **(facts or {})}
    return train_on(
        both,
        settings=settings,
        folder=folder,
        seed=seed,
        start_from=start_from,
        facts=facts,
        on_event=on_event,
        resume=resume,
    )


def train_on(
    data: SizedBatches,
    *,
    settings: GeneratorSettings,
    folder: Path,
    seed: int,
    start_from: Path | None = None,
    facts: dict[str, Any] | None = None,
    on_event: OnEvent = ignore,
    resume: bool = True,
) -> FitResult:
    """Train, resuming what an earlier call left in ``folder``, and write ``folder/generator``.

    With validation (see `GeneratorSettings.samples`) the weights of the best score are written,
    and the best few stay in ``folder/best``; otherwise the last average.

    Args:
        data: Crystals in memory or on disk, in the scale of ``start_from`` where that is given.
        settings: What to train and for how long.
        folder: Where checkpoints and the log go.
        seed: Everything random follows from it.
        start_from: Checkpoint whose weights to start from.
        facts: Provenance for the card: data, attribution, command.
        on_event: Receives progress.
        resume: False starts anew.

    Raises:
        InputError: If ``folder`` holds another training.
        DataError: If ``start_from`` does not fit the size.
    """
    folder = Path(folder)
    start = checkpoint.load(start_from) if start_from else None
    schema = data.schema
    if start:
        schema = {name: schema_of(start[1]["conditions"][name]) for name in SCALARS}
    size = network_size(settings.size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = ConditionEncoder(size.width, schema, reads_ranges=settings.ranges)
        denoiser = Denoiser(size, data.scale, encoder)
    if start:
        tensors = start[0]
        if settings.ranges:  # a start that never saw ranges begins to learn them from zero
            zeros = torch.zeros_like(denoiser.state_dict()[RANGE_WEIGHTS])
            tensors = {RANGE_WEIGHTS: zeros, **tensors}
        checkpoint.load_into(denoiser, tensors, source=str(start_from))
        if not start[1].get("symmetric"):
            with torch.no_grad():
                denoiser.count.weight[0] = 0.0  # tells the mode; never used until now
    card = {
        "kind": "flow",
        "format": 1,
        "size": settings.size,
        "max_atoms": settings.max_atoms,
        "n_parameters": sum(p.numel() for p in denoiser.parameters()),
        "conditions": {name: vars_of(schema[name]) for name in SCALARS},
        "symmetric": isinstance(data, WithSymmetric),
        "elements": data.elements.tolist(),
        "shapes": torch.cat([data.shapes, data.shape_counts[:, None]], dim=1).tolist(),
    }
    is_scored = bool(settings.fit.validate_every_share or settings.fit.validate_every_steps)
    score = None
    if is_scored:
        score = SampleScore(
            data, card, settings=settings.samples, seed=seed, precision=settings.fit.precision
        )
    result = fit(
        FlowTask(denoiser, settings.flow),
        data,
        settings=settings.fit.model_copy(update={"higher_is_better": True}),
        folder=folder,
        seed=seed,
        validate=score,
        on_event=on_event,
        resume=resume,
    )
    card["training"] = {
        "seed": seed,
        "steps": result.step,
        "epochs": result.epoch,
        "seconds": round(result.seconds),
        "views": round(result.step * len(data) / max(1, data.n_batches())) * settings.fit.devices,
        "sample_score": result.best_score,
        "sample_score_step": result.best_step,
        "settings": settings.model_dump(mode="json"),
    }
    if result.is_chief:
        checkpoint.save(folder / "generator", bare(result.weights), {**card, **(facts or {})})
    return result


def labelled_crystals(
    path: Path, *, split: str | None = None, on_event: OnEvent = ignore
) -> tuple[CrystalBatch, Int[Tensor, " n"], dict[str, Any]]:
    """Read training crystals with their space groups and a note on where they came from.

    Args:
        path: Anything that `open_table` opens.
        split: Keep only rows whose ``split`` column has this value; ignored where there is none.
        on_event: Receives progress.

    Returns:
        Crystals, space-group numbers ``(n_crystals,)`` (found with symprec 0.1 Å where the table
        has none), and facts for the card.
    """
    table = open_table(path, on_event=on_event)
    if split is not None and "split" in table.notes:
        keep = [i for i, value in enumerate(table.notes["split"]) if value == split]
        table = table.select(keep)
    batch = table.crystals
    if "spacegroup" in batch.properties:
        space_group = batch.properties["spacegroup"].nan_to_num(0.0).long()
    else:
        space_group = symmetry.find(batch, symprec=0.1).number
    if "density_g_cm3" not in batch.properties:
        batch = batch.with_properties(density_g_cm3=density(batch))
    facts = {"name": "flow", "sources": {str(path): len(batch)}, "data_hash": table.hash}
    return batch, space_group, facts


def network_size(name: str) -> NetworkSize:
    """Return a preset of the network.

    Raises:
        InputError: If there is none of that name.
    """
    if name not in SIZES:
        raise InputError(f"No size called '{name}'. Known: {', '.join(SIZES)}.")
    return SIZES[name]


def bare(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the denoiser's own tensors from those of its training task."""
    return {name.removeprefix("denoiser."): tensor for name, tensor in weights.items()}


def vars_of(schema: ScalarSchema) -> dict[str, float | int | None]:
    """Return a schema as plain JSON values; NaN becomes null."""
    values = {f: getattr(schema, f) for f in ("mean", "std", "low", "high", "count")}
    return {name: None if value != value else value for name, value in values.items()}


def schema_of(values: dict[str, Any]) -> ScalarSchema:
    """Return the schema that `vars_of` wrote on a card."""
    known = {name: float("nan") if value is None else value for name, value in values.items()}
    return ScalarSchema(**known)  # pyright: ignore[reportArgumentType]


def scale_of(path: Path | None) -> LatticeScale | None:
    """Return the lattice scale of a checkpoint; None without one."""
    if path is None:
        return None
    tensors, _ = checkpoint.load(path)
    return LatticeScale(mean=tensors["scale_mean"].double(), std=tensors["scale_std"].double())
