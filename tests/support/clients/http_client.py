"""What the two HTTP transports share: commands by POST, and channels that are named in the connection's URL."""

from __future__ import annotations

import abc
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from tests.support import tokens
from tests.support.clients.base import ABNORMAL, WAIT_S, Client, CommandError
from tests.support.clients.rooms import Frame
from tests.support.http import Response, request


class HttpClient(Client):
    """A client whose stream or poll lists its channels: a new channel opens the connection again from `next`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.next = ""
        self.channels: list[str] = []
        self.left: set[str] = set()

    async def send(self, frame: Frame) -> Frame:
        """POST one command; a refused request comes back as an `error` frame with the HTTP status in `http`."""
        response = await self.post(json.dumps(frame).encode())
        if response.status != 200:
            return _as_error(response, id=frame.get("id"))
        replies = response.json()
        assert isinstance(replies, list) and len(replies) == 1, replies
        assert replies[0].get("id") == frame.get("id"), (frame, replies)
        return dict(replies[0])

    async def post(self, body: bytes, headers: Mapping[str, str] | None = None) -> Response:
        """POST to /v1/commands as it is."""
        return await request(
            self.node.url,
            "POST",
            "/v1/commands",
            query={"session": self.session},
            headers={**tokens.bearer(self.token), "Content-Type": "application/json", **(headers or {})},
            body=body,
        )

    async def leave(self, channel: str) -> Frame:
        """Leave by command; the channel is not named again."""
        reply = await super().leave(channel)
        self.channels = [known for known in self.channels if known != channel]
        self.left.add(channel)
        return reply

    async def _open(self) -> None:
        """Nothing yet: the first join names the first channel."""

    async def _reopen(self, resume: bool) -> None:
        await self._end_connection()
        self.closed = None
        self.next = self.next if resume else ""
        read = len(self.frames)
        await self._begin(by_header=True)
        for channel in self.channels:
            await self._wait(
                lambda channel=channel: self._answer_about(channel, read) or self.closed, WAIT_S, f"{channel} to answer"
            )
            if self.closed == ABNORMAL:
                raise ConnectionResetError("closed before it was answered")

    async def _join(self, command: Frame) -> Frame:
        """By command what the URL cannot carry (state, ttl, cursor), then by URL, so that the stream has it.

        A channel that the session left is joined by command first too: `since` alone does not bring it back.
        """
        channel, extras = command["channel"], command.keys() & {"state", "ttl_ms", "cursor"}
        known = channel in self.channels
        reply: Frame = {}
        if extras or known or channel in self.left:
            self.left.discard(channel)
            reply = await self.command(command)
        if known:
            return reply
        by_url = await self._join_by_url(channel, command["as"])
        if "ttl_ms" in extras:
            await self.command({name: value for name, value in command.items() if name != "cursor"})
        return reply if "cursor" in extras else by_url

    async def _join_by_url(self, channel: str, as_: str) -> Frame:
        assert not self.channels or set(self.roles.values()) <= {as_}, "one URL has one role"
        await self._end_connection()
        self.channels.append(channel)
        self.roles[channel] = as_
        read = len(self.frames)
        await self._begin(by_header=False)
        answer = await self._wait(lambda: self._answer_about(channel, read), WAIT_S, f"{channel} to be joined")
        if answer["type"] == "error":
            self.channels.remove(channel)
            self.roles.pop(channel, None)
            raise CommandError(answer)
        return dict(answer)

    def _answer_about(self, channel: str, since: int) -> Frame | None:
        """The first `joined` or `error` for a channel (or an error about everything) after frame number `since`."""
        for frame in self.frames[since:]:
            if frame["type"] == "joined" and frame["channel"] == channel:
                return frame
            if frame["type"] == "events" and frame["channel"] == channel:
                return frame
            if frame["type"] == "error" and frame.get("channel", channel) == channel:
                return frame
        return None

    def _query(self, **more: Any) -> str:
        role = next(iter(self.roles.values()), "member")
        pairs = [("channel", channel) for channel in self.channels]
        pairs += [("as", role), ("session", self.session)]
        return "/v1/events?" + urlencode([*pairs, *more.items()])

    def _take_refusal(self, response: Response) -> None:
        """Note a refused stream or poll as an error about everything."""
        self._take(_as_error(response))
        self._note_closed(4001 if response.status == 401 else response.status)

    @abc.abstractmethod
    async def _begin(self, by_header: bool) -> None:
        """Open the stream or start polling, from `next` when there is one."""

    @abc.abstractmethod
    async def _end_connection(self) -> None:
        """Stop reading; the server hears of it only where another connection replaces this one."""


def _as_error(response: Response, **more: Any) -> Frame:
    body = response.json() if response.body else {}
    frame = {"type": "error", "code": body.get("code"), "message": body.get("detail"), "http": response.status}
    return {**frame, **more}
