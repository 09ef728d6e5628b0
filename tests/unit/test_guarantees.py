"""Every test that docs/guarantees.md names is there."""

from __future__ import annotations

import re

from tests.support.documents import DOCS, ROOT

TEXT = (DOCS / "guarantees.md").read_text("utf-8")


def test_the_tests_behind_the_guarantees_exist() -> None:
    files = {path.name: path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    source = "\n".join(files.values())
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    missing = {name for name in named if not re.search(rf"def {name}\b", source)}
    missing |= {name for name in re.findall(r"`(test_\w+\.py)`", TEXT) if name not in files}

    assert len(named) > 15
    assert not missing


def test_the_cases_of_the_failovers_exist() -> None:
    source = (ROOT / "tests" / "chaos" / "test_failover.py").read_text("utf-8")
    cases = re.findall(r"^\|[^|]*\| `(\w+)` \|$", TEXT, re.MULTILINE)
    cases = [case for case in cases if not case.startswith("test_")]
    played = set(re.findall(r"^ {4}(?:pytest\.param\()?(\w+),", source, re.MULTILINE))

    assert len(cases) >= 11
    assert set(cases) <= played
    assert all(f"async def {case}(scene: Scene)" in source for case in cases)
