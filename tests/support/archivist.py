"""A worker of the archive under test, started as an operator starts it: `python -m presence archive`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support import tokens
from tests.support.databases import die_with_parent, execute
from tests.support.node import ROOT, Node
from tests.support.waiting import wait_until


class ArchiveWorker:
    """A running (or ended) worker process."""

    def __init__(self, folder: Path, node: Node, database: str, *arguments: str) -> None:
        self.log = folder / f"archive-{len(list(folder.glob('archive-*.log'))) + 1}.log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PRESENCE_")}
        environment |= {"PRESENCE_API_KEYS": tokens.API_KEY, "PYTHONUNBUFFERED": "1"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "presence", "archive", "--server", node.url, "--database", database, *arguments],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,
            )

    def says(self, event: str) -> bool:
        """Whether it has logged that event."""
        return re.search(rf"\b{event}\b", self.text()) is not None

    def text(self) -> str:
        """All that it has logged."""
        return self.log.read_text(errors="replace")

    def ready(self) -> ArchiveWorker:
        """Wait until the queue is there."""
        wait_until(lambda: self.says("archive_ready") or self.ended(), "archive_ready", 20)
        assert not self.ended(), self.text()
        return self

    def ended(self) -> bool:
        """Whether the process is gone."""
        return self.process.poll() is not None

    def pause(self) -> None:
        """Freeze it."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End the freeze."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, also a frozen one."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Tell it to go; its exit code."""
        self.process.terminate()
        return self.process.wait(20)

    def complaints(self) -> list[str]:
        """Log lines that no test expects."""
        words = ("Traceback", "was never retrieved", "never awaited")
        return [line for line in self.text().splitlines() if any(word in line for word in words)]


def rows(database: str, **wanted: Any) -> list[dict[str, Any]]:
    """The archived rows, as an operator reads them; names as texts also where they are bytes."""
    where = " AND ".join(f"{name} = '{value}'" for name, value in wanted.items()) or "1 = 1"
    found = execute(database, f"SELECT * FROM ended_presences WHERE {where} ORDER BY generation")
    return [
        {name: value.decode() if isinstance(value, bytes) else value for name, value in row._mapping.items()}
        for row in found
    ]


def count(database: str) -> int:
    """How many rows there are; 0 also before the table is there."""
    try:
        return int(execute(database, "SELECT count(*) FROM ended_presences")[0][0])
    except Exception:
        return 0
