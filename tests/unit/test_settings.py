"""Where settings come from, which are refused, and what the message then says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from presence.errors import BadSetting
from presence.settings import FIELDS, describe, for_dev, load, masked_url

SECRET = "a-secret-of-at-least-thirty-two-bytes"


def test_defaults_are_those_of_the_contract() -> None:
    settings = load({}, {"XDG_STATE_HOME": "/state"}, None)

    assert (settings.host, settings.port, settings.redis_url) == ("127.0.0.1", 8080, "")
    assert (settings.ttl_ms, settings.grace_ms, settings.ping_ms) == (30_000, 5_000, 10_000)
    assert (settings.drain_ms, settings.history_ms, settings.partitions) == (10_000, 600_000, 16)
    assert (settings.max_channels, settings.max_sessions, settings.max_commands_per_second) == (100, 20, 50)
    assert (settings.max_members, settings.max_connections) == (100_000, 10_000)
    assert (settings.key_prefix, settings.token_secret, settings.api_keys) == ("presence", (), ())
    assert settings.data_dir == Path("/state/presence")


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    config = tmp_path / "presence.toml"
    config.write_text('ttl_ms = 40000\ngrace_ms = 4000\nhost = "::1"\napi_keys = ["a", "b"]\n')
    environ = {"PRESENCE_TTL_MS": "50000", "PRESENCE_GRACE_MS": "3000", "HOME": "/x"}

    settings = load({"ttl_ms": "60000"}, environ, config)

    assert (settings.ttl_ms, settings.grace_ms, settings.host) == (60_000, 3_000, "::1")
    assert settings.api_keys == ("a", "b")
    sources = {row.name: row.source for row in describe(settings)}
    assert sources["PRESENCE_TTL_MS"] == "flag"
    assert sources["PRESENCE_GRACE_MS"] == "environment"
    assert sources["PRESENCE_HOST"] == "file"
    assert sources["PRESENCE_PORT"] == "default"


def test_an_unknown_name_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    config = tmp_path / "presence.toml"
    config.write_text("grace = 1\n")

    with pytest.raises(BadSetting, match=r"PRESENCE_TLL_MS: .* nearest is PRESENCE_TTL_MS"):
        load({}, {"PRESENCE_TLL_MS": "1"}, None)
    with pytest.raises(BadSetting, match=r"grace: .* nearest is grace_ms"):
        load({}, {}, config)
    with pytest.raises(BadSetting, match="nearest is PRESENCE_"):
        load({}, {"PRESENCE_ZZZZ": "1"}, None)


BAD = {
    "PRESENCE_PORT": ("80a", "65536", "-1", "٣"),
    "PRESENCE_TTL_MS": ("999", "86400001", "30s"),
    "PRESENCE_PING_MS": ("15001", "0"),
    "PRESENCE_PARTITIONS": ("0", "1025"),
    "PRESENCE_TOKEN_SECRET": ("short", f"{SECRET},short", f"{SECRET},{SECRET}2,{SECRET}3"),
    "PRESENCE_KEY_PREFIX": ("a{b}", "a b", "a\x1fb", "x" * 101),
    "PRESENCE_REDIS_URL": ("localhost:6379", "http://x", "redis+cluster://a/3", "redis+sentinel://a"),
    "PRESENCE_ALLOWED_ORIGINS": ("example.com", "https://example.com/", "*", "https://*.example.com"),
    "PRESENCE_API_KEYS": ("with space", "clé"),
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BAD.items() for text in texts])
def test_a_wrong_value_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(BadSetting, match=rf"(?i){name}|{name.removeprefix('PRESENCE_')}"):
        load({}, {name: text}, None)


def test_messages_show_neither_secrets_nor_passwords() -> None:
    for name, text in (
        ("PRESENCE_TOKEN_SECRET", "hunter2"),
        ("PRESENCE_API_KEYS", "hunter2 x"),
        ("PRESENCE_REDIS_URL", "http://:hunter2@host"),
    ):
        with pytest.raises(BadSetting) as caught:
            load({}, {name: text}, None)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("content", ["ttl_ms = ", "ttl_ms = 1.5", "ttl_ms = true", "[presence]\nttl_ms = 1"])
def test_a_file_that_is_not_flat_toml_is_refused(tmp_path: Path, content: str) -> None:
    config = tmp_path / "presence.toml"
    config.write_text(content)

    with pytest.raises(BadSetting):
        load({}, {}, config)
    with pytest.raises(BadSetting, match="cannot be read"):
        load({}, {}, tmp_path / "absent.toml")


def test_two_secrets_may_be_given_for_rotation() -> None:
    settings = load({}, {"PRESENCE_TOKEN_SECRET": f"{SECRET}1, {SECRET}2"}, None)

    assert settings.token_secret == (f"{SECRET}1", f"{SECRET}2")


@pytest.mark.parametrize(("ttl_ms", "ping_ms"), [("30000", 10_000), ("90000", 10_000), ("3000", 1_000)])
def test_the_unset_ping_fits_a_shorter_ttl(ttl_ms: str, ping_ms: int) -> None:
    assert load({"ttl_ms": ttl_ms}, {}, None).ping_ms == ping_ms


def test_an_empty_variable_is_as_if_unset() -> None:
    assert load({}, dict.fromkeys(("PRESENCE_PORT", "PRESENCE_TOKEN_KEY_FILE"), ""), None).port == 8080


def test_dev_makes_only_what_is_missing() -> None:
    made = for_dev(load({}, {}, None))
    kept = for_dev(load({}, {"PRESENCE_TOKEN_SECRET": SECRET, "PRESENCE_API_KEYS": "k"}, None))

    assert made.dev
    assert len(made.token_secret[0]) >= 32
    assert made.api_keys[0]
    assert made.token_secret != for_dev(load({}, {}, None)).token_secret
    assert (kept.token_secret, kept.api_keys) == ((SECRET,), ("k",))


def test_the_description_has_a_helpful_row_for_each_setting_and_no_secret() -> None:
    environ: Mapping[str, str] = {
        "PRESENCE_TOKEN_SECRET": f"{SECRET},{SECRET}2",
        "PRESENCE_API_KEYS": "hunter2",
        "PRESENCE_REDIS_URL": "redis://user:hun:ter2@host:1/0",
    }
    settings = load({}, environ, None)
    rows = describe(settings)

    assert [row.name for row in rows] == ["PRESENCE_" + name.upper() for name in FIELDS]
    assert all(row.help for row in rows)
    assert {row.name for row in rows if row.name.endswith("_MS")} == {row.name for row in rows if row.unit == "ms"}
    shown = repr(rows) + repr(settings).replace(settings.redis_url, "")
    assert not any(secret in shown for secret in (SECRET, "hunter2", "ter2"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://:pw@h", "redis://***@h"),
        ("rediss://u:p@w@h/1", "rediss://***@h/1"),
        ("unix:///run/redis.sock?db=1&password=pw", "unix:///run/redis.sock?db=1&password=***"),
        ("unix://u:p@/run/redis.sock", "unix://***@/run/redis.sock"),
        ("redis://u:p/w@h:1/0", "redis://***@h:1/0"),
        ("mysql://db/x?user=u&passwd=hunter2", "mysql://db/x?user=u&passwd=***"),
        ("mysql://db/x?ssl_key_p%61ssword=pw&PassWord=p@w&a=b", "mysql://db/x?ssl_key_p%61ssword=***&PassWord=***&a=b"),
        (
            "redis+sentinel://u:p@h,i/name?sentinel_user=s&sentinel_password=p@w&db=1",
            "redis+sentinel://***@h,i/name?sentinel_user=s&sentinel_password=***&db=1",
        ),
    ],
)
def test_an_address_is_shown_without_what_opens_it(url: str, shown: str) -> None:
    assert masked_url(url) == shown


@pytest.mark.parametrize(
    "url", ["redis://h?foo=1", "redis+cluster://h?foo=1", "redis://:the/secret@h", "redis://h:one"]
)
def test_an_address_that_cannot_be_read_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(BadSetting, match=r"^PRESENCE_REDIS_URL: ") as caught:
        load({}, {"PRESENCE_REDIS_URL": url}, None)

    assert "secret" not in str(caught.value)
