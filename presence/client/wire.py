"""Calls as httpx requests, and its answers and exceptions as ours: the part of the network that both clients share."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from presence.client.calls import Call
from presence.client.errors import PresenceError, Unreachable, error_of
from presence.client.patience import Patience

T = TypeVar("T")
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True)
class Place:
    """Where the server is, and how to talk to it; `timeout_s` for each step of an exchange."""

    url: str
    api_key: str = field(repr=False)
    timeout_s: float
    patience: Patience
    verify: ssl.SSLContext | bool
    connections: int

    def options(self) -> dict[str, Any]:
        """What both kinds of httpx client are made with."""
        return {
            "base_url": self.url,
            "headers": {"Authorization": f"Bearer {self.api_key}", "User-Agent": "presence-client"},
            "timeout": self.timeout_s,
            "verify": self.verify,
            "limits": httpx.Limits(max_connections=self.connections, max_keepalive_connections=self.connections),
        }

    def request(self, call: Call[Any]) -> dict[str, Any]:
        """The arguments of httpx's `request`; a long-poll is waited for longer than the server waits."""
        return {
            "method": call.method,
            "url": call.path,
            "params": call.query or None,
            "content": call.content,
            "headers": call.all_headers,
            "timeout": httpx.Timeout(self.timeout_s, read=self.timeout_s + call.wait_s),
        }


def failure_of(error: httpx.TransportError) -> Unreachable:
    """What it means that there was no answer."""
    detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Unreachable(detail, sent=not isinstance(error, _NOT_SENT))


def problem_of(answer: httpx.Response) -> PresenceError | None:
    """The error that this answer is, or None."""
    if answer.is_success:
        return None
    return error_of(answer.status_code, answer.headers, answer.content)


def meaning_of(call: Call[T], answer: httpx.Response) -> T:
    """What a good answer says."""
    try:
        return call.parse(answer.json() if answer.content else {})
    except (ValueError, KeyError, TypeError) as error:
        raise PresenceError(answer.status_code, "bad_answer", f"not what this server says: {error!r}") from error
