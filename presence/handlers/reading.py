"""Strict reading of paths, queries and origins.

Before changing it: Tornado decodes leniently (it replaces control characters and mixes raw with
percent-encoded bytes), so everything is read here from the raw bytes of the request.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes, urlsplit

from tornado.web import RequestHandler

from presence import codec
from presence.errors import BadName, BadRequest

MAX_LIMIT = 1000
DEFAULT_LIMIT = 100

_DEFAULT_PORTS = {"http": 80, "https": 443}
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_LIMIT = re.compile(r"[0-9]{1,4}")
_WAIT = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")


class ReadingHandler(RequestHandler):
    """A request, as it was meant or not at all."""

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        # Path arguments pass here before `prepare`; who uses one reads it strictly by `path_name`.
        return value.decode("utf-8", "replace")

    def path_text(self, position: int) -> str:
        """The text of a path segment ("" is segment 0); BadName unless it is percent-encoded UTF-8."""
        part = self.request.path.split("/")[position]
        if _BAD_ESCAPE.search(part):
            raise BadName("a name in the path is not percent-encoded")
        try:
            return unquote_to_bytes(part.encode("latin-1")).decode()
        except UnicodeError:
            raise BadName("a name in the path is not UTF-8") from None

    def query(self, name: str) -> str | None:
        """The query's one value of this name, None where it has none."""
        values = self.query_all(name)
        if len(values) > 1:
            raise BadRequest(f"{name} is given more than once")
        return values[0] if values else None

    def query_all(self, name: str) -> list[str]:
        try:
            return [value.decode() for value in self.request.query_arguments.get(name, [])]
        except UnicodeError:
            raise BadRequest(f"{name} is not UTF-8") from None

    def limit(self) -> int:
        text = self.query("limit")
        if text is None:
            return DEFAULT_LIMIT
        number = int(text) if _LIMIT.fullmatch(text) else 0
        return codec.integer(number, "limit", 1, MAX_LIMIT)

    def after(self) -> str | None:
        """The name after which a page begins."""
        text = self.query("after")
        try:
            return None if text is None else codec.name(text, "after")
        except BadName as error:
            raise BadRequest(error.message) from None

    def flag(self, name: str) -> bool:
        """Whether the query has `name=true`."""
        text = self.query(name)
        if text not in (None, "true", "false"):
            raise BadRequest(f"{name} must be true or false")
        return text == "true"

    def wait_s(self) -> float | None:
        text = self.query("wait")
        if text is None:
            return None
        if not _WAIT.fullmatch(text):
            raise BadRequest("wait must be a number of seconds")
        return float(text)


def same_host(origin: str, host: str) -> bool:
    """Whether an Origin names this host and port, whatever the scheme: behind a proxy that ends TLS the node
    does not know the scheme that the browser used."""
    try:
        there, here = urlsplit(origin), urlsplit(f"//{host}")
        if there.scheme not in _DEFAULT_PORTS or origin != f"{there.scheme}://{there.netloc}":
            return False
        default = _DEFAULT_PORTS[there.scheme]
        ports = (there.port or default, here.port or default)
    except ValueError:
        return False
    plain = "@" not in origin and "@" not in host
    return plain and bool(here.hostname) and there.hostname == here.hostname and ports[0] == ports[1]
