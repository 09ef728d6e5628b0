"""One node: makes its parts, says who tells whom, starts, drains and stops them.

Everything is made here and handed on; nobody else knows all the parts. The order at the end matters: sessions are
let go without a script, so that nobody is announced as gone because a node was restarted.
"""

from __future__ import annotations

import asyncio
import gc
import random
import secrets
from contextlib import suppress

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from presence import events, logs
from presence.addresses import parse_redis_url
from presence.attendance import Attendance
from presence.auth import Authenticator
from presence.broker import Broker
from presence.doors import make_doors
from presence.erasure import Erasure
from presence.errors import BadSetting, CannotListen, CloseCode, Unavailable
from presence.events import Event
from presence.expiry import Expiry
from presence.feedkeeping import FeedKeeping
from presence.handlers import make_application
from presence.hub import Hub
from presence.inflow import Inflow
from presence.keys import SCHEMA, Keys
from presence.lanes import Lanes
from presence.limits import Admission
from presence.lua import Scripts
from presence.mailbox import Frame
from presence.memory import Memory
from presence.metrics import Metrics
from presence.past import Past
from presence.registry import Registry
from presence.services import Services
from presence.settings import Settings, masked_url
from presence.takers import Takers
from presence.topology import make_topology
from presence.webhooks import Webhooks, load_targets
from presence.wheel import Wheel

log = logs.get(__name__)

WATCH_S = 1.0
POLICY_EVERY = 10
DRAIN_STEPS = 50
BACKLOG = 4096


