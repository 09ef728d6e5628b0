"""The documentation says what the code does: tables, ladder and links are compared."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from presence.errors import ERRORS, CloseCode
from presence.keys import KINDS
from presence.lua import PARTS
from presence.metrics import Metrics
from presence.settings import FIELDS
from tests.support.documents import DOCS, PAGES, ROOT, anchors, code, links, section, tables


def test_the_settings_page_lists_every_setting_with_its_default_and_unit() -> None:
    documented = {code(row[0]): (_default(row[1]), row[2]) for row in tables(DOCS / "settings.md", "setting")}

    actual = {
        f"PRESENCE_{name.upper()}": ("" if name == "data_dir" else _plain(field.default), field.metadata["unit"])
        for name, field in FIELDS.items()
    }
    assert documented == actual


def test_the_metrics_page_lists_every_metric_with_its_type_and_labels() -> None:
    documented = {
        code(row[0]): (row[1], frozenset(re.findall(r"`(\w+)`", row[2])))
        for row in tables(DOCS / "metrics.md", "metric")
    }

    page = Metrics().render()[0].decode()
    actual = {}
    for family in text_string_to_metric_families(page):
        if family.name.startswith("presence_"):
            labels = frozenset(name for sample in family.samples for name in sample.labels) - {"le"}
            suffix = "_total" if family.type == "counter" else ""
            actual[family.name + suffix] = (family.type, labels)
    assert documented == actual


def test_the_protocol_page_lists_every_error_code_with_its_status() -> None:
    documented = {code(row[0]): int(row[1]) for row in tables(DOCS / "protocol.md", "code") if code(row[0])}

    assert documented == {name: error.status for name, error in ERRORS.items()}


def test_the_protocol_page_lists_every_close_code() -> None:
    documented = {int(row[0]): row[1] for row in tables(DOCS / "protocol.md", "code") if row[0].isdigit()}

    assert documented == {int(close): close.name for close in CloseCode}


def test_the_keys_page_lists_every_key_with_its_redis_type() -> None:
    rows = tables(DOCS / "redis-keys.md", "key after `PREFIX:{pN}:`")
    documented = {str(code(row[0])).partition(":")[0]: row[1] for row in rows}
    del documented["never"]  # the key that nobody writes

    assert documented == KINDS


def test_the_keys_page_lists_every_script() -> None:
    assert {code(row[0]) for row in tables(DOCS / "redis-keys.md", "script")} == set(PARTS)


def test_the_architecture_page_explains_every_module() -> None:
    explained = {code(row[0]) for row in tables(DOCS / "architecture.md", "module")}

    package = ROOT / "presence"
    modules = {path.stem for path in package.glob("*.py") if not path.stem.startswith("__")}
    folders = {path.name for path in package.iterdir() if (path / "__init__.py").exists()}
    assert explained == modules | folders


def test_every_file_that_the_architecture_page_sends_to_exists() -> None:
    named = re.findall(r"`([\w/]+\.(?:py|lua))`", section(DOCS / "architecture.md", '"I want to change …"'))

    folders = [ROOT, ROOT / "presence", ROOT / "presence" / "handlers"]
    missing = [name for name in named if not any((folder / name).exists() for folder in folders)]
    assert named
    assert not missing


def test_decisions_are_numbered_without_a_hole() -> None:
    numbers = re.findall(r"^## (\d+)\. ", (DOCS / "decisions.md").read_text("utf-8"), re.MULTILINE)

    assert [int(number) for number in numbers] == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_internal_link_leads_somewhere(page: Path) -> None:
    inside = [target for target in links(page) if not re.match(r"[a-z+]+:", target)]

    broken = [target for target in inside if not _resolves(page, target)]
    assert not broken


def test_no_page_is_left_out_of_the_table_of_contents() -> None:
    contents = (DOCS / "index.md").read_text("utf-8").partition("{toctree}")[2].split()

    assert {page.stem for page in DOCS.glob("*.md")} - {"index"} <= set(contents)


def _default(cell: str) -> str:
    return code(cell) or ""  # words without backticks explain what an empty one means


def _plain(default: object) -> str:
    return "" if default in (None, ()) else str(default)


def _resolves(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    return file.exists() and (not anchor or anchor in anchors(file))
