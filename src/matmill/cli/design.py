"""``matmill design``: the main job, from property targets to ranked crystals."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matmill.cli.options import (
    AtomRange,
    BudgetTexts,
    Device,
    Elements,
    Exclude,
    Json,
    Quiet,
    Seed,
    StoreUrl,
    WorkersText,
)

if TYPE_CHECKING:
    from matmill.campaign.parts import Parts
    from matmill.campaign.plan import CampaignSettings
    from matmill.campaign.request import Request
    from matmill.steer.design import Summary


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("design")(design)


def design(
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "-t",
            help="A wish, e.g. 'band_gap = 2.0 eV', 'bulk_modulus > 150 GPa', "
            "'band_gap = 1.5..2.5', 'max bulk_modulus'. May be repeated.",
        ),
    ] = None,
    elements: Elements = None,
    exclude: Exclude = None,
    n_atoms: AtomRange = None,
    formula: Annotated[
        str | None, typer.Option("--formula", help="Fixed composition, e.g. Ga2O3.")
    ] = None,
    space_group: Annotated[
        int | None, typer.Option("--space-group", help="International number to aim for, 1-230.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many crystals to deliver.")] = 20,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the run; runs/design-1, -2, … by default."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out where it stopped.")
    ] = False,
    hull_threshold: Annotated[
        float,
        typer.Option(
            "--hull-threshold", min=0.0, help="Largest energy above the hull, in eV/atom."
        ),
    ] = 0.1,
    generator: Annotated[
        str, typer.Option("--generator", help="Name, or path of trained weights.")
    ] = "flow",
    predictor: Annotated[
        list[str] | None,
        typer.Option("--predictor", help="property=path of a predictor of your own; repeatable."),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option("--guidance", help="How strongly the generator follows the targets."),
    ] = None,
    max_rounds: Annotated[
        int | None, typer.Option("--max-rounds", min=1, help="Rounds before it stops short.")
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option("--max-minutes", help="Start no further round after this.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="TOML file with campaign settings.")
    ] = None,
    workers: WorkersText = "0",
    store: StoreUrl = None,
    budget: BudgetTexts = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, show the plan, start nothing.")
    ] = False,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Design crystals for property targets: propose, verify, relax, rank, report.

    Delivers n crystals that are valid, unique, relaxed and near the hull, best first; every
    candidate that fell is kept with its reason. Ctrl-C leaves a run that --resume continues.

    Example: matmill design --target "band_gap = 2.0 eV" --elements Ga,N,O -n 20 --out runs/gap2
    """
    from matmill.campaign.budget import parse_budget
    from matmill.campaign.plan import CampaignSettings
    from matmill.campaign.request import make_request
    from matmill.cli.options import parse_atom_range
    from matmill.cli.progress import resumable, show
    from matmill.config import read_settings
    from matmill.errors import InputError
    from matmill.progress import Event

    request = make_request(
        targets=tuple(target or ()),
        elements=elements,
        exclude=exclude or "",
        n_atoms=parse_atom_range(n_atoms),
        formula=formula,
        space_group=space_group,
        n=n,
        seed=seed,
        generator=generator,
        predictors=_predictors(predictor or []),
        hull_threshold_ev_per_atom=hull_threshold,
        guidance=guidance,
    )
    settings = read_settings(plan, CampaignSettings) if plan else CampaignSettings()
    limits = {"max_rounds": max_rounds, "max_minutes": max_minutes}
    settings = settings.model_copy(update={k: v for k, v in limits.items() if v is not None})
    spending = parse_budget(budget or [])
    if resume and out is None:
        raise InputError("--resume needs --out: the folder of the run to continue.")
    folder = out or _next_folder(Path("runs"))
    if dry_run:
        _show_plan(request, settings, _load(request, device), folder, json=json)
        return
    from matmill.campaign.crew import make_workers
    from matmill.steer import design as driver

    hint = f"Continue with: matmill campaign resume {folder}"
    with resumable(hint), show(quiet=quiet or json) as on_event:
        on_event(Event(stage="load", message="models and tables"))
        summary = driver.design(
            request,
            settings,
            folder=folder,
            parts=_load(request, device),
            workers=make_workers(workers),
            resume=resume,
            arguments={"command": "design", "out": str(folder), "workers": workers},
            store_url=store,
            budget=spending,
            on_event=on_event,
        )
    show_summary(summary, json=json)


