"""``matmill generate``: crystals from the generator alone, or structures of a formula by energy."""

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
    from matmill.generate.protocol import GenerationRequest, Generator
    from matmill.generate.structure_prediction import Ranked

_SHOWN = 10


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("generate")(generate)


def generate(
    n: Annotated[int, typer.Option("-n", "-k", min=0, help="How many crystals, or samples.")] = 20,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help='What to aim at, e.g. "band_gap = 2 eV"; repeat for more.'),
    ] = None,
    elements: Elements = None,
    system: Annotated[
        str | None, typer.Option("--system", help="Exactly these elements, all of them: Ga-N-O.")
    ] = None,
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
    symmetry: Annotated[
        str,
        typer.Option(
            "--symmetry",
            help="hard: stay on the positions of a space group; soft: at most aim at one; auto: "
            "hard, unless a structure is given or the generator was not trained for it.",
        ),
    ] = "auto",
    like: Annotated[
        Path | None, typer.Option("--like", help="Start from the crystals of this file.")
    ] = None,
    strength: Annotated[
        float, typer.Option("--strength", min=0, max=1, help="With --like: 0 keeps, 1 forgets.")
    ] = 0.3,
    new_elements: Annotated[
        bool, typer.Option("--new-elements", help="With --like: also choose the elements anew.")
    ] = False,
    free_sites: Annotated[
        str | None,
        typer.Option("--free-sites", help="With --like: invent these atoms only, e.g. 3-6,8."),
    ] = None,
    keep_species: Annotated[
        bool, typer.Option("--keep-species", help="With --free-sites: they keep their elements.")
    ] = False,
    free_lattice: Annotated[
        bool, typer.Option("--free-lattice", help="With --free-sites: the cell may change too.")
    ] = False,
    decorate: Annotated[
        Path | None,
        typer.Option("--decorate", help="Keep sites and cells of this file, invent elements."),
    ] = None,
    rank: Annotated[
        str | None,
        typer.Option("--rank", help="energy: predict structures of --formula and rank them."),
    ] = None,
    relax: Annotated[
        bool, typer.Option("--relax", help="With --rank: relax the samples first.")
    ] = False,
    guidance: Annotated[
        float, typer.Option("--guidance", min=0, help="Weight of what is asked for.")
    ] = 1.5,
    scale: Annotated[
        list[str] | None,
        typer.Option("--scale", help="Weight of one condition, e.g. band_gap=2; repeat for more."),
    ] = None,
    guidance_schedule: Annotated[
        str, typer.Option("--guidance-schedule", help="constant, or dynamic: fade when it is met.")
    ] = "constant",
    guide: Annotated[
        str | None,
        typer.Option("--guide", help="Bend the flow by the gradient of this predictor."),
    ] = None,
    guide_strength: Annotated[
        float, typer.Option("--guide-strength", min=0, help="Share of the way at each step.")
    ] = 1.0,
    best_of: Annotated[
        int, typer.Option("--best-of", min=1, help="Draws a crystal, of which the best is kept.")
    ] = 1,
    judge: Annotated[
        str | None,
        typer.Option("--judge", help="Predictor for --best-of; the shipped one by default."),
    ] = None,
    kappa: Annotated[
        float, typer.Option("--kappa", min=0, help="Standard deviations of distrust in the judge.")
    ] = 1.0,
    prior: Annotated[
        str | None,
        typer.Option("--prior", help="Of concdvae: default; full or less also tell symmetry."),
    ] = None,
    latents: Annotated[
        int, typer.Option("--latents", min=1, help="Of concdvae: latents a crystal, best kept.")
    ] = 1,
    quality: Annotated[
        str | None,
        typer.Option("--quality", help="preview, standard or best: 30, 100 or 250 steps."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Network steps a crystal; 50 by default.")
    ] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="auto, bf16 or fp32; auto takes what is faster.")
    ] = "auto",
    model: Annotated[
        str, typer.Option("--model", help="Name of a generator, or a checkpoint file.")
    ] = "flow",
    adapter: Annotated[
        list[Path] | None,
        typer.Option("--adapter", help="A property learned beside it; repeat for more."),
    ] = None,
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

    Structures of a formula: matmill generate --formula GaN -k 20 --rank energy --relax
    """
    from matmill.cli import generate_wishes as wishes
    from matmill.crystals.composition import parse_elements, parse_formula
    from matmill.errors import InputError
    from matmill.generate import deliver
    from matmill.generate.protocol import GenerationRequest, load_generator

    precise: Any = _one_of("--precision", precision, ("auto", "bf16", "fp32"))
    schedule: Any = _one_of("--guidance-schedule", guidance_schedule, ("constant", "dynamic"))
    kept: Any = _one_of("--symmetry", symmetry, ("auto", "soft", "hard"))
    generator: Any = load_generator(
        model, device=pick_device(device), adapters=adapter or (), precision=precise
    )
    wishes.set_prior(generator, prior, latents)
    if list_conditions:
        _print_conditions(generator, json=json)
        return
    if kept == "auto":
        is_free = like is None and decorate is None
        kept = "hard" if is_free and generator.card.get("symmetric") else "soft"
    if rank is not None:
        _one_of("--rank", rank, ("energy",))
    if relax and rank is None:
        raise InputError("--relax goes with --rank energy; relax other crystals: matmill relax.")
    targets = wishes.parse_targets(target or (), generator)
    wanted = wishes.judges_for(targets, judge, generator) if best_of > 1 else []
    if judge is not None and not wanted:
        raise InputError("--judge goes with --best-of, e.g. --best-of 4.")
    others = [wish.judge.column for wish in wanted]
    if guide is not None:
        generator.guide, column = wishes.guide_for(
            targets, guide, generator, strength=guide_strength
        )
        others.append(column)
    request = GenerationRequest(
        n=n,
        elements=parse_elements(elements) if elements else None,
        system=parse_elements(system) if system else None,
        exclude=parse_elements(exclude) if exclude else (),
        formula=parse_formula(formula) if formula else None,
        n_atoms=parse_atom_range(n_atoms),
        conditions=wishes.conditions_for(targets, generator, others=others),
        space_group=space_group,
        crystal_system=crystal_system,
        symmetry=kept,
        guidance=guidance,
        scales=wishes.parse_scales(scale or ()),
        schedule=schedule,
        n_steps=wishes.pick_steps(quality, steps),
        strength=strength,
        keep_elements=not new_elements,
        **wishes.seed_options(
            like,
            decorate,
            free_sites=free_sites,
            free_lattice=free_lattice,
            keep_species=keep_species,
        ),
    )
    if rank is not None:
        if best_of > 1:
            raise InputError("--best-of chooses by a property, --rank by energy: give one.")
        _rank(generator, request, seed=seed, out=out, relax=relax, json=json, quiet=quiet)
        return
    with progress.show(quiet=quiet) as on_event:
        made = deliver.generate(
            generator,
            request,
            seed=seed,
            out=out,
            on_event=on_event,
            k=best_of,
            wanted=wanted,
            kappa=kappa,
        )
    for warning in made.warnings:
        typer.echo(f"Warning: {warning}", err=True)
    _print_crystals(made, json=json)


def _one_of(option: str, value: str, known: tuple[str, ...]) -> str:
    from matmill.errors import InputError

    if value not in known:
        raise InputError(f"{option} '{value}' is unknown. Use {' or '.join(known)}.")
    return value


def _rank(
    generator: "Generator",
    request: "GenerationRequest",
    *,
    seed: int,
    out: Path | None,
    relax: bool,
    json: bool,
    quiet: bool,
) -> None:
    from matmill.errors import InputError
    from matmill.generate import structure_prediction
    from matmill.verify.potentials import load_chgnet
    from matmill.verify.relax import RelaxSettings

    if out is not None and out.is_file():
        raise InputError(f"{out} exists. Choose another --out, or remove it.")
    settings = RelaxSettings() if relax else None
    with progress.show(quiet=quiet) as on_event:
        ranked = structure_prediction.predict_structures(
            generator, request, load_chgnet(), seed=seed, relaxation=settings, on_event=on_event
        )
    for warning in ranked.warnings:
        typer.echo(f"Warning: {warning}", err=True)
    written = []
    if out is not None:
        written = structure_prediction.write(
            ranked, out, generator, request, seed=seed, relaxation=settings
        )
    _print_ranked(ranked, written, json=json)


def _print_conditions(generator: "Generator", *, json: bool) -> None:
    from matmill.cli.generate_wishes import condition_rows
    from matmill.crystals.elements import SYMBOLS

    rows = condition_rows(generator)
    card = generator.card
    if json:
        keys = ("property", "unit", "low", "high", "training_crystals")
        print_json([dict(zip(keys, row, strict=True)) for row in rows])
        return
    print_table(("property", "unit", "from", "to", "training crystals"), rows)
    typer.echo(
        f"Also: --space-group 1-230, --crystal-system, --n-atoms up to {card['max_atoms']}, "
        f"--formula, --system, and any of: {', '.join(SYMBOLS[z] for z in card['elements'])}."
    )


def _print_crystals(made: "Delivered", *, json: bool) -> None:
    from matmill.crystals.symmetry import SYMPREC
    from matmill.generate.deliver import FOUND, REQUESTED

    crystals = made.crystals
    asked = [None if g != g else int(g) for g in crystals.properties[REQUESTED].tolist()]
    found = [int(g) for g in crystals.properties[FOUND].tolist()]
    best = made.reranked
    if json:
        print_json(
            {
                "n": len(crystals),
                "seconds": made.seconds,
                "written": made.written,
                "ids": crystals.ids,
                "formulas": crystals.formula,
                "n_atoms": crystals.n_atoms.tolist(),
                REQUESTED: asked,
                FOUND: found,
                "symprec_angstrom": SYMPREC,
                "best_of": None
                if best is None
                else {"k": best.k, "kappa": best.kappa, "raw": best.raw, "kept": best.kept},
            }
        )
        return
    per_atom = (crystals.volume / crystals.n_atoms).tolist()
    names, sizes = crystals.formula, crystals.n_atoms.tolist()
    rows = list(zip(crystals.ids, names, sizes, per_atom, asked, found, strict=False))
    print_table(
        ("id", "formula", "atoms", "Å³/atom", "group asked", f"found ({SYMPREC} Å)"),
        rows[:_SHOWN],
    )
    for raw, kept in zip(best.raw, best.kept, strict=True) if best else ():
        typer.echo(
            f"{raw['column']}, best of {best.k if best else 1}: {kept['hits']} of {kept['n']} as "
            f"wanted by the judge, {raw['hits']} among the first draws."
        )
    if made.crystals.properties[REQUESTED].isfinite().any():
        met = sum(a == f for a, f in zip(asked, found, strict=True))
        typer.echo(f"The space group asked for is found in {met} of {len(rows)}.")
    where = f" Written to {made.written[0]}." if made.written else ""
    more = f" The first {_SHOWN} are shown." if len(rows) > _SHOWN else ""
    typer.echo(f"{len(rows)} crystals in {made.seconds:.1f} s.{more}{where}")


def _print_ranked(ranked: "Ranked", written: list[Path], *, json: bool) -> None:
    from matmill.crystals.symmetry import SYMPREC
    from matmill.generate.structure_prediction import ABOVE, TIMES, UNITS, rows

    found = rows(ranked)
    if json:
        print_json(
            {
                "structures": found,
                "samples": ranked.n_samples,
                "samples_with_energy": ranked.n_judged,
                "relaxations_converged": ranked.n_converged,
                "formula_units_sampled": ranked.units_sampled,
                "potential": ranked.potential,
                "symprec_angstrom": SYMPREC,
                "seconds": ranked.seconds,
                "written": written,
            }
        )
        return
    print_table(
        ("id", "formula", "units", "eV/atom above", "found", "group asked", f"({SYMPREC} Å)"),
        [
            (
                row["id"],
                row["formula"],
                row[UNITS],
                row[ABOVE],
                f"{row[TIMES]}x",
                row["space_group_requested"],
                row["space_group_found"],
            )
            for row in found[:_SHOWN]
        ],
    )
    units = ", ".join(f"{n} with {z}" for z, n in ranked.units_sampled.items())
    how = "single points"
    if ranked.n_converged is not None:
        how = f"{ranked.n_converged} of {ranked.n_samples} relaxations converged"
    where = f" Written to {written[0]}." if written else ""
    typer.echo(
        f"{len(found)} structures from {ranked.n_samples} samples in {ranked.seconds:.1f} s "
        f"({ranked.n_judged} with an energy; formula units in the cell: {units}). "
        f"Energies: {ranked.potential}, {how}.{where}"
    )
