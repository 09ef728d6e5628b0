"""Modules import only from lower rungs of the ladder in docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documents import DOCS, ROOT, section

PACKAGE = ROOT / "presence"
TORNADO = {"handlers", "node"}
REDIS = {"topology", "lanes", "lane", "refusals", "subscription", "examination", "findings"}
PROCESS_ONLY = {
    "embedded",
    "supervisor",
    "check",
    "examination",
    "findings",
}  # used where a process is put together, nowhere else


def ladder() -> list[list[str]]:
    """Rungs from the top down."""
    block = re.search(r"^```text\n(.*?)^```$", section(DOCS / "architecture.md", "The ladder"), re.M | re.S)
    assert block
    return [re.split(r",\s*", line) for line in block[1].split("\n") if line]


RUNGS = {module: height for height, rung in enumerate(reversed(ladder())) for module in rung}
FILES = sorted(PACKAGE.rglob("*.py"))


def unit(path: Path) -> str:
    """A file's name on the ladder: its folder's, if it is in one."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def imported(path: Path) -> Iterator[str]:
    """Dotted names that run-time imports bring in; imports for type checkers alone may look upwards."""
    tree = ast.parse(path.read_text("utf-8"))
    for_types = {id(node) for guard in ast.walk(tree) if _is_type_guard(guard) for node in ast.walk(guard)}
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(path: Path) -> set[str]:
    """Units of the package that the file imports."""
    names = {name.split(".")[1] for name in imported(path) if name.startswith("presence.")}
    return {name if name in RUNGS else "__init__" for name in names if name != unit(path)}


def _is_type_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def test_every_module_has_a_rung_and_every_rung_a_module() -> None:
    assert {unit(path) for path in FILES} == set(RUNGS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_lower_rungs(path: Path) -> None:
    wrong = {name for name in own(path) if RUNGS[name] >= RUNGS[unit(path)]}

    assert not wrong


@pytest.mark.parametrize(("library", "allowed"), [("tornado", TORNADO), ("redis", REDIS), ("httpx", {"client"})])
def test_only_the_named_modules_know_a_library(library: str, allowed: set[str]) -> None:
    users = {unit(path) for path in FILES if any(name.split(".")[0] == library for name in imported(path))}

    assert users <= allowed


def test_only_the_process_itself_starts_servers_and_checks_them() -> None:
    users = {unit(path) for path in FILES if own(path) & PROCESS_ONLY}

    assert users <= {"app", "cli"} | PROCESS_ONLY
