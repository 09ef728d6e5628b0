"""Targets of webhooks, as the operator's TOML file names them.

Before changing it: a message says which key of which target is wrong and what would be right, and never shows a secret
or a whole address.
"""

from __future__ import annotations

import binascii
import difflib
import os
import re
import tomllib
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from presence import codec
from presence.errors import BadSetting, PresenceError
from presence.queues import TYPES, Queue
from presence.webhooks.reach import is_public, literal

PREFIX = "@webhook:"
MOST_TARGETS = 50
MOST_BATCH = 500
SECRET_BYTES = (24, 64)  # Standard Webhooks, "Signature scheme"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")


@dataclass(frozen=True, slots=True)
class Target:
    """Where events go: `secrets` sign (the first is the new one), `queue` says which events, `batch` how many at
    once."""

    name: str
    url: SplitResult = field(repr=False)
    secrets: tuple[bytes, ...] = field(repr=False)
    queue: Queue
    batch: int = 100
    timeout_ms: int = 15_000
    backoff_ms: int = 1_000
    allow_private: bool = False
    from_start: bool = False

    @property
    def group(self) -> str:
        """Name of its queue."""
        return PREFIX + self.name

    @property
    def host(self) -> str:
        """The host without brackets."""
        return self.url.hostname or ""

    @property
    def port(self) -> int:
        """The port, that of the scheme where none is named."""
        return self.url.port or (443 if self.url.scheme == "https" else 80)

    @property
    def shown_url(self) -> str:
        """The address without its query, which may hold a token."""
        return f"{self.url.scheme}://{self.url.netloc}{self.url.path}" + ("?***" if self.url.query else "")


def load_targets(path: Path | None, environ: Mapping[str, str] | None = None) -> tuple[Target, ...]:
    """The targets of the file, none without one; BadSetting where anything in it is wrong."""
    if path is None:
        return ()
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BadSetting(f"webhooks_file={path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSetting(f"webhooks_file={path}: is not TOML: {error}") from None
    tables = content.pop("target", [])
    if content or not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise BadSetting(f"webhooks_file={path}: must hold [[target]] tables and nothing else")
    if len(tables) > MOST_TARGETS:
        raise BadSetting(f"webhooks_file={path}: may have {MOST_TARGETS} targets")
    reader = _Reader(path.parent, os.environ if environ is None else environ)
    targets = []
    for number, table in enumerate(tables, 1):
        try:
            targets.append(reader.target(table))
        except ValueError as error:
            named = table.get("name") if isinstance(table.get("name"), str) else number
            raise BadSetting(f"webhooks_file={path}: target {named}: {error}") from None
    names = [target.name for target in targets]
    if twice := {name for name in names if names.count(name) > 1}:
        raise BadSetting(f"webhooks_file={path}: name: {min(twice)} is used twice; each target needs its own")
    return tuple(targets)


class _Reader:
    """Reads one target's table; a ValueError begins with the key that is wrong."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._environ = environ
        self._keys: dict[str, Callable[[object], object]] = {
            "name": _name,
            "url": _url,
            "secret": _secret,
            "secret_file": self._secret_file,
            "secret_env": self._secret_env,
            "types": _types,
            "channels": _channels,
            "max_deliveries": _number(1, 1000),
            "batch": _number(1, MOST_BATCH),
            "timeout_ms": _number(100, 60_000),
            "backoff_ms": _number(10, 60_000),
            "allow_private": _truth,
            "from": _from,
        }

    def target(self, table: Mapping[str, object]) -> Target:
        given = {key: self._read(key, value) for key, value in table.items()}
        if missing := [key for key in ("name", "url") if key not in given]:
            raise ValueError(f"{missing[0]}: is missing")
        secrets = [given.pop(key) for key in ("secret", "secret_file", "secret_env") if key in given]
        if len(secrets) != 1:
            raise ValueError("secret: give one of secret, secret_file and secret_env")
        given["from_start"] = given.pop("from", "now") == "start"
        wish = {"types": given.pop("types", ()), "pattern": given.pop("channels", "*")}
        queue = Queue(**wish, max_deliveries=given.pop("max_deliveries", 50))  # type: ignore[arg-type]
        target = Target(**given, secrets=secrets[0], queue=queue)  # type: ignore[arg-type]
        if not target.allow_private and literal(target.host) and not is_public(target.host):
            raise ValueError("url: leads to a private address; allow_private = true allows that")
        return target

    def _read(self, key: str, value: object) -> object:
        if key not in self._keys:
            nearest = difflib.get_close_matches(key, self._keys, n=1, cutoff=0.0)[0]
            raise ValueError(f"{key}: there is no such key; the nearest is {nearest}")
        try:
            return self._keys[key](value)
        except (ValueError, PresenceError) as error:
            raise ValueError(f"{key}: {error}") from None

    def _secret_file(self, value: object) -> tuple[bytes, ...]:
        if not isinstance(value, str) or not value:
            raise ValueError("must be the path of a file with a secret, or with two, one a line")
        try:
            return _secret((self._folder / Path(value).expanduser()).read_text("utf-8").split())
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from None

    def _secret_env(self, value: object) -> tuple[bytes, ...]:
        if not isinstance(value, str) or not self._environ.get(value):
            raise ValueError("must name an environment variable that is set to a secret, or to two, by comma")
        return _secret([word.strip() for word in self._environ[value].split(",")])


def _name(value: object) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("must have 1 to 64 letters, digits, dots, - or _, and begin with a letter or digit")
    return value


def _url(value: object) -> SplitResult:
    if not isinstance(value, str) or not re.fullmatch(r"https?://[!-\[\]-~]+", value):
        raise ValueError("must be an http:// or https:// address in ASCII (an international host as xn--…)")
    parts = urlsplit(value)
    if "@" in parts.netloc:
        raise ValueError("must not hold user or password: who receives knows us by the signature")
    if "#" in value:
        raise ValueError("must not hold a fragment (#…): it would not be sent")
    try:
        host = parts.netloc.removesuffix(f":{parts.port}") if parts.port else parts.netloc
    except ValueError:
        raise ValueError("must have a port from 1 to 65535, or none") from None
    if not _HOST.fullmatch(host) or not parts.hostname:
        raise ValueError("must name a host")
    return parts


def _secret(value: object) -> tuple[bytes, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not 1 <= len(texts) <= 2:
        raise ValueError("must be one secret, or a list of two: the new one and the one being retired")
    return tuple(_key(text) for text in texts)


def _key(text: object) -> bytes:
    low, high = SECRET_BYTES
    try:
        key = b64decode(str(text).removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not str(text).startswith("whsec_") or not low <= len(key) <= high:
        raise ValueError(f"must be whsec_ and {low} to {high} random bytes in base64")
    return key


def _types(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(kind in TYPES for kind in value):
        raise ValueError(f"must be a list out of {', '.join(TYPES)}; left out it means all")
    return tuple(dict.fromkeys(value))


def _channels(value: object) -> str:
    return codec.name(value, "the channel pattern")


def _number(low: int, high: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return read


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _from(value: object) -> str:
    if value not in ("now", "start"):
        raise ValueError('must be "now" or "start"')
    return str(value)
