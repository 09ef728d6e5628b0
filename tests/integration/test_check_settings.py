"""`presence check` on settings alone: mistakes in them, and what the embedded server would be."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from presence import embedded
from presence.check import diagnose, run
from tests.integration.test_check import problems, settings
from tests.support.redis_server import RedisServer


def test_a_token_secret_that_fits_is_no_problem(redis_server: RedisServer) -> None:
    assert problems(redis_server.url) == {}


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:port/0",
        "redis://127.0.0.1:6379/0?no_such_option=1",
        "redis+sentinel://127.0.0.1",
        "redis+cluster://127.0.0.1/1",
        "redis+cluster://127.0.0.1?socket_timeout=long",
    ],
)
def test_an_address_that_cannot_be_read_is_named(url: str) -> None:
    assert list(problems(url)) == ["bad_url"]


@pytest.mark.parametrize("url", ["redis://:the/secret@host/0", "redis+cluster://:the/secret@host"])
def test_a_password_that_is_not_encoded_is_not_shown_in_pieces(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(settings(url)) == 1

    said = capsys.readouterr().out
    assert "PROBLEM  bad_url: " in said
    assert "secret" not in said
    assert "the'" not in said


def test_without_an_address_the_embedded_server_and_its_program_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(settings("", data_dir=tmp_path / "data")) == 0

    said = capsys.readouterr().out
    assert embedded.find_program() in said
    assert str(tmp_path / "data") in said
    assert not (tmp_path / "data").exists()


def test_without_address_and_program_the_extra_to_install_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(embedded, "_packaged_program", lambda: None)

    found = problems("", data_dir=tmp_path)

    assert list(found) == ["no_program"]
    assert "presence-server[embedded]" in found["no_program"].advice


@pytest.mark.parametrize(
    ("changes", "name", "fatal"),
    [
        ({"token_secret": ()}, "no_secret", True),
        ({"token_secret": (), "token_key_file": Path("/no/such/key.pem")}, "bad_key", True),
        ({"ping_ms": 20_000}, "ping_too_slow", True),
        ({"grace_ms": 60_000}, "grace_beyond_ttl", False),
        ({"archive_url": "mysql+nothing://x/y"}, "bad_archive", True),
        ({"archive_url": "mysql://x:secret@127.0.0.1:1/y"}, "archive_away", False),
        ({"api_keys": ("one", "two"), "read_keys": ("two",)}, "key_in_both", False),
    ],
)
def test_a_mistake_in_the_settings_is_named(
    redis_server: RedisServer, changes: dict[str, Any], name: str, fatal: bool
) -> None:
    found = asyncio.run(diagnose(dataclasses.replace(settings(redis_server.url), **changes)))

    assert [(problem.name, problem.fatal) for problem in found] == [(name, fatal)]


def test_a_mistake_in_the_file_of_webhooks_is_named(redis_server: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "webhooks.toml"
    file.write_text("[[target]]\nname = 'billing'\n")

    assert list(problems(redis_server.url, webhooks_file=file)) == ["bad_webhooks"]
