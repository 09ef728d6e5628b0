"""`GET /v1/events`: joins channels and then streams (SSE) or answers with what there is (long-poll).

A poll is a whole connection of its session: it takes the next number, joins or goes on, waits for one event at the
most, and ends. What it needs of the poll before it stands in NEXT and in the session's record, so any node can
answer.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from presence import codec, events, streams
from presence.answers import Replaced
from presence.errors import BadName, BadRequest, CloseCode, NotJoined, PresenceError, Unavailable
from presence.handlers.base import ClientHandler
from presence.handlers.sse import SseWire, stream_head
from presence.handlers.wire import detach
from presence.keys import INBOX
from presence.mailbox import MAX_BYTES, Frame, Mailbox
from presence.places import enter
from presence.session import Session
from presence.streams import LEFT

Known = dict[str, tuple[str, int] | None]

MAX_CHANNELS = 20
DEFAULT_WAIT_S = 25.0
JOINED_BYTES = 256 << 10  # the most that one `joined` frame may have


@dataclass(frozen=True, slots=True)
class Wish:
    """How a request enters a channel, and from where it goes on if no `since` knows that."""

    role: str
    cursor: tuple[str, int] | None


def _mailbox(channels: int) -> Mailbox:
    """With room for a roster of each channel: until all are entered nobody can read any."""
    return Mailbox(max_bytes=MAX_BYTES + channels * JOINED_BYTES)


class EventsHandler(ClientHandler):
    """Streams or polls, as the client accepts."""

    _waiting: asyncio.Future[None] | None = None
    _gone = False

    async def get(self) -> None:
        identity = self.services.auth.client(self.token())
        wishes = self._wishes()
        channels = list(wishes)
        session_id, wait_s = self.session_id(), self.wait_s()
        streaming = "text/event-stream" in self.request.headers.get("Accept", "")
        last_id = self.request.headers.get("Last-Event-ID") if streaming else None
        since = last_id or self.query("since")
        place = streams.decode(since) if since else None
        known = {channel: place.position(channel) for channel in channels} if place else {}
        if last_id and place and session_id and await self._is_replaced(identity.user, session_id, place, known):
            self.set_status(204)  # the only answer after which an EventSource stays away
            await self.finish()
            return
        self.services.admission.enter()
        transport = "sse" if streaming else "longpoll"
        session = Session(self.services, identity, session_id, _mailbox(len(channels)), transport)
        try:
            session.positions |= {channel: known_place for channel, known_place in known.items() if known_place}
            if place is not None and (told := place.position(INBOX)) is not None:
                session.positions[INBOX] = told
            with suppress(Replaced), self._living_on(identity.user, session.id, known):
                await session.open()  # replaced already: then all it is told is that
            if place is not None and session.kicked_number >= place.number:  # between two polls: it was not there
                session.disconnected()
            if streaming or self.query("welcome") is not None:
                session.greet()
            if not session.ended:
                await self._enter_all(session, wishes, known)
                await self._hear_of_inbox(session)
                session.alive()
        except BaseException:
            await session.end(by_client=False)
            self.services.admission.leave()
            raise
        if streaming:
            self._stream(session)
        else:
            await self._poll(session, wait_s, wait=place is not None)

    def on_connection_close(self) -> None:
        self._gone = True
        self._wake()

    # ---- what was asked for ----

    def _channels(self) -> list[str]:
        """The channels by name; a bad name is refused alone, by its own `error` frame, unless there is no other."""
        try:
            channels = list(dict.fromkeys(self.query_all("channel")))
        except BadRequest as error:
            raise BadName(error.message) from None
        if not channels:
            raise BadRequest("channel is missing: name at least one")
        if len(channels) > MAX_CHANNELS:
            raise BadRequest(f"at most {MAX_CHANNELS} channels in one request")
        if not any(codec.is_name(channel) for channel in channels):
            codec.name(channels[0], "channel")
        return channels

    def _wishes(self) -> dict[str, Wish]:
        """What is wished of each channel: `as` may be said once for all, `as` and `cursor` once for each."""
        channels, named = self._channels(), self.query_all("channel")
        roles = [role or "member" for role in self.query_all("as")] or ["member"]
        cursors = self.query_all("cursor") or [""]
        for name, values in (("as", roles), ("cursor", cursors)):
            if len(values) not in (1, len(named)):
                raise BadRequest(f"{name} is given once, or once for each channel")
        if not {"member", "observer"}.issuperset(roles):
            raise BadRequest("as must be member or observer")
        if len(cursors) == 1 and cursors[0] and len(named) > 1:
            raise BadRequest("cursor is given once for each channel")
        seen = [events.parse_cursor(cursor or None) for cursor in cursors]
        wishes = zip(named, itertools.cycle(roles), itertools.cycle(seen), strict=False)
        chosen = {name: Wish(role, cursor) for name, role, cursor in wishes}
        return {channel: chosen[channel] for channel in channels}

    async def _is_replaced(self, user: str, session_id: str, place: streams.Next, known: Known) -> bool:
        with self._living_on(user, session_id, known):
            record = await self.services.directory.record(user, session_id)
        if record is None or not record.streaming or int(record.number) <= place.number:
            return False
        try:
            return await self.services.directory.listens(record.node)
        except Unavailable:
            return False  # 204 is for ever, so it needs to be certain; a stream too many ends by itself

    # ---- entering ----

    @contextmanager
    def _living_on(self, user: str, session_id: str, known: Known) -> Iterator[None]:
        """Where the server with the session's record does not answer, that of a channel may: the session has shown
        life, so it lives on in the channels that it was in."""
        try:
            yield
        except Unavailable:
            for channel, position in known.items():
                if position is not None and position != LEFT:
                    self.services.tracker.heartbeats.show_life(channel, user, session_id)
            raise

    async def _enter_all(self, session: Session, wishes: Mapping[str, Wish], known: Known) -> None:
        entering = (self._enter(session, channel, wish, known.get(channel)) for channel, wish in wishes.items())
        await asyncio.gather(*entering)

    async def _enter(self, session: Session, channel: str, wish: Wish, known: tuple[str, int] | None) -> None:
        going_on = known is not None
        joined_since = channel in session.carried or channel in session.watched
        try:
            codec.channel_name(channel)
            if going_on and (channel in session.left or (known == LEFT and not joined_since)):
                raise NotJoined("this session has left the channel; join it again")
            cursor = wish.cursor if known is None else known if known != LEFT and known[0] else None
            as_events = going_on and session.transport == "longpoll"
            await enter(session, channel, wish.role, cursor, "", None, revive=going_on, as_events=as_events)
        except Replaced:
            session.shut(CloseCode.REPLACED, "replaced by a newer connection of this session")
        except PresenceError as problem:
            if known is not None:  # asked again with what we answer, the answer is the same
                session.positions[channel] = LEFT if isinstance(problem, NotJoined) else known
            session.mailbox.put(Frame(events.error(problem, channel=channel)))

    async def _hear_of_inbox(self, session: Session) -> None:
        """What came for the user since `next` is part of the answer, if Redis tells it soon."""
        catching_up = self.services.inflow.follow(session)
        if catching_up is not None:
            await asyncio.wait([catching_up], timeout=1)

    # ---- streaming ----

    def _stream(self, session: Session) -> None:
        head = stream_head(self.cors_headers())
        detached = detach(self)
        if detached is None:
            self.services.start(session.end(by_client=True))
            self.services.admission.leave()
            return
        sock, ahead = detached
        SseWire(self.services, sock, session, session.mailbox).start(head, ahead)

    # ---- polling ----

    async def _poll(self, session: Session, wait_s: float | None, *, wait: bool) -> None:
        try:
            if wait and not self._gone and not session.mailbox and session.mailbox.closing is None:
                longest = session.silent_after_s * 2 / 3
                await self._wait(session, min(DEFAULT_WAIT_S if wait_s is None else wait_s, longest))
            self._answer(session)
        finally:
            await session.end(by_client=False)
            self.services.admission.leave()

    async def _wait(self, session: Session, wait_s: float) -> None:
        self._waiting = asyncio.get_running_loop().create_future()
        session.mailbox.wake = self._wake
        entry = self.services.wheel.add(wait_s, self._wake)
        try:
            await self._waiting
        finally:
            entry.cancel()
            session.mailbox.wake = None

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _answer(self, session: Session) -> None:
        frames = []
        while taken := session.mailbox.take():
            for frame in taken:
                session.next_for(frame)
                frames.append(frame.json.decode())
        if session.mailbox.closing is not None:
            frames.append(events.close(*session.mailbox.closing).decode())
        place = streams.encode(session.number, session.positions)
        head = f'{{"session":"{session.id}","next":"{place}","frames":['
        self.write_json_text(head + ",".join(frames) + "]}")
