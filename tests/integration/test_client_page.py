"""The pages about the Python client and about queues: their examples run as they stand there, against a server with
another address."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from presence import client
from presence.client import Client
from presence.client.worker import Terms
from tests.support import tokens
from tests.support.documents import DOCS, ROOT, blocks, code, tables
from tests.support.middle import Middle
from tests.support.node import Node
from tests.support.programs import need_program
from tests.support.waiting import wait_until

PAGE = DOCS / "client.md"
ADDRESS = "http://127.0.0.1:8080"
SCRIPTS = [(PAGE, 1), (DOCS / "queues.md", 0)]


class Example:
    """One block of the page as a running program."""

    def __init__(self, text: str, url: str, output: Path, program: list[str], key: str = tokens.API_KEY) -> None:
        assert ADDRESS in text
        self._output = output
        with output.open("wb") as out:
            self._process = subprocess.Popen(
                [*program, "-c", text.replace(ADDRESS, url)],
                cwd=ROOT,
                env={**os.environ, "KEY": key},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def printed(self) -> str:
        """What it has printed so far."""
        return self._output.read_text()

    def prints(self, pattern: str) -> None:
        """Wait until it has printed this."""
        wait_until(lambda: re.search(pattern, self.printed), f"{pattern} in the output", 15)

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def end(self, number: signal.Signals) -> int:
        """End it with all its children; its exit code."""
        os.killpg(self._process.pid, number)
        return self._process.wait(15)

    def wait(self) -> str:
        """What it has printed when it has ended by itself."""
        assert self._process.wait(30) == 0, self.printed
        return self.printed


@pytest.fixture
def node(own_nodes: object) -> Iterator[Node]:
    """A server that has seen nobody yet."""
    yield own_nodes(1)[0]  # type: ignore[operator]


def python(number: int, node: Node, tmp_path: Path) -> Example:
    return Example(blocks(PAGE, "python")[number], node.url, tmp_path / f"out-{number}", [sys.executable])


def test_the_first_example_prints_who_is_there(node: Node, tmp_path: Path) -> None:
    printed = python(0, node, tmp_path).wait()

    assert printed == "ann Ann 1\nTrue True\n['join', 'message', 'leave']\n"


def test_the_workers_do_their_work_until_they_are_told_to_stop(node: Node, tmp_path: Path) -> None:
    with Client(node.url, tokens.API_KEY) as back_end:
        back_end.put_member("lobby", "ann")
        back_end.remove_member("lobby", "ann")
        worker = python(1, node, tmp_path)
        worker.prints(r"^ann was in lobby for \d+ ms\n")
        assert worker.end(signal.SIGTERM) == 0
        assert "Traceback" not in worker.printed


@pytest.mark.parametrize(("page", "number"), SCRIPTS)
def test_the_worker_with_curl_acknowledges_what_it_prints(page: Path, number: int, node: Node, tmp_path: Path) -> None:
    with Client(node.url, tokens.API_KEY) as back_end:
        back_end.put_member("lobby", "bob", state={"id": "a trap"})
        back_end.remove_member("lobby", "bob")
        script = shell(page, number, node.url, tmp_path)
        script.prints('"user":"bob"')
        queue = back_end.queue("billing")
        wait_until(lambda: (queue.status().waiting, queue.status().in_flight) == (0, 0), "curl has acknowledged it")
        script.end(signal.SIGKILL)
    assert "curl:" not in script.printed


@pytest.mark.parametrize(("page", "number"), SCRIPTS)
def test_the_worker_with_curl_neither_spins_nor_ends_where_it_is_refused(
    page: Path, number: int, node: Node, tmp_path: Path
) -> None:
    with Middle(node.url) as middle, Client(node.url, tokens.API_KEY) as back_end:
        stranger = shell(page, number, middle.url, tmp_path, key="wrong")
        tried_thrice(middle, stranger)
        stranger.end(signal.SIGKILL)
        script = shell(page, number, middle.url, tmp_path)
        wait_until(lambda: any("/take" in request for request in middle.requests), "it takes", 15)
        back_end.queue("billing").end()
        tried_thrice(middle, script)
        back_end.queue("billing").create()
        back_end.put_member("lobby", "cleo")
        script.prints('"user":"cleo"')
        script.end(signal.SIGKILL)


def shell(page: Path, number: int, url: str, tmp_path: Path, key: str = tokens.API_KEY) -> Example:
    return Example(blocks(page, "sh")[number], url, tmp_path / f"curl-{key}", [need_program("bash")], key)


def tried_thrice(middle: Middle, script: Example) -> None:
    """It is refused again and again, and waits in between."""
    before, began = len(middle.requests), time.monotonic()
    wait_until(lambda: len(middle.requests) >= before + 3, "it has tried three times", 20)
    assert time.monotonic() - began >= 1.5
    assert script.runs, script.printed


def test_the_worker_in_a_loop_hears_its_message(node: Node, tmp_path: Path) -> None:
    assert python(2, node, tmp_path).wait() == "message greeting hello\n"


def test_what_waits_for_a_user_is_printed(node: Node, tmp_path: Path) -> None:
    printed = python(3, node, tmp_path).wait()

    assert printed == "@inbox [{'due': 12}] 0\nnews ['Moon landing'] 0\n"


def test_the_worker_takes_ten_lines() -> None:
    lines = [line for line in blocks(PAGE, "python")[1].splitlines() if line]

    assert len(lines) <= 10


def test_the_page_names_every_option_and_every_error() -> None:
    options = {code(row[0]) for row in tables(PAGE, "option of `worker`")}
    rows = list(tables(PAGE, "exception"))
    documented = dict(
        zip(re.findall(r"`(\w+)`", "".join(row[0] for row in rows)), _codes([row[1] for row in rows]), strict=True)
    )

    assert options == set(Terms.__dataclass_fields__)
    kinds = client.PresenceError.__subclasses__()
    assert documented == {kind.__name__: kind.known_as for kind in kinds}


def _codes(cells: list[str]) -> list[str]:
    return [word for cell in cells for word in re.findall(r"`(\w+)`", cell.partition(":")[0])]
