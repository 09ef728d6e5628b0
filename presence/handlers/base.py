"""What every HTTP handler shares: who may ask, bounded bodies, problem+json for whatever goes wrong.

Before changing it: nothing that a client sent goes into a log line, a status line or a header, but the
allowed Origin. How a request is read stands in reading.py.
"""

from __future__ import annotations

import math
import re
import traceback
from asyncio import Future
from http.client import responses
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from tornado.http1connection import HTTP1Connection
from tornado.web import HTTPError, RequestHandler, stream_request_body

from presence import codec, logs
from presence.errors import (
    BadRequest,
    Forbidden,
    NotFound,
    PresenceError,
    TooLarge,
    Unauthorized,
    UnsupportedMediaType,
)
from presence.handlers.reading import ReadingHandler, same_host

if TYPE_CHECKING:
    from presence.services import Services

MAX_BODY_BYTES = 16 << 10
MAX_BATCH_BYTES = 1 << 20
DISCARD_BYTES = 8 << 20  # a body up to this size is read and thrown away, so that its sender can read the 413
PREFLIGHT_AGE_S = 600
UNREAD_S = 60.0

log = logs.get(__name__)


class BaseHandler(ReadingHandler):
    """A request; `admit` says who may make it."""

    @property
    def services(self) -> Services:
        return cast("Services", self.settings["services"])

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")

    def prepare(self) -> None:
        self.admit()

    def admit(self) -> None:
        """Raise the PresenceError for which this request is refused before its method runs."""

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> Future[None]:
        """As Tornado; but an answer that its client does not read is not kept for ever."""
        if self.services.draining and not self._headers_written:
            self.set_header("Connection", "close")  # the next request of a proxy or back end goes to another node
        written = super().finish(chunk)
        stream = cast(HTTP1Connection, self.request.connection).stream
        if stream.writing():
            entry = self.services.wheel.add(UNREAD_S, stream.close)
            written.add_done_callback(lambda _: entry.cancel())
        return written

    def compute_etag(self) -> str | None:
        return None

    def write_json_text(self, text: str, status: int = 200) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(text.encode())

    def write_error(self, status_code: int, **kwargs: object) -> None:
        exc_info = kwargs.get("exc_info")
        error = exc_info[1] if isinstance(exc_info, tuple) else None
        if not isinstance(error, PresenceError):
            error = _tornado_error(status_code)
        status = error.status
        self.set_status(status)  # without a reason: the one Tornado would pass on may quote the client
        self.set_header("Content-Type", "application/problem+json")
        for name, value in self._error_headers(error).items():
            self.set_header(name, value)
        problem: dict[str, object] = {
            "status": status,
            "title": error.title,
            "code": error.code,
            "detail": error.message,
        }
        if error.retry_ms is not None:
            problem["retry_ms"] = error.retry_ms
        self.finish(codec.compact(problem).encode())

    def _error_headers(self, error: PresenceError) -> dict[str, str]:
        headers = {}
        if error.retry_ms is not None:
            headers["Retry-After"] = str(max(1, math.ceil(error.retry_ms / 1000)))
        if error.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if error.status == 405:
            headers["Allow"] = ", ".join(self._implemented())
        if error.status == 426:
            headers |= {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        return headers

    def _implemented(self) -> list[str]:
        kind = type(self)
        return [
            method
            for method in self.SUPPORTED_METHODS
            if getattr(kind, method.lower()) is not getattr(RequestHandler, method.lower())
        ]

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """One line for what nobody expected: where it was, without the message, which may quote the
        client."""
        if isinstance(value, (PresenceError, HTTPError)):
            return
        where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(traceback.extract_tb(tb)[-4:]))
        name = "unknown" if typ is None else typ.__name__
        log.error("request_failed", handler=type(self).__name__, error=name, at=where)


