"""`presence archive` as an operator meets it: what it takes, what it refuses, what it shows."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="needs the extra `archive`")

from presence.archive.command import make_task
from presence.archive.numbers import Numbers, Progress, progress_text
from presence.archive.worker import Terms, row_of
from presence.cli import main
from presence.client import Event, QueueStatus
from presence.errors import BadSetting
from presence.settings import Settings, describe, load
from tests.support.waiting import eventually, run_async

LEAVE = Event(
    type="leave", channel="room", epoch="e", seq=2, at=210, user="ann", info={"n": "Ä"}, state={"a": [1.5, None]},
    since=100, last_seen=200, reason="left", generation=5, id="0-1-0", deliveries=1,
)  # fmt: skip


def task(settings: Settings, **given: Any) -> Any:
    nothing: dict[str, Any] = {"database": None, "server": None, "metrics_host": "127.0.0.1", "metrics_port": None}
    return make_task(settings, **{**nothing, **given}, terms=Terms())


def test_without_a_database_the_one_of_the_nodes_is_taken_else_a_file_in_the_data_folder(tmp_path: Path) -> None:
    plain = Settings(api_keys=("k1", "k2"), data_dir=tmp_path)
    named = Settings(api_keys=("k1",), data_dir=tmp_path, archive_url="postgresql://x/y")

    assert task(plain).database == f"sqlite:///{tmp_path}/archive.sqlite"
    assert task(named).database == "postgresql://x/y"
    assert task(named, database="mysql://a/b").database == "mysql://a/b"
    assert task(plain).api_key == "k1"


def test_the_password_of_the_database_is_never_shown() -> None:
    settings = load({}, {"PRESENCE_ARCHIVE_URL": "postgresql://ann:secret@host/name"}, None)

    (row,) = [row for row in describe(settings) if row.name == "PRESENCE_ARCHIVE_URL"]
    assert row.value == "postgresql://***@host/name"
    (row,) = [
        row
        for row in describe(load({}, {"PRESENCE_ARCHIVE_URL": "mysql://db/x?user=u&passwd=hunter2"}, None))
        if row.name == "PRESENCE_ARCHIVE_URL"
    ]
    assert row.value == "mysql://db/x?user=u&passwd=***"
    with pytest.raises(BadSetting) as caught:
        load({}, {"PRESENCE_ARCHIVE_URL": "oracle://ann:secret@host/name"}, None)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:80"), ("0.0.0.0", "http://127.0.0.1:80"), ("::", "http://[::1]:80")],
)
def test_without_a_server_it_is_the_one_of_these_settings(host: str, url: str) -> None:
    assert task(Settings(api_keys=("k",), host=host, port=80)).server == url


def test_it_needs_a_key() -> None:
    with pytest.raises(BadSetting, match="PRESENCE_API_KEYS"):
        task(Settings())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--database", "oracle://user:secret@host/name"),
        ("--database", "user:secret"),
        ("--server", "http://user:secret@host:8080"),
        ("--server", "user:secret@host"),
        ("--lease-ms", "10"),
        ("--max-deliveries", "0"),
        ("--metrics-port", "70000"),
        ("--metrics-port", "x"),
    ],
)
def test_what_cannot_be_ends_with_one_line_and_no_secret(
    arguments: tuple[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRESENCE_API_KEYS", "k")

    assert main(["archive", *arguments]) == 2

    said = capsys.readouterr().err
    assert said.startswith(f"presence archive: {arguments[0]}")
    assert said.count("\n") == 1
    assert "secret" not in said


def test_a_leave_is_a_row_and_nothing_else_is() -> None:
    row = row_of(LEAVE)

    assert row is not None
    assert (row.user_id, row.channel, row.generation, row.reason) == ("ann", "room", 5, "left")
    assert (row.info, row.state) == ('{"n":"Ä"}', '{"a":[1.5,null]}')
    assert (row.first_seen, row.last_seen, row.ended_at) == (100, 200, 210)
    assert row_of(Event(type="join", channel="room", epoch="e", seq=1, at=1, user="ann", generation=5)) is None
    assert row_of(Event(type="message", channel="room", epoch="e", seq=1, at=1)) is None


def test_progress_says_how_far_how_fast_and_how_long() -> None:
    assert progress_text(12_000, 2000.4, 90_000) == "12,000 archived · 2,000 rows/s · 90,000 left · about 0:45"
    assert progress_text(0, 0.0, 5_000) == "0 archived · 0 rows/s · 5,000 left"


class Screen(io.StringIO):
    """Somebody's terminal, or no terminal."""

    def __init__(self, there: bool) -> None:
        super().__init__()
        self._there = there

    def isatty(self) -> bool:
        return self._there


class Backlog:
    """A queue that is getting shorter."""

    def __init__(self) -> None:
        self.left = [5000, 3000, 20, 0]

    async def status(self) -> QueueStatus:
        left = self.left.pop(0) if len(self.left) > 1 else 0
        return QueueStatus("archive", left, 0, 1500 if left else None, 0, 0, 1)


@run_async
async def test_on_a_terminal_a_backlog_is_worked_through_in_one_line_that_moves() -> None:
    numbers, screen = Numbers(), Screen(True)
    showing = asyncio.create_task(Progress(Backlog(), numbers, screen, each_s=0.01).run())  # type: ignore[arg-type]

    await eventually(lambda: screen.getvalue().endswith("\n"))
    showing.cancel()
    await asyncio.gather(showing, return_exceptions=True)

    first, second = screen.getvalue().strip().split("\r")[-2:]
    assert "5,000 left" in first
    assert "3,000 left" in second
    assert screen.getvalue().count("\n") == 1
    assert numbers.registry.get_sample_value("presence_archive_lag_seconds") in (0.0, 1.5)


@run_async
async def test_without_a_terminal_nothing_but_log_lines_is_written(caplog: pytest.LogCaptureFixture) -> None:
    screen = Screen(False)
    caplog.set_level("INFO")
    showing = asyncio.create_task(Progress(Backlog(), Numbers(), screen, each_s=0.01).run())  # type: ignore[arg-type]

    await eventually(lambda: "archiving" in caplog.text)
    showing.cancel()
    await asyncio.gather(showing, return_exceptions=True)

    assert screen.getvalue() == ""
    assert "left=5000" in caplog.text
