"""The embedded server: private, lasting, alone on its folder, and gone with its node."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from presence import embedded
from presence.embedded import EmbeddedError, EmbeddedServer, find_program
from tests.support.embedded import Start, alive, client, eventually_sync, starting

NODE = """
import sys, time
from pathlib import Path
from presence.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def start() -> Iterator[Start]:
    """Start servers that end with the test."""
    with starting() as launch:
        yield launch


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process with an embedded server on `tmp_path / "data"`, and that server's process id."""
    process = subprocess.Popen([sys.executable, "-c", NODE, str(tmp_path / "data")], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        process.kill()


def eventually_gone(pid: int) -> None:
    eventually_sync(lambda: not alive(pid), what=f"process {pid} ends")


def test_only_its_user_may_enter_the_folder_and_the_socket_and_no_port_is_open(start: Start, tmp_path: Path) -> None:
    server = start(tmp_path / "new" / "data")

    assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700
    assert server.directory == tmp_path / "new" / "data"
    assert stat.S_ISSOCK(server.socket.stat().st_mode)
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700
    assert server.url.startswith("unix:///")
    with client(server) as connection:
        assert connection.config_get("port") == {"port": "0"}


def test_it_runs_with_the_options_that_presence_needs(start: Start, tmp_path: Path) -> None:
    server = start(tmp_path / "data")

    with client(server) as connection:
        options = connection.config_get("appendonly", "appendfsync", "save", "maxmemory-policy")
        flags = connection.config_get("notify-keyspace-events")["notify-keyspace-events"]
    assert options == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    assert set(str(flags)) == {"E", "x"}


def test_data_outlive_a_restart(start: Start, tmp_path: Path) -> None:
    server = start(tmp_path / "data")
    with client(server) as connection:
        connection.set("key", "value")
    server.stop()
    assert not alive(server.pid)
    assert not server.socket.exists()

    server.start()

    with client(server) as connection:
        assert connection.get("key") == "value"


def test_data_of_one_program_are_read_by_another(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged, found = embedded._packaged_program(), find_program()
    if packaged is None or packaged == found:
        pytest.skip("only one program is here")
    with monkeypatch.context() as patched:
        patched.setattr(embedded, "find_program", lambda: packaged)
        server = start(tmp_path / "data")
        with client(server) as connection:
            connection.hset("key", "field", "value")
            connection.zadd("deadlines", {"one": 1})
            connection.bgrewriteaof()
            eventually_sync(lambda: not connection.info("persistence")["aof_rewrite_in_progress"])
        server.stop()

    server.start()

    with client(server) as connection:
        assert connection.hget("key", "field") == "value"


def test_a_server_is_gone_when_its_node_is_killed(node: tuple[subprocess.Popen[str], int]) -> None:
    process, pid = node
    assert alive(pid)

    process.kill()

    eventually_gone(pid)


def test_a_server_is_gone_when_its_supervisor_is_killed(
    node: tuple[subprocess.Popen[str], int],
) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux tells a child of its parent's end")
    _, pid = node
    supervisor = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

    os.kill(supervisor, signal.SIGKILL)

    eventually_gone(pid)


def test_a_new_node_starts_at_once_after_the_old_one_was_killed_and_finds_its_data(
    node: tuple[subprocess.Popen[str], int], start: Start, tmp_path: Path
) -> None:
    process, pid = node
    with client(EmbeddedServer(tmp_path / "data")) as connection:
        connection.set("key", "value")
    process.kill()

    server = start(tmp_path / "data")

    assert not alive(pid)
    with client(server) as connection:
        assert connection.get("key") == "value"


def test_a_node_starts_on_the_folder_of_a_killed_node_whose_server_is_frozen(
    node: tuple[subprocess.Popen[str], int], start: Start, tmp_path: Path
) -> None:
    process, pid = node
    os.kill(pid, signal.SIGSTOP)
    process.kill()

    server = start(tmp_path / "data")

    assert not alive(pid)
    assert server.pid != pid


def test_a_server_outlives_the_thread_that_started_it(start: Start, tmp_path: Path) -> None:
    servers: list[EmbeddedServer] = []
    thread = threading.Thread(target=lambda: servers.append(start(tmp_path / "data")))
    thread.start()
    thread.join()

    with client(servers[0]) as connection:
        time.sleep(0.5)  # the time a wrong death signal would need; there is no condition to wait for
        assert connection.ping()


def test_a_server_that_is_killed_is_started_again_with_its_data(start: Start, tmp_path: Path) -> None:
    server = start(tmp_path / "data")
    with client(server) as connection:
        connection.set("key", "value")
    first = server.pid

    os.kill(first, signal.SIGKILL)

    eventually_sync(lambda: server.pid != first, what="the supervisor starts another")
    eventually_sync(lambda: _value(server) == "value", what="it has the data")


def test_signals_to_the_group_of_a_draining_node_leave_it_its_server(start: Start, tmp_path: Path) -> None:
    server = start(tmp_path / "data")
    assert os.getpgid(server.pid) != os.getpgid(0), "Ctrl-C would reach the server before its node"
    supervisor = server._supervisor
    assert supervisor is not None

    supervisor.send_signal(signal.SIGTERM)
    supervisor.send_signal(signal.SIGINT)

    time.sleep(0.5)  # the time it would need to end; there is no condition to wait for
    assert _value(server) is None
    assert supervisor.poll() is None
    assert alive(server.pid)


def test_two_servers_run_side_by_side_on_two_folders(start: Start, tmp_path: Path) -> None:
    one, other = start(tmp_path / "one"), start(tmp_path / "other")

    with client(one) as first, client(other) as second:
        first.set("key", "one")
        second.set("key", "other")
        assert (first.get("key"), second.get("key")) == ("one", "other")


def test_a_second_node_on_the_same_folder_is_refused_and_told_what_to_do(start: Start, tmp_path: Path) -> None:
    first = start(tmp_path / "data")

    with pytest.raises(EmbeddedError, match=r"another node uses .*PRESENCE_DATA_DIR.*PRESENCE_REDIS_URL"):
        start(tmp_path / "data")

    with client(first) as connection:
        assert connection.ping()


def _value(server: EmbeddedServer) -> object:
    try:
        with client(server) as connection:
            return connection.get("key")
    except redis.RedisError:
        return None
