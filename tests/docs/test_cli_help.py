"""Every command explains itself, and shows an example."""

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
