"""What waited for a user, picked up: the commands `fetch` and `ack`, over whatever wire they come."""

from __future__ import annotations

from presence import events
from presence.auth import Identity
from presence.backlog import Command
from presence.codec import channel_name
from presence.errors import BadRequest
from presence.events import parse_cursor
from presence.fields import id_of, page_of
from presence.inboxes import Pending
from presence.keys import INBOX
from presence.places import granted
from presence.services import Services


async def fetch_for(services: Services, identity: Identity, command: Command) -> bytes:
    """What waits for the user in `@inbox` and wherever the token allows to see; moves nothing."""
    pending = await services.inboxes.fetch(identity.user, page_of(command), lambda name: identity.may("see", name))
    return events.inbox(waiting_texts(pending), pending.more, id_of(command))


async def ack_for(services: Services, identity: Identity, command: Command) -> bytes:
    """Move the user's position; where fetching is not allowed, this is not either."""
    channel, cursor = mailbox_name(command.get("channel")), parse_cursor(command.get("cursor"))
    if cursor is None:
        raise BadRequest("cursor is missing: that of the last event that was dealt with")
    if channel != INBOX:
        granted(identity, "see", channel)
    await services.inboxes.ack(identity.user, channel, cursor)
    return events.ok(id_of(command))


def mailbox_name(value: object) -> str:
    """`@inbox`, or the name of a channel that is not the server's."""
    return INBOX if value == INBOX else channel_name(value)


def waiting_texts(pending: Pending) -> list[str]:
    """Its channels as JSON texts."""
    return [
        events.waiting(each.channel, each.cursor, each.missed, each.recovered, each.events) for each in pending.channels
    ]
