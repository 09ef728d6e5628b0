"""The fields of a command, read strictly: each is right, absent, or an error that says what would be right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

from presence.backlog import Command
from presence.codec import integer, small_object
from presence.codec import name as any_name
from presence.errors import BadName, BadRequest, PresenceError
from presence.settings import MAX_TTL_MS, MIN_TTL_MS

PAGE = 100
MAX_PAGE = 1000


def id_of(command: Command) -> int | None:
    """The command's id, if it has a usable one."""
    value = command.get("id")
    return None if value is None else integer(value, "id", -(2**53), 2**53)


def channel_of(command: Command) -> str | None:
    """The command's channel for its error frame, if it names one that can be repeated."""
    value = command.get("channel")
    with suppress(PresenceError):
        return any_name(value, "channel")
    return None


def role_of(command: Command) -> str:
    """`member` or `observer`."""
    role = command.get("as", "member")
    if role not in ("member", "observer"):
        raise BadRequest("as must be member or observer")
    return str(role)


def ttl_of(command: Command) -> int | None:
    """The wished ttl in ms, None where none is given."""
    value = command.get("ttl_ms")
    return None if value is None else integer(value, "ttl_ms", MIN_TTL_MS, MAX_TTL_MS)


def state_of(command: Command, *, required: bool = False) -> str:
    """The state as compact JSON text, empty where none is given."""
    if "state" not in command and not required:
        return ""
    return small_object(command.get("state"), "state")


def durability_of(body: Mapping[str, object], levels: Iterable[str]) -> str:
    """How safe a change must be before it is answered; `accepted` where nothing is said."""
    level = body.get("durability", "accepted")
    if not isinstance(level, str) or level not in levels:
        raise BadRequest(f"durability must be one of {', '.join(levels)}")
    return level


def page_of(command: Command) -> int:
    """How many entries an answer may have."""
    return integer(command.get("limit", PAGE), "limit", 1, MAX_PAGE)


def after_of(command: Command) -> str | None:
    """The name after which a page begins; a malformed one is a bad request, not a bad name."""
    after = command.get("after")
    try:
        return None if after is None else any_name(after, "after")
    except BadName as error:
        raise BadRequest(error.message) from None
