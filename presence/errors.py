"""Every refusal the server can utter: its code, its HTTP status and when to come back.

Codes, statuses and close codes are promises to clients; a test compares them with the documentation.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class PresenceError(Exception):
    """A refusal with a code of the protocol; ``retry_ms`` says when to try again, None: never unchanged."""

    code: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]
    default_retry_ms: ClassVar[int | None] = None

    def __init__(self, message: str, *, retry_ms: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_ms = self.default_retry_ms if retry_ms is None else retry_ms


class BadRequest(PresenceError):
    code, status, title = "bad_request", 400, "The request is not understood"


class BadJson(PresenceError):
    code, status, title = "bad_json", 400, "The text is not valid JSON"


class BadName(PresenceError):
    code, status, title = "bad_name", 400, "The name breaks the rules for names"


class Unauthorized(PresenceError):
    code, status, title = "unauthorized", 401, "The token or key is missing, bad or over"


class Forbidden(PresenceError):
    code, status, title = "forbidden", 403, "The token or key does not allow this"


class NotFound(PresenceError):
    code, status, title = "not_found", 404, "There is nothing at this address"


class NotJoined(PresenceError):
    code, status, title = "not_joined", 409, "The session is not in this channel"


class Conflict(PresenceError):
    code, status, title = "conflict", 409, "The request does not fit what is there already"


class TooLarge(PresenceError):
    code, status, title = "too_large", 413, "The text is too large"


class UnsupportedMediaType(PresenceError):
    code, status, title = "unsupported_media_type", 415, "The body must be application/json"


class LimitExceeded(PresenceError):
    code, status, title = "limit", 429, "A limit is reached"
    default_retry_ms = 1000


class Unavailable(PresenceError):
    code, status, title = "unavailable", 503, "The server cannot answer at the moment"
    default_retry_ms = 1000


class BadSetting(Exception):
    """A setting, or what it points to, is wrong; the message says what would be right and shows no secret."""


class CannotListen(Exception):
    """The address to serve at is taken or not ours. Unlike a wrong setting, that may pass."""


class CloseCode(IntEnum):
    """Why a connection was closed: 40xx do not return unchanged, 41xx return with back-off, 42xx at once."""

    UNAUTHORIZED = 4001
    DISCONNECTED = 4003
    REPLACED = 4009
    UNAVAILABLE = 4100
    SILENT = 4101
    TOO_SLOW = 4108
    DRAIN = 4200


ERRORS: dict[str, type[PresenceError]] = {error.code: error for error in PresenceError.__subclasses__()}
