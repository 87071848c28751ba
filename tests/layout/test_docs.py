"""Public names are documented, and the documents name only what exists."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "matmill"
FILES = sorted(PACKAGE.rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELLS = {"bash", "sh", "shell", "console"}
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, languages: set[str]) -> Iterator[str]:
    for language, text in BLOCK.findall(path.read_text(encoding="utf-8")):
        if language in languages:
            yield text


def shell_lines() -> list[tuple[str, str]]:
    """Return (page, command line) for each line of each shell block, continuations joined."""
    lines = []
    for path in PAGES:
        for text in blocks(path, SHELLS):
            for line in text.replace("\\\n", " ").splitlines():
                line = line.strip().removeprefix("$ ").split(" #")[0].strip()
                if line:
                    lines.append((short(path), line))
    return lines


def program_lines() -> list[tuple[str, str]]:
    return [
        (page, line) for page, line in shell_lines() if re.match(r"(\.venv/bin/)?matmill\b", line)
    ]


def the_program() -> Any:
    from typer.main import get_command

    from matmill.cli.main import app

    return get_command(app)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_public_names_are_documented(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if tree.body:
        assert ast.get_docstring(tree), f"{path.name} has no docstring"
    missing = []

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                if node.name.startswith("_"):
                    continue
                if not ast.get_docstring(node) and not is_overload(node):
                    missing.append(f"{prefix}{node.name}")
                if isinstance(node, ast.ClassDef):
                    visit(node.body, f"{prefix}{node.name}.")

    visit(tree.body, "")
    assert missing == []


def is_overload(node: ast.AST) -> bool:
    return any("overload" in ast.unparse(item) for item in getattr(node, "decorator_list", []))


def test_the_root_resolves_its_public_names():
    import matmill

    assert all(getattr(matmill, name) is not None for name in matmill.__all__)
    assert set(matmill.__all__) == set(dir(matmill))
    with pytest.raises(AttributeError, match="nothing_like_this"):
        matmill.nothing_like_this  # noqa: B018 - the access is the test


@pytest.mark.parametrize(("page", "line"), program_lines())
def test_commands_in_the_documents_exist(page, line):
    words = shlex.split(line)[1:]
    command = the_program()
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    is_group = bool(getattr(command, "commands", {}))
    assert not is_group or not words or words[0].startswith("-"), f"{page}: no such command: {line}"
    known = {
        name
        for parameter in command.params
        for name in [*parameter.opts, *parameter.secondary_opts]
    }
    known |= {"--help", "-h"}
    given = {word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)}
    assert given - known == set(), f"{page}: unknown options in: {line}"


def test_every_make_target_in_the_documents_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {
        word for _, line in shell_lines() if line.startswith("make ") for word in line.split()[1:]
    }
    for path in PAGES:
        named |= set(re.findall(r"`make ([a-z-]+)`", path.read_text(encoding="utf-8")))
    assert {"design", "test", "setup"} <= targets
    assert named - targets == set()


def test_python_blocks_use_names_that_exist():
    for path in PAGES:
        for text in blocks(path, {"python"}):
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("matmill"):
                    module = importlib.import_module(node.module or "")
                    absent = [name.name for name in node.names if not hasattr(module, name.name)]
                    assert absent == [], f"{short(path)}: {node.module} has no {absent}"


def test_links_between_the_documents_lead_somewhere():
    broken = []
    for path in PAGES:
        text = BLOCK.sub("", path.read_text(encoding="utf-8"))
        for target in LINK.findall(text):
            if not (path.parent / target).exists():
                broken.append(f"{short(path)} -> {target}")
    assert broken == []


def leaves(command: Any, path: str = "matmill") -> Iterator[str]:
    children = getattr(command, "commands", {})
    if not children:
        yield path
    for name, child in children.items():
        yield from leaves(child, f"{path} {name}")


def test_every_command_appears_in_the_documents():
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    assert [name for name in leaves(the_program()) if f"`{name}" not in text] == []


def test_the_page_of_commands_names_only_commands():
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `(matmill [a-z ]+)`", text, re.MULTILINE))
    assert named == set(leaves(the_program()))


def test_every_test_that_the_documents_name_exists():
    named = {
        pair
        for path in PAGES
        for pair in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 25
    absent = [
        f"{file}::{test}"
        for file, test in sorted(named)
        if not (ROOT / file).exists() or f"def {test}(" not in (ROOT / file).read_text("utf-8")
    ]
    assert absent == []
