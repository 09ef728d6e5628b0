"""One client's conversation on this node, whatever its wire: who it is, where it is, what it hears.

It knows nothing of sockets: frames go into its mailbox, a transport drains that. Commands are answered one after
the other (see commands.py); heartbeats never wait behind them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from presence import commands, events, places, streams, upkeep
from presence.answers import Held, Replaced
from presence.auth import Grants, Identity
from presence.backlog import Backlog
from presence.codec import new_session_id
from presence.errors import CloseCode, NotJoined, Unavailable
from presence.inflow import Place
from presence.limits import TokenBucket
from presence.logs import get
from presence.mailbox import Frame, Mailbox
from presence.membership import Membership
from presence.services import Services
from presence.wheel import TICK_S, Entry

log = get(__name__)

FAR_S = 60.0  # a cancelled entry stays on the wheel until its time


class Session:
    """A session with a connection on this node."""

    __slots__ = (
        "_bucket", "_counted", "_expiry", "_heard_number", "backlog", "carried", "channels", "ended", "gone", "heard_s",
        "id", "identity", "inbox", "kicked", "kicked_number", "left", "left_by_client", "mailbox", "noted_at", "number",
        "ping_every_s", "positions", "renumbering", "services", "silent_after_s", "transport", "watched",
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
        self.ended = self.kicked = self.left_by_client = False
        self.kicked_number = self._heard_number = 0
        self.noted_at = time.monotonic()
        self.renumbering = self._counted = False
        self.backlog = Backlog()
        self.left: set[str] = set()  # left on purpose, says the record: only a new join brings them back
        self.watched: set[str] = set()  # channels that the record knows as observed
        self.positions: dict[str, tuple[str, int]] = {}  # of a stream or poll: what it was sent last
        self.heard_s = services.wheel.awake_s
        self.keep_pace()
        rate = services.settings.max_commands_per_second
        self._bucket = TokenBucket(rate, 2 * rate) if rate else None
        self._expiry: Entry | None = None
        self.inbox = Place()

    @property
    def user(self) -> str:
        return self.identity.user

    async def open(self) -> None:
        """Become the session's newest connection; its channels live on under the new number."""
        self.services.registry.add(self)
        try:
            await self.connect()
        except Replaced:
            self.shut(CloseCode.REPLACED, "replaced by a newer connection of this session")
            raise
        except BaseException:
            self.services.registry.remove(self)
            raise
        if self.ended:  # something ended it meanwhile; its mailbox says what
            self.services.start(upkeep.release(self, self.number))
            return
        self._counted = True
        self.services.metrics.sessions[self.transport].inc()
        self.services.metrics.connections[self.transport].inc()
        self._watch_token()

    async def connect(self) -> None:
        """Take the next number; raises Replaced if a still newer connection was heard of."""
        token_end_ms, streaming = int(self.identity.expires_at * 1000), self.transport != "longpoll"
        record = await self.services.tracker.connect(self.user, self.id, token_end_ms, streaming, self.number)
        self.number, self.kicked_number = record.number, record.kicked
        if self._heard_number > int(self.number) and await upkeep.newest_number(self) > int(self.number):
            raise Replaced("a newer connection of this session is open")
        self.inbox.begin({} if self.transport == "websocket" else self.positions, record.inbox)
        rows = record.channels.items()
        held = {name: place for name, place in rows if not place.left and place.ttl_ms}
        self.carried |= {name: place for name, place in held.items() if name not in self.channels}
        self.watched = {name for name, place in rows if not place.left and not place.ttl_ms}
        self.left = {name for name, place in rows if place.left}

    def greet(self) -> None:
        """Put the first frame of a connection."""
        times = (self.services.settings.ttl_ms, self.services.settings.grace_ms, self.services.settings.ping_ms)
        self.mailbox.put(Frame(events.welcome(self.id, self.user, self.services.node, *times)))

    def keep_pace(self) -> None:
        """Work out how often a WebSocket is pinged (three times in its shortest ttl, at least) and after how long
        without a received byte it is given up."""
        settings = self.services.settings
        shortest = min([settings.ttl_ms, *(m.ttl_ms for m in self.channels.values() if m.role == "member")])
        self.ping_every_s = min(settings.ping_ms, shortest / 3) / 1000
        self.silent_after_s = shortest / 1000

    def alive(self) -> None:
        """A sign of life: every channel of the session lives a ttl from now."""
        if self.ended:
            return
        self.heard_s = self.services.wheel.awake_s
        for membership in self.channels.values():
            membership.touch()
        for channel in tuple(self.carried):
            self.adopt(channel).touch()
        upkeep.note_again(self)

    @property
    def silent_ms(self) -> int:
        """How long ago the client was heard, by the wheel's coarse clock: rather too short than too long."""
        return max(0, int(1000 * (self.services.wheel.awake_s - self.heard_s - TICK_S)))

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
        """Take what Redis said to a heartbeat."""
        upkeep.take_word(self, membership, word)

    # ---- what the buses say ----

    def heard_number(self, number: int) -> None:
        """A bus says that a connection of this session got this number: the highest wins, if the record agrees."""
        news, self._heard_number = number > self._heard_number, max(self._heard_number, number)
        if news and self.number and not self.renumbering and number > int(self.number):
            self.services.start(upkeep.check_number(self))

    def take_number(self, newest: int) -> None:
        """The record says that the newest connection of this session has this number."""
        self._heard_number = newest
        if self.number and not self.renumbering and newest > int(self.number):
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
        for membership in list(self.channels.values()):
            if not identity.may("see", membership.channel):
                places.lose_sight(self, membership)

    def taken_out(self, membership: Membership) -> None:
        """A back end or another connection ended our membership: say so, and nothing more of the channel."""
        self.drop(membership)
        self.gone.add(membership.channel)
        problem = NotJoined("this session was taken out of the channel")
        self.mailbox.put(Frame(events.error(problem, channel=membership.channel), channel=membership.channel))

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
        self.left_by_client = by_client
        number, places, carried = self.number, [*self.channels.values()], list(self.carried)
        self._forget()
        if number and self.transport != "longpoll":
            self.services.start(upkeep.release(self, number))
        if not by_client or not number:
            return
        members = [place.channel for place in places if place.role == "member"]
        close, silent_ms = self.services.tracker.close, self.silent_ms
        closes = (close(ch, self.user, self.id, number, silent_ms=silent_ms) for ch in [*members, *carried])
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
        """Whether so many commands wait that the transport must stop reading; `backlog.resume` says when to go on."""
        return self.backlog.full

    def receive(self, data: bytes) -> None:
        """Take one message of the client; replies arrive in the mailbox, in order."""
        commands.receive(self, data)

    def within_rate(self) -> bool:
        """Whether this command is within the connection's limit."""
        return self._bucket is None or self._bucket.take()

    def _forget(self) -> None:
        if self.ended:
            return
        self.ended = True
        for membership in list(self.channels.values()):
            self.drop(membership)
        self.backlog.clear()
        self.services.registry.remove(self)
        if self._counted:
            self.services.metrics.sessions[self.transport].dec()
        if self._expiry is not None:
            self._expiry.cancel()

    def adopt(self, channel: str) -> Membership:
        """Go on showing life in a channel that an earlier connection of the session joined."""
        held = self.carried.pop(channel)
        partition = self.services.tracker.keys.partition(channel)
        membership = self.channels[channel] = Membership(self, channel, partition, "member", held.ttl_ms)
        self.keep_pace()
        return membership

    def _watch_token(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        if self.ended:
            return
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
    services.inflow.follow(session)
    session.alive()  # who comes back within the grace has shown life by that alone
    return session
