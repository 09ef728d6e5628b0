"""A real Redis of a test's own, on a free loopback port, to be frozen, killed, emptied and brought back.

Its configuration is that of docs/deploy.md, plus what a test wants of its own.

It is a plain child of the test process and dies with it. On Linux that is PR_SET_PDEATHSIG, which fires when
the *thread* that started the server ends: start it in a thread that stays (fixtures run in the main one).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import redis

from presence.embedded import find_program
from tests.support.documents import options
from tests.support.redis_lock import Lock

READY_S = 10.0
PR_SET_PDEATHSIG = 1
SOONER = {"repl-diskless-sync-delay": "0"}
"""Of servers with replicas: a test does not wait for more of them to ask for the data."""


class RedisServer:
    """One redis-server process; `restart()` keeps its port, so clients find it again."""

    def __init__(
        self,
        directory: Path | None = None,
        *,
        appendonly: bool = True,
        notifications: str | None = None,
        config: Mapping[str, str] | None = None,
        lines: tuple[str, ...] = (),
        start: bool = True,
        program: str | None = None,
        lock: Lock | None = None,
    ) -> None:
        """Start at once. `config` holds options by name, `lines` whole lines of configuration (`user …`), `program`
        the server to run instead of the one that the embedded server would be, `lock` who may enter and how."""
        self._own_directory = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="presence-redis-"))
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = 0
        self.lock = lock
        self._options = {
            **options("redis.conf: every server"),
            **({} if appendonly else {"appendonly": "no"}),
            **({} if notifications is None else {"notify-keyspace-events": f'"{notifications}"'}),
            **(lock.options("redis.conf", "users", "TLS") if lock else {}),
            **(config or {}),
        }
        self._lines = lines
        self.program = program
        self._process: subprocess.Popen[bytes] | None = None
        self.paused = False
        self._client: redis.Redis | None = None
        if start:
            self.start()

    @property
    def url(self) -> str:
        """The URL of database 0; if it is locked that of the nodes' user, else without user and password."""
        if self.lock:
            return self.lock.url("one Redis", [self.port])
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives (frozen counts as living)."""
        return self._process is not None and self._process.poll() is None

    def client(self) -> redis.Redis:
        """The one synchronous client of this server, closed with it; its answers are bytes."""
        if self._client is None:
            login = self.lock.login() if self.lock else {}
            self._client = redis.Redis(host="127.0.0.1", port=self.port, socket_timeout=5, **login)
        return self._client

    def start(self) -> None:
        """Start the process and wait until it answers; a port that was taken meanwhile is tried anew."""
        assert not self.running, "the server is running"
        chosen = self.port
        for attempt in range(3):
            self.port = chosen or _free_port()
            self._process = self._spawn()
            if self._answers():
                return
            self.kill()
            if chosen or attempt == 2 or "Address already in use" not in self.log():
                break
        raise AssertionError(f"redis-server did not start:\n{self.log()[-2000:]}")

    def pause(self) -> None:
        """Freeze it as a stopped machine would be: connections stay, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        """End the freeze; does nothing where none is."""
        if self.running:
            os.kill(self.pid, signal.SIGCONT)
        self.paused = False

    def kill(self) -> None:
        """End it without a chance to write anything more (SIGKILL); works on a frozen one too."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.paused = False

    def restart(self, empty: bool = False) -> None:
        """SIGKILL it if it runs; start it on the same port, with its append-only file or with nothing."""
        self.kill()
        if empty:
            for path in self.directory.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.start()

    def stop(self) -> None:
        """End it for good and remove a directory that this object made; repeating it does nothing."""
        if self._client is not None:
            self._client.close()
            self._client = None
        self.kill()
        if self._own_directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    def log(self) -> str:
        """What the server has logged so far."""
        path = self.directory / "redis.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _options_text(self) -> str:
        return config_text(self._options | self._place(), *self._lines)

    def _place(self) -> dict[str, str]:
        """What is each server's own."""
        port = "tls-port" if self.lock and self.lock.certificates else "port"
        return {"bind": "127.0.0.1", "dir": f'"{self.directory}"', port: str(self.port)}

    def _arguments(self) -> list[str]:
        return []

    def _spawn(self) -> subprocess.Popen[bytes]:
        config = self.directory / "redis.conf"
        config.write_text(self._options_text())
        with (self.directory / "redis.log").open("ab") as log:
            return subprocess.Popen(
                [self.program or find_program(), str(config), *self._arguments()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with(os.getpid()),
            )

    def _connect(self) -> socket.socket:
        if self.lock:
            return self.lock.connect(self.port)
        return socket.create_connection(("127.0.0.1", self.port), timeout=1)

    def _answers(self) -> bool:
        """Whether it says anything but LOADING in its time; a refused PING (a password) is an answer too."""
        ends = time.monotonic() + READY_S
        while self.running and time.monotonic() < ends:
            try:
                with self._connect() as connection:
                    connection.sendall(b"PING\r\n")
                    if not connection.recv(100).startswith((b"-LOADING", b"-MASTERDOWN")):
                        # Another server may have taken the port before ours could: then ours is about to end.
                        return self.running and "Address already in use" not in self.log()[-2000:]
            except OSError:
                pass
            time.sleep(0.01)
        return False


def config_text(options: Mapping[str, str], *lines: str) -> str:
    """A file of configuration."""
    return "\n".join([*(f"{name} {value}" for name, value in options.items()), *lines, ""])


def _die_with(parent: int) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def child() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return child


def _free_port() -> int:
    """A port that nobody has now, with room for the port of a Cluster's bus, 10,000 above it."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port < 55_000:
            return port
