"""Every call of the HTTP API, once: what to send, and what the answer means. Nothing here touches the network.

Before changing it: both clients are made from these functions, so their signatures and docstrings are the public
ones. Names are taken literally; what is None is left out.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from presence.client.answers import Channel, History, Inbox, Member, Page, Pending, Put, Row, User, build, events_of

T = TypeVar("T")
Object = Mapping[str, Any]
Durability = Literal["accepted", "durable"]
PAGE = 1000


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request and the meaning of its answer's body.

    `repeatable`: doing it twice is as good as once. `wait_s`: how long the server may rightly take to answer.
    """

    method: str
    path: str
    parse: Callable[[Row], T]
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: Object | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    wait_s: float = 0.0

    @property
    def content(self) -> bytes | None:
        """The body as it is sent."""
        if self.body is None:
            return None
        return json.dumps(self.body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()

    @property
    def all_headers(self) -> dict[str, str]:
        """The call's own headers, and what its body is."""
        return {**self.headers, **({} if self.body is None else {"Content-Type": "application/json"})}

    def after(self, last: str) -> Call[T]:
        """The same listing, behind this entry."""
        return replace(self, query={**self.query, "after": last})


def put_member(
    channel: str,
    user: str,
    *,
    info: Object | None = None,
    state: Object | None = None,
    ttl_ms: int | None = None,
    session: str | None = None,
    durability: Durability | None = None,
) -> Call[Put]:
    """Make the user a member, or refresh them; what is None stays as it is."""
    body = given(info=info, state=state, ttl_ms=ttl_ms, session=session, durability=durability)
    path = path_of("channels", channel, "members", user)
    return Call("PUT", path, lambda row: build(Put, row), body=body)


def remove_member(
    channel: str, user: str, *, session: str | None = None, durability: Durability | None = None
) -> Call[bool]:
    """End one session of the user in the channel, or all; whether this call ended the membership. Repeated only if it
    was not sent: a user who came back meanwhile is not to be taken out again."""
    path, query = path_of("channels", channel, "members", user), given(session=session, durability=durability)
    return Call("DELETE", path, lambda row: bool(row["left"]), query=query, repeatable=False)


def heartbeats(members: Iterable[tuple[str, str] | tuple[str, str, str]]) -> Call[list[str]]:
    """Signs of life for up to 1,000 (channel, user) or (channel, user, session).

    For each, in order: `refreshed`, `not_joined` or an error code.
    """
    rows = [dict(zip(("channel", "user", "session"), member, strict=False)) for member in members]
    return Call("POST", "/v1/heartbeats", lambda row: list(row["results"]), body={"members": rows})


def members(channel: str, *, page: int = PAGE) -> Call[Page[Member]]:
    """All members of the channel, by user; asked for `page` at a time as the iteration goes on."""
    path = path_of("channels", channel, "members")
    return Call("GET", path, lambda row: _page(Member, row, "members"), query={"limit": page})


def channel(channel: str) -> Call[Channel]:
    """The channel in numbers."""
    return Call("GET", path_of("channels", channel), lambda row: build(Channel, row))


def channels(prefix: str | None = None, *, page: int = PAGE) -> Call[Page[Channel]]:
    """All channels that have members; asked for `page` at a time as the iteration goes on."""
    query = {"limit": page, **given(prefix=prefix)}
    return Call("GET", "/v1/channels", lambda row: _page(Channel, row, "channels"), query=query)


def history(channel: str, *, cursor: str | None = None, limit: int | None = None) -> Call[History]:
    """The events after the cursor; without one the last ones."""
    path, query = path_of("channels", channel, "events"), given(cursor=cursor, limit=limit)
    return Call("GET", path, lambda row: _history(channel, row), query=query)


def user(user: str) -> Call[User]:
    """Where the user is, or was last seen."""
    return Call("GET", path_of("users", user), _user)


def users(users: Iterable[str]) -> Call[list[User]]:
    """The same for up to 1,000 users, in their order."""
    body = {"users": list(users)}
    return Call("POST", "/v1/users/query", lambda row: [_user(one) for one in row["users"]], body=body)


def disconnect(user: str, *, channel: str | None = None, durability: Durability | None = None) -> Call[int]:
    """End the user's sessions, everywhere or in that channel; how many. Repeated only if it was not sent: a user who
    came back meanwhile is not to be taken out again."""
    path = path_of("users", user, "disconnect")
    body = given(channel=channel, durability=durability)
    return Call("POST", path, lambda row: int(row["sessions"]), body=body, repeatable=False)


def publish(
    channel: str,
    name: str,
    data: Any,
    *,
    durability: Durability | None = None,
    idempotency_key: str | None = None,
) -> Call[str]:
    """A `message` event in the channel; its cursor. Without a key of yours it gets one, so repetitions are safe."""
    return _message(path_of("channels", channel, "messages"), name, data, durability, idempotency_key)


def send(
    user: str,
    name: str,
    data: Any,
    *,
    durability: Durability | None = None,
    idempotency_key: str | None = None,
) -> Call[str]:
    """A message to all sessions of the user, kept in their inbox; its cursor. Keys as in `publish`."""
    return _message(path_of("users", user, "messages"), name, data, durability, idempotency_key)


def subscribe(channel: str, user: str, *, durability: Durability | None = None) -> Call[None]:
    """Keep what happens in the channel from now on for this user; a repetition changes nothing."""
    path = path_of("channels", channel, "subscribers", user)
    return Call("PUT", path, nothing, body=given(durability=durability))


def unsubscribe(channel: str, user: str, *, durability: Durability | None = None) -> Call[None]:
    """End that."""
    path = path_of("channels", channel, "subscribers", user)
    return Call("DELETE", path, nothing, query=given(durability=durability))


def inbox(user: str, limit: int | None = None) -> Call[Inbox]:
    """What waits for the user, by channel and in order; looking at it moves nothing."""
    path, query = path_of("users", user, "inbox"), given(limit=limit)
    return Call("GET", path, _inbox, query=query)


def ack_inbox(user: str, channel: str, cursor: str, *, durability: Durability | None = None) -> Call[None]:
    """The user has what is in the channel (`@inbox`: sent to them) up to this cursor; never moves backwards."""
    body = {"channel": channel, "cursor": cursor, **given(durability=durability)}
    return Call("POST", path_of("users", user, "inbox", "ack"), nothing, body=body)


def erase_user(user: str) -> Call[None]:
    """Forget the user: sessions, state, inbox, archive."""
    return Call("DELETE", path_of("users", user), nothing)


def path_of(*parts: str) -> str:
    """A path under /v1 whose parts are taken literally."""
    return "/v1/" + "/".join(map(_escaped, parts))


def given(**values: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def nothing(row: Row) -> None:
    """The meaning of an answer without a body."""


def _escaped(part: str) -> str:
    # As steps in a folder "." and ".." would be taken out of the path, but not with the dot escaped.
    return part.replace(".", "%2E") if part in (".", "..") else quote(part, safe="")


def _message(path: str, name: str, data: Any, durability: Durability | None, key: str | None) -> Call[str]:
    body = {"name": name, "data": data, **given(durability=durability)}
    headers = {"Idempotency-Key": key or uuid.uuid4().hex}
    return Call("POST", path, lambda row: str(row["cursor"]), body=body, headers=headers)


def _page(kind: type[T], row: Row, name: str) -> Page[T]:
    return Page(tuple(build(kind, one) for one in row[name]), row.get("next"))


def _history(channel: str, row: Row) -> History:
    events = events_of(row["events"], channel=channel, epoch=row["epoch"])
    return build(History, row, events=events)


def _user(row: Row) -> User:
    return build(User, row, channels=tuple(row["channels"]))


def _inbox(row: Row) -> Inbox:
    return Inbox(tuple(_pending(one) for one in row["channels"]), bool(row.get("more", False)))


def _pending(row: Row) -> Pending:
    epoch = str(row["cursor"]).rpartition(":")[0]
    return build(Pending, row, events=events_of(row["events"], channel=row["channel"], epoch=epoch))
