"""Endpoints for operators: is the process alive, can it serve, what has it counted. None needs a key."""

from __future__ import annotations

from presence import codec
from presence.handlers.base import BaseHandler


class HealthHandler(BaseHandler):
    """`GET /healthz`: the loop turns. Never asks Redis: a restart of this process would not heal that."""

    def get(self) -> None:
        self.write_json_text('{"status":"ok"}')

    head = get


class ReadyHandler(BaseHandler):
    """`GET /readyz`: Redis answers and the subscriptions deliver; else 503, so that a proxy goes
    elsewhere."""

    def get(self) -> None:
        ready, details = self.services.ready()
        self.write_json_text(codec.compact({"ready": ready, **details}), 200 if ready else 503)

    head = get


class MetricsHandler(BaseHandler):
    """`GET /metrics` for Prometheus."""

    def get(self) -> None:
        page, content_type = self.services.metrics.render()
        self.set_header("Content-Type", content_type)
        self.finish(page)
