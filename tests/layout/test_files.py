"""Files are short, small and safe to open, and each shipped asset says what it is."""

import ast
import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "matmill"
ASSETS = PACKAGE / "assets"
MOST_LINES = 400
MOST_BYTES = 16 * 2**20  # of one file
MOST_BYTES_OF_ASSETS = 100 * 2**20
CODE_FOLDERS = ("src", "tests", "benchmarks", "examples")
FILES = sorted(PACKAGE.rglob("*.py"))
ALL_CODE = sorted(path for name in CODE_FOLDERS for path in (ROOT / name).rglob("*.py"))
# Unpickling runs whatever the file says; weights and tables are safetensors, JSON and Parquet.
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
# These pickle what goes through pipes between processes that they start themselves.
OWN_PIPES = {f"src/matmill/campaign/{name}.py" for name in ("worker", "workers", "ray_workers")}
UNSAFE_CALLS = {"torch.load", "torch.save", "torch.jit.load", "pandas.read_pickle"}


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def shipped() -> list[Path]:
    """Return the assets that need a card: all but the cards and notes themselves."""
    if not ASSETS.exists():
        return []
    files = (path for path in ASSETS.rglob("*") if path.is_file())
    return sorted(
        path
        for path in files
        if path.suffix not in {".json", ".md", ".py", ".pyc"} and not path.name.startswith(".")
    )


def repository_files() -> Iterator[Path]:
    hidden = {".git", ".venv", ".scratch", "runs", "work", "build", "dist", "__pycache__"}
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in hidden and "cache" not in name]
        yield from (Path(folder) / name for name in names)


@pytest.mark.parametrize("path", ALL_CODE, ids=short)
def test_files_are_short(path):
    n_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert n_lines <= MOST_LINES, f"{path.name} has {n_lines} lines; split it by idea"


def test_the_makefile_is_short():
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 40


def test_packages_below_the_root_have_empty_init_files():
    inits = [path for path in FILES if path.name == "__init__.py" and path.parent != PACKAGE]
    assert inits
    assert [short(path) for path in inits if path.read_text(encoding="utf-8").strip()] == []


def test_every_folder_of_code_is_a_package():
    folders = {path.parent for path in FILES}
    assert [short(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("path", FILES, ids=short)
def test_no_file_is_unpickled(path):
    if short(path) in OWN_PIPES:
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in UNSAFE_MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module in UNSAFE_MODULES:
            found.append(node.module)
        elif isinstance(node, ast.Call):
            if ast.unparse(node.func) in UNSAFE_CALLS:
                found.append(ast.unparse(node.func))
            found += [key.arg for key in node.keywords if key.arg == "allow_pickle"]
    assert found == []


def test_no_file_is_large():
    large = {short(p): p.stat().st_size for p in repository_files() if not p.is_symlink()}
    assert {name: size for name, size in large.items() if size > MOST_BYTES} == {}


def test_all_assets_together_stay_small():
    assert sum(path.stat().st_size for path in shipped()) <= MOST_BYTES_OF_ASSETS


@pytest.mark.parametrize("path", shipped(), ids=short)
def test_every_asset_has_a_card(path):
    cards = (path.with_name(path.name + ".json"), path.with_suffix(".json"))
    card = next((card for card in cards if card.exists()), None)
    assert card is not None, f"{path.name} has no card: expected {cards[0].name} beside it"
    content = json.loads(card.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    assert content


def test_the_version_is_written_once_in_each_place():
    import matmill

    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["project"]["version"] == matmill.__version__
    assert f"## {matmill.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
