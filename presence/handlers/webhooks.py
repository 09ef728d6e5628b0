"""The endpoints of webhooks: `/v1/webhooks` and what is below it."""

from __future__ import annotations

from presence import codec
from presence.errors import BadRequest
from presence.handlers.api import ApiHandler
from presence.webhooks import Report

MAX_INSTANT_MS = 253_402_300_799_000  # the year 9999
MAX_CURSOR_CHARACTERS = 100


class WebhooksHandler(ApiHandler):
    """`/v1/webhooks`"""

    async def get(self) -> None:
        reports = await self.services.webhooks.reports()
        self.write_json_text(codec.compact({"webhooks": [_report(report) for report in reports]}))


class WebhookApiHandler(ApiHandler):
    """A webhook whose name is segment 3 of the path."""

    def names(self) -> list[str]:
        return [codec.name(self.path_text(3), "webhook")]


class WebhookHandler(WebhookApiHandler):
    """`/v1/webhooks/{name}`"""

    async def delete(self, name: str) -> None:
        await self.services.webhooks.end(name)
        self.write_nothing()


class ReplayHandler(WebhookApiHandler):
    """`/v1/webhooks/{name}/replay`"""

    async def post(self, name: str) -> None:
        body = self.read_object()
        if ("from" in body) == ("cursor" in body):
            raise BadRequest("give one of from (Unix ms) and cursor (of a webhook's data)")
        if "from" in body:
            from_ms = codec.integer(body["from"], "from", 0, MAX_INSTANT_MS)
            events = await self.services.webhooks.replay(name, from_ms=from_ms)
        else:
            cursor = body["cursor"]
            if not isinstance(cursor, str) or len(cursor) > MAX_CURSOR_CHARACTERS:
                raise BadRequest("cursor must be one that came with a webhook")
            events = await self.services.webhooks.replay(name, cursor=cursor)
        self.write_json_text(codec.compact({"events": events}))


def _report(report: Report) -> dict[str, object]:
    target, note, queue = report.target, report.note, report.queue
    return {
        "name": target.name,
        "url": target.shown_url,
        "types": list(target.queue.types) or None,
        "channels": target.queue.pattern,
        "node": report.node,
        "waiting": None if queue is None else queue.waiting,
        "in_flight": None if queue is None else queue.in_flight,
        "oldest_ms": None if queue is None else queue.oldest_ms,
        "dead": None if queue is None else queue.dead,
        "lost": None if queue is None else queue.lost,
        "cursor": note.cursor,
        "delivered_at": note.delivered_at,
        "failing_since": note.failing_since,
        "attempts": note.attempts,
        "retry_at": note.retry_at,
        "error": note.error,
        "error_at": note.error_at,
    }
