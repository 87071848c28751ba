"""What the options of ``matmill generate`` ask for, read and checked."""

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matmill.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from matmill.campaign.targets import Target
    from matmill.generate.protocol import Generator
    from matmill.generate.rerank import Wanted
    from matmill.generate.steering import EndPoint, Guide

QUALITY_STEPS = {"preview": 30, "standard": 100, "best": 250}
DEFAULT_STEPS = 50
_SITES = re.compile(r"\d+(?:-\d+)?")


def pick_steps(quality: str | None, steps: int | None) -> int:
    """Return the steps that ``--quality`` or ``--steps`` stand for.

    Raises:
        InputError: If both are given, or the preset is unknown.
    """
    if quality is None:
        return DEFAULT_STEPS if steps is None else steps
    if steps is not None:
        raise InputError("Give --quality or --steps, not both.")
    if quality not in QUALITY_STEPS:
        known = ", ".join(f"{name} ({n} steps)" for name, n in QUALITY_STEPS.items())
        raise InputError(f"--quality '{quality}' is unknown. Known: {known}.")
    return QUALITY_STEPS[quality]


def set_prior(generator: "Generator", mode: str | None, latents: int) -> None:
    """Set how a generator with a latent prior draws latents.

    Raises:
        InputError: If the mode is unknown, or the generator has no such prior.
    """
    if mode is None and latents == 1:
        return
    if getattr(generator, "prior", None) is None:
        raise InputError(
            f"--prior and --latents are of generators with a latent prior, such as concdvae; "
            f"'{generator.name}' has none."
        )
    from matmill.generate.cdvae.wishes import check_mode

    check_mode(mode or "default")
    generator.mode = mode or "default"  # pyright: ignore[reportAttributeAccessIssue]
    generator.best_of = latents  # pyright: ignore[reportAttributeAccessIssue]


def parse_sites(text: str, n_atoms: int) -> "Tensor":
    """Return which atoms a list such as ``"3-6,8"`` names, counted from 1 as in the file.

    Raises:
        InputError: If it is no such list, or names an atom that is not there.
    """
    import torch

    chosen = torch.zeros(n_atoms, dtype=torch.bool)
    if text.strip().lower() == "all":
        return ~chosen
    for part in text.replace(" ", "").split(","):
        if not _SITES.fullmatch(part):
            raise InputError(f"'{text}' is no list of sites. Write 3-6,8, or all.")
        first, _, last = part.partition("-")
        low, high = int(first), int(last or first)
        if not 1 <= low <= high <= n_atoms:
            raise InputError(f"'{part}' is outside the sites 1 to {n_atoms} of the structure.")
        chosen[low - 1 : high] = True
    return chosen


def parse_scales(texts: Sequence[str]) -> dict[str, float]:
    """Return weights of single conditions from ``"band_gap=2"``, by column.

    ``elements`` and ``symmetry`` are conditions too; names that are no quantity are left as they
    are, for the generator to know or to refuse.

    Raises:
        InputError: If a text has another form.
    """
    from matmill.errors import UnknownNameError
    from matmill.quantities import find

    scales = {}
    for text in texts:
        name, sign, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not sign or not math.isfinite(value):
            raise InputError(f"--scale '{text}' cannot be read. Write NAME=WEIGHT: band_gap=2.")
        name = name.strip()
        if name in ("space_group", "crystal_system"):
            name = "symmetry"
        with suppress(UnknownNameError):  # elements, symmetry, or the property of an adapter
            name = find(name).column
        scales[name] = value
    return scales


def parse_targets(texts: Sequence[str], generator: "Generator") -> "list[Target]":
    """Return targets about any known property, those of the generator's adapters included.

    Raises:
        InputError: If a text cannot be read.
        UnknownNameError: If there is no such property.
    """
    from matmill.campaign.targets import parse_target

    adapters = getattr(generator, "adapters", None)
    added = [p.quantity for p in adapters.properties.values()] if adapters is not None else []
    return [parse_target(text, added) for text in texts]


def conditions_for(
    targets: "Sequence[Target]", generator: "Generator", *, others: Sequence[str] = ()
) -> dict[str, float | tuple[float, float]]:
    """Return what to tell the generator of these targets.

    Args:
        targets: What the user wants.
        generator: Its ``trained`` or card says what it knows.
        others: Columns that a guide or a judge takes care of, where the generator cannot.

    Raises:
        InputError: If neither knows a property, with all that the generator does.
    """
    from matmill.campaign.plan import condition_for

    ranges = known_ranges(generator)
    conditions: dict[str, float | tuple[float, float]] = {}
    for target in targets:
        if target.column in ranges:
            low, high = ranges[target.column][:2]
            conditions[target.column] = condition_for(target, low, high)
        elif target.column not in others:
            known = ", ".join(
                f"{name} ({low:.3g} to {high:.3g}{f' {unit}' if unit else ''}, {count} crystals)"
                for name, unit, low, high, count in condition_rows(generator)
            )
            raise InputError(
                f"The generator was not trained on {target.quantity.name}. It knows: "
                f"{known or 'no property'}. Others can be reached by --best-of with --judge, "
                "or learned: matmill finetune generator."
            )
    return conditions


