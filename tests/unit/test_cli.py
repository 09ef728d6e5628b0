"""The command line: what it prints, and that every mistake is one line and exit code 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from presence.auth import Authenticator
from presence.cli import main
from presence.settings import FIELDS, Settings

SECRET = "a-secret-of-at-least-thirty-two-bytes"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PRESENCE_")]:
        monkeypatch.delenv(name)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        code = main(arguments)
    except SystemExit as exit:
        assert isinstance(exit.code, int)
        code = exit.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_without_a_command_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys)

    assert (code, err) == (0, "")
    assert all(command in out for command in ("serve", "token", "check", "settings"))


def test_token_prints_only_a_good_token(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESENCE_TOKEN_SECRET", SECRET)
    grants = ["--channels", "room:*=join,see; a=b=publish", "--channels", "hall=history"]

    code, out, err = run(capsys, "token", "--user", "ann", *grants, "--ttl", "2h")

    identity = Authenticator(Settings(token_secret=(SECRET,))).client(out.strip())
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert identity.user == "ann"
    assert identity.may("join", "room:1")
    assert identity.may("publish", "a=b")
    assert identity.may("history", "hall")
    assert not identity.may("see", "hall")


@pytest.mark.parametrize(
    "arguments",
    [
        ["token"],
        ["token", "--user", "ann", "--ttl", "soon"],
        ["token", "--user", "ann", "--ttl", "0s"],
        ["token", "--user", " ann"],
        ["token", "--user", "ann", "--channels", "room"],
        ["token", "--user", "ann", "--channels", "room=fly"],
        ["token", "--user", "ann", "--ttl-ms", "5000"],
        ["settings", "--ttl-ms", "5"],
        ["settings", "--config", "/nonexistent.toml"],
        ["settings", "--tll-ms", "5000"],
        ["serve", "--ping-ms", "20000"],
        ["dance"],
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRESENCE_TOKEN_SECRET", SECRET)

    code, out, err = run(capsys, *arguments)

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("presence")


def test_serve_refuses_to_start_without_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "serve")

    assert (code, out) == (2, "")
    assert "PRESENCE_TOKEN_SECRET" in err


def test_token_without_a_secret_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "token", "--user", "ann")

    assert code == 2
    assert "PRESENCE_TOKEN_SECRET" in err


def test_settings_prints_each_setting_with_its_source_and_no_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "presence.toml"
    config.write_text("drain_ms = 123\n")
    monkeypatch.setenv("PRESENCE_TOKEN_SECRET", SECRET)

    code, out, _ = run(capsys, "settings", "--config", str(config), "--ttl-ms", "5000")

    assert code == 0
    assert all(f"PRESENCE_{name.upper()}=" in out for name in FIELDS)
    assert "PRESENCE_TTL_MS=5000\n" in out
    assert "PRESENCE_DRAIN_MS=123\n" in out
    assert all(f"from: {source})" in out for source in ("flag", "environment", "file", "default"))
    assert SECRET not in out


def test_every_setting_is_a_flag_of_serve(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "serve", "--help")

    assert all("--" + name.replace("_", "-") in out for name in FIELDS)
    assert "--dev" in out


def test_the_module_can_be_run() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "presence", "--version"], capture_output=True, text=True, check=False
    )

    assert result.returncode == 0
    assert result.stdout.startswith("presence ")
