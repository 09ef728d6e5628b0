"""Entering and leaving channels: the steps around the scripts, in the order that loses nothing.

Listen first, join second, attach third; no heartbeat between the first and the last. A step that fails leaves
everything as it was.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from presence import events
from presence.answers import OBSERVING, Held, Replaced, View
from presence.auth import Identity
from presence.errors import Forbidden, LimitExceeded, NotJoined, PresenceError, Unavailable
from presence.mailbox import Frame
from presence.membership import Membership
from presence.tracker import OBSERVING_MS, RECORD_MS

if TYPE_CHECKING:
    from presence.session import Session

KICKED_S = 0.5


def granted(identity: Identity, grant: str, channel: str) -> None:
    """Refuse what the token does not allow."""
    if not identity.may(grant, channel):
        raise Forbidden(f"the token does not grant {grant} on this channel")


async def enter(
    session: Session, channel: str, role: str, cursor: tuple[str, int] | None, state: str, ttl_ms: int | None,
    *, command_id: int | None = None, revive: bool = False, as_events: bool = False,
) -> None:  # fmt: skip
    """Enter the channel; a `joined` frame tells, and its events follow it in the mailbox. `as_events` is for polls
    that go on: nothing missed is no frame, and what was missed comes as live events do."""
    granted(session.identity, "join" if role == "member" else "see", channel)
    limit = session.services.settings.max_channels
    if channel not in session.channels and len(session.channels) >= limit:
        raise LimitExceeded(f"a session may be in {limit} channels; leave one first")
    membership = session.channels.get(channel)
    if membership is not None and membership.role == "member" and role == "observer":
        await depart(session, channel)
        membership = None
    if membership is None:
        held = session.carried.get(channel)
        membership = Membership(session, channel, session.services.tracker.keys.partition(channel), role, 0)
        membership.ttl_ms = held.ttl_ms if held else 0
    view = await _take_place(session, membership, role, cursor, state, ttl_ms, revive)
    if cursor is not None and not as_events:
        session.services.metrics.resumes[view.recovered].inc()
    if not (as_events and (view.recovered or membership.topic is None)):
        session.mailbox.put(joined_frame(channel, role, view, command_id))
    elif view.items:
        payload = events.events(channel, view.epoch, view.seq, view.items)
        session.mailbox.put(Frame(payload, channel=channel, epoch=view.epoch, seq=view.seq))
    if membership.topic is not None:
        session.services.hub.attach(membership.topic, membership, view)
        if not session.identity.may("see", channel):  # a token came meanwhile: only now is there something to end
            lose_sight(session, membership)


async def _take_place(
    session: Session, membership: Membership, role: str, cursor: tuple[str, int] | None, state: str,
    ttl_ms: int | None, revive: bool,
) -> View:  # fmt: skip
    services, channel = session.services, membership.channel
    sees = session.identity.may("see", channel)
    if not sees:
        stop_watching(session, membership)
    if sees and membership.topic is None:
        membership.topic = services.hub.open(channel)  # before the script: listen first
    elif membership.topic is not None:
        membership.topic.subscribers.pop(membership, None)  # what comes meanwhile is caught up after the answer
    membership.generation += 1
    membership.heard_end = False
    membership.joining, membership.touching = True, False
    asked_at = time.monotonic()
    try:
        if role == "observer":
            await _note_observer(session, channel)
            view = await services.tracker.view(channel, cursor)
        else:
            view = await _join_as_member(session, membership, cursor if sees else None, state, ttl_ms, revive, sees)
    except BaseException:
        _restore(session, membership)
        raise
    membership.asked_at = asked_at
    membership.joining = False
    if session.ended:  # the connection ended meanwhile; the session lives its ttl, like any that is cut off
        _restore(session, membership)
        if role == "member":
            await _undo(session, channel)
        raise Replaced("the connection is over")
    membership.role = role
    session.channels[channel] = membership
    session.carried.pop(channel, None)
    session.gone.discard(channel)
    session.left.discard(channel)
    session.keep_pace()
    return view


async def _undo(session: Session, channel: str) -> None:
    """The connection ended while its join was on its way: do what its end did to the other channels."""
    tracker = session.services.tracker
    if session.kicked:
        await asyncio.sleep(KICKED_S)  # the back end's call ends and counts what it knew of
        await tracker.leave(channel, session.user, session.id, session.number, "disconnected")
    elif session.left_by_client:
        await tracker.close(channel, session.user, session.id, session.number)


async def _note_observer(session: Session, channel: str) -> None:
    """Streams and polls end observing by a command that any node may get: their record must know of it."""
    if session.transport == "websocket" or channel in session.watched:
        return
    tracker, held = session.services.tracker, {channel: OBSERVING}
    life_ms = OBSERVING_MS if session.transport == "sse" else RECORD_MS  # a poll comes again and notes it again
    await tracker.note(session.user, session.id, session.number, None, held, limit=True, life_ms=life_ms)


async def _join_as_member(
    session: Session, membership: Membership, cursor: tuple[str, int] | None, state: str, ttl_ms: int | None,
    revive: bool, sees: bool,
) -> View:  # fmt: skip
    tracker, channel = session.services.tracker, membership.channel
    ttl = ttl_ms or membership.ttl_ms or session.services.settings.ttl_ms
    token_end_ms = int(session.identity.expires_at * 1000)
    if membership.ttl_ms != ttl or revive:
        # Written before the join: what another node must know of may be too much, never too little.
        await tracker.note(
            session.user,
            session.id,
            session.number,
            token_end_ms,
            {channel: Held(ttl, False)},
            limit=True,
            going_on=revive,  # a leave may have overtaken this request
        )
    joined = await tracker.join(
        *(channel, session.user, session.id, session.number),
        ttl_ms=ttl,
        info=session.identity.info,
        state=state,
        revive=revive,
        show=sees,
        settled=True,
        cursor=cursor,
    )
    membership.ttl_ms = joined.ttl_ms
    membership.state = state or membership.state
    membership.lives_on()
    return joined.view


def _restore(session: Session, membership: Membership) -> None:
    """A join that failed leaves everything as it was."""
    membership.joining = False
    if session.channels.get(membership.channel) is membership and not session.ended:
        if membership.topic is not None and membership.epoch:
            view = View(membership.epoch, membership.seq)
            session.services.hub.attach(membership.topic, membership, view)
        return
    if membership.topic is not None:
        session.services.hub.close(membership.topic, membership)
        membership.topic = None


def lose_sight(session: Session, membership: Membership) -> None:
    """A newer token does not grant to see: an observer is out, a member stays and hears nothing more."""
    if membership.role == "observer":
        session.taken_out(membership)
    else:
        stop_watching(session, membership)


def stop_watching(session: Session, membership: Membership) -> None:
    """No more events: the token does not grant to see any more."""
    if membership.topic is not None:
        session.services.hub.close(membership.topic, membership)
        membership.topic = None


def joined_frame(channel: str, role: str, view: View, command_id: int | None = None) -> Frame:
    """The `joined` frame of a view; who may not see gets neither roster nor count."""
    payload = events.joined(
        channel,
        role,
        view.epoch,
        view.seq,
        view.recovered,
        view.count,
        view.truncated,
        view.items,
        command_id,
    )
    return Frame(payload, channel=channel, epoch=view.epoch, seq=view.seq)


async def rejoin(session: Session, membership: Membership, *, revive: bool = True) -> None:
    """Join again what timed out while this node or Redis stood still, or what Redis lost; the client gets a fresh
    `joined`. While the partition is gathering its members the frame comes from the hub, when it is readable."""
    channel, topic = membership.channel, membership.topic
    membership.generation += 1
    membership.heard_end = False
    membership.touching, membership.joining = False, True
    try:
        try:
            view = await _rejoin_as_member(session, membership, show=topic is not None, revive=revive)
        except Unavailable as problem:
            if problem.retry_ms != 2000:
                raise
            await _rejoin_as_member(session, membership, show=False, revive=revive)
            view = None
    finally:
        membership.joining = False
    if session.ended:
        await _undo(session, channel)
        return
    if view is None or topic is None or session.channels.get(channel) is not membership:
        return
    if membership.topic is not topic:  # a token that came meanwhile does not grant to see any more
        return
    session.mailbox.put(joined_frame(channel, membership.role, view))
    session.services.hub.attach(topic, membership, view)


async def _rejoin_as_member(session: Session, membership: Membership, *, show: bool, revive: bool) -> View:
    asked_at = time.monotonic()
    joined = await session.services.tracker.join(
        *(membership.channel, session.user, session.id, session.number),
        ttl_ms=membership.ttl_ms,
        info=session.identity.info,
        state=membership.state,
        revive=revive,
        show=show,
    )
    membership.asked_at = asked_at
    membership.lives_on()
    return joined.view


async def depart(session: Session, channel: str) -> None:
    """Leave the channel now; without an answer from Redis everything stays as it was."""
    tracker = session.services.tracker
    membership = session.channels.get(channel)
    if membership is not None and membership.role == "observer":
        session.drop(membership)
        return
    if membership is not None:
        membership.joining = True  # no heartbeat meanwhile
        if membership.topic is not None:
            membership.topic.subscribers.pop(membership, None)
    try:
        await tracker.leave(channel, session.user, session.id, session.number)
    except NotJoined:  # it timed out, and nobody here knew yet
        session.carried.pop(channel, None)
        if membership is not None:
            session.drop(membership)
        raise
    except BaseException:
        if membership is not None:
            _restore(session, membership)
        raise
    held = session.carried.pop(channel, None)
    ttl_ms = membership.ttl_ms if membership is not None else held.ttl_ms if held is not None else 0
    if membership is not None:
        session.drop(membership)
    session.left.add(channel)
    with suppress(PresenceError):  # only what `beat` reports depends on it
        note = {channel: Held(ttl_ms, True)}
        await tracker.note(session.user, session.id, session.number, None, note, limit=False)
