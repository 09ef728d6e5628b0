"""The process between a node and its embedded server: it ends the server when the node is gone, however.

It reads a pipe that ends with the node. PR_SET_PDEATHSIG on the server alone would not do: only Linux has it,
and it fires when the *thread* that forked ends. This process has one thread, so here it is safe, and a killed
supervisor leaves no server behind either. It runs as a script without site-packages,
`supervisor.py LOCK COMMAND…`: import only the standard library.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
LOOK_S = 0.25
GOOD_START_S = 2.0
STOP_S = 5.0


def supervise(lock: int, command: list[str]) -> int:
    """Run the command until the node is gone; start it again if it is killed, or ends after a good start.

    SIGTERM is not for this process: whoever sends it to a whole group (systemd, an init in a container) means
    the node, which drains and needs its server until it closes the pipe.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    node = os.getppid()
    while True:
        began = time.monotonic()
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(lock,), preexec_fn=_tied_to(os.getpid()))
        _note(lock, server.pid)
        while server.poll() is None:
            if _is_gone(node):
                return _end(server)
        if server.returncode >= 0 and time.monotonic() - began < GOOD_START_S:
            return server.returncode or 1
        if _is_gone(node):
            return 0


def _note(lock: int, pid: int) -> None:
    """Write into the lock file who holds it, for a later node that finds it held."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(pid).encode(), 0)


def _is_gone(node: int) -> bool:
    """Look for a moment. A child of the node may hold the pipe open, so the parent's id counts too."""
    readable, _, _ = select.select([0], [], [], LOOK_S)
    return bool(readable) or os.getppid() != node


def _end(server: subprocess.Popen[bytes]) -> int:
    """SIGTERM, on which the server writes out its append-only file; SIGKILL where it hangs."""
    server.terminate()
    try:
        return server.wait(STOP_S)
    except subprocess.TimeoutExpired:
        server.kill()
        return server.wait()


def _tied_to(supervisor: int) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def child() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != supervisor:
            os._exit(1)

    return child


if __name__ == "__main__":
    sys.exit(supervise(int(sys.argv[1]), sys.argv[2:]))