def known_ranges(generator: "Generator") -> dict[str, tuple[float, float, int]]:
    """Return column -> (low, high, training crystals), properties of adapters included."""
    trained = getattr(generator, "trained", None)
    if trained is not None:
        return {c: row for c, row in trained.ranges.items() if row[2] >= 2}
    return {
        column: (entry["low"], entry["high"], entry.get("count", 2))
        for column, entry in generator.card["conditions"].items()
        if entry.get("low") is not None
    }


def condition_rows(generator: "Generator") -> list[tuple[str, str, float, float, int]]:
    """Return (name, unit, low, high, training crystals) of everything that can be asked for."""
    from matmill.quantities import BY_COLUMN

    units = getattr(getattr(generator, "trained", None), "units", {})
    return [
        (
            BY_COLUMN[column].name if column in BY_COLUMN else column,
            units.get(column) or (BY_COLUMN[column].unit if column in BY_COLUMN else ""),
            low,
            high,
            count,
        )
        for column, (low, high, count) in known_ranges(generator).items()
    ]


def seed_options(
    like: Path | None,
    decorate: Path | None,
    *,
    free_sites: str | None,
    free_lattice: bool,
    keep_species: bool,
) -> dict[str, Any]:
    """Return the part of a request that says what structure to start from, and what is fixed.

    Raises:
        InputError: If the options contradict each other.
    """
    from matmill.crystals.files import read

    if like is not None and decorate is not None:
        raise InputError("Give --like or --decorate, not both.")
    if decorate is not None:
        if free_sites is not None or free_lattice or keep_species:
            raise InputError("--decorate keeps all sites and the cell, and invents all elements.")
        return {"seeds": read(decorate).crystals, "decorate": True}
    if like is None:
        if free_sites is not None or free_lattice or keep_species:
            raise InputError("--free-sites, --free-lattice and --keep-species need --like FILE.")
        return {}
    seeds = read(like).crystals
    if free_sites is None:
        if free_lattice or keep_species:
            raise InputError("--free-lattice and --keep-species need --free-sites, e.g. 3-6.")
        return {"seeds": seeds}
    if len(seeds) != 1:
        raise InputError(f"--free-sites needs a file with one structure; {like} has {len(seeds)}.")
    free = parse_sites(free_sites, int(seeds.n_atoms[0]))
    return {
        "seeds": seeds,
        "free_atoms": free,
        "free_types": free & (not keep_species),
        "free_lattice": free_lattice,
    }


def judges_for(
    targets: "Sequence[Target]", judge: str | None, generator: "Generator"
) -> "list[Wanted]":
    """Return who judges which target, for the choice among several draws.

    Raises:
        InputError: If there is no target.
        UnknownNameError: If nothing predicts one of them.
    """
    from matmill.generate.rerank import Wanted
    from matmill.predict.protocol import load_predictor

    if not targets:
        raise InputError("--best-of needs a --target to choose by.")
    wanted = []
    for target in targets:
        predictor = load_predictor(judge or target.quantity.name, column=target.column)
        low, high = _range_of(target, generator)
        step = 0.1 * (target.quantity.high - target.quantity.low)
        wanted.append(Wanted(judge=predictor, low=low, high=high, unit_step=step))
    return wanted


def guide_for(
    targets: "Sequence[Target]", guide: str, generator: "Generator", *, strength: float
) -> "tuple[Guide, str]":
    """Return the predictor that bends the flow with what it draws towards, and its column.

    Raises:
        InputError: If no target is a property of it, or it has no gradient.
    """
    from matmill.generate.steering import Guide
    from matmill.predict.gradients import differentiable
    from matmill.predict.protocol import load_predictor

    if not hasattr(generator, "guide"):
        raise InputError(f"The generator '{generator.name}' cannot be guided by a predictor.")
    columns = [target.column for target in targets]
    only = columns[0] if len(set(columns)) == 1 and Path(guide).suffix else None
    predictor = load_predictor(guide, column=only)
    if predictor.column not in columns:
        raise InputError(f"--guide {guide} predicts {predictor.column}: add a --target for it.")
    value = differentiable(predictor)
    low, high = _range_of(targets[columns.index(predictor.column)], generator)

    def property_of(crystals: "EndPoint") -> "Tensor":
        return value(crystals.lattice, crystals.frac, crystals.z)

    return Guide(value=property_of, low=low, high=high, strength=strength), predictor.column


def _range_of(target: "Target", generator: "Generator") -> tuple[float, float]:
    """Return the range that meets a target; of "max" and "min" the far end of what is known."""
    from matmill.campaign.targets import Goal

    known = known_ranges(generator).get(target.column)
    low, high = known[:2] if known else (target.quantity.low, target.quantity.high)
    if target.goal is Goal.MAXIMISE:
        return high, math.inf
    if target.goal is Goal.MINIMISE:
        return -math.inf, low
    return target.low, target.high
