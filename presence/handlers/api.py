"""The back end's endpoints: read the request, ask once, write the answer.

Before changing it: members and events are JSON text already and are put into the answer as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from presence import codec, events
from presence.answers import Roster
from presence.directory import UserPresence
from presence.doors import Doors
from presence.errors import BadRequest, Forbidden, PresenceError
from presence.fields import durability_of
from presence.handlers.base import MAX_BATCH_BYTES, BodyHandler
from presence.settings import MAX_TTL_MS, MIN_TTL_MS
from presence.tracker import BACKEND_SESSION

MAX_BATCH = 1000
MAX_PREFIX_BYTES = 200
MAX_KEY_CHARACTERS = 255


class ApiHandler(BodyHandler):
    """An endpoint behind an api key. Its routes have the names in segments 3 and 5 of the path, one group
    each."""

    only_reads = False  # whether a key that may only read opens its POST too

    def admit(self) -> None:
        right = self.services.auth.backend(self.request.headers.get("Authorization"))
        if right == "read" and self.request.method not in ("GET", "HEAD") and not self.only_reads:
            raise Forbidden("this key may only read")
        self.path_args = self.names()

    def names(self) -> list[str]:
        """What the path names, checked; the method gets it."""
        if not self.path_args:
            return []
        first = self.path_text(3)
        in_channel = self.path_text(2) == "channels"
        names = [codec.channel_name(first) if in_channel else codec.name(first, "user")]
        if len(self.path_args) > 1:
            names.append(codec.name(self.path_text(5), "user"))
        return names

    def doors(self, body: Mapping[str, object] | None = None) -> Doors:
        """Ways to write with the durability that the body asks for, or the query where a request has none."""
        given = self.query("durability")
        said = {"durability": given} if given is not None else {}
        return self.services.doors[durability_of({**said, **(body or {})}, self.services.doors)]

    def write_nothing(self) -> None:
        """It is done, and there is no more to say."""
        self.set_status(204)
        self.finish()


class MemberHandler(ApiHandler):
    """`/v1/channels/{C}/members/{U}`"""

    async def put(self, channel: str, user: str) -> None:
        body = self.read_object(optional=True)
        put = await self.doors(body).tracker.put_member(
            channel,
            user,
            codec.session_id(body.get("session", BACKEND_SESSION)),
            info=_small_object(body, "info"),
            state=_small_object(body, "state"),
            ttl_ms=_ttl_ms(body),
        )
        self.write_json_text(codec.compact({"joined": put.joined, "cursor": put.cursor}))

    async def delete(self, channel: str, user: str) -> None:
        text = self.query("session")
        session = None if text is None else codec.session_id(text)
        left = await self.doors().tracker.remove_member(channel, user, session)
        self.write_json_text(codec.compact({"left": left}))


class MembersHandler(ApiHandler):
    """`/v1/channels/{C}/members`"""

    async def get(self, channel: str) -> None:
        deadlines = self.flag("deadlines")
        page = await self.services.tracker.roster(channel, self.limit(), self.after(), deadlines=deadlines)
        self.write_json_text(roster_text(channel, page, deadlines))


class ChannelHandler(ApiHandler):
    """`/v1/channels/{C}`"""

    async def get(self, channel: str) -> None:
        summary = await self.services.directory.channel(channel)
        answer = {
            "channel": summary.channel,
            "count": summary.count,
            "sessions": summary.sessions,
            "cursor": summary.cursor,
        }
        self.write_json_text(codec.compact(answer))


class ChannelsHandler(ApiHandler):
    """`/v1/channels`"""

    async def get(self) -> None:
        prefix, limit, after = _prefix(self.query("prefix")), self.limit(), self.after()
        listed, following = await self.services.directory.channels(prefix, limit, after)
        texts = [codec.compact({"channel": channel, "count": count}) for channel, count in listed]
        self.write_json_text(page_text({}, "channels", texts, following))


class EventsHandler(ApiHandler):
    """`/v1/channels/{C}/events`"""

    async def get(self, channel: str) -> None:
        cursor, limit = events.parse_cursor(self.query("cursor")), self.limit()
        past = await self.services.tracker.history(channel, cursor, limit)
        head = {"epoch": past.epoch, "cursor": past.cursor, "recovered": past.recovered}
        self.write_json_text(page_text(head, "events", past.events))


class MessagesHandler(ApiHandler):
    """`/v1/channels/{C}/messages`"""

    async def post(self, channel: str) -> None:
        body, key = self.read_object(), self._idempotency_key()
        name = codec.name(body.get("name"), "name")
        if "data" not in body:
            raise BadRequest("data is missing; null is a value too")
        data = codec.compact(body["data"])
        cursor = await self.doors(body).tracker.publish(channel, name, data, user=None, idempotency_key=key)
        self.write_json_text(codec.compact({"cursor": cursor}))

    def _idempotency_key(self) -> str | None:
        key: str | None = self.request.headers.get("Idempotency-Key")
        if key is None:
            return None
        if not 0 < len(key) <= MAX_KEY_CHARACTERS or not all("!" <= character <= "~" for character in key):
            raise BadRequest(f"Idempotency-Key must be 1 to {MAX_KEY_CHARACTERS} visible ASCII characters")
        return key


class HeartbeatsHandler(ApiHandler):
    """`/v1/heartbeats`"""

    max_body_bytes = MAX_BATCH_BYTES

    async def post(self) -> None:
        body = self.read_object()
        items = [_heartbeat(item) for item in _batch(body, "members")]
        good = [item for item in items if isinstance(item, tuple)]
        answers = iter(await self.doors(body).tracker.heartbeats_of(good) if good else [])
        results = [next(answers) if isinstance(item, tuple) else item.code for item in items]
        self.write_json_text(codec.compact({"results": results}))


class UserHandler(ApiHandler):
    """`/v1/users/{U}`"""

    async def get(self, user: str) -> None:
        (presence,) = await self.services.past.users([user])
        self.write_json_text(_user_text(presence))

    async def delete(self, user: str) -> None:
        sessions, archived = await self.services.erasure.erase(user, self.doors())
        self.write_json_text(codec.compact({"sessions": sessions, "archived": archived}))


class UsersQueryHandler(UserHandler):
    """`/v1/users/query`; a user may be called "query" too: the other methods are about that one."""

    max_body_bytes = MAX_BATCH_BYTES
    only_reads = True

    def names(self) -> list[str]:
        return [] if self.request.method == "POST" else ["query"]

    async def post(self) -> None:
        users = [codec.name(user, "user") for user in _batch(self.read_object(), "users")]
        found = await self.services.past.users(users) if users else []
        self.write_json_text(page_text({}, "users", [_user_text(presence) for presence in found]))


class DisconnectHandler(ApiHandler):
    """`/v1/users/{U}/disconnect`"""

    async def post(self, user: str) -> None:
        body = self.read_object(optional=True)
        channel = codec.channel_name(body["channel"]) if "channel" in body else None
        sessions = await self.doors(body).directory.disconnect(user, channel)
        self.write_json_text(codec.compact({"sessions": sessions}))


def roster_text(channel: str, page: Roster, deadlines: bool) -> str:
    """A page of members; with their deadlines it says also what time it is for Redis."""
    head: dict[str, object] = {"channel": channel, "epoch": page.epoch, "cursor": page.cursor, "count": page.count}
    return page_text(head | ({"now": page.now} if deadlines else {}), "members", page.members, page.next)


def _heartbeat(item: object) -> tuple[str, str, str] | PresenceError:
    """(channel, user, session) of one entry, or what is wrong with it: one bad entry does not spoil the
    others."""
    if not isinstance(item, dict):
        return BadRequest("a heartbeat must be an object")
    try:
        channel, user = codec.channel_name(item.get("channel")), codec.name(item.get("user"), "user")
        return channel, user, codec.session_id(item.get("session", BACKEND_SESSION))
    except PresenceError as error:
        return error


def _batch(body: dict[str, object], field: str) -> list[object]:
    items = body.get(field)
    if not isinstance(items, list):
        raise BadRequest(f"{field} must be a list")
    if len(items) > MAX_BATCH:
        raise BadRequest(f"{field} may have {MAX_BATCH} entries; nothing was done")
    return items


def _small_object(body: dict[str, object], field: str) -> str | None:
    return codec.small_object(body[field], field) if field in body else None


def _ttl_ms(body: dict[str, object]) -> int | None:
    return codec.integer(body["ttl_ms"], "ttl_ms", MIN_TTL_MS, MAX_TTL_MS) if "ttl_ms" in body else None


def _prefix(text: str | None) -> str:
    """The beginning of a channel name; any text that a name may begin with, also half of a character."""
    prefix = text or ""
    if len(prefix.encode()) > MAX_PREFIX_BYTES or any(character < " " for character in prefix):
        raise BadRequest(f"prefix must have at most {MAX_PREFIX_BYTES} bytes and no control characters")
    return prefix


def page_text(head: dict[str, object], field: str, texts: list[str], following: str | None = None) -> str:
    """A JSON object out of `head`, a list of JSON texts, and `next` where there is more."""
    parts = [codec.compact(head)[1:-1]] if head else []
    parts.append(f'"{field}":[{",".join(texts)}]')
    if following is not None:
        parts.append(f'"next":{codec.compact(following)}')
    return "{" + ",".join(parts) + "}"


def _user_text(presence: UserPresence) -> str:
    return codec.compact(
        {
            "user": presence.user,
            "online": presence.online,
            "sessions": presence.sessions,
            "channels": presence.channels,
            "last_seen": presence.last_seen,
        }
    )
