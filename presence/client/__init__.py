"""The client for back ends: every call of the HTTP API, and workers on queues. It needs nothing of the server.

`Client` is for threads, `AsyncClient` for asyncio; both have the same calls, described in `calls` and `queue_calls`.
"""

from __future__ import annotations

from presence.client.answers import (
    Channel,
    Event,
    History,
    Inbox,
    Member,
    Page,
    Pending,
    Put,
    QueueStatus,
    Settled,
    User,
)
from presence.client.asynchronous import AsyncClient, AsyncQueue
from presence.client.blocking import Client, Queue
from presence.client.errors import (
    BadJson,
    BadName,
    BadRequest,
    Conflict,
    Forbidden,
    LimitExceeded,
    NotFound,
    NotJoined,
    PresenceError,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unreachable,
    UnsupportedMediaType,
)
from presence.client.threads import Worker
from presence.client.worker import AsyncWorker, Terms

__all__ = [
    "AsyncClient",
    "AsyncQueue",
    "AsyncWorker",
    "BadJson",
    "BadName",
    "BadRequest",
    "Channel",
    "Client",
    "Conflict",
    "Event",
    "Forbidden",
    "History",
    "Inbox",
    "LimitExceeded",
    "Member",
    "NotFound",
    "NotJoined",
    "Page",
    "Pending",
    "PresenceError",
    "Put",
    "Queue",
    "QueueStatus",
    "Settled",
    "Terms",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
    "UnsupportedMediaType",
    "User",
    "Worker",
]
