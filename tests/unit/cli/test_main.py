import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from matmill import __version__
from matmill.cli.main import COMMAND_FILES, Group, app
from matmill.cli.progress import resumable
from matmill.errors import InputError

runner = CliRunner()


@pytest.fixture
def program():
    made = typer.Typer(cls=Group, pretty_exceptions_enable=False)

    @made.command()
    def wrong():
        raise InputError("lattice is flat; give a volume.")

    @made.command()
    def stop():
        with resumable("Continue with: matmill campaign resume runs/a"):
            raise KeyboardInterrupt

    @made.command()
    def bug():
        raise RuntimeError("this is a bug")

    return made


def test_expected_error_is_one_line_and_exit_2(program):
    result = runner.invoke(program, ["wrong"])
    assert result.exit_code == 2
    assert result.stderr == "Error: lattice is flat; give a volume.\n"
    assert result.stdout == ""


def test_interrupt_says_how_to_resume_and_exits_130(program):
    result = runner.invoke(program, ["stop"])
    assert result.exit_code == 130
    assert result.stderr.strip() == "Interrupted. Continue with: matmill campaign resume runs/a"


def test_bugs_keep_their_trace(program):
    assert isinstance(runner.invoke(program, ["bug"]).exception, RuntimeError)


def test_version():
    assert runner.invoke(app, ["--version"]).stdout.strip() == f"matmill {__version__}"


def test_help_loads_nothing_heavy():
    heavy = ("torch", "numpy", "pymatgen", "ase", "chgnet", "sqlalchemy", "pydantic", "pyarrow")
    code = (
        "import sys; from matmill.cli.main import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        f"sys.stderr.write(','.join(n for n in {heavy!r} if n in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "matmill design" in done.stdout
    assert done.stderr == ""


def test_command_files_are_listed_once():
    assert len(set(COMMAND_FILES)) == len(COMMAND_FILES)
