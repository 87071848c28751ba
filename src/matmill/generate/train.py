"""Train the flow on a batch of crystals and write a checkpoint that `FlowGenerator` loads."""

from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from matmill.config import Settings
from matmill.crystals import symmetry
from matmill.crystals.batch import CrystalBatch
from matmill.crystals.facts import density
from matmill.data.table import open_table
from matmill.errors import InputError
from matmill.generate.conditions import SCALARS, ConditionEncoder, ScalarSchema
from matmill.generate.dataset import TrainingSet, usable
from matmill.generate.network import SIZES, Denoiser
from matmill.generate.state import LatticeScale
from matmill.generate.task import FlowTask
from matmill.progress import OnEvent, ignore
from matmill.training import checkpoint
from matmill.training.fit import FitResult, FitSettings, fit


class GeneratorSettings(Settings):
    """What to train.

    Attributes:
        size: Preset of the network: tiny, S, M or L.
        max_atoms: Largest primitive cell to learn from.
        n_tokens: Atoms plus lattice tokens in a batch.
        fit: Limits, optimiser, precision.
    """

    size: str = "S"
    max_atoms: Annotated[int, Field(gt=0, le=64)] = 20
    n_tokens: Annotated[int, Field(gt=0)] = 1660
    fit: FitSettings = FitSettings(
        max_seconds=7200.0, learning_rate=1e-3, warmup_steps=500, ema_decay=0.9995
    )


def train(
    batch: CrystalBatch,
    space_group: Int[Tensor, " n"],
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

    Args:
        batch: Crystals with the scalars of `SCALARS` among their properties where known.
        space_group: Numbers 1..230, 0 where unknown, ``(n_crystals,)``.
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
    if settings.size not in SIZES:
        raise InputError(f"No size called '{settings.size}'. Known: {', '.join(SIZES)}.")
    before = len(batch)
    batch = usable(batch.with_properties(_space_group=space_group), max_atoms=settings.max_atoms)
    space_group = batch.properties["_space_group"].long()
    start = checkpoint.load(start_from) if start_from else None
    scale = _scale_of(start[0]) if start else None
    crystals = TrainingSet(batch, space_group, scale=scale, n_tokens=settings.n_tokens)
    schema = crystals.schema
    if start:
        schema = {name: ScalarSchema(**start[1]["conditions"][name]) for name in SCALARS}
    size = SIZES[settings.size]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = Denoiser(size, crystals.scale, ConditionEncoder(size.width, schema))
    if start:
        checkpoint.load_into(denoiser, start[0], source=str(start_from))
    result = fit(
        FlowTask(denoiser),
        crystals,
        settings=settings.fit,
        folder=folder,
        seed=seed,
        on_event=on_event,
        resume=resume,
    )
    card = {
        "kind": "flow",
        "format": 1,
        "size": settings.size,
        "max_atoms": settings.max_atoms,
        "n_parameters": sum(p.numel() for p in denoiser.parameters()),
        "conditions": {name: vars_of(schema[name]) for name in SCALARS},
        "elements": crystals.elements.tolist(),
        "shapes": torch.cat([crystals.shapes, crystals.shape_counts[:, None]], dim=1).tolist(),
        "data": {"crystals_given": before, "crystals_used": len(crystals)},
        "training": {
            "seed": seed,
            "steps": result.step,
            "epochs": result.epoch,
            "seconds": round(result.seconds),
            "views": round(result.step * len(crystals) / max(1, crystals.n_batches())),
            "settings": settings.model_dump(mode="json"),
        },
        **(facts or {}),
    }
    checkpoint.save(folder / "generator", bare(result.weights), card)
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


def bare(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the denoiser's own tensors from those of its training task."""
    return {name.removeprefix("denoiser."): tensor for name, tensor in weights.items()}


def vars_of(schema: ScalarSchema) -> dict[str, float | int | None]:
    """Return a schema as plain JSON values; NaN becomes null."""
    values = {f: getattr(schema, f) for f in ("mean", "std", "low", "high", "count")}
    return {name: None if value != value else value for name, value in values.items()}


def _scale_of(tensors: dict[str, Tensor]) -> LatticeScale:
    return LatticeScale(mean=tensors["scale_mean"], std=tensors["scale_std"])
