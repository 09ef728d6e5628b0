"""Takes one guard out of the server, to prove that a test notices when it is missing.

A guard is named by the exact text that makes it work. The text must stand there exactly once: a guard that moves or
changes makes its tests fail loudly instead of proving nothing.
"""

from __future__ import annotations
import __future__

import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import presence.lua


@dataclass(frozen=True)
class Cut:
    """One text and what stands there instead. `where`: `name.lua`, or `module:Class.function`."""

    where: str
    text: str
    instead: str = ""


@contextmanager
def without(*cuts: Cut) -> Iterator[None]:
    """Run with these texts replaced, for scripts and functions that are looked up meanwhile."""
    undo: list[Callable[[], None]] = []
    try:
        for cut in cuts:
            undo.append(_cut_script(cut) if cut.where.endswith(".lua") else _cut_function(cut))
        yield
    finally:
        for put_back in reversed(undo):
            put_back()


@contextmanager
def changed(owner: Any, name: str, value: object) -> Iterator[None]:
    """Another value of a constant, for a while."""
    put_back = _set(owner, name, value)
    try:
        yield
    finally:
        put_back()


def _replaced(text: str, cut: Cut) -> str:
    found = text.count(cut.text)
    assert found == 1, f"the guard of {cut.where} has moved: {cut.text!r} stands there {found} times"
    return text.replace(cut.text, cut.instead)


def _cut_script(cut: Cut) -> Callable[[], None]:
    """Scripts are read when a node is made; the parts put before a script count as its text."""
    name, read = cut.where.removesuffix(".lua"), presence.lua.read_script
    _replaced(read(name), cut)

    def read_cut(wanted: str) -> str:
        text = read(wanted)
        return _replaced(text, cut) if wanted == name else text

    return _set(presence.lua, "read_script", read_cut)


def _cut_function(cut: Cut) -> Callable[[], None]:
    """Compile the function's own source again, with the text replaced."""
    module_name, _, path = cut.where.partition(":")
    module = importlib.import_module(module_name)
    *outer, name = path.split(".")
    owner: Any = module
    for part in outer:
        owner = getattr(owner, part)
    source = _replaced(textwrap.dedent(inspect.getsource(inspect.unwrap(getattr(owner, name)))), cut)
    made: dict[str, Any] = {}
    code = compile(source, f"<{cut.where} without a guard>", "exec", __future__.annotations.compiler_flag, True)
    exec(code, vars(module), made)
    return _set(owner, name, made[name])


def _set(owner: Any, name: str, value: Any) -> Callable[[], None]:
    old = vars(owner)[name]
    setattr(owner, name, value)
    return lambda: setattr(owner, name, old)
