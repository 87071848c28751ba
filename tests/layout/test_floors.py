"""Imports point down the floors, and the contract really sees one that does not."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINTER = Path(sys.executable).with_name("lint-imports")
FORBIDDEN = (
    ("generate", "predict"),
    ("predict", "generate"),
    ("crystals", "data"),
    ("data", "verify"),
    ("training", "campaign"),
    ("campaign", "steer"),
)


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(LINTER), "--no-cache", "--config", str(folder / "pyproject.toml")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def copy_of_the_package(folder: Path) -> Path:
    package = folder / "matmill"
    shutil.copytree(
        ROOT / "src" / "matmill", package, ignore=shutil.ignore_patterns("assets", "__pycache__")
    )
    shutil.copy(ROOT / "pyproject.toml", folder)
    return package


def test_imports_point_down():
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout


def test_a_wrong_import_is_seen_even_inside_a_function(tmp_path):
    package = copy_of_the_package(tmp_path)
    for importer, imported in FORBIDDEN:
        planted = f'"""Planted."""\n\n\ndef call() -> None:\n    import matmill.{imported}\n'
        (package / importer / f"planted_{imported}.py").write_text(planted, encoding="utf-8")
    result = lint(tmp_path)
    assert result.returncode != 0
    for importer, imported in FORBIDDEN:
        expected = f"matmill.{importer} is not allowed to import matmill.{imported}"
        assert expected in result.stdout
