"""Worker processes to be killed: each works with the Python client and writes into a journal what it has done.

Run as a program it loads the client once and then forks a worker for each line on its input; it answers with the
worker's process id. Workers end with the program, however that ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from presence.client import Client, Event

ROOT = Path(__file__).resolve().parents[2]
PR_SET_PDEATHSIG = 1


class Entry(NamedTuple):
    """One line of the journal: this process has handled that event, of that user."""

    pid: int
    event: str
    user: str
    deliveries: int


class Journal:
    """What all workers have done, in order. Each line is one write, so a killed worker leaves no half of one; who
    reads meanwhile may see the first half."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self.entries: list[Entry] = []
        self._read = 0

    def read(self) -> list[Entry]:
        """All entries so far."""
        with self.path.open("rb") as journal:
            journal.seek(self._read)
            text = journal.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.decode().splitlines():
            pid, event, user, deliveries = line.split()
            self.entries.append(Entry(int(pid), event, user, int(deliveries)))
        return self.entries

    def repetitions(self) -> list[Entry]:
        """Those entries after which another one follows for the same user."""
        rows: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.read():
            rows[entry.user].append(entry)
        return [entry for row in rows.values() for entry in row[:-1]]

    def taken_again(self) -> list[Entry]:
        """Those that somebody else had before."""
        return [entry for entry in self.read() if entry.deliveries > 1]

    def counts(self) -> Counter[str]:
        """How often each user's departure was handled."""
        return Counter(entry.user for entry in self.read())


class Crew:
    """Any number of workers on one queue."""

    def __init__(self, url: str, key: str, group: str, journal: Path, pause_s: float, **options: Any) -> None:
        """No worker yet. Each handler pauses so long; `options` are the worker's."""
        told = {"url": url, "key": key, "group": group, "journal": str(journal), "pause_s": pause_s, "options": options}
        self.log = journal.with_suffix(".log")
        """What the workers complain of."""
        with self.log.open("wb") as log:
            self._program = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.worker_process", json.dumps(told)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.working: list[int] = []
        self.killed: list[int] = []

    def hire(self) -> int:
        """One more worker; its process id."""
        assert self._program.stdin and self._program.stdout
        print("work", file=self._program.stdin, flush=True)
        self.working.append(int(self._program.stdout.readline()))
        return self.working[-1]

    def kill(self, pid: int) -> None:
        """End a worker in the middle of whatever it does."""
        os.kill(pid, signal.SIGKILL)
        self.working.remove(pid)
        self.killed.append(pid)

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Send it another signal."""
        os.kill(pid, number)

    def close(self) -> None:
        """End all."""
        self._program.kill()
        self._program.wait()
        for pipe in (self._program.stdin, self._program.stdout):
            assert pipe
            pipe.close()


def _work(told: dict[str, Any]) -> None:
    journal, pid = os.open(told["journal"], os.O_WRONLY | os.O_APPEND), os.getpid()

    def handle(event: Event) -> None:
        time.sleep(told["pause_s"])
        os.write(journal, f"{pid} {event.id} {event.user} {event.deliveries}\n".encode())

    with Client(told["url"], told["key"]) as client:
        client.queue(told["group"]).worker(handle, **told["options"]).run()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Fork a worker for each line of the input."""
    told = json.loads(sys.argv[1])
    _die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the killed ones
    while sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            _die_with_parent()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(0)
            try:
                _work(told)
            finally:
                os._exit(0)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
