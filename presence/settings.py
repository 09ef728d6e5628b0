"""Every setting: its name, default, unit, bounds and one sentence of help.

A field added to ``Settings`` is at once an environment variable, a flag, a key of the TOML file and a row of
``presence settings``; only its row in the documentation must be written by hand (a test compares them).
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import secrets
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from presence import options
from presence.errors import BadSetting

MIN_TTL_MS = 1000
MAX_TTL_MS = 86_400_000
PREFIX = "PRESENCE_"

ADDRESSES = ("redis_url", "archive_url")  # may hold a password

_HOUR_MS = 3_600_000


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """Return the user's state folder for this server."""
    state = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "presence"


@dataclass(frozen=True)
class Settings:
    """What the operator chose; built by ``load`` or, in tests, directly."""

    host: str = options.text("address to listen on; 0.0.0.0 for all", "127.0.0.1")
    port: int = options.number(8080, 0, 65_535, "port to listen on; 0 picks a free one and the ready line names it")
    redis_url: str = options.option(
        options.redis_url,
        "redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// address; empty: an embedded server",
        default="",
    )
    data_dir: Path = field(
        default_factory=lambda: default_data_dir(os.environ),
        metadata=options.about(options.path, "folder of the embedded server's data, one node each"),
    )
    token_secret: tuple[str, ...] = options.option(
        options.two_secrets,
        "secret of client tokens, 32 bytes or more; two by comma to rotate",
        default=(),
        secret=True,
    )
    token_key_file: Path | None = field(
        default=None, metadata=options.about(options.path, "public key (PEM) or JWKS file that checks client tokens")
    )
    token_audience: str = options.text("the `aud` that client tokens must carry; empty: not checked")
    token_issuer: str = options.text("the `iss` that client tokens must carry; empty: not checked")
    api_keys: tuple[str, ...] = options.option(
        options.keys, "keys of back ends, by comma; none: no back-end endpoint answers", default=(), secret=True
    )
    read_keys: tuple[str, ...] = options.option(
        options.keys, "keys that may only read, by comma (dashboards)", default=(), secret=True
    )
    allowed_origins: tuple[str, ...] = options.option(
        options.origins, "web origins besides the server's own, by comma", default=()
    )
    ttl_ms: int = options.number(
        30_000, MIN_TTL_MS, MAX_TTL_MS, "how long a session lives after its last sign of life", "ms"
    )
    grace_ms: int = options.number(
        5_000, 0, MAX_TTL_MS, "how long a session still lives after its client closed the connection", "ms"
    )
    ping_ms: int = options.number(
        10_000,
        100,
        MAX_TTL_MS // 2,
        "how often WebSockets are pinged; unset: at most a third of ttl_ms",
        "ms",
    )
    drain_ms: int = options.number(10_000, 0, _HOUR_MS, "how long a stop may take", "ms")
    history_ms: int = options.number(
        600_000, 100, 720 * _HOUR_MS, "how long a channel's history outlives its last member", "ms"
    )
    inbox_ms: int = options.number(
        168 * _HOUR_MS, 1000, 8760 * _HOUR_MS, "how long what waits for a user who is away is kept", "ms"
    )
    partitions: int = options.number(16, 1, 1024, "parts of the state in Redis, fixed at the first start")
    key_prefix: str = options.option(
        options.key_prefix,
        "first part of every key; deployments share a Redis by different ones",
        default="presence",
    )
    max_channels: int = options.number(100, 1, 10_000, "channels a session may be in")
    max_sessions: int = options.number(20, 1, 10_000, "sessions a user may have in a channel")
    max_commands_per_second: int = options.number(50, 0, 1_000_000, "commands a connection may send; 0: no limit")
    max_members: int = options.number(100_000, 1, 10_000_000, "members a channel may have")
    max_connections: int = options.number(10_000, 1, 1_000_000, "connections a node accepts")
    feed_max: int = options.number(
        1_000_000, 100, 100_000_000, "events kept for queues that have not acknowledged them yet"
    )
    feed_keep: int = options.number(
        10_000, 100, 100_000_000, "events kept in any case, for queues that begin at the start and for replays"
    )
    webhooks_file: Path | None = field(
        default=None, metadata=options.about(options.path, "TOML file that says where webhooks go; none: no webhooks")
    )
    durable_replicas: int = options.number(
        1, 1, 100, "replicas that must have what is written with durability `durable`"
    )
    archive_url: str = options.option(
        options.archive_url,
        "database of ended sessions: sqlite:///FILE, postgresql://… or mysql://…; empty: nothing is looked up there",
        default="",
    )
    dev: bool = field(default=False, metadata={"flag_only": True})
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, metadata={"flag_only": True})


