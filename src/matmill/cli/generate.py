"""``matmill generate``: crystals from the generator alone, without relaxation or judgement."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from matmill.cli import progress
from matmill.cli.options import (
    AtomRange,
    Device,
    Elements,
    Exclude,
    Json,
    Out,
    Quiet,
    Seed,
    parse_atom_range,
    pick_device,
)
from matmill.cli.output import print_json, print_table

if TYPE_CHECKING:
    from matmill.generate.deliver import Delivered

_SHOWN = 10


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("generate")(generate)


def generate(
    n: Annotated[int, typer.Option("-n", min=0, help="How many crystals.")] = 20,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help='What to aim at, e.g. "band_gap = 2 eV"; repeat for more.'),
    ] = None,
    elements: Elements = None,
    exclude: Exclude = None,
    formula: Annotated[
        str | None, typer.Option("--formula", help="Fix the composition, e.g. LiFePO4.")
    ] = None,
    n_atoms: AtomRange = None,
    space_group: Annotated[
        int | None, typer.Option("--space-group", help="Number 1-230 to aim at.")
    ] = None,
    crystal_system: Annotated[
        str | None, typer.Option("--crystal-system", help="cubic, hexagonal, … to aim at.")
    ] = None,
    like: Annotated[
        Path | None, typer.Option("--like", help="Start from the crystals of this file.")
    ] = None,
    strength: Annotated[
        float, typer.Option("--strength", min=0, max=1, help="With --like: 0 keeps, 1 forgets.")
    ] = 0.3,
    new_elements: Annotated[
        bool, typer.Option("--new-elements", help="With --like: also choose the elements anew.")
    ] = False,
    guidance: Annotated[
        float, typer.Option("--guidance", min=0, help="Weight of what is asked for.")
    ] = 1.5,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Network steps a crystal.")] = 50,
    model: Annotated[
        str, typer.Option("--model", help="Name of a generator, or a checkpoint file.")
    ] = "flow",
    list_conditions: Annotated[
        bool, typer.Option("--list-conditions", help="Print what can be asked for, and stop.")
    ] = False,
    seed: Seed = 0,
    out: Out = None,
    json: Json = False,
    quiet: Quiet = False,
    device: Device = "auto",
) -> None:
    """Generate crystals; they are written as they are finished.

    Example: matmill generate -n 100 --elements Ga,N,O --target "band_gap = 2 eV" --out new.extxyz
    """
    from matmill.campaign.plan import condition_for
    from matmill.campaign.targets import parse_target
    from matmill.crystals.composition import parse_elements, parse_formula
    from matmill.crystals.files import read
    from matmill.errors import InputError
    from matmill.generate import deliver
    from matmill.generate.protocol import GenerationRequest, load_generator

    generator = load_generator(model, device=pick_device(device))
    if list_conditions:
        _print_conditions(generator.card, json=json)
        return
    known = generator.card["conditions"]
    conditions = {}
    for text in target or []:
        wanted = parse_target(text)
        entry = known.get(wanted.column)
        if entry is None or entry["low"] is None:
            raise InputError(
                f"The generator was not trained on {wanted.quantity.name}. "
                "See: matmill generate --list-conditions."
            )
        conditions[wanted.column] = condition_for(wanted, entry["low"], entry["high"])
    request = GenerationRequest(
        n=n,
        elements=parse_elements(elements) if elements else None,
        exclude=parse_elements(exclude) if exclude else (),
        formula=parse_formula(formula) if formula else None,
        n_atoms=parse_atom_range(n_atoms),
        conditions=conditions,
        space_group=space_group,
        crystal_system=crystal_system,
        guidance=guidance,
        n_steps=steps,
        seeds=read(like).crystals if like else None,
        strength=strength,
        keep_elements=not new_elements,
    )
    with progress.show(quiet=quiet) as on_event:
        made = deliver.generate(generator, request, seed=seed, out=out, on_event=on_event)
    for warning in made.warnings:
        typer.echo(f"Warning: {warning}", err=True)
    _print_crystals(made, json=json)


def _print_conditions(card: dict[str, Any], *, json: bool) -> None:
    from matmill.crystals.elements import SYMBOLS
    from matmill.quantities import BY_COLUMN

    rows = [
        (BY_COLUMN[name].name, BY_COLUMN[name].unit, e["low"], e["high"], e["count"])
        for name, e in card["conditions"].items()
        if e["low"] is not None
    ]
    if json:
        keys = ("property", "unit", "low", "high", "training_crystals")
        print_json([dict(zip(keys, row, strict=True)) for row in rows])
        return
    print_table(("property", "unit", "from", "to", "training crystals"), rows)
    typer.echo(
        f"Also: --space-group 1-230, --crystal-system, --n-atoms up to {card['max_atoms']}, "
        f"--formula, and any of: {', '.join(SYMBOLS[z] for z in card['elements'])}."
    )


def _print_crystals(made: "Delivered", *, json: bool) -> None:
    crystals = made.crystals
    if json:
        print_json(
            {
                "n": len(crystals),
                "seconds": made.seconds,
                "written": made.written,
                "ids": crystals.ids,
                "formulas": crystals.formula,
                "n_atoms": crystals.n_atoms.tolist(),
            }
        )
        return
    per_atom = (crystals.volume / crystals.n_atoms).tolist()
    rows = list(
        zip(crystals.ids, crystals.formula, crystals.n_atoms.tolist(), per_atom, strict=False)
    )
    print_table(("id", "formula", "atoms", "Å³/atom"), rows[:_SHOWN])
    where = f" Written to {made.written[0]}." if made.written else ""
    more = f" The first {_SHOWN} are shown." if len(rows) > _SHOWN else ""
    typer.echo(f"{len(rows)} crystals in {made.seconds:.1f} s.{more}{where}")
