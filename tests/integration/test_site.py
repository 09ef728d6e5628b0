"""The site that Sphinx makes of docs/: it builds without a warning, hangs together, and needs nobody else's server."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.support.documents import DOCS

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
"""Elements that a browser fetches without being asked, and where they say from."""


class Page(HTMLParser):
    """What a page links to, loads, and can be linked to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what counts."""
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in LOADED and LOADED[tag] in given:
            self.loaded.append(given[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the built pages."""
    pytest.importorskip("sphinx", reason="needs the extra `docs`")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(DOCS), str(out)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert built.returncode == 0, built.stderr
    return out


@pytest.fixture(scope="module")
def built(site: Path) -> dict[str, Page]:
    """The built pages by file name."""
    return {path.name: Page(path) for path in site.glob("*.html")}


def test_every_page_of_the_documentation_can_be_reached_from_the_first_by_links(built: dict[str, Page]) -> None:
    reached, found = set(), {"index.html"}
    while found:
        reached |= found
        found = {urlsplit(link).path for name in found for link in built[name].links} & built.keys() - reached

    assert {page.stem + ".html" for page in DOCS.glob("*.md")} <= reached


def test_every_link_inside_the_site_leads_somewhere(site: Path, built: dict[str, Page]) -> None:
    broken = []
    for name, page in built.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = unquote(parts.path) or name
            known = built[target].ids if target in built else set()
            if not (site / target).exists() or (parts.fragment and unquote(parts.fragment) not in known):
                broken.append(f"{name}: {link}")

    assert not broken


def test_the_site_loads_nothing_from_elsewhere(site: Path, built: dict[str, Page]) -> None:
    foreign = {loaded for page in built.values() for loaded in page.loaded if urlsplit(loaded).netloc}
    styles = "".join(path.read_text("utf-8") for path in site.rglob("*.css"))

    assert not foreign
    assert not re.findall(r"url\(\s*[\"']?(?:https?:)?//|@import\s+[\"'](?:https?:)?//", styles)


def test_the_documents_for_programs_and_the_dashboard_can_be_downloaded(site: Path) -> None:
    offered = {path.name for path in (site / "_downloads").rglob("*") if path.is_file()}

    assert {"openapi.yaml", "asyncapi.yaml", "schemas.yaml", "presence.json", "alerts.yml"} <= offered
