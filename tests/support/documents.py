"""The documentation as tests read it: tables, fenced blocks, links and anchors of the Markdown files."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]

_FENCE = re.compile(r"^```(?P<kind>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")


def blocks(page: Path, kind: str | None = None) -> list[str]:
    """Texts of the page's fenced blocks, of one kind or of all."""
    found = _FENCE.finditer(page.read_text("utf-8"))
    return [block["text"] for block in found if kind in (None, block["kind"].strip())]


def tables(page: Path, first_heading: str) -> Iterator[list[str]]:
    """Rows of all tables of the page whose first column is headed so; cells keep their markup."""
    inside = False
    for line in page.read_text("utf-8").splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            inside = False
        elif cells[0] == first_heading:
            inside = True
        elif inside and not set(cells[0]) <= set("-: "):
            yield cells


def code(cell: str) -> str | None:
    """What a cell has in backticks first, or None."""
    match = re.search(r"`([^`]+)`", cell)
    return match[1] if match else None


def links(page: Path) -> list[str]:
    """Targets of the page's links, code left out."""
    text = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text("utf-8")))
    return [link["target"] for link in _LINK.finditer(text)]


def anchors(page: Path) -> set[str]:
    """Anchors of the page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def section(page: Path, heading: str) -> str:
    """The page's text from a heading of the second level to the next one."""
    text = page.read_text("utf-8")
    start = text.index(f"\n## {heading}\n")
    end = text.find("\n## ", start + 1)
    return text[start : end if end > 0 else len(text)]


@functools.cache
def fragment(title: str) -> str:
    """The fenced block of the page about deploying whose first line is this comment, without that line."""
    (found,) = [block for block in blocks(DOCS / "deploy.md") if block.startswith(f"# {title}\n")]
    return found.partition("\n")[2]


def options(*titles: str) -> dict[str, str]:
    """Lines of these fragments by their directive; that of `sentinel …` and `user …` has two words."""
    found = {}
    for line in (line for title in titles for line in fragment(title).splitlines()):
        words = line.split()
        name = " ".join(words[: 2 if words[0] in ("sentinel", "user") else 1])
        found[name] = line.removeprefix(name).strip()
    return found