@stream_request_body
class BodyHandler(BaseHandler):
    """A request with a JSON body. The body is collected here, bounded, because Tornado would keep all of it
    and parse forms and multipart before any handler could say no."""

    max_body_bytes = MAX_BODY_BYTES
    plain_text = False  # whether text/plain is taken as JSON

    def initialize(self) -> None:
        self.services.answering.add(self)
        self._body = bytearray()
        self._body_bytes = 0
        self._refusal: PresenceError | None = None

    def prepare(self) -> None:
        announced = self.request.headers.get("Content-Length", "0")
        if announced.isdecimal() and int(announced[:20]) > DISCARD_BYTES:
            raise TooLarge(f"body must have at most {self.max_body_bytes} bytes")
        cast(HTTP1Connection, self.request.connection).set_max_body_size(DISCARD_BYTES)
        try:
            super().prepare()
        except PresenceError as error:
            # Answered when the body has come: an answer before would cost the connection, and often get lost
            # with it. Tornado looks the method up only then.
            self._refusal = error
            setattr(self, (self.request.method or "get").lower(), self._refuse)

    def on_finish(self) -> None:
        self.services.answering.discard(self)

    def on_connection_close(self) -> None:
        self.services.answering.discard(self)

    def data_received(self, chunk: bytes) -> None:
        self._body_bytes += len(chunk)
        if self._body_bytes <= self.max_body_bytes and self._refusal is None:
            self._body += chunk

    def read_value(self) -> object:
        """The body as strict JSON of any type."""
        return codec.decode_value(self._checked_body(), max_bytes=self.max_body_bytes)

    def read_object(self, *, optional: bool = False) -> dict[str, object]:
        """The body as a JSON object; where it is optional, no body is an empty object."""
        if optional and not self._body_bytes:
            return {}
        return codec.decode_object(self._checked_body(), max_bytes=self.max_body_bytes)

    def _checked_body(self) -> bytes:
        if self._body_bytes > self.max_body_bytes:
            raise TooLarge(f"body must have at most {self.max_body_bytes} bytes")
        headers = self.request.headers
        kind, _, parameters = headers.get("Content-Type", "").partition(";")
        allowed = ("application/json", "text/plain") if self.plain_text else ("application/json",)
        if kind.strip().lower() not in allowed:
            raise UnsupportedMediaType(f"Content-Type must be {' or '.join(allowed)}")
        charset = re.search(r"charset\s*=\s*\"?([^\s\";]*)", parameters, re.IGNORECASE)
        if charset and charset[1].lower() not in ("utf-8", "utf8"):
            raise UnsupportedMediaType("the charset must be utf-8")
        if headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise UnsupportedMediaType("the body must not be compressed")
        return bytes(self._body)

    def _refuse(self, *names: str) -> None:
        if self._refusal is not None:
            raise self._refusal


class ClientHandler(BaseHandler):
    """An endpoint for browsers: the Origin is checked, and CORS answers where it is allowed."""

    def set_default_headers(self) -> None:
        super().set_default_headers()
        for name, value in self.cors_headers().items():
            self.set_header(name, value)

    def cors_headers(self) -> dict[str, str]:
        """What a response to an allowed Origin carries; empty without one."""
        origin = self.request.headers.get("Origin")
        if origin is None or not self._allows(origin):
            return {"Vary": "Origin"}
        return {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": "Retry-After",
        }

    def admit(self) -> None:
        origin = self.request.headers.get("Origin")
        if origin is not None and not self._allows(origin):
            raise Forbidden("this origin is not allowed")

    def options(self) -> None:
        """Preflight."""
        self.set_header("Access-Control-Allow-Methods", ", ".join(self._implemented()))
        self.set_header("Access-Control-Allow-Headers", "Authorization, Content-Type, Last-Event-ID")
        self.set_header("Access-Control-Max-Age", str(PREFLIGHT_AGE_S))
        self.set_status(204)
        self.finish()

    def token(self) -> str:
        """The client's token: out of the header, else out of the query, where browsers must put it."""
        header = self.request.headers.get("Authorization")
        if header is not None:
            scheme, _, token = header.strip().partition(" ")
            if scheme.lower() != "bearer" or not token.strip():
                raise Unauthorized("Authorization must be: Bearer TOKEN")
            return token.strip()
        try:
            given = self.query("token")
        except BadRequest as error:  # several, or no UTF-8: a bad token like any other
            raise Unauthorized(error.message) from None
        if not given:
            raise Unauthorized("a token is required")
        return given

    def session_id(self) -> str | None:
        text = self.query("session")
        return None if text is None else codec.session_id(text)

    def _allows(self, origin: str) -> bool:
        if origin in self.services.settings.allowed_origins:
            return True
        host = self.request.headers.get("Host", "")
        return same_host(origin, host)


class ClientBodyHandler(ClientHandler, BodyHandler):
    """An endpoint for browsers that takes a JSON body."""


def _tornado_error(status: int) -> PresenceError:
    """What Tornado itself refuses, in the words of the protocol."""
    error: PresenceError
    if status == 404:
        return NotFound("there is no such address")
    if status == 405:
        error = BadRequest("this address does not take this method; Allow names those it takes")
    elif status >= 500:
        return _Internal("the server made a mistake; its log names it")
    else:
        error = BadRequest("the request is not understood")
    return _with_status(error, status)


class _Internal(PresenceError):
    code, status, title = "internal", 500, "The server made a mistake"


def _with_status(error: PresenceError, status: int) -> PresenceError:
    if status == error.status:
        return error
    kind = type(type(error).__name__, (type(error),), {"status": status, "title": responses.get(status, "Error")})
    return cast(PresenceError, kind(error.message))


class NotFoundHandler(BaseHandler):
    """Everything that no route knows."""

    def prepare(self) -> None:
        raise NotFound("there is no such address")
