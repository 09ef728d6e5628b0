"""What can go wrong with a call, as exceptions: one class for each code of the protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar


class PresenceError(Exception):
    """A call that did not succeed.

    `status` is the HTTP status (0: there was no answer), `code` the protocol's word for it, `detail` says more,
    `retry_after_s` when the server wants to be asked again (None: it did not say).
    """

    known_as: ClassVar[str] = ""

    def __init__(self, status: int, code: str, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s

    @property
    def passes(self) -> bool:
        """Whether the same call may succeed later without any change."""
        return isinstance(self, (Unreachable, LimitExceeded)) or self.status >= 500


class BadRequest(PresenceError):
    """The request is not understood."""

    known_as = "bad_request"


class BadJson(PresenceError):
    """The body is not strict JSON."""

    known_as = "bad_json"


class BadName(PresenceError):
    """A channel, user or name breaks the rules for names."""

    known_as = "bad_name"


class Unauthorized(PresenceError):
    """The api key is not one of the server's."""

    known_as = "unauthorized"


class Forbidden(PresenceError):
    """The api key may only read, or the channel is the server's own."""

    known_as = "forbidden"


class NotFound(PresenceError):
    """There is no such queue or address."""

    known_as = "not_found"


class NotJoined(PresenceError):
    """The session is not in the channel."""

    known_as = "not_joined"


class Conflict(PresenceError):
    """The idempotency key was used with another body, or this node cannot reach the archive that there is."""

    known_as = "conflict"


class TooLarge(PresenceError):
    """The text is too large."""

    known_as = "too_large"


class UnsupportedMediaType(PresenceError):
    """The server does not take this kind of body."""

    known_as = "unsupported_media_type"


class LimitExceeded(PresenceError):
    """A limit is reached."""

    known_as = "limit"


class Unavailable(PresenceError):
    """The server cannot answer at the moment; a change may have been made all the same."""

    known_as = "unavailable"


class Unreachable(PresenceError):
    """There was no answer: no connection, or it broke. `sent`: the server may have got the request."""

    known_as = "unreachable"

    def __init__(self, detail: str, *, sent: bool) -> None:
        super().__init__(0, "unreachable", detail)
        self.sent = sent


_KINDS = {kind.known_as: kind for kind in PresenceError.__subclasses__() if kind is not Unreachable}
_OF_PROXIES = {413: "too_large", 429: "limit", 502: "unavailable", 503: "unavailable", 504: "unavailable"}


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> PresenceError:
    """The error that an answer stands for, also one that a proxy made."""
    problem = _problem(body)
    code = problem.get("code") or _OF_PROXIES.get(status, f"http_{status}")
    kind = _KINDS.get(code, PresenceError)
    return kind(status, code, problem.get("detail", ""), _seconds(headers.get("Retry-After")))


def _problem(body: bytes) -> dict[str, str]:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    if not isinstance(value, dict):
        return {}
    return {name: text for name, text in value.items() if isinstance(text, str)}


def _seconds(text: str | None) -> float | None:
    """`Retry-After` in seconds; a date, which our server never sends, counts as nothing said."""
    return float(text) if text is not None and text.isdecimal() else None
