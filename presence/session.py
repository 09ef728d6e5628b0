"""One client's conversation on this node, whatever its wire: who it is, where it is, what it hears.

It knows nothing of sockets: frames go into its mailbox, a transport drains that. Commands are answered one after
the other (see commands.py); heartbeats never wait behind them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from presence import events, streams
from presence.auth import Grants, Identity
from presence.codec import new_session_id
from presence.errors import CloseCode, NotJoined, PresenceError, Unavailable
from presence.limits import TokenBucket
from presence.logs import get
from presence.mailbox import Frame, Mailbox
from presence.membership import Membership
from presence.services import Services
from presence.tracker import Ended, Held, Replaced
from presence.wheel import Entry

log = get(__name__)

MAX_BACKLOG = 16
FAR_S = 24 * 3600.0


class Session:
    """A session with a connection on this node."""

    __slots__ = (
        "_backlog", "_bucket", "_expiry", "_heard_number", "_renumbering", "_working", "carried", "channels",
        "ended", "gone", "heard_s", "id", "identity", "kicked", "left", "mailbox", "noted_at", "number", "ping_every_s",
        "positions", "resume", "services", "silent_after_s", "transport", "watched",
    )  # fmt: skip

    def __init__(
        self, services: Services, identity: Identity, session_id: str | None, mailbox: Mailbox, transport: str
    ) -> None:
        self.services = services
        self.identity = identity
        self.id = session_id or new_session_id()
        self.mailbox = mailbox
        self.transport = transport
        self.number = ""
        self.channels: dict[str, Membership] = {}
        self.carried: dict[str, Held] = {}  # channels of earlier connections of this session
        self.gone: set[str] = set()  # timed out of, or taken out of, and not joined or left since
        self.ended = False
        self.kicked = False
        self.noted_at = time.monotonic()
        self.resume: Callable[[], None] | None = None
        rate = services.settings.max_commands_per_second
        self.left: set[str] = set()  # left on purpose, says the record: only a new join brings them back
        self.watched: set[str] = set()  # channels that the record knows as observed
        self.positions: dict[str, tuple[str, int]] = {}  # of a stream or poll: what it was sent last
        self.heard_s = services.wheel.awake_s
        self.keep_pace()
        self._bucket = TokenBucket(rate, 2 * rate) if rate else None
        self._backlog: deque[dict[str, object]] | None = None
        self._working = False
        self._heard_number = 0
        self._renumbering = False
        self._expiry: Entry | None = None

    @property
    def user(self) -> str:
        return self.identity.user

    async def open(self) -> None:
        """Become the session's newest connection; its channels live on under the new number."""
        self.services.registry.add(self)
        try:
            await self._connect()
        except Replaced:
            self.shut(CloseCode.REPLACED, "replaced by a newer connection of this session")
            raise
        except BaseException:
            self.services.registry.remove(self)
            raise
        self.services.metrics.sessions[self.transport].inc()
        self.services.metrics.connections[self.transport].inc()
        self._watch_token()

    def greet(self) -> None:
        """Put the first frame of a connection."""
        settings = self.services.settings
        times = settings.ttl_ms, settings.grace_ms, settings.ping_ms
        self.mailbox.put(Frame(events.welcome(self.id, self.user, self.services.node, *times)))

    def keep_pace(self) -> None:
        """Work out how often a WebSocket is pinged (three times in its shortest ttl, at least) and after how long
        without a received byte it is given up."""
        settings = self.services.settings
        shortest = min([settings.ttl_ms, *(m.ttl_ms for m in self.channels.values() if m.role == "member")])
        self.ping_every_s = min(settings.ping_ms, shortest / 3) / 1000
        self.silent_after_s = shortest / 1000

    # ---- signs of life ----

    def alive(self) -> None:
        """A sign of life: every channel of the session lives a ttl from now."""
        if self.ended:
            return
        self.heard_s = self.services.wheel.awake_s
        for membership in self.channels.values():
            membership.touch()
        for channel in tuple(self.carried):
            self.adopt(channel).touch()
        self.note_again()

    def reassert(self, concerned: Callable[[str], bool]) -> None:
        """Redis lost or rolled back the data of some channels: show that we are there."""
        for channel, membership in list(self.channels.items()):
            if concerned(channel):
                membership.touch()

    def verify(self, channel: str) -> None:
        """Somebody says that this session ended there: ask Redis."""
        membership = self.channels.get(channel)
        if membership is not None and not membership.rejoining:
            membership.verify()

    def touched(self, membership: Membership, word: str) -> None:
        """Take the word of a heartbeat."""
        if word == "ok":
            membership.proven = True
        elif word == "ended":
            self.taken_out(membership)
        elif word == "lost":
            self._lost(membership)
        elif word in ("replaced", "closed"):
            self.services.start(self.renumber())

    # ---- what the buses say ----

    def heard_number(self, number: int) -> None:
        """A connection of this session got this number: the highest wins."""
        self._heard_number = max(self._heard_number, number)
        if self.number and self._heard_number > int(self.number):
            self.shut(CloseCode.REPLACED, "replaced by a newer connection of this session")

    def disconnected(self) -> None:
        """A back end ends all sessions of the user; a join that is on its way is undone when it is answered."""
        self.kicked = True
        self.shut(CloseCode.DISCONNECTED, "disconnected by the back end")

    def heard_state(self, channel: str, state: str) -> None:
        """The member's state changed, by whatever session of the user."""
        membership = self.channels.get(channel)
        if membership is not None:
            membership.state = state

    def unwatch(self, channel: str) -> None:
        """A command on another node ended our observing."""
        membership = self.channels.get(channel)
        if membership is not None and membership.role == "observer":
            self.drop(membership)

    def take_grants(self, expires_at: float, grants: str) -> None:
        """A newer token was given to another node."""
        self.take_identity(Identity(self.user, self.identity.info, expires_at, Grants.from_text(grants)))

    def take_identity(self, identity: Identity) -> None:
        """Go on with a newer token of the same user."""
        self.identity = identity
        self._watch_token()

    def taken_out(self, membership: Membership) -> None:
        """A back end or another connection ended our membership: say so, and nothing more of the channel."""
        self.drop(membership)
        self.gone.add(membership.channel)
        problem = NotJoined("this session was taken out of the channel")
        self.mailbox.put(Frame(events.error(problem, channel=membership.channel), channel=membership.channel))

    # ---- the end ----

    def shut(self, code: CloseCode, message: str) -> None:
        """End the connection from our side: no grace, the sessions keep their ttl."""
        self.mailbox.close(code, message)
        self._forget()

    def next_for(self, frame: Frame) -> str:
        """NEXT after this frame was sent: what a stream's client comes back with."""
        if frame.channel is not None and frame.epoch:
            self.positions[frame.channel] = (frame.epoch, frame.seq)
        return streams.encode(self.number, self.positions)

    async def end(self, by_client: bool) -> None:
        """The connection is over; if the client's side ended it, the grace starts."""
        if self.ended:
            return
        number, places = self.number, [*self.channels.values()]
        carried = list(self.carried)
        self._forget()
        if number and self.transport != "longpoll":
            self.services.start(self._release(number))
        if not by_client or not number:
            return
        members = [place.channel for place in places if place.role == "member"]
        closes = (self.services.tracker.close(channel, self.user, self.id, number) for channel in [*members, *carried])
        for result in await asyncio.gather(*closes, return_exceptions=True):
            if isinstance(result, Unavailable):
                log.info("grace_not_started", why="Redis did not answer: the session keeps its ttl")
                return

    def drop(self, membership: Membership) -> None:
        """Stop listening to a channel and showing life in it."""
        if self.channels.get(membership.channel) is membership:
            del self.channels[membership.channel]
            self.keep_pace()
        membership.generation += 1
        if membership.topic is not None:
            self.services.hub.close(membership.topic, membership)
            membership.topic = None

    # ---- commands ----

    @property
    def busy(self) -> bool:
        """Whether so many commands wait that the transport must stop reading."""
        return self._backlog is not None and len(self._backlog) >= MAX_BACKLOG

    def receive(self, data: bytes) -> None:
        """Take one message of the client; replies arrive in the mailbox, in order."""
        from presence import commands

        commands.receive(self, data)

    def within_rate(self) -> bool:
        """Whether this command is within the connection's limit."""
        return self._bucket is None or self._bucket.take()

    def queue(self, command: dict[str, object], work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Let the command wait for those before it; `work` answers the whole backlog."""
        if self._backlog is None:
            self._backlog = deque()
        self._backlog.append(command)
        if not self._working:
            self._working = True
            self.services.start(work())

    def next_command(self) -> dict[str, object] | None:
        """The command to be answered next, or None when all are."""
        if self._backlog and not self.ended:
            command = self._backlog.popleft()
            if self.resume is not None and len(self._backlog) == MAX_BACKLOG - 1:
                self.resume()
            return command
        self._backlog = None
        self._working = False
        return None

    @property
    def idle(self) -> bool:
        """Whether no command is being answered."""
        return not self._working

    # ---- below: private ----

    async def _connect(self) -> None:
        token_end_ms = int(self.identity.expires_at * 1000)
        streaming = self.transport != "longpoll"
        record = await self.services.tracker.connect(self.user, self.id, token_end_ms, streaming)
        self.number = record.number
        if self._heard_number > int(self.number):
            raise Replaced("a newer connection of this session is open")
        held = {name: place for name, place in record.channels.items() if not place.left and place.ttl_ms}
        self.carried |= {name: place for name, place in held.items() if name not in self.channels}
        self.watched = {name for name, place in record.channels.items() if not place.left and not place.ttl_ms}
        self.left = {name for name, place in record.channels.items() if place.left}

    def _forget(self) -> None:
        if self.ended:
            return
        self.ended = True
        for membership in list(self.channels.values()):
            self.drop(membership)
        self.services.registry.remove(self)
        if self._expiry is not None:  # it was opened, and counted
            self.services.metrics.sessions[self.transport].dec()
            self._expiry.cancel()

    def adopt(self, channel: str) -> Membership:
        """Go on showing life in a channel that an earlier connection of the session joined."""
        held = self.carried.pop(channel)
        partition = self.services.tracker.keys.partition(channel)
        membership = self.channels[channel] = Membership(self, channel, partition, "member", held.ttl_ms)
        self.keep_pace()
        return membership

    def note_again(self) -> None:
        """Renew the record once per ttl."""
        now = time.monotonic()
        ttls = [m.ttl_ms for m in self.channels.values() if m.role == "member"]
        if ttls and now - self.noted_at > max(self.services.settings.ttl_ms, *ttls) / 1000:
            self.noted_at = now
            self.services.start(self._note())

    async def _note(self) -> None:
        held = {m.channel: Held(m.ttl_ms, False) for m in self.channels.values() if m.role == "member"}
        try:
            token_end_ms = int(self.identity.expires_at * 1000)
            await self.services.tracker.note(self.user, self.id, self.number, token_end_ms, held, limit=False)
        except Replaced:
            await self.renumber()
        except Unavailable:
            self.noted_at -= FAR_S  # again with the next sign of life

    def _lost(self, membership: Membership) -> None:
        """Redis does not know the session there: it timed out while we stood still, or the data are gone."""
        if self.transport == "websocket" and not self._heard_lately(membership):
            self.shut(CloseCode.SILENT, "nothing heard for a ttl")
        elif not membership.proven or not self._heard_lately(membership):
            self.taken_out(membership)
        elif not membership.rejoining:
            membership.rejoining = True
            self.services.start(self._rejoin(membership))

    def _heard_lately(self, membership: Membership) -> bool:
        """Whether the timeout cannot be the client's fault. Only a WebSocket proves life to this very node; the
        others may have shown it anywhere, so for them it takes a disturbance that kept it from being taken."""
        ttl_s = membership.ttl_ms / 1000
        if self.transport == "websocket":
            return self.services.wheel.awake_s - self.heard_s < 0.75 * ttl_s
        return not self.services.calm_for(2 * ttl_s + 3)

    async def _rejoin(self, membership: Membership) -> None:
        from presence import places

        try:
            await self._note()
            await places.rejoin(self, membership)
        except Ended:
            self.taken_out(membership)
        except Replaced:
            await self.renumber()
        except PresenceError:
            membership.rejoining = False
            membership.touching = False
            await asyncio.sleep(0.2)
            if self.channels.get(membership.channel) is membership:
                membership.touch()  # lost again, joined again: until Redis takes it
        finally:
            membership.rejoining = False

    async def renumber(self) -> None:
        """Somebody acted for this session: if nobody has a newer connection, take the next number and go on."""
        if self._renumbering or self.ended:
            return
        self._renumbering = True
        try:
            record = await self.services.directory.record(self.user, self.id)
            if self.ended:
                return
            if record is not None and int(record.number) > int(self.number):
                self.heard_number(int(record.number))
                return
            old, self.number = (
                self.number,
                "",
            )  # the bus will tell our own new number: do not take it for another's
            try:
                await self._connect()
            finally:
                self.number = self.number or old
            self.alive()
        except Replaced:
            self.shut(CloseCode.REPLACED, "replaced by a newer connection of this session")
        except Unavailable:
            return
        finally:
            self._renumbering = False

    async def _release(self, number: str) -> None:
        with suppress(Unavailable):
            await self.services.tracker.release(self.user, self.id, number)

    def _watch_token(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        remaining = self.identity.expires_at - time.time()
        again = remaining > FAR_S
        self._expiry = self.services.wheel.add(
            FAR_S if again else max(0.0, remaining), self._watch_token if again else self._token_over
        )

    def _token_over(self) -> None:
        self.shut(CloseCode.UNAUTHORIZED, "the token is over")


async def open_session(
    services: Services, identity: Identity, session_id: str | None, mailbox: Mailbox, transport: str
) -> Session:
    """Open a session and greet it; raises Unavailable, or Replaced by an even newer connection."""
    session = Session(services, identity, session_id, mailbox, transport)
    await session.open()
    session.greet()
    return session
