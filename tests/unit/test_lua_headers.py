"""Each script's header is its schema: purpose, KEYS, ARGV and Returns, and the ARGV that it really uses."""

from __future__ import annotations

import re
from itertools import count

import pytest

from presence.lua import PARTS
from tests.support.documents import ROOT

LUA = ROOT / "presence" / "lua"


def header(name: str) -> str:
    """The comment lines at the top of a script, without their marks."""
    lines = (LUA / f"{name}.lua").read_text("utf-8").split("\n")
    end = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(line.removeprefix("--").strip() for line in lines[:end])


def documented(name: str) -> set[int]:
    """Numbers of the arguments that the header names, as far as they count up from 1."""
    text = re.search(r"^ARGV: (.*?)(?=^Returns: )", header(name), re.MULTILINE | re.DOTALL)
    assert text, "the header has no ARGV before its Returns"
    numbers = {int(number) for number in re.findall(r"(?:^|[\s,])(\d+) (?=[a-z])", text[1])}
    return set(range(1, next(number for number in count(1) if number not in numbers)))


def used(name: str) -> set[int]:
    """Numbers of the arguments that the script and the parts before it read; of a loop, those of its first turn."""
    sources = [(LUA / f"{part}.lua").read_text("utf-8") for part in (*PARTS[name], name)]
    text = "\n".join(re.sub(r"--.*", "", source) for source in sources)
    numbers = {int(number) for number in re.findall(r"ARGV\[(\d+)\]", text)}
    loop = re.search(r"for at = (\d+), #ARGV", text)
    if loop:
        steps = re.findall(r"ARGV\[at(?: \+ (\d+))?\]", text)
        numbers |= {int(loop[1]) + int(step or 0) for step in steps}
    return numbers


@pytest.mark.parametrize("name", sorted(PARTS))
def test_a_script_says_what_it_is_for_what_it_takes_and_what_it_returns(name: str) -> None:
    text = header(name)

    assert re.match(r"[A-Z].{10,}", text)
    assert re.search(r"^KEYS: 1 guard, 2 never$", text, re.MULTILINE)
    assert re.search(r"^Returns: \S", text, re.MULTILINE)


@pytest.mark.parametrize("name", sorted(PARTS))
def test_a_script_uses_exactly_the_arguments_that_its_header_names(name: str) -> None:
    assert used(name) == documented(name)


def test_every_script_is_loaded() -> None:
    scripts = {path.stem for path in LUA.glob("*.lua")}

    assert {name for name in scripts if not name.startswith("_")} == set(PARTS)
