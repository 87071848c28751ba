"""``matmill steer …``: loops that improve models with what the models made."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from matmill.cli.options import Json, Quiet, StoreUrl, WorkersText

if TYPE_CHECKING:
    from matmill.steer.flywheel.driver import FlywheelSummary
    from matmill.steer.flywheel.settings import FlywheelSettings
    from matmill.steer.selfteach.loop import RoundFacts

SeedOrConfig = Annotated[
    int | None, typer.Option("--seed", min=0, help="Same seed, same settings: same result.")
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Try tasks again that an earlier call gave up.")
]


def register(app: typer.Typer) -> None:
    """Add the group of commands to the program."""
    group = typer.Typer(no_args_is_help=True, help="Loops: models that learn from what they made.")
    group.command("flywheel")(flywheel)
    group.command("selfteach")(selfteach)
    app.add_typer(group, name="steer")


def flywheel(
    config: Annotated[
        Path | None, typer.Argument(help="TOML file with the study; options below change it.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Table with structures and labels.")
    ] = None,
    target: Annotated[str | None, typer.Option("--target", "-t", help="Column to learn.")] = None,
    predictor: Annotated[
        list[str] | None,
        typer.Option(
            "--predictor", help="cgcnn-reference, cgcnn, cgcnn-long or tabular; repeatable."
        ),
    ] = None,
    generator: Annotated[
        str | None, typer.Option("--generator", help="concdvae, flow-adapter or augment.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--start", help="Weights to start from, shipped ones by default; or scratch."),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option("--label", help="What labels a synthetic crystal: predictor or condition."),
    ] = None,
    labeller: Annotated[
        str | None, typer.Option("--labeller", help="Predictor that labels, or own for the arm's.")
    ] = None,
    mixing: Annotated[
        str | None, typer.Option("--mixing", help="weighted, plain or finetuned.")
    ] = None,
    ratio: Annotated[
        float | None, typer.Option("--ratio", help="Synthetic crystals per training row.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, help="Turns of the semi-supervised wheel.")
    ] = None,
    runs: Annotated[
        int | None, typer.Option("--runs", min=1, help="Paired runs, each with its own split.")
    ] = None,
    seed: SeedOrConfig = None,
    store: StoreUrl = None,
    workers: WorkersText = "0",
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the study; run again to go on.")
    ] = Path("runs/flywheel"),
    retry_failed: RetryFailed = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Does synthetic data improve the predictor that judges it? Measure it, in paired runs.

    Trains a conditional generator on the labelled crystals, draws synthetic ones, filters and
    labels them, and trains the predictor on real, synthetic and both, with controls. A killed
    study goes on when the same command is given again.

    Example: matmill steer flywheel --data jdft2d.parquet --target exfoliation_energy --runs 10
    """
    from matmill.campaign.crew import make_workers
    from matmill.cli.progress import resumable, show
    from matmill.steer.flywheel.driver import TASK_SECONDS, run_flywheel

    given: dict[str, Any] = {
        "data": data,
        "target": target,
        "predictors": tuple(predictor) if predictor else None,
        "label": label,
        "labeller": labeller,
        "mixing": mixing,
        "synthetic_ratio": ratio,
        "rounds": rounds,
        "n_runs": runs,
        "seed": seed,
    }
    settings = _settings(config, given, {"family": generator, "start": start})
    crew = make_workers(workers, timeout_s=TASK_SECONDS)
    hint = "The same command continues it."
    with resumable(hint), show(quiet=quiet or json) as on_event:
        summary = run_flywheel(
            settings,
            folder=out,
            store=store,
            workers=crew,
            arguments={"command": "steer flywheel", "config": str(config), "out": str(out)},
            retry_failed=retry_failed,
            on_event=on_event,
        )
    _print(summary, json=json)


