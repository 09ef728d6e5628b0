"""The tutorial and the README's example do what they say, against a server started as they say."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documents import DOCS, ROOT, blocks
from tests.support.node import READY
from tests.support.programs import need_program

ADDRESS = "http://127.0.0.1:8080"
SETTINGS = {"PRESENCE_API_KEYS": "tutorial-key", "PRESENCE_TTL_MS": "600000"}
STARTING_S = 30.0
SHELL_S = 60.0


@pytest.fixture
def dev_server(tmp_path: Path) -> Iterator[str]:
    """`presence serve --dev` on an embedded server and a free port; its address."""
    need_program("curl")
    output, log = tmp_path / "out", tmp_path / "log"
    with output.open("wb") as out, log.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "presence", "serve", "--dev", "--port", "0", "--data-dir", str(tmp_path / "data")],
            cwd=ROOT,
            env={**_clean_environment(), **SETTINGS},
            stdout=out,
            stderr=err,
        )
    try:
        yield _address(process, output, log)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        process.kill()
        process.wait()


@pytest.mark.parametrize("page", ["tutorial.md", "mailboxes.md"])
def test_the_commands_of_a_page_print_what_it_says(page: str, dev_server: str, tmp_path: Path) -> None:
    steps = [step for block in blocks(DOCS / page, "console") for step in _steps(block)]
    script = "\n".join(f"{command}\necho '--- end of {number}'" for number, (command, _) in enumerate(steps))

    output = _run(script.replace(ADDRESS, dev_server), tmp_path)
    position = 0
    for number, (command, expected) in enumerate(steps):
        end = output.find(f"--- end of {number}\n", position)
        assert end >= 0, f"did not come to its end: {command}\n{output[-3000:]}"
        printed = output[position:end]
        for line in expected:
            assert re.search(_loosely(line), printed, re.MULTILINE), f"{command}\nprinted\n{printed}\nnot\n{line}"
        position = end + len(f"--- end of {number}\n")


def test_the_tutorial_starts_the_server_that_its_commands_need() -> None:
    (first, *_) = blocks(DOCS / "tutorial.md", "sh")

    settings = " ".join(f"{name}={value}" for name, value in SETTINGS.items())
    assert f"\n{settings} .venv/bin/presence serve --dev\n" in first


def test_in_the_readme_one_terminal_tells_that_the_other_was_killed(dev_server: str, tmp_path: Path) -> None:
    example = blocks(ROOT / "README.md", "sh")[2].replace(ADDRESS, dev_server)
    ann_output = tmp_path / "ann"

    ann = _terminal(example, ann_output, tmp_path)
    bob = None
    try:
        _wait_for(ann_output, '"type":"joined"')
        bob = _terminal(example.replace("me=ann as=observer", "me=bob as=member"), tmp_path / "bob", tmp_path)
        _wait_for(ann_output, '"type":"join","user":"bob"')
        _end(bob)
        _wait_for(ann_output, '"type":"leave","user":"bob","reason":"timeout"')
    finally:
        _end(ann)
        if bob is not None:
            _end(bob)


def test_the_readme_begins_with_one_line_to_serve_and_one_to_test() -> None:
    serve, test, _ = blocks(ROOT / "README.md", "sh")

    begin = "python3 -m venv .venv && .venv/bin/pip install -q "
    assert serve == f"{begin}'.[embedded]' && .venv/bin/presence serve --dev\n"
    assert test == f"{begin}-e '.[embedded,test]' && .venv/bin/pytest\n"


def _steps(block: str) -> list[tuple[str, list[str]]]:
    """Commands of a console block with the lines that each is to print."""
    steps: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], []))
        elif line:
            steps[-1][1].append(line)
    return steps


def _loosely(line: str) -> str:
    return "^" + ".*".join(re.escape(part) for part in line.split("…")) + "$"


def _run(script: str, folder: Path) -> str:
    """Run a script in a shell of its own process group, and end whatever it left in the background."""
    output = folder / "shell"
    shell = _terminal(script, output, folder)
    with contextlib.suppress(subprocess.TimeoutExpired):
        shell.wait(SHELL_S)
    _end(shell)
    return output.read_text("utf-8")


def _terminal(script: str, output: Path, folder: Path) -> subprocess.Popen[bytes]:
    with output.open("wb") as out:
        return subprocess.Popen(
            [need_program("bash"), "-c", script],
            cwd=folder,
            env=_clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _end(shell: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGKILL)
    shell.wait()


def _wait_for(output: Path, text: str, within_s: float = 20.0) -> None:
    ends = time.monotonic() + within_s
    while text not in (seen := output.read_text("utf-8")):
        assert time.monotonic() < ends, f"{text} was not printed within {within_s} s:\n{seen}"
        time.sleep(0.05)


def _address(process: subprocess.Popen[bytes], output: Path, log: Path) -> str:
    ends = time.monotonic() + STARTING_S
    while (found := READY.search(output.read_text("utf-8"))) is None:
        assert process.poll() is None and time.monotonic() < ends, log.read_text("utf-8")
        time.sleep(0.05)
    return found["url"]


def _clean_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PRESENCE_")}
    return {**kept, "PYTHONUNBUFFERED": "1"}
