"""Dashboard and alert rules as tests read them: their expressions, and what these ask for."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support.documents import DOCS
from tests.support.programs import need_program

FOLDER = DOCS / "monitoring"
RULES = FOLDER / "alerts.yml"
RULE_TESTS = FOLDER / "alerts_test.yml"
DASHBOARD = FOLDER / "presence.json"

_SELECTOR = re.compile(r"\b(?P<name>(?:presence|process)_\w+|up)\b(?:\{(?P<labels>[^}]*)\})?")
_MATCHER = re.compile(r'(?P<label>\w+)\s*(?P<how>=~|=|!=|!~)\s*"(?P<value>[^"]*)"')
_GROUPING = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")
_VARIABLES = {"$job": "presence", "$instance": ".*", "$__rate_interval": "5m"}


@dataclass
class Selector:
    """One metric that an expression asks for, and by which labels."""

    name: str
    labels: dict[str, str] = field(default_factory=dict)
    """Those that must be equal to a value."""
    others: set[str] = field(default_factory=set)


def rules() -> list[dict[str, Any]]:
    """All alert rules."""
    return [rule for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """All panels of the dashboard, rows included."""
    return list(json.loads(DASHBOARD.read_text("utf-8"))["panels"])


def expressions() -> list[str]:
    """What the dashboard asks, with its variables filled in."""
    found = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    for name, value in _VARIABLES.items():
        found = [expression.replace(name, value) for expression in found]
    return found


def selectors(expression: str) -> Iterator[Selector]:
    """The metrics in an expression."""
    for match in _SELECTOR.finditer(_GROUPING.sub("", expression)):
        selector = Selector(match["name"])
        for matcher in _MATCHER.finditer(match["labels"] or ""):
            if matcher["how"] == "=":
                selector.labels[matcher["label"]] = matcher["value"]
            else:
                selector.others.add(matcher["label"])
        yield selector


def grouped_by(expression: str) -> set[str]:
    """The labels by which an expression groups."""
    return {name.strip() for match in _GROUPING.finditer(expression) for name in match[1].split(",")}


def promtool(*arguments: str | Path, text: str | None = None) -> str:
    """Run promtool, which must be content; what it said."""
    command = [need_program("promtool"), *map(str, arguments)]
    ran = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr
