"""What a node has to offer to a conversation: made once by node.py, received by everybody else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from presence.attendance import Attendance
from presence.auth import Authenticator
from presence.directory import Directory
from presence.doors import Doors
from presence.erasure import Erasure
from presence.hub import Hub
from presence.inboxes import Inboxes
from presence.inflow import Inflow
from presence.limits import Admission
from presence.logs import get
from presence.metrics import Metrics
from presence.past import Past
from presence.queues import Queues
from presence.settings import Settings
from presence.takers import Takers
from presence.tracker import Tracker
from presence.webhooks import Webhooks
from presence.wheel import NEVER, Wheel

if TYPE_CHECKING:
    from presence.registry import Registry

log = get(__name__)


@dataclass
class Services:
    """Everything that one node consists of."""

    settings: Settings
    node: str
    tracker: Tracker
    directory: Directory
    attendance: Attendance
    past: Past
    queues: Queues
    inboxes: Inboxes
    erasure: Erasure
    takers: Takers
    inflow: Inflow
    webhooks: Webhooks
    doors: Mapping[str, Doors]  # by durability: `accepted`, `durable`
    hub: Hub
    registry: Registry
    wheel: Wheel
    auth: Authenticator
    metrics: Metrics
    admission: Admission
    ready: Callable[[], tuple[bool, dict[str, object]]]
    draining: bool = False
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    answering: WeakSet[object] = field(default_factory=WeakSet)  # requests whose loss would leave their outcome unknown

    disturbed_at: dict[int, float] = field(default_factory=dict)  # by partition (monotonic)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Own a task until it ends."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def disturbed(self, partition: int) -> None:
        """A partition stood still or lost data: timeouts around now are not the clients' fault."""
        self.disturbed_at[partition] = time.monotonic()

    def calm_since(self, moment: float, *partitions: int) -> bool:
        """Whether nothing of that kind happened to these, nor a stall to this node, after `moment` (monotonic)."""
        lasts = [self.disturbed_at.get(partition, NEVER) for partition in partitions]
        return max(self.wheel.stalled_at, *lasts) <= moment

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task_failed", task=task.get_name(), exc_info=error)
