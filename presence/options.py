"""How one setting is read: each parser takes the operator's text and returns the value, or says what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any

from presence.addresses import parse_redis_url

MIN_SECRET_BYTES = 32


def about(parse: Callable[[str], Any], help: str, unit: str = "", secret: bool = False) -> dict[str, Any]:
    return {"parse": parse, "help": help, "unit": unit, "secret": secret}


def option(parse: Callable[[str], Any], help: str, *, default: Any, unit: str = "", secret: bool = False) -> Any:
    return field(default=default, metadata=about(parse, help, unit, secret), repr=not secret)


def number(default: int, low: int, high: int, help: str, unit: str = "") -> Any:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return option(parse, help, default=default, unit=unit)


def text(help: str, default: str = "") -> Any:
    return option(str, help, default=default)


def path(text: str) -> Path | None:
    return Path(text).expanduser() if text else None


def words(text: str) -> tuple[str, ...]:
    return tuple(word for word in (part.strip() for part in text.split(",")) if word)


def two_secrets(text: str) -> tuple[str, ...]:
    given = words(text)
    if len(given) > 2:
        raise ValueError("at most two secrets, separated by a comma: the new one and the one being retired")
    if any(len(word.encode()) < MIN_SECRET_BYTES for word in given):
        raise ValueError(f"each secret needs at least {MIN_SECRET_BYTES} bytes")
    return given


def keys(text: str) -> tuple[str, ...]:
    given = words(text)
    if not all(re.fullmatch(r"[!-~]+", word) for word in given):
        raise ValueError("keys must be visible ASCII characters, separated by commas")
    return given


def origins(text: str) -> tuple[str, ...]:
    given = words(text)
    for word in given:
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s?#@*A-Z]+", word):
            raise ValueError("each origin must look like https://example.com or http://localhost:3000")
    return given


def redis_url(text: str) -> str:
    if text:
        parse_redis_url(text)
    return text


def archive_url(text: str) -> str:
    if text and not re.fullmatch(r"(sqlite|postgres|postgresql|mysql|mariadb)(\+[a-z0-9]+)?://.*", text):
        raise ValueError("must begin with sqlite://, postgresql://, mysql:// or mariadb://")
    return text


def key_prefix(text: str) -> str:
    if not re.fullmatch(r"[^\s{}\x00-\x1f\x7f]{1,100}", text):
        raise ValueError("must have 1 to 100 characters, none of them a brace, white space or control character")
    return text
