"""Importing matmill is cheap, and what it needs is declared."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "matmill"
FILES = sorted(PACKAGE.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Imported where they are used: each costs a tenth of a second to several seconds.
LATE = {"pymatgen", "ase", "spglib", "chgnet", "lightning", "sklearn", "plotly", "matplotlib"}
HEAVY = {*LATE, "torch", "numpy", "pandas", "scipy", "pyarrow", "sqlalchemy"}
NOT_INSTALLED = {"mlflow": "mlflow-skinny"}  # optional, under another name than its module
CLI_MAY_IMPORT = {"typer", "rich", "matmill", *sys.stdlib_module_names}
HELP = """
import json, sys
from matmill.cli.main import run
for arguments in json.loads(sys.argv[1]):
    try:
        run(arguments)
    except SystemExit as end:
        assert not end.code, arguments
    heavy = {name.partition(".")[0] for name in sys.modules} & set(json.loads(sys.argv[2]))
    assert not heavy, f"{arguments} loads {heavy}"
"""


def loaded_by(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after ``code``."""
    tail = "import json, sys\nprint('\\n' + json.dumps([*sys.modules]))"
    command = [sys.executable, "-c", f"{code}\n{tail}"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    modules = json.loads(result.stdout.splitlines()[-1])
    return {name.partition(".")[0] for name in modules}


def commands() -> list[list[str]]:
    """Return each command and group of the program as arguments."""
    from typer.main import get_command

    from matmill.cli.main import app

    def below(command: object, path: list[str]) -> Iterator[list[str]]:
        yield path
        for name, child in getattr(command, "commands", {}).items():
            yield from below(child, [*path, name])

    return list(below(get_command(app), []))


def imports(path: Path, *, top_only: bool) -> set[str]:
    """Return the top-level names of the packages that a file imports; typing-only ones are not."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    nodes = tree.body if top_only else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


def plain(name: str) -> str:
    """Return the normalised name of a requirement, e.g. ``"ruamel-yaml"``."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", name, maxsplit=1)[0]).lower()


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("import matmill") & HEAVY == set()


def test_every_help_answers_and_loads_nothing_heavy():
    tried = [[*arguments, "--help"] for arguments in commands()]
    result = subprocess.run(
        [sys.executable, "-c", HELP, json.dumps(tried), json.dumps(sorted(HEAVY))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Usage:") == len(tried)


def test_the_program_answers_by_its_name():
    program = Path(sys.executable).with_name("matmill")
    result = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert "design" in result.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_slow_libraries_are_imported_where_they_are_used(path):
    top = imports(path, top_only=True)
    assert top & LATE == set()
    if path.parent.name == "cli":
        assert top - CLI_MAY_IMPORT == set()


def test_every_import_is_declared_and_every_core_dependency_is_used():
    owners = packages_distributions()
    used = set().union(*(imports(path, top_only=False) for path in FILES))
    used -= {"matmill", *sys.stdlib_module_names}
    extras = PROJECT["optional-dependencies"]
    core = {plain(line) for line in PROJECT["dependencies"]}
    optional = {plain(line) for name, lines in extras.items() if name != "dev" for line in lines}
    undeclared = {
        name
        for name in used
        if not {plain(owner) for owner in owners.get(name, [NOT_INSTALLED.get(name, name)])}
        & (core | optional)
    }
    assert undeclared == set()
    distributions = {plain(owner) for name in used for owner in owners.get(name, [])}
    assert core - distributions == set()


def test_the_locks_pin_every_dependency():
    pins = {
        plain(line): line
        for name in ("requirements.lock", "requirements-dev.lock")
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    }
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pins.values())
    runtime = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    assert next(line for line in runtime if not line.startswith("#")).startswith("torch==")
    extras = PROJECT["optional-dependencies"]
    wanted = {plain(line) for line in [*PROJECT["dependencies"], *extras["dev"], *extras["train"]]}
    assert wanted - {"matmill"} - set(pins) == set()
