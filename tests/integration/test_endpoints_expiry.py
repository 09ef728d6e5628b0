"""The end of a token ends its connections, on every transport, unless a newer one was brought in time."""

from __future__ import annotations

import asyncio

from tests.support import tokens
from tests.support.clients import TRANSPORTS
from tests.support.stage import Stage
from tests.support.waiting import run_async


@run_async
async def test_connections_end_with_4001_when_their_token_does(stage: Stage) -> None:
    token = tokens.make_token("alice", ttl_s=2)
    tabs = [await stage.member(transport, stage.a, "alice", token=token) for transport in TRANSPORTS]

    assert [await tab.until_closed() for tab in tabs] == [4001] * 3


@run_async
async def test_a_refreshed_token_keeps_the_connection(stage: Stage) -> None:
    token = tokens.make_token("alice", ttl_s=2)
    tabs = [await stage.member(transport, stage.a, "alice", token=token) for transport in TRANSPORTS]

    for tab in tabs:
        await tab.refresh(tokens.make_token("alice", ttl_s=600))

    await asyncio.sleep(2.2)
    await stage.fence(*tabs)
    assert [tab.closed for tab in tabs] == [None] * 3


@run_async
async def test_a_refresh_by_a_bad_token_or_another_user_s_changes_nothing(stage: Stage, transport: str) -> None:
    alice = await stage.member(transport, stage.a, "alice")

    assert await alice.refused({"type": "refresh", "token": tokens.make_token("bob")}) == "forbidden"
    assert await alice.refused({"type": "refresh", "token": "garbage"}) == "unauthorized"
    await stage.fence(alice)
    assert alice.closed is None


@run_async
async def test_a_refreshed_token_s_grants_count_from_then_on(stage: Stage) -> None:
    narrow = tokens.make_token("alice", grants={"*": ["join", "see"]})
    alice = await stage.member("websocket", stage.a, "alice", token=narrow)
    publish = {"type": "publish", "channel": stage.channel, "name": "x", "data": 1}
    assert await alice.refused(publish) == "forbidden"

    await alice.refresh(tokens.make_token("alice"))

    assert (await alice.command(publish))["type"] == "ok"
