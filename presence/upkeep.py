"""What keeps a session's places through loss: the record, a timeout that was not the client's fault, a number that
somebody else has passed.

Redis has the last word on every question here; what this node remembers only tells it what to ask.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from presence import places
from presence.answers import Ended, Held, Replaced
from presence.errors import CloseCode, LimitExceeded, PresenceError, Unavailable
from presence.membership import Membership
from presence.streams import LEFT
from presence.wheel import NEVER

if TYPE_CHECKING:
    from presence.session import Session

RETRY_S = 0.2
LIVELY = 0.75  # part of its ttl within which a WebSocket was heard, if it is not silent


def note_again(session: Session) -> None:
    """Renew the record once per ttl."""
    now = time.monotonic()
    ttls = [place.ttl_ms for place in session.channels.values() if place.role == "member"]
    if ttls and now - session.noted_at > max(session.services.settings.ttl_ms, *ttls) / 1000:
        session.noted_at = now
        session.services.start(note(session))


def take_word(session: Session, membership: Membership, word: str) -> None:
    """Take what Redis said to a heartbeat."""
    if word == "ok":
        membership.lives_on()
    elif word.startswith("ended"):
        _ended(session, membership, int(word.removeprefix("ended")))
    elif word == "lost":
        _lost(session, membership)
    elif word in ("replaced", "closed"):
        session.services.start(renumber(session))


async def renumber(session: Session) -> None:
    """Somebody acted for this session: if nobody has a newer connection, take the next number and go on."""
    if session.renumbering or session.ended:
        return
    session.renumbering = True
    try:
        await session.connect()
        if session.ended:
            await release(session, session.number)
        session.alive()
    except Replaced:
        session.shut(CloseCode.REPLACED, "replaced by a newer connection of this session")
    except Unavailable:  # we may have taken a number that we do not know: it would look like another's
        session.shut(CloseCode.UNAVAILABLE, "Redis did not answer; come back")
    finally:
        session.renumbering = False


async def newest_number(session: Session) -> int:
    """The number of the session's newest connection, as its record says."""
    ((number, _),) = await session.services.directory.numbers([(session.user, session.id)])
    return number


async def check_number(session: Session) -> None:
    """A bus told of a newer connection. That may come from a primary that has lost its role and answers what was
    asked of it before, so the record decides."""
    while not session.ended:
        try:
            session.take_number(await newest_number(session))
            return
        except Unavailable:
            await asyncio.sleep(RETRY_S)


async def release(session: Session, number: str) -> None:
    """Say that the connection is over: a stream that it replaced may come back."""
    with suppress(Unavailable):
        await session.services.tracker.release(session.user, session.id, number)


def _lost(session: Session, membership: Membership) -> None:
    """Redis does not know the session there: it timed out while we stood still, or the data are gone."""
    innocent = _is_innocent(session, membership)
    if session.transport == "websocket" and not innocent:
        session.shut(CloseCode.SILENT, "nothing heard for a ttl")
    elif not membership.proven or not innocent:
        session.taken_out(membership)
    elif not membership.rejoining:
        membership.rejoining = True
        session.services.start(_rejoin(session, membership))


def _ended(session: Session, membership: Membership, ago_ms: int) -> None:
    """Redis says that the session was ended there on purpose: it is out. Only if that is longer ago than our join was
    asked for, then the join was rolled back with a lost primary, and what it undid has come up again."""
    if ago_ms > 1000 * (time.monotonic() - membership.asked_at):  # guard: joins that were rolled back
        if not membership.rejoining:
            membership.rejoining = True
            session.services.start(_rejoin(session, membership, revive=False))
        return
    session.positions[membership.channel] = LEFT
    session.taken_out(membership)


def _is_innocent(session: Session, membership: Membership) -> bool:
    """Whether the timeout cannot be the client's fault. Only a WebSocket proves life to this very node; the others
    may have shown it anywhere, so for them it takes a disturbance that kept it from being taken. Who is unknown
    before the time, and nobody announced it, did not time out at all: Redis lost its data."""
    if time.monotonic() < membership.good_until and not membership.heard_end:
        return True
    ttl_s = membership.ttl_ms / 1000
    if session.transport == "websocket":
        return session.services.wheel.awake_s - session.heard_s < LIVELY * ttl_s
    # A sign of life by HTTP takes both: the partition with the session's record, and the channel's. What happened
    # before the last join excused that one already: who stays silent after it must not come and go.
    concerned = membership.partition, session.services.tracker.keys.user_partition(session.user)
    since = max(time.monotonic() - 2 * ttl_s - 3, membership.asked_at)
    return not session.services.calm_since(since, *concerned)


async def _rejoin(session: Session, membership: Membership, *, revive: bool = True) -> None:
    try:
        await note(session)
        if session.channels.get(membership.channel) is membership:
            await places.rejoin(session, membership, revive=revive)
    except (Ended, LimitExceeded):
        if session.channels.get(membership.channel) is membership:
            session.positions[membership.channel] = LEFT
            session.taken_out(membership)
    except Replaced:
        await renumber(session)
    except PresenceError:
        await asyncio.sleep(RETRY_S)
        membership.rejoining = membership.touching = False
        if session.channels.get(membership.channel) is membership:
            membership.touch()  # lost again, joined again: until Redis takes it
    finally:
        membership.rejoining = False


async def note(session: Session) -> None:
    held = {place.channel: Held(place.ttl_ms, False) for place in session.channels.values() if place.role == "member"}
    token_end_ms = int(session.identity.expires_at * 1000)
    try:
        await session.services.tracker.note(session.user, session.id, session.number, token_end_ms, held, limit=False)
    except Replaced:
        await renumber(session)
    except Unavailable:
        session.noted_at = NEVER  # again with the next sign of life
