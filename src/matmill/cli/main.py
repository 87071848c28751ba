"""The ``matmill`` command: collects the command files and turns errors into one line.

Each file in this folder has ``register(app)`` and imports nothing heavy at its top, so that
``matmill --help`` answers at once.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from matmill import __version__
from matmill.cli.progress import Interrupted
from matmill.errors import MatmillError

# In the order of the help page.
COMMAND_FILES = (
    "design",
    "generate",
    "predict",
    "calibration",
    "relax",
    "evaluate",
    "train",
    "train_generator",
    "pretrain",
    "finetune",
    "steer",
    "benchmark",
    "campaign",
    "data",
    "plugins",
)
EXIT_INPUT = 2  # the caller can repair it
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class Group(TyperGroup):
    """A group of commands whose expected errors are one line on standard error, never a trace."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer's context is private
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except MatmillError as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(EXIT_INPUT) from error
        except KeyboardInterrupt as error:
            hint = str(error) if isinstance(error, Interrupted) else ""
            typer.echo(f"\nInterrupted. {hint}".rstrip(), err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from error


app = typer.Typer(
    cls=Group,
    name="matmill",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Inverse design of crystals: property targets in, verified crystal structures out.\n\n"
        'Example: matmill design --target "band_gap = 2.0 eV" --elements Ga,N,O -n 20'
    ),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"matmill {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print and stop."),
    ] = False,
) -> None:
    """Hold the options that come before a command's name."""


for _name in COMMAND_FILES:
    if find_spec(f"matmill.cli.{_name}") is not None:
        import_module(f"matmill.cli.{_name}").register(app)


def run(arguments: list[str] | None = None) -> None:
    """Run the command line; the entry point of the package."""
    app(sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    run()
