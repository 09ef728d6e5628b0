"""The back end's endpoints for those who are away: messages to a user, subscriptions, what waits, acknowledging it."""

from __future__ import annotations

from presence import events
from presence.errors import BadRequest
from presence.handlers.api import ApiHandler, MessagesHandler
from presence.keys import inbox_of
from presence.pickup import mailbox_name, waiting_texts


class UserMessagesHandler(MessagesHandler):
    """`/v1/users/{U}/messages`"""

    async def post(self, user: str) -> None:
        await super().post(inbox_of(user))


class SubscriberHandler(ApiHandler):
    """`/v1/channels/{C}/subscribers/{U}`"""

    async def put(self, channel: str, user: str) -> None:
        await self.doors(self.read_object(optional=True)).inboxes.subscribe(channel, user)
        self.write_nothing()

    async def delete(self, channel: str, user: str) -> None:
        await self.doors().inboxes.unsubscribe(channel, user)
        self.write_nothing()


class InboxHandler(ApiHandler):
    """`/v1/users/{U}/inbox`"""

    async def get(self, user: str) -> None:
        pending = await self.services.inboxes.fetch(user, self.limit())
        more = ',"more":true' if pending.more else ""
        self.write_json_text(f'{{"channels":[{",".join(waiting_texts(pending))}]{more}}}')


class InboxAckHandler(ApiHandler):
    """`/v1/users/{U}/inbox/ack`"""

    async def post(self, user: str) -> None:
        body = self.read_object()
        channel, cursor = mailbox_name(body.get("channel")), events.parse_cursor(body.get("cursor"))
        if cursor is None:
            raise BadRequest("cursor is missing: that of the last event that was dealt with")
        await self.doors(body).inboxes.ack(user, channel, cursor)
        self.write_nothing()