class Node:
    """One server process."""

    def __init__(self, settings: Settings, redis_url: str) -> None:
        self.settings = settings
        self.redis_url = redis_url
        self.name = secrets.token_hex(4)
        self.metrics = Metrics(self.name, max_connections=settings.max_connections, feed_max=settings.feed_max)
        url = parse_redis_url(redis_url)
        self.keys = Keys(settings.key_prefix, settings.partitions, url.database)
        self._guards = [self.keys.script(number)[0] for number in range(settings.partitions)]
        self.topology = make_topology(url, self._guards)
        self._sweeps = Lanes(self.topology)  # of its own: whatever the others do, silence is noticed
        # The sweep asks all the time: what it finds away nobody else needs to wait for.
        self._commands = Lanes(self.topology, self._sweeps.away)
        self._reads = Lanes(self.topology, self._sweeps.away)
        self._work = Lanes(self.topology, self._sweeps.away)  # of back ends: a batch of 500 delays no client
        self._hooks = Lanes(self.topology, self._sweeps.away)  # of webhooks: nor do what 50 targets have missed
        self._durable = Lanes(self.topology, self._sweeps.away, replicas=settings.durable_replicas)
        common = (self.keys, settings, self.name, self.metrics)
        doors = make_doors(*common, self._commands, self._reads, self._work)
        self.doors = {"accepted": doors, "durable": make_doors(*common, *[self._durable] * 3)}
        self.scripts, self.tracker, self.directory = doors.scripts, doors.tracker, doors.directory
        self.queues, self.inboxes = doors.queues, doors.inboxes
        self.takers = Takers(self.queues, self.keys)
        targets = load_targets(settings.webhooks_file)
        self.webhooks = Webhooks(targets, Scripts(self._hooks), self.keys, self.name, self.metrics)
        self.memory = Memory(self.topology, self._reads, self._guards, self.metrics)
        self.feedkeeping = FeedKeeping(Scripts(self._work), self.queues, self.keys, settings, self.metrics)
        self.past = Past(self.directory, self.scripts, self.keys, settings, self.metrics)
        self.hub = Hub(self.tracker, self.metrics)
        self.registry = Registry(self.keys)
        self.inflow = Inflow(self.registry, self.tracker, self.metrics)
        self.broker = Broker(self.topology, self._commands, self.keys, self.name, self.metrics)
        self.expiry = Expiry(Scripts(self._sweeps), self.keys, settings, self.metrics, self.broker.hears)
        self.wheel = Wheel()
        self.attendance = Attendance(self.scripts, self.keys, self.directory, self.name, self.ready, self.metrics)
        self.services = self._make_services()
        self.metrics.ready.set_function(lambda: self.ready()[0])
        self._seen: list[tuple[str, str, int]] = []
        self._server: HTTPServer | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.port = 0
        self._connect_parts()

    def ready(self) -> tuple[bool, dict[str, object]]:
        """Whether this node can serve, and what is missing."""
        state: dict[str, object] = {
            "redis": self.expiry.up and self.expiry.born,
            "subscription": self.broker.delivering,
            "no_eviction": not self.memory.evicting,
            "draining": self.services.draining,
            "keyspace_events": self.broker.hears_expiries,
        }
        serves = state["redis"] and state["subscription"] and state["no_eviction"] and not state["draining"]
        return bool(serves), state

    async def start(self) -> None:
        """Return when the node can serve."""
        await self.topology.start()
        self.keys.sharded = self.topology.sharded
        await self._agree_on_schema()
        loop = asyncio.get_running_loop()
        self.broker.start()
        self.expiry.start()
        self._tasks = [loop.create_task(self.wheel.run()), loop.create_task(self._watch())]
        waited_s = 0.0
        while not (self.broker.delivering and self.expiry.up and self.expiry.born):
            await asyncio.sleep(0.02)
            waited_s += 0.02
            if waited_s > 5:
                waited_s = 0.0
                log.warning("not_ready", **{name: bool(value) for name, value in self.ready()[1].items()})
        await self.webhooks.start()
        # Not before: a proxy takes an open port for a node that answers, and would let requests wait there.
        host, port = self.settings.host, self.settings.port
        try:
            sockets = bind_sockets(port, host, backlog=BACKLOG)
        except OSError as error:
            raise CannotListen(f"cannot listen at {host}:{port}: {error.strerror}") from error
        self.port = sockets[0].getsockname()[1]
        self._server = HTTPServer(
            make_application(self.services),
            max_header_size=32 * 1024,
            max_body_size=1 << 20,
            idle_connection_timeout=75,
            body_timeout=20,
        )
        self._server.add_sockets(sockets)
        await self.attendance.start()
        gc.collect()
        gc.freeze()  # what is here now stays: the collector need not look at it again
        gc.set_threshold(20_000, 20, 20)

    async def drain(self) -> None:
        """Send everybody to other nodes, spread over the window; their sessions live on, nobody is announced."""
        self.services.draining = True
        self.takers.stop()
        window_s = self.settings.drain_ms / 1000
        waiting = [session for session in self.registry.all() if session.transport != "longpoll"]
        random.shuffle(waiting)
        log.info("draining", connections=len(waiting), window_s=window_s)
        end = asyncio.get_running_loop().time() + window_s
        step_s, size = 0.7 * window_s / DRAIN_STEPS, -(-len(waiting) // DRAIN_STEPS)
        for at in range(0, len(waiting), max(1, size)):
            for session in waiting[at : at + size]:
                session.mailbox.put(Frame(events.reconnect(random.randrange(int(step_s * 1000) + 1))))
            await asyncio.sleep(step_s)
        while self.registry.all() and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110 (many may end it)
            await asyncio.sleep(0.05)
        if self._server is not None:
            self._server.stop()  # who is told to come back at once must not come back to this node
        for session in self.registry.all():
            session.shut(CloseCode.DRAIN, "this node is going; come back at once")
        for _ in range(20):
            if not (self.services.admission.connections or self.takers.answering or self.services.answering):
                break
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """End what was started, in the order of its dependence."""
        if self._server is not None:
            self._server.stop()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._server.close_all_connections(), 1)
        await self.webhooks.stop()
        await self.attendance.stop()
        await self.expiry.stop()
        await self.broker.stop()
        await self.registry.stop()
        await self.hub.stop()
        await self.inflow.stop()
        await self.past.stop()
        for task in [*self._tasks, *self.services.tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self.services.tasks, return_exceptions=True)
        for lanes in (self._sweeps, self._commands, self._reads, self._work, self._hooks, self._durable):
            await lanes.close()
        await self.topology.stop()

    # ---- below: private ----

    def _make_services(self) -> Services:
        return Services(
            settings=self.settings,
            node=self.name,
            tracker=self.tracker,
            directory=self.directory,
            attendance=self.attendance,
            past=self.past,
            queues=self.queues,
            inboxes=self.inboxes,
            erasure=Erasure(self.past, self.keys),
            inflow=self.inflow,
            takers=self.takers,
            webhooks=self.webhooks,
            doors=self.doors,
            hub=self.hub,
            registry=self.registry,
            wheel=self.wheel,
            auth=Authenticator(self.settings),
            metrics=self.metrics,
            admission=Admission(self.settings.max_connections),
            ready=self.ready,
        )

    def _connect_parts(self) -> None:
        """Say who tells whom."""
        self.broker.on_event = self._heard_event
        self.broker.on_control = self.registry.heard_control
        self.broker.on_lapse = self.expiry.notice
        self.broker.on_subscribed = self._subscribed
        for doors in self.doors.values():
            doors.tracker.on_unclaimed = self.past.returned
        self.expiry.on_lost_data = self._lost_data
        self.expiry.on_trouble = self.services.disturbed
        self.expiry.on_ended = lambda user, session, seen: self._seen.append((user, session, seen))

    async def _subscribed(self, partitions: frozenset[int]) -> None:
        """What the buses of these said until now may be lost: read it again where it is kept."""
        directory = self.directory
        await asyncio.gather(
            self.hub.reconcile(partitions),
            self.registry.catch_up(directory.numbers, directory.registered, partitions),
            self.inflow.look_again(directory.inboxes, partitions),
        )

    def _heard_event(self, event: Event) -> None:
        self.hub.deliver(event)
        self.inflow.heard(event)
        self.registry.heard_event(event)
        self.takers.heard_event(event)
        self.webhooks.heard_event(event)

    def _lost_data(self, partition: int) -> None:
        self.services.disturbed(partition)
        self.registry.reassert(partition)
        self.services.start(self.hub.reconcile({partition}))

    async def _agree_on_schema(self) -> None:
        """Refuse to work beside nodes that cut the data differently."""
        while True:
            try:
                guard = self._guards[0]
                schema, partitions = await self._reads.send(guard, "HMGET", guard, "schema", "partitions")
                break
            except Unavailable:
                log.warning("redis_unreachable", redis=masked_url(self.redis_url))
                await asyncio.sleep(1)
        if schema is not None and int(schema) > int(SCHEMA):
            raise BadSetting(f"the data in Redis have schema {int(schema)}, newer than {SCHEMA}: upgrade this node")
        if schema is not None and int(schema) < int(SCHEMA):
            raise BadSetting(
                f"the data in Redis have schema {int(schema)}, older than {SCHEMA}: nodes of an older version work "
                "there; stop them first, and give this one another PRESENCE_KEY_PREFIX"
            )
        if partitions is not None and int(partitions) != self.settings.partitions:
            raise BadSetting(
                f"PRESENCE_PARTITIONS={self.settings.partitions}: this deployment was started with "
                f"{int(partitions)}; set that, or another PRESENCE_KEY_PREFIX"
            )

    async def _watch(self) -> None:
        """What is looked after once a second: last-seen hints, the feed, history, eviction."""
        turns = 0
        renew_every = max(1, self.settings.history_ms // 3000)
        while True:
            seen, self._seen = self._seen, []
            if seen:
                await self.directory.note_seen(seen)
            await self.feedkeeping.tidy()
            if turns % POLICY_EVERY == 0:
                await self.memory.look()
            if turns % renew_every == renew_every - 1:
                self.services.start(self.hub.reconcile())  # reading a channel renews its history, too
            turns += 1
            await asyncio.sleep(WATCH_S)