def show_summary(summary: "Summary", *, json: bool) -> None:
    """Print the delivered crystals, the funnel, the warnings and where the files are."""
    from matmill.campaign.report import entries_text, known_text, predicted_columns, with_error
    from matmill.cli.output import print_json, print_table
    from matmill.quantities import BY_COLUMN

    results = summary.results
    if json:
        print_json(
            {
                "folder": str(summary.folder),
                "delivered": results.rows,
                "funnel": results.funnel,
                "fates": results.fates,
                "n_filled": results.n_filled,
                "n_on_target": results.n_on_target,
                "warnings": summary.warnings,
                "stopped_because": summary.stopped_because,
            }
        )
        return
    columns = predicted_columns(results)
    heads = ["rank", "formula", "space group", "atoms", "E_hull\neV/atom", "entries"]
    heads += [f"{BY_COLUMN[c].label}\n{BY_COLUMN[c].unit}" for c in columns]
    rows = [
        [
            row["rank"],
            row["formula"],
            f"{row['space_group_symbol']} ({row['space_group']})",
            row["n_atoms"],
            f"{row['energy_above_hull_ev_per_atom']:.3f}{'*' if row['is_filled'] else ''}",
            entries_text(row),
            *(with_error(row, c) for c in columns),
            f"{row['target_probability']:.2f}",
            known_text(row),
        ]
        for row in results.rows
    ]
    print_table([*heads, "P(targets)", "novelty"], rows, title="Delivered crystals")
    if rows:
        typer.echo(
            f"E_hull against {results.rows[0]['hull_name']}; entries: its crystals in exactly that "
            "chemical system (! few). ? outside the predictor's training, * above the hull limit."
        )
    print_table(("step", "left"), list(results.funnel.items()), title="Funnel")
    for warning in summary.warnings:
        typer.echo(f"Note: {warning}")
    typer.echo(f"Files: {summary.folder}/ (report.html, cif/, candidates.parquet, run.json)")


def _show_plan(
    request: "Request", settings: "CampaignSettings", parts: "Parts", folder: Path, *, json: bool
) -> None:
    from matmill.campaign.plan import check_request
    from matmill.cli.output import print_json, print_table

    warnings = check_request(request, settings, parts)
    plan = {
        "request": request.model_dump(mode="json"),
        "settings": settings.model_dump(mode="json"),
        "inputs": parts.hashes(),
        "folder": str(folder),
        "warnings": warnings,
    }
    if json:
        print_json(plan)
        return
    lines = [("target", target.describe()) for target in request.parsed]
    lines += [
        (key, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for key, value in plan["request"].items()
        if key != "targets" and value not in (None, [], {})
    ]
    for key, value in plan["inputs"].items():
        text = value.get("name") or ", ".join(value)
        lines.append((key, text))
    print_table(
        ("what", "value"), [*lines, ("folder", str(folder))], title="Plan; nothing was started"
    )
    for warning in warnings:
        typer.echo(f"Note: {warning}")


def _load(request: "Request", device: str) -> "Parts":
    from matmill.campaign.parts import load_parts
    from matmill.cli.options import pick_device

    return load_parts(request, device=pick_device(device))


def _predictors(texts: list[str]) -> dict[str, str]:
    from matmill.errors import InputError
    from matmill.quantities import find

    found = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise InputError(f"--predictor '{text}' is not of the form property=path.")
        found[find(name).name] = path.strip()
    return found


def _next_folder(base: Path) -> Path:
    number = 1
    while (base / f"design-{number}").exists():
        number += 1
    return base / f"design-{number}"
