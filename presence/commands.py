"""The commands of a session that has a connection on this node: what each does and what it answers.

A command is answered after those before it; a heartbeat, when none waits, at once and without a task. Commands of
clients without a connection (`POST /v1/commands`) are in caller.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from presence import events, upkeep
from presence.answers import Replaced
from presence.auth import Identity
from presence.backlog import Command
from presence.codec import channel_name, compact, decode_object
from presence.codec import name as any_name
from presence.errors import (
    BadRequest,
    CloseCode,
    Forbidden,
    LimitExceeded,
    NotJoined,
    PresenceError,
    Unavailable,
)
from presence.events import parse_cursor
from presence.fields import after_of, channel_of, durability_of, id_of, page_of, role_of, state_of, ttl_of
from presence.logs import get
from presence.mailbox import Frame
from presence.membership import Membership
from presence.pickup import ack_for, fetch_for
from presence.places import depart, enter, granted
from presence.services import Services

if TYPE_CHECKING:
    from presence.session import Session

log = get(__name__)

MAX_COMMAND_BYTES = 16 * 1024
FULL_S = 0.05
UNREAD_S = 5.0
TOO_MANY = "too many commands a second on this connection"


def receive(session: Session, data: bytes) -> None:
    """Take one message; whatever is wrong with it is answered, nothing is changed and nothing closed."""
    if session.ended:
        return
    command_id = None
    allowed = session.within_rate()  # also what turns out to be no command counts
    try:
        command = decode_object(data, max_bytes=MAX_COMMAND_BYTES, what="command")
        command_id = id_of(command)
        if not allowed:
            raise LimitExceeded(TOO_MANY)
        if command.get("type") == "beat":
            session.heard_s = session.services.wheel.awake_s
            if session.backlog.idle:
                beat(session, command_id)
                return
        elif command.get("type") != "bye":
            session.alive()
        if session.backlog.put(command):
            session.services.start(work(session))
    except PresenceError as problem:
        session.alive()
        refusal = problem if allowed else LimitExceeded(TOO_MANY)
        reply(session, events.error(refusal, command_id))


async def work(session: Session) -> None:
    """Answer the commands that wait, in order."""
    while (command := session.backlog.take()) is not None:
        started = time.monotonic()
        kind = command.get("type")
        try:
            verb = VERBS.get(kind) if isinstance(kind, str) else None
            if verb is None:
                raise BadRequest(f"type must be one of {', '.join(VERBS)}")
            payload = await verb(session, command)
        except Replaced as problem:
            reply(session, events.error(problem, id_of(command)))
            session.services.start(upkeep.renumber(session))
            continue
        except PresenceError as problem:
            payload = events.error(problem, id_of(command), channel_of(command))
        except Exception as error:  # the connection and the commands behind this one go on
            log.error("command_failed", error=type(error).__name__, exc_info=error)
            payload = events.error(Unavailable("the server made a mistake; its log names it"), id_of(command))
        if payload is not None:
            reply(session, payload)
        await _until_read(session)
        if isinstance(kind, str) and kind in VERBS and kind != "beat":
            session.services.metrics.command_seconds[kind].observe(time.monotonic() - started)


async def _until_read(session: Session) -> None:
    """Answers wait for a slow reader: only events, which nobody asked for, may fill a mailbox."""
    waited_s = 0.0
    while session.mailbox.half_full and not session.ended:
        await asyncio.sleep(FULL_S)
        waited_s += FULL_S
        if waited_s > UNREAD_S:
            session.shut(CloseCode.TOO_SLOW, "answers unread")


def reply(session: Session, payload: bytes) -> None:
    """Answer one command."""
    session.mailbox.put(Frame(payload))


# ---- join and leave ----


async def join(session: Session, command: Command) -> None:
    channel, role = channel_name(command.get("channel")), role_of(command)
    cursor, ttl_ms, state = parse_cursor(command.get("cursor")), ttl_of(command), state_of(command)
    await enter(session, channel, role, cursor, state, ttl_ms, command_id=id_of(command))


async def leave(session: Session, command: Command) -> bytes:
    channel = channel_name(command.get("channel"))
    session.gone.discard(channel)
    if channel not in session.channels and channel not in session.carried:
        raise NotJoined("this session is not in the channel")
    await depart(session, channel)
    return events.ok(id_of(command))


# ---- the others ----


async def set_state(session: Session, command: Command) -> bytes:
    channel, state = channel_name(command.get("channel")), state_of(command, required=True)
    membership = session.channels.get(channel)
    if (membership is None or membership.role != "member") and channel not in session.carried:
        raise NotJoined("this session is not a member of the channel")
    await session.services.tracker.set_state(channel, session.user, session.id, session.number, state)
    if membership is not None:
        membership.state = state
    return events.ok(id_of(command))


async def publish(session: Session, command: Command) -> bytes:
    return await publish_as(session.services, session.identity, command)


async def publish_as(services: Services, identity: Identity, command: Command) -> bytes:
    """Announce a message of this user."""
    channel, title = channel_name(command.get("channel")), any_name(command.get("name"), "name")
    granted(identity, "publish", channel)
    if "data" not in command:
        raise BadRequest("data is missing: any JSON value")
    door = services.doors[durability_of(command, services.doors)]
    await door.tracker.publish(channel, title, compact(command["data"]), user=identity.user)
    return events.ok(id_of(command))


async def history(session: Session, command: Command) -> bytes:
    return await history_for(session.services, session.identity, command)


async def history_for(services: Services, identity: Identity, command: Command) -> bytes:
    """Past events for who has the grant."""
    channel, cursor = channel_name(command.get("channel")), parse_cursor(command.get("cursor"))
    limit = page_of(command)
    granted(identity, "history", channel)
    past = await services.tracker.history(channel, cursor, limit)
    return events.history(channel, past.epoch, past.cursor, past.recovered, past.events, id_of(command))


async def who(session: Session, command: Command) -> bytes:
    return await who_for(session.services, session.identity, command)


async def who_for(services: Services, identity: Identity, command: Command) -> bytes:
    """One page of the roster for who may see it."""
    channel, limit = channel_name(command.get("channel")), page_of(command)
    following = after_of(command)
    granted(identity, "see", channel)
    page = await services.tracker.roster(channel, limit, following)
    return events.who(channel, page.cursor, page.count, page.members, page.next, id_of(command))


class _Beat:
    """Collects the answers of one `beat`, over all channels of its session."""

    __slots__ = ("_command_id", "_session", "_started", "_unasked", "_waiting")

    def __init__(self, session: Session, command_id: int | None) -> None:
        self._session = session
        self._command_id = command_id
        self._started = time.monotonic()
        self._waiting = 1
        self._unasked = False

    def put(self, membership: Membership) -> None:
        if membership.touch(self.heard):
            self._waiting += 1

    def heard(self, membership: Membership | None, word: str | None) -> None:
        self._unasked = self._unasked or word is None or word == "dropped"
        self._waiting -= 1
        if self._waiting or self._session.ended:
            return
        self._session.services.metrics.command_seconds["beat"].observe(time.monotonic() - self._started)
        if self._unasked:
            problem = Unavailable("Redis cannot be asked right now; the heartbeat goes again by itself")
            reply(self._session, events.error(problem, self._command_id))
        else:
            reply(self._session, events.ok(self._command_id, sorted(self._session.gone)))


def beat(session: Session, command_id: int | None) -> None:
    """Show life in all channels and answer when Redis has taken it."""
    for channel in tuple(session.carried):
        session.adopt(channel)
    upkeep.note_again(session)
    answer = _Beat(session, command_id)
    for membership in session.channels.values():
        answer.put(membership)
    answer.heard(None, "ok")


async def beat_in_turn(session: Session, command: Command) -> None:
    beat(session, id_of(command))


async def bye(session: Session, command: Command) -> bytes:
    """Start the grace; the next sign of life cancels it."""
    members = [m for m in session.channels.values() if m.role == "member"]
    for membership in members:
        membership.part()  # a heartbeat from before, which the closing overtakes, is no later sign of life
    for channel in [*(m.channel for m in members), *session.carried]:
        await session.services.tracker.close(
            *(channel, session.user, session.id, session.number), silent_ms=session.silent_ms
        )
    return events.ok(id_of(command))


async def fetch(session: Session, command: Command) -> bytes:
    return await fetch_for(session.services, session.identity, command)


async def ack(session: Session, command: Command) -> bytes:
    return await ack_for(session.services, session.identity, command)


async def refresh(session: Session, command: Command) -> bytes:
    session.take_identity(newer_identity(session.services, session.identity.user, command))
    return events.ok(id_of(command))


def newer_identity(services: Services, user: str, command: Command) -> Identity:
    """The identity of a `refresh` command's token, which must be of the same user."""
    token = command.get("token")
    if not isinstance(token, str):
        raise BadRequest("token must be a text")
    identity = services.auth.client(token)
    if identity.user != user:
        raise Forbidden("the token is of another user")
    return identity


Verb = Callable[["Session", Command], Awaitable[bytes | None]]
VERBS: dict[str, Verb] = {
    "join": join,
    "leave": leave,
    "set": set_state,
    "publish": publish,
    "history": history,
    "who": who,
    "beat": beat_in_turn,
    "bye": bye,
    "refresh": refresh,
    "fetch": fetch,
    "ack": ack,
}
