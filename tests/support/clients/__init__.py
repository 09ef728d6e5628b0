"""Clients of every transport behind one interface; see `base.Client` for what a test can ask."""

from __future__ import annotations

from typing import Any

from tests.support import tokens
from tests.support.clients.base import ABNORMAL, Client, CommandError
from tests.support.clients.longpoll import LongPollClient
from tests.support.clients.rooms import Frame, Room
from tests.support.clients.sse import SseClient
from tests.support.clients.websocket import WebSocketClient, open_socket
from tests.support.node import Node

TRANSPORTS: dict[str, type[Client]] = {kind.transport: kind for kind in (WebSocketClient, SseClient, LongPollClient)}

__all__ = [
    "ABNORMAL",
    "TRANSPORTS",
    "Client",
    "CommandError",
    "Frame",
    "LongPollClient",
    "Room",
    "SseClient",
    "WebSocketClient",
    "connect",
    "make_client",
    "open_socket",
]


def make_client(
    transport: str,
    node: Node,
    user: str,
    *,
    session: str | None = None,
    grants: tokens.Grants | None = tokens.EVERYTHING,
    info: Frame | None = None,
    token: str | None = None,
    **options: Any,
) -> Client:
    """A client that is not connected yet. `grants` and `info` go into its token, unless a `token` is given."""
    token = token or tokens.make_token(user, grants=grants, info=info)
    return TRANSPORTS[transport](node, user, session=session, token=token, **options)


async def connect(transport: str, node: Node, user: str, **options: Any) -> Client:
    """A connected client (an HTTP one opens its stream or poll with its first `join`)."""
    client = make_client(transport, node, user, **options)
    await client.connect()
    return client
