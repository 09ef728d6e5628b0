"""One server process under test, started as an operator starts it: `python -m presence serve` and PRESENCE_* settings.

A node never outlives the tests (Linux: it dies with its parent, even by SIGKILL) and writes its output to files,
so that a full pipe cannot stop it and a failed test can show the tail.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.support import tokens

ROOT = Path(__file__).resolve().parents[2]
READY = re.compile(r"^presence ready (?P<url>http://\S+) node=(?P<node>\S+) redis=(?P<redis>\S+)", re.MULTILINE)
PR_SET_PDEATHSIG = 1
QUICK = {"ttl_ms": 2000, "grace_ms": 500, "ping_ms": 500, "drain_ms": 500}
"""Settings of most tests: short enough to wait for, long enough for two busy cores."""


class Node:
    """A running (or ended) server process. Create with `Node.start` or, for several at once, `launch` + `ready`."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, log: Path) -> None:
        self.process = process
        self.out = out
        self.log = log
        self.url = ""
        self.name = ""
        self.redis = ""
        self._paused = False

    @classmethod
    def start(cls, directory: Path, redis_url: str, *, preload: str | None = None, **settings: Any) -> Node:
        """Start a node and wait for its ready line."""
        return cls.launch(directory, redis_url, preload=preload, **settings).ready()

    @classmethod
    def launch(
        cls,
        directory: Path,
        redis_url: str,
        *,
        preload: str | None = None,
        arguments: tuple[str, ...] = (),
        **settings: Any,
    ) -> Node:
        """Start a node without waiting. `preload` names a module imported before the server, which may patch it."""
        number = len(list(directory.glob("node-*.log"))) + 1
        out, log = directory / f"node-{number}.out", directory / f"node-{number}.log"
        with out.open("wb") as stdout, log.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, *_program(preload), "serve", *arguments],
                cwd=ROOT,
                env=_environment(redis_url, settings),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        return cls(process, out, log)

    def ready(self, within_s: float = 20.0) -> Node:
        """Wait for the ready line; fail with the log when the process ends or time is up."""
        ends = time.monotonic() + within_s
        while (found := READY.search(self.out.read_text())) is None:
            if self.process.poll() is not None:
                raise AssertionError(f"the node ended with {self.process.returncode}:\n{self.tail()}")
            if time.monotonic() > ends:
                self.kill()
                raise AssertionError(f"the node was not ready within {within_s} s:\n{self.tail()}")
            time.sleep(0.02)
        self.url, self.name, self.redis = found["url"], found["node"], found["redis"]
        return self

    @property
    def ws_url(self) -> str:
        """The node's address for WebSockets."""
        return self.url.replace("http", "ws", 1)

    @property
    def running(self) -> bool:
        """Whether the process is there (a paused one is)."""
        return self.process.poll() is None

    def terminate(self) -> None:
        """Ask the node to drain (SIGTERM) and return at once."""
        self.process.terminate()

    def stop(self, within_s: float = 15.0) -> int:
        """Drain the node and return its exit code; kill it when it does not go."""
        self.resume()
        if self.running:
            self.process.terminate()
        return self.wait(within_s)

    def wait(self, within_s: float = 15.0) -> int:
        """Wait for the end of a node that was told to go, and return its exit code."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the node did not stop within {within_s} s:\n{self.tail()}") from None

    def kill(self) -> None:
        """End the node at once (SIGKILL), as a crash does."""
        if self.running:
            self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """Freeze the process (SIGSTOP)."""
        self.process.send_signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """Let a frozen process go on."""
        if self._paused and self.running:
            self.process.send_signal(signal.SIGCONT)
        self._paused = False

    def tail(self, lines: int = 40) -> str:
        """The last lines of its log, and what it printed."""
        log = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join([*self.out.read_text(errors="replace").splitlines()[-5:], *log])

    def complaints(self) -> list[str]:
        """Log lines that no test expects: tracebacks and tasks that nobody awaited."""
        words = ("Traceback", "was never retrieved", "was destroyed but it is pending", "never awaited")
        return [line for line in self.log.read_text(errors="replace").splitlines() if any(w in line for w in words)]


def _program(preload: str | None) -> list[str]:
    if preload is None:
        return ["-m", "presence"]
    return ["-c", f"import sys, {preload}; from presence.cli import main; sys.exit(main())"]


def _environment(redis_url: str, settings: dict[str, Any]) -> dict[str, str]:
    """The caller's environment without its own PRESENCE_* settings, plus the test's."""
    chosen: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": 0,
        "redis_url": redis_url,
        "token_secret": f"{tokens.SECRET},{tokens.OLD_SECRET}",
        "api_keys": tokens.API_KEY,
        "read_keys": tokens.READ_KEY,
        **QUICK,
        **settings,
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PRESENCE_")}
    given = {f"PRESENCE_{name.upper()}": str(value) for name, value in chosen.items() if value is not None}
    return {**kept, "PYTHONUNBUFFERED": "1", **given}


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
