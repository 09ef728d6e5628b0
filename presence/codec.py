"""The gate for everything that comes from outside: JSON, names and numbers are checked here, once.

It runs for every message of every client, so the common case (a short command in plain ASCII) must stay at a
few microseconds: each rare check stands behind a cheap sign that it may be needed.
"""

from __future__ import annotations

import json
import re
import secrets
import unicodedata
from math import isfinite
from typing import NoReturn

from presence.errors import BadJson, BadName, BadRequest, Forbidden, TooLarge

MAX_DEPTH = 32
MAX_NAME_BYTES = 200
MAX_OBJECT_BYTES = 1024

_BARRED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
# Strings (also one without an end) are eaten whole and never given back: a plain `"(\\.|[^"\\])*"` would
# search an open string again from each of its escaped quotes, which a hostile megabyte turns into minutes.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)


def decode_value(data: bytes | str, *, max_bytes: int, what: str = "body") -> object:
    """Return the value of a strict JSON text: finite numbers, no duplicate keys, at most 32 levels."""
    try:
        text = _text(data, max_bytes, what)
        if text.count("{") + text.count("[") > MAX_DEPTH:
            _check_depth(text)
        value: object = _DECODER.decode(text)
        if "\\u" in text and _SURROGATE_ESCAPE.search(text):
            compact(value).encode()
    except UnicodeError:
        raise BadJson(f"{what} is not Unicode text in UTF-8") from None
    except json.JSONDecodeError as error:
        raise BadJson(f"{what} is not valid JSON: {error.msg} at character {error.pos}") from None
    except ValueError as error:
        raise BadJson(f"{what} is not valid JSON: {error}") from None
    return value


def decode_object(data: bytes | str, *, max_bytes: int, what: str = "body") -> dict[str, object]:
    """Return a strict JSON object; another valid JSON value is a bad request, not bad JSON."""
    value = decode_value(data, max_bytes=max_bytes, what=what)
    if not isinstance(value, dict):
        raise BadRequest(f"{what} must be a JSON object")
    return value


def compact(value: object) -> str:
    """Return the shortest JSON text; it holds no raw line break, so it fits one line of an event stream."""
    return _ENCODER.encode(value)


def name(value: object, what: str) -> str:
    """Return a valid name of a channel, user or message unchanged: names are refused, never repaired."""
    if not isinstance(value, str):
        raise BadName(f"{what} must be a text")
    if not 0 < len(value) <= MAX_NAME_BYTES:
        raise BadName(f"{what} must have 1 to {MAX_NAME_BYTES} bytes")
    if value[0].isspace() or value[-1].isspace():
        raise BadName(f"{what} must not begin or end with white space")
    if value.isascii():
        if not value.isprintable():
            raise BadName(f"{what} must not contain control characters")
        return value
    return _international_name(value, what)


def is_name(value: object) -> bool:
    """Say whether it is a valid name."""
    try:
        name(value, "name")
    except BadName:
        return False
    return True


def channel_name(value: object) -> str:
    """Return a valid channel name that is not one of the server's own."""
    channel = name(value, "channel")
    if channel.startswith("@"):
        raise Forbidden("channels that begin with @ belong to the server")
    return channel


def session_id(value: object) -> str:
    """Return a valid session id."""
    if not isinstance(value, str) or not _SESSION_ID.fullmatch(value):
        raise BadRequest("session must be 8 to 64 letters, digits, - or _")
    return value


def small_object(value: object, what: str) -> str:
    """Return the compact text of an ``info`` or ``state``, which travels as text from here on."""
    if not isinstance(value, dict):
        raise BadRequest(f"{what} must be a JSON object")
    text = compact(value)
    if len(text.encode()) > MAX_OBJECT_BYTES:
        raise TooLarge(f"{what} must have at most {MAX_OBJECT_BYTES} bytes of compact JSON")
    return text


def integer(value: object, what: str, low: int, high: int) -> int:
    """Return a whole number within the bounds; ``true`` and ``5.0`` are none."""
    if type(value) is not int or not low <= value <= high:
        raise BadRequest(f"{what} must be a whole number from {low} to {high}")
    return value


def new_session_id() -> str:
    """Return an id of 128 random bits: who guesses it could take the session over."""
    return secrets.token_urlsafe(16)


def _text(data: bytes | str, max_bytes: int, what: str) -> str:
    size = len(data)
    if size <= max_bytes and isinstance(data, str) and not data.isascii():
        size = len(data.encode())
    if size > max_bytes:
        raise TooLarge(f"{what} must have at most {max_bytes} bytes")
    return data if isinstance(data, str) else data.decode()


def _check_depth(text: str) -> None:
    """Refuse deep nesting before the decoder, which recurses, sees it."""
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        token = match.group()
        if token in ("{", "["):
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"more than {MAX_DEPTH} levels")
        elif token in ("}", "]"):
            depth -= 1


def _international_name(value: str, what: str) -> str:
    if not _BARRED_CATEGORIES.isdisjoint(map(unicodedata.category, value)):
        raise BadName(f"{what} must not contain control, format, surrogate or private-use characters")
    if len(value.encode()) > MAX_NAME_BYTES:
        raise BadName(f"{what} must have 1 to {MAX_NAME_BYTES} bytes")
    if not unicodedata.is_normalized("NFC", value):
        raise BadName(f"{what} must be in Unicode normal form C")
    return value


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return result


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError("a number is too large")
    return number


def _whole(text: str) -> int:
    # A whole number of 309 digits may be beyond every double: clients would read it as infinite.
    if len(text) > 308:
        _finite(text)
    return int(text)


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_distinct, parse_float=_finite, parse_int=_whole, parse_constant=_no_constant
)
# The values are trees out of the decoder: a search for cycles would only cost time.
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"))
