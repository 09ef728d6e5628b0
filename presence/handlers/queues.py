"""The endpoints of work queues: `/v1/queues/{group}` and what is below it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

from tornado.http1connection import HTTP1Connection

from presence import codec
from presence.errors import BadRequest, Forbidden
from presence.handlers.api import ApiHandler, page_text
from presence.queues import DELIVERIES, TYPES, Queue

MAX_TAKEN = 500
DEFAULT_TAKEN = 100
MAX_WAIT_MS = 60_000
MIN_LEASE_MS, MAX_LEASE_MS, DEFAULT_LEASE_MS = 100, 86_400_000, 30_000
MAX_DELIVERIES = 1000
MAX_IDS = 1000
MAX_ID_BYTES = 100


class QueueApiHandler(ApiHandler):
    """A queue whose name is segment 3 of the path."""

    owned = False  # whether it may also be asked of the server's own queues, such as those of webhooks

    def names(self) -> list[str]:
        group = codec.name(self.path_text(3), "queue")
        if group.startswith("@") and not self.owned and self.request.method != "GET":
            raise Forbidden("queues whose name begins with @ are the server's own")
        return [group]


class QueueHandler(QueueApiHandler):
    """`/v1/queues/{group}`"""

    async def put(self, group: str) -> None:
        body = self.read_object(optional=True)
        start = body.get("from", "now")
        if start not in ("now", "start"):
            raise BadRequest("from must be now or start")
        await self.doors(body).queues.put(group, _queue(body), from_start=start == "start")
        self.write_nothing()

    async def delete(self, group: str) -> None:
        await self.doors().queues.drop(group)
        self.write_nothing()

    async def get(self, group: str) -> None:
        standing, queue = await self.services.queues.look(group)
        answer = {
            "group": group,
            "waiting": standing.waiting,
            "in_flight": standing.in_flight,
            "oldest_ms": standing.oldest_ms,
            "dead": standing.dead,
            "lost": standing.lost,
            "consumers": len(standing.consumers),
            "types": list(queue.types) or None,
            "channels": queue.pattern,
            "max_deliveries": queue.max_deliveries,
        }
        self.write_json_text(codec.compact(answer))


class TakeHandler(QueueApiHandler):
    """`/v1/queues/{group}/take`: a long-poll."""

    _taking: asyncio.Future[list[dict[str, Any]]] | None = None

    async def post(self, group: str) -> None:
        body = self.read_object()
        consumer = codec.name(body.get("consumer"), "consumer")
        count = codec.integer(body.get("count", DEFAULT_TAKEN), "count", 1, MAX_TAKEN)
        wait_ms = codec.integer(body.get("wait_ms", 0), "wait_ms", 0, MAX_WAIT_MS)
        lease_ms = _lease_ms(body, DEFAULT_LEASE_MS)
        if self._client_is_gone():  # before this request was read: then on_connection_close does not come
            return
        takers = self.services.takers
        self._taking = asyncio.ensure_future(takers.take(group, consumer, count, wait_ms, lease_ms))
        takers.answering += 1
        try:
            events = await self._taking
            if self._client_is_gone():
                await takers.give_back(group, consumer, events)
            self.write_json_text(page_text({}, "events", [codec.compact(event) for event in events]))
        except asyncio.CancelledError:
            return  # nobody is there any more
        finally:
            takers.answering -= 1

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self._taking is not None:
            self._taking.cancel()

    def _client_is_gone(self) -> bool:
        """Whether the connection has ended, also if Tornado has not read that far yet."""
        stream = cast(HTTP1Connection, self.request.connection).stream
        if stream.closed():
            return True
        try:
            return stream.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True


class SettleHandler(QueueApiHandler):
    """`/v1/queues/{group}/ack`, `/release` and `/extend`"""

    max_body_bytes = 1 << 17

    async def post(self, group: str) -> None:
        body = self.read_object()
        what = self.path_text(4)
        consumer, ids = codec.name(body.get("consumer"), "consumer"), _ids(body)
        if what == "extend" and "lease_ms" not in body:
            raise BadRequest("lease_ms is missing: how long from now the events are still yours")
        lease_ms = _lease_ms(body, 0) if what == "extend" else 0
        done, refused = await self.doors(body).queues.settle(group, consumer, what, ids, lease_ms)
        self.write_json_text(codec.compact({"acked": done, "refused": refused}))


class DeadHandler(QueueApiHandler):
    """`/v1/queues/{group}/dead`"""

    async def get(self, group: str) -> None:
        after = self.query("after")
        if after is not None and len(after) > MAX_ID_BYTES:
            raise BadRequest("after must be the id of a dead letter")
        letters, following = await self.services.queues.dead(group, self.limit(), after)
        self.write_json_text(page_text({}, "events", [codec.compact(event) for event in letters], following))


class RequeueHandler(QueueApiHandler):
    """`/v1/queues/{group}/dead/requeue`"""

    owned = True
    max_body_bytes = 1 << 17

    async def post(self, group: str) -> None:
        body = self.read_object()
        done, refused = await self.doors(body).queues.requeue(group, _ids(body))
        self.write_json_text(codec.compact({"requeued": done, "refused": refused}))


def _queue(body: dict[str, object]) -> Queue:
    types = body.get("types")
    if types is not None:
        if not isinstance(types, list) or not types or not all(isinstance(kind, str) for kind in types):
            raise BadRequest("types must be a list of event types")
        if not set(types) <= set(TYPES):
            raise BadRequest(f"types are {', '.join(TYPES)}")
    pattern = body.get("channels")
    most = codec.integer(body.get("max_deliveries", DELIVERIES), "max_deliveries", 1, MAX_DELIVERIES)
    return Queue(
        types=tuple(dict.fromkeys(types or ())),
        pattern="*" if pattern is None else codec.name(pattern, "channels"),
        max_deliveries=most,
    )


def _lease_ms(body: dict[str, object], default: int) -> int:
    return codec.integer(body.get("lease_ms", default), "lease_ms", MIN_LEASE_MS, MAX_LEASE_MS)


def _ids(body: dict[str, object]) -> list[str]:
    """The ids as given; one that is no id of this server is like one that the consumer does not hold."""
    ids = body.get("ids")
    if not isinstance(ids, list) or not all(isinstance(text, str) and len(text) <= MAX_ID_BYTES for text in ids):
        raise BadRequest(f"ids must be a list of texts of at most {MAX_ID_BYTES} characters")
    if len(ids) > MAX_IDS:
        raise BadRequest(f"ids may have {MAX_IDS} entries; nothing was done")
    return ids