FIELDS: dict[str, dataclasses.Field[Any]] = {
    f.name: f for f in dataclasses.fields(Settings) if "flag_only" not in f.metadata
}


@dataclass(frozen=True)
class Row:
    """One line of ``presence settings``; secrets are masked in ``value``."""

    name: str
    value: str
    default: str
    unit: str
    help: str
    source: str


def load(flags: Mapping[str, str], environ: Mapping[str, str], config: Path | None) -> Settings:
    """Return the settings out of flags, then environment, then TOML file, then defaults."""
    layers: list[tuple[str, Callable[[str], str], dict[str, str]]] = [
        ("flag", _flag_name, {name: text for name, text in flags.items() if name in FIELDS}),
        ("environment", _environment_name, _environment(environ)),
        ("file", str, _file(config) if config else {}),
    ]
    chosen: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for source, spell, layer in layers:
        for name in layer.keys() - chosen.keys():
            chosen[name] = _parsed(name, layer[name], spell(name))
            sources[name] = source
    if chosen.get("data_dir") is None:
        chosen["data_dir"] = default_data_dir(environ)
    if "ping_ms" not in chosen and "ttl_ms" in chosen:
        chosen["ping_ms"] = min(FIELDS["ping_ms"].default, chosen["ttl_ms"] // 3)
    settings = Settings(**chosen, sources=sources)
    if 2 * settings.ping_ms > settings.ttl_ms:
        raise BadSetting(f"ping_ms={settings.ping_ms}: must be at most half of ttl_ms={settings.ttl_ms}")
    return settings


def for_dev(settings: Settings) -> Settings:
    """Return the settings of ``--dev``: what is missing of secret and api key is made at random."""
    return dataclasses.replace(
        settings,
        dev=True,
        token_secret=settings.token_secret or (secrets.token_urlsafe(32),),
        api_keys=settings.api_keys or (secrets.token_urlsafe(18),),
    )


def describe(settings: Settings) -> list[Row]:
    """Return a row for every setting, in the order of the documentation."""
    return [
        Row(
            name=_environment_name(name),
            value=_shown(name, getattr(settings, name)),
            default="the user's state folder" if name == "data_dir" else _shown(name, f.default),
            unit=f.metadata["unit"],
            help=f.metadata["help"],
            source=settings.sources.get(name, "default"),
        )
        for name, f in FIELDS.items()
    ]


def masked_url(url: str) -> str:
    """Return the address without what opens it, fit for logs and the ready line."""
    # Options first: an `@` in one of them must not pass for the end of user and password.
    return re.sub(r"(?<=//).*(?=@)", "***", re.sub(r"(?<=[?&])([^=&]*)=([^&]*)", _masked_option, url))


def _masked_option(option: re.Match[str]) -> str:
    # `password`, `passwd`, `sentinel_password`, `ssl_key_password` and whatever a driver calls it.
    is_secret = "pass" in unquote(option[1]).lower()
    return f"{option[1]}=***" if is_secret else option[0]


def _flag_name(name: str) -> str:
    return "--" + name.replace("_", "-")


def _environment_name(name: str) -> str:
    return PREFIX + name.upper()


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    known = {_environment_name(name): name for name in FIELDS}
    given = {_known(name, known): text for name, text in environ.items() if name.startswith(PREFIX)}
    # Process managers pass `PRESENCE_X=` for what is not set.
    return {name: text for name, text in given.items() if text}


def _file(path: Path) -> dict[str, str]:
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BadSetting(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSetting(f"{path}: is not TOML: {error}") from None
    known = {name: name for name in FIELDS}
    return {_known(key, known): _flat(key, value) for key, value in content.items()}


def _flat(key: str, value: object) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise BadSetting(f"{key}: must be a text, a whole number or a list of texts")
    return str(value)


def _known(given: str, known: Mapping[str, str]) -> str:
    if given in known:
        return known[given]
    nearest = difflib.get_close_matches(given, known, n=1, cutoff=0.0)[0]
    raise BadSetting(f"{given}: there is no such setting; the nearest is {nearest}")


def _parsed(name: str, text: str, spelled: str) -> object:
    metadata = FIELDS[name].metadata
    try:
        return metadata["parse"](text)
    except ValueError as error:
        # An address of Redis may hold a password, and a wrong one cannot be parsed to hide only that.
        shown = "" if metadata["secret"] or name in ADDRESSES else f"={text[:100]!r}"
        raise BadSetting(f"{spelled}{shown}: {error}") from None


def _shown(name: str, value: Any) -> str:
    if value is None:
        return ""
    if FIELDS[name].metadata["secret"]:
        return ",".join("***" for _ in value)
    if isinstance(value, tuple):
        return ",".join(value)
    return masked_url(value) if name in ADDRESSES else str(value)
