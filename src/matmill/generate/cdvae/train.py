"""Train a CDVAE on a batch of crystals, and its prior on the latents; write one checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from matmill.crystals import symmetry
from matmill.crystals.batch import CrystalBatch
from matmill.data.table import LabelledCrystals
from matmill.errors import InputError
from matmill.generate.adapters import AddedProperty
from matmill.generate.cdvae.dataset import CdvaeSet, learnt_columns
from matmill.generate.cdvae.generator import FORMAT, KIND, CdvaeGenerator, card_of_columns
from matmill.generate.cdvae.model import Autoencoder
from matmill.generate.cdvae.prior import LatentPrior, LatentRows, LatentSet, PriorTask
from matmill.generate.cdvae.settings import CdvaeSettings
from matmill.generate.cdvae.task import CdvaeTask
from matmill.generate.dataset import usable
from matmill.generate.flow import FlowGenerator
from matmill.generate.state import LatticeScale
from matmill.progress import OnEvent, ignore
from matmill.randomness import child, child_seed
from matmill.training.fit import FitResult, fit

_MOST_ROWS = 2000  # training rows that travel with the weights, for the prior's mode less
_ENCODED_AT_ONCE = 256


def train_cdvae(
    crystals: CrystalBatch | LabelledCrystals,
    columns: Sequence[str] = (),
    *,
    settings: CdvaeSettings | None = None,
    folder: Path,
    seed: int = 0,
    start: CdvaeGenerator | Path | None = None,
    space_group: Int[Tensor, " n"] | None = None,
    facts: dict[str, Any] | None = None,
    on_event: OnEvent = ignore,
    resume: bool = True,
) -> CdvaeGenerator:
    """Train, resuming what an earlier call left in ``folder``, and write ``folder/generator``.

    Args:
        crystals: With the columns among their properties, NaN where unknown.
        columns: Conditions; none trains the plain CDVAE.
        settings: What to train and for how long.
        folder: Where checkpoints and logs go; the same one resumes.
        seed: Everything random follows from it.
        start: Trained model to start from, such as one pretrained on many crystals: its sizes,
            lattice scale and conditions stay, and new columns are added to them.
        space_group: Numbers 1..230, 0 where unknown; found with a tolerance of 0.1 Å by default.
        facts: Provenance for the card: data, attribution, command.
        on_event: Receives progress.
        resume: False starts anew.

    Returns:
        The trained generator, as it is written.

    Raises:
        InputError: If a column is missing, or ``folder`` holds another training.
        DataError: If there is nothing to train on, or ``start`` is no CDVAE.
    """
    settings = settings or CdvaeSettings()
    folder = Path(folder)
    batch = crystals.crystals if isinstance(crystals, LabelledCrystals) else crystals
    if isinstance(start, Path | str):
        start = CdvaeGenerator.load(Path(start))
    max_atoms = start.model.max_atoms if start else settings.max_atoms
    before = len(batch)
    if space_group is None:
        space_group = _space_groups(batch)
    batch = usable(batch.with_properties(_space_group=space_group.double()), max_atoms=max_atoms)
    learnt = learnt_columns(batch, columns, start.model.learnt if start else ())
    trunk = FlowGenerator.load().denoiser if settings.flow_trunk and not start else None
    lender = start.model if start else trunk
    scale = lender.scale if lender is not None else LatticeScale.fit(batch)
    data = CdvaeSet(
        batch,
        batch.properties["_space_group"].long(),
        [p.name for p in learnt],
        scale=scale,
        batch_size=settings.batch_size,
    )
    model, prior = _networks(learnt, settings, max_atoms, scale, start, seed)
    if trunk is not None:
        model.decoder.take_from(trunk)
    task = CdvaeTask(model, settings.loss, hide=settings.hide_condition)
    fitted = {
        "autoencoder": fit(
            task,
            data,
            settings=settings.fit,
            folder=folder / "autoencoder",
            seed=child_seed(seed, "autoencoder"),
            on_event=on_event,
            resume=resume,
        )
    }
    if prior is not None:
        rows = encoded(model, data, _some(len(data), settings.prior_rows, seed, "latents"))
        prior.fit_scale(rows.mean, rows.log_variance)
        fitted["prior"] = fit(
            PriorTask(prior, hide=settings.hide_condition, hide_extras=settings.hide_extras),
            LatentSet(rows, batch_size=settings.prior_batch_size),
            settings=settings.prior_fit,
            folder=folder / "prior",
            seed=child_seed(seed, "prior"),
            on_event=on_event,
            resume=resume,
        )
    kept = _some(len(data), _MOST_ROWS, seed, "rows")
    card = {
        "kind": KIND,
        "format": FORMAT,
        "name": KIND if learnt else "cdvae",
        "size": model.size.model_dump(mode="json"),
        "noise": model.noise.model_dump(mode="json"),
        "max_atoms": max_atoms,
        "has_prior": prior is not None,
        "n_parameters": sum(
            p.numel() for part in (model, prior) if part for p in part.parameters()
        ),
        **card_of_columns(learnt),
        **_seen(batch, start),
        "training": _training(fitted, settings, seed, start, has_trunk=trunk is not None),
        "data": {"crystals_given": before, "crystals_used": len(data)},
        **(facts or {}),
    }
    generator = CdvaeGenerator(model, prior, data.known.select(kept), card)
    if fitted["autoencoder"].is_chief:
        generator.save(folder / "generator")
    return generator


@torch.no_grad()
def encoded(model: Autoencoder, data: CdvaeSet, rows: Int[Tensor, " k"]) -> LatentRows:
    """Return the latents of these training crystals, in order."""
    model = model.eval()
    order = data.crystals.n_atoms[rows].argsort(stable=True)
    parts = [model.encode(data.view(rows[part]).crystals) for part in order.split(_ENCODED_AT_ONCE)]
    back = order.argsort()
    mean, log_variance = (torch.cat(list(column))[back] for column in zip(*parts, strict=True))
    return LatentRows(mean=mean, log_variance=log_variance, known=data.known.select(rows))


def _some(n: int, most: int, seed: int, name: str) -> Int[Tensor, " k"]:
    """Return at most so many rows of n, drawn at random, in order."""
    return torch.randperm(n, generator=child(seed, name))[:most].sort().values


def _space_groups(batch: CrystalBatch) -> Int[Tensor, " n"]:
    """Return the numbers that the table says, or else those that are found."""
    if "spacegroup" in batch.properties:
        return batch.properties["spacegroup"].nan_to_num(0.0).long()
    return symmetry.find(batch, symprec=0.1).number


def _networks(
    learnt: tuple[AddedProperty, ...],
    settings: CdvaeSettings,
    max_atoms: int,
    scale: LatticeScale,
    start: CdvaeGenerator | None,
    seed: int,
) -> tuple[Autoencoder, LatentPrior | None]:
    """Return fresh networks, with the weights of the start where it has them."""
    size = start.model.size if start else settings.size
    noise = start.model.noise if start else settings.noise
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(child_seed(seed, "networks") % 2**63)
        model = Autoencoder(learnt, size=size, noise=noise, max_atoms=max_atoms, scale=scale)
        prior = LatentPrior(learnt, size, max_atoms=max_atoms) if learnt else None
    if start is not None:
        _inherit(model, start.model)
        if prior is not None and start.prior is not None:
            _inherit(prior, start.prior)
    return model, prior


def _inherit(module: torch.nn.Module, old: torch.nn.Module) -> None:
    """Copy what both have; conditions come in order, so those of the start keep their names."""
    own = module.state_dict()
    shared = {k: t.cpu() for k, t in old.state_dict().items() if k in own}
    odd = [k for k, t in shared.items() if t.shape != own[k].shape]
    if odd:
        raise InputError(f"The start does not fit: '{odd[0]}' has another shape.")
    module.load_state_dict({**own, **shared})


def _seen(batch: CrystalBatch, start: CdvaeGenerator | None) -> dict[str, Any]:
    """Return which elements and shapes the training crystals have, those of the start included."""
    elements = set(batch.atomic_numbers.tolist())
    if start is not None:
        elements |= set(start.card["elements"])
    pairs = torch.stack([batch.n_atoms, batch.properties["_space_group"].long()], dim=1)
    shapes, counts = torch.unique(pairs, dim=0, return_counts=True)
    return {
        "elements": sorted(elements),
        "shapes": torch.cat([shapes, counts[:, None]], dim=1).tolist(),
    }


def _training(
    fitted: dict[str, FitResult],
    settings: CdvaeSettings,
    seed: int,
    start: CdvaeGenerator | None,
    *,
    has_trunk: bool,
) -> dict[str, Any]:
    told = {
        name: {
            "steps": result.step,
            "epochs": result.epoch,
            "seconds": round(result.seconds),
            "ended_by": result.reason,
        }
        for name, result in fitted.items()
    }
    return {
        "seed": seed,
        **told,
        "start_sha256": start.hash if start is not None else None,
        "decoder_began_with": "the layers of the shipped flow" if has_trunk else "random weights",
        "settings": settings.model_dump(mode="json"),
    }
