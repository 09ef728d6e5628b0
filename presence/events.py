"""What travels: events as nodes hear of them, and the frames that clients are sent.

Events, members, info and state arrive as JSON text and leave as the same text: nothing is decoded on the way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from presence.codec import compact
from presence.errors import BadRequest, PresenceError

_CURSOR = re.compile(r"([0-9A-Za-z_.-]{1,64}):([0-9]{1,15})")


@dataclass(frozen=True, slots=True)
class Event:
    """One announced fact as it comes over the bus.

    `session`: whose join or end it was; `state`: the member's, with `update` and `leave`.
    """

    channel: str
    epoch: str
    seq: int
    at_ms: int
    type: str
    reason: str
    user: str
    session: str
    state: str
    text: bytes


def parse_event(parts: list[bytes]) -> Event:
    """Event from the parts of its bus message (see `announce` in lua/_announce.lua)."""
    _, channel, epoch, seq, at_ms, kind, reason, user, session, state, text = parts
    return Event(
        channel.decode(),
        epoch.decode(),
        int(seq),
        int(at_ms),
        kind.decode(),
        reason.decode(),
        user.decode(),
        session.decode(),
        state.decode(),
        text,
    )


def parse_cursor(text: object) -> tuple[str, int] | None:
    """(epoch, seq) of a cursor; None for None; anything that never was one is BadRequest."""
    if text is None:
        return None
    match = _CURSOR.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise BadRequest("cursor must be a text that this server gave: <epoch>:<seq>")
    return match[1], int(match[2])


def _id_part(command_id: int | None) -> bytes:
    return b"" if command_id is None else b',"id":%d' % command_id


def joined(
    channel: str, role: str, epoch: str, seq: int, recovered: bool, count: int, truncated: bool,
    items: Iterable[bytes], command_id: int | None = None,
) -> bytes:  # fmt: skip
    """A `joined` frame: with `recovered` the items are events, else members."""
    head = f'"channel":{compact(channel)},"as":"{role}","epoch":"{epoch}","cursor":"{epoch}:{seq}"'.encode()
    state = b',"recovered":%s,"count":%d' % (b"true" if recovered else b"false", count)
    extra = b',"truncated":true' if truncated else b""
    name = b',"events":[' if recovered else b',"members":['
    return b'{"type":"joined"' + _id_part(command_id) + b"," + head + state + extra + name + b",".join(items) + b"]}"


def events(channel: str, epoch: str, seq: int, texts: Iterable[bytes]) -> bytes:
    """Live events, the last of which has `seq`."""
    head = f'{{"type":"events","channel":{compact(channel)},"epoch":"{epoch}","cursor":"{epoch}:{seq}","events":['
    return head.encode() + b",".join(texts) + b"]}"


def ok(command_id: int | None, not_joined: list[str] | None = None) -> bytes:
    """Reply to a command that needs no answer."""
    rest = b',"not_joined":' + compact(not_joined).encode() if not_joined else b""
    return b'{"type":"ok"' + _id_part(command_id) + rest + b"}"


def error(problem: PresenceError, command_id: int | None = None, channel: str | None = None) -> bytes:
    """What was wrong and, where waiting helps, for how long."""
    frame: dict[str, object] = {"type": "error"}
    if command_id is not None:
        frame["id"] = command_id
    frame |= {"code": problem.code, "message": problem.message}
    if channel is not None:
        frame["channel"] = channel
    if problem.retry_ms is not None:
        frame["retry_ms"] = problem.retry_ms
    return compact(frame).encode()


def close(code: int, message: str) -> bytes:
    """Last frame of a stream or poll that the server ends."""
    return compact({"type": "close", "code": int(code), "message": message}).encode()


def reconnect(in_ms: int) -> bytes:
    """This node is going: come back to any node."""
    return b'{"type":"reconnect","in_ms":%d,"reason":"drain"}' % in_ms


def welcome(session: str, user: str, node: str, ttl_ms: int, grace_ms: int, ping_ms: int) -> bytes:
    """First frame of a connection."""
    head: dict[str, object] = {"type": "welcome", "session": session, "user": user, "node": node}
    return compact(head | {"ttl_ms": ttl_ms, "grace_ms": grace_ms, "ping_ms": ping_ms}).encode()


def who(
    channel: str,
    epoch_cursor: str,
    count: int,
    members: Iterable[str],
    following: str | None,
    command_id: int | None,
) -> bytes:
    """Reply to `who`: one page of the roster."""
    head = f',"channel":{compact(channel)},"count":{count},"cursor":"{epoch_cursor}","members":['
    tail = "]}" if following is None else f'],"next":{compact(following)}}}'
    return b'{"type":"who"' + _id_part(command_id) + (head + ",".join(members) + tail).encode()


def waiting(channel: str, cursor: str, missed: int, recovered: bool, texts: Iterable[str]) -> str:
    """What waits in one channel, as JSON: part of an `inbox` frame."""
    more = (f',"missed":{missed}' if missed else "") + ("" if recovered else ',"recovered":false')
    return f'{{"channel":{compact(channel)},"cursor":"{cursor}","events":[{",".join(texts)}]{more}}}'


def inbox(channels: Iterable[str], more: bool, command_id: int | None) -> bytes:
    """Reply to `fetch`: what waits, grouped by channel."""
    tail = '],"more":true}' if more else "]}"
    return b'{"type":"inbox"' + _id_part(command_id) + f',"channels":[{",".join(channels)}{tail}'.encode()


def history(
    channel: str, epoch: str, cursor: str, recovered: bool, texts: Iterable[str], command_id: int | None
) -> bytes:
    """Reply to `history`: past events."""
    state = "true" if recovered else "false"
    head = f',"channel":{compact(channel)},"epoch":"{epoch}","cursor":"{cursor}","recovered":{state},"events":['
    return b'{"type":"history"' + _id_part(command_id) + (head + ",".join(texts) + "]}").encode()