def selfteach(
    config: Annotated[
        Path | None, typer.Argument(help="TOML file with the loop; options below change it.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Crystals that the generator was trained on.")
    ] = None,
    generator: Annotated[
        str | None, typer.Option("--generator", help="Weights of a flow, or its name.")
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option("--arm", help="verified, deduplicated, raw or none; repeatable."),
    ] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", min=1, help="Fine-tunings.")] = None,
    n: Annotated[int | None, typer.Option("-n", min=10, help="Crystals of each round.")] = None,
    seed: SeedOrConfig = None,
    store: StoreUrl = None,
    workers: WorkersText = "0",
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the loop; run again to go on.")
    ] = Path("runs/selfteach"),
    retry_failed: RetryFailed = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Let a generator learn from its own verified crystals, round by round, beside controls.

    Draws, relaxes, judges, fine-tunes. What is new is held against everything that the generator
    was ever taught, so that replayed lessons do not count. The same command continues a killed
    loop.

    Example: matmill steer selfteach --data mp_20.parquet --rounds 4 -n 1000
    """
    from matmill.campaign.crew import make_workers
    from matmill.cli.output import print_json
    from matmill.cli.progress import resumable, show
    from matmill.config import check_settings
    from matmill.steer.selfteach.loop import TASK_SECONDS, run_selfteach
    from matmill.steer.selfteach.settings import SelfteachSettings

    given = {
        "data": data,
        "generator": generator,
        "arms": tuple(arm) if arm else None,
        "rounds": rounds,
        "n_samples": n,
        "seed": seed,
    }
    values = _merged(config, given, needed=("data",))
    settings = check_settings(values, SelfteachSettings, source=str(config or "the options"))
    crew = make_workers(workers, timeout_s=TASK_SECONDS)
    with (
        resumable("The same command continues it."),
        show(quiet=quiet or json) as on_event,
    ):
        facts = run_selfteach(
            settings,
            folder=out,
            store=store,
            workers=crew,
            retry_failed=retry_failed,
            on_event=on_event,
        )
    if json:
        print_json({"folder": str(out), "rounds": [vars(each) for each in facts]})
        return
    _print_rounds(facts, settings.max_above_hull_ev_per_atom, out)


def _print_rounds(facts: "list[RoundFacts]", threshold: float, out: Path) -> None:
    from matmill.cli.output import print_table

    columns = (
        ("valid", "valid"),
        ("metastable", "metastable"),
        ("msun", "MSUN"),
        ("msun_train", "not taught"),
        ("msun_framework", "new framework"),
        ("replayed", "replayed"),
        ("sun", "SUN"),
        ("with a lanthanide", "lanthanides"),
    )
    rows = []
    for each in facts:
        n = max(each.counts["drawn"], 1)
        shares = [f"{100 * each.counts[key] / n:.1f}" for key, _ in columns]
        kinds = f"{each.counts['effective_elements']:.1f}"
        rows.append((each.arm, each.round, each.n_taught, *shares, kinds, f"{each.cpu_s:.0f}"))
    heads = ("arm", "round", "taught", *(name for _, name in columns), "elements", "CPU s")
    print_table(heads, rows, title=f"% of crystals drawn; metastable: {threshold:g} eV/atom")
    for each in facts:
        if each.stopped:
            typer.echo(f"{each.arm} stopped after round {each.round}: {each.stopped}.")
    typer.echo(f"Files: {out}/ (rounds.json, weights)")


def _settings(
    config: Path | None, given: dict[str, Any], generator: dict[str, Any]
) -> "FlywheelSettings":
    from matmill.config import check_settings
    from matmill.steer.flywheel.settings import FAMILY, FlywheelSettings

    values = _merged(config, given, needed=("data", "target"))
    chosen = {key: value for key, value in generator.items() if value is not None}
    if chosen:
        before = values.get("generator", {})
        family = before.get("family", FAMILY)
        # Another family starts elsewhere and has other settings.
        kept = before if chosen.get("family", family) == family else {}
        values["generator"] = {**kept, **chosen}
    return check_settings(values, FlywheelSettings, source=str(config or "the options"))


def _merged(
    config: Path | None, given: dict[str, Any], *, needed: tuple[str, ...]
) -> dict[str, Any]:
    """Return what a file says, with the options that were given put over it."""
    from matmill.config import read_toml
    from matmill.errors import InputError

    values = read_toml(config) if config is not None else {}
    values |= {key: value for key, value in given.items() if value is not None}
    for name in needed:
        if name not in values:
            raise InputError(f"Give --{name}, or '{name}' in a TOML file.")
    return values


def _print(summary: "FlywheelSummary", *, json: bool) -> None:
    from matmill.cli.output import print_json, print_table
    from matmill.steer.flywheel import report

    study = summary.study
    if json:
        print_json({"folder": str(summary.folder), **study.as_dict()})
        return
    unit = report.unit(study.column)
    title = f"MAE of {report.label(study.column)}" + (f", {unit}" if unit else "")
    print_table(report.HEADS, [report.cells(row) for row in study.rows], title=title)
    print_table(("synthetic crystals", "number"), list(report.dropped(study.syntheses).items()))
    for text in report.verdicts(study):
        typer.echo(text)
    if lost := [score for score in study.scores if score.error]:
        typer.echo(f"{len(lost)} fits are missing; the first: {lost[0].error}")
        typer.echo("Mend the cause; the same command with --retry-failed then tries them again.")
    cost = ", ".join(f"{what} {seconds:.0f} s" for what, seconds in study.cpu_seconds().items())
    typer.echo(f"CPU: {cost}.")
    typer.echo(f"Files: {summary.folder}/ (report.html, table.json, run.json)")
