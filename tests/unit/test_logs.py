"""Log lines: one line each, with escaped and shortened values, and never a token."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest

from presence import logs

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def _the_loggers_are_put_back() -> Iterator[None]:
    root, access = logging.getLogger(), logging.getLogger("tornado.access")
    before = root.handlers[:], root.level, access.level
    yield
    root.handlers[:], root.level, access.level = before[0], before[1], before[2]


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert not captured.out
    return captured.err.splitlines()


def test_an_entry_is_one_line_of_time_level_event_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup()

    logs.get("presence.hub").info("node_started", node="n1", port=8080, text='two "words"', nothing=None)

    (line,) = lines(capsys)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info node_started node=n1 port=8080 "
        r'text="two \\"words\\"" nothing=None',
        line,
    )


def test_line_breaks_and_terminal_codes_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup()

    logs.get("x").warning("odd", value="a\nb\r\x1b[31m\x85\u2028\u202e 100%")

    (line,) = lines(capsys)
    assert line.endswith(r'value="a\nb\r\u001b[31m\u0085\u2028\u202e 100%"')


def test_long_values_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup()

    logs.get("x").info("long", value="y" * 10_000)

    assert len(lines(capsys)[0]) < 300


def test_tokens_are_cut_out_wherever_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup()

    logs.get("x").info("a", url=f"/v1/ws?token={TOKEN}&session=s", header=f"Bearer {TOKEN}", bare=TOKEN)
    logging.getLogger("tornado.application").error("Uncaught exception GET /v1/ws?token=%s (::1)", TOKEN)
    try:
        raise ValueError(f"bad token {TOKEN}\nsecond line")
    except ValueError:
        logging.getLogger("tornado.application").exception("failed")
        logs.get("x").error("failed", exc_info=True)

    printed = lines(capsys)
    assert len(printed) == 4
    assert not any("eyJ" in line or "c2lnbmF0dXJl" in line for line in printed)
    assert "session=s" in printed[0]
    assert "ValueError" in printed[2]
    assert "ValueError" in printed[3]


def test_the_access_log_with_its_addresses_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup()

    logging.getLogger("tornado.access").error("500 GET /v1/ws?token=x")

    assert lines(capsys) == []


def test_entries_below_the_level_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("WARNING")

    logs.get("x").info("quiet")
    logs.get("x").debug("quieter")
    logs.get("x").warning("loud")

    assert len(lines(capsys)) == 1
