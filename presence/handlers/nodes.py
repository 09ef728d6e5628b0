"""The deployment as a back end sees it: `/v1/nodes`."""

from __future__ import annotations

from presence import codec
from presence.attendance import Attendant
from presence.handlers.api import ApiHandler, page_text


class NodesHandler(ApiHandler):
    """`GET /v1/nodes`: the nodes of the last ten minutes, each as it said last."""

    async def get(self) -> None:
        now, nodes = await self.services.attendance.all()
        self.write_json_text(page_text({"now": now}, "nodes", [self._text(node) for node in nodes]))

    def _text(self, node: Attendant) -> str:
        head = {
            "node": node.node,
            "self": node.node == self.services.node,
            "listening": node.listening,
            "seen_at": node.seen_at,
            "started_at": node.started_at,
        }
        return f"{codec.compact(head)[:-1]},{node.report[1:]}"
