"""Every command explains itself, shows an example, and answers fast."""

import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from matmill.cli.main import app


def _paths(command, path=()):
    children = getattr(command, "commands", {})
    if not children:
        return [path]
    return [deep for name, child in children.items() for deep in _paths(child, (*path, name))]


COMMANDS = _paths(get_command(app))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_an_example(path):
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"matmill {' '.join(path)}" in result.stdout


def test_help_is_quick():
    resource = pytest.importorskip("resource")  # not on Windows
    command = [sys.executable, "-m", "matmill.cli.main", "--help"]
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    # 0.3 s is promised. Processor time is what the program can answer for; on an idle machine
    # it is the wall time too.
    assert min(seconds) <= 0.3
