"""P9: one slow, silent or hostile client costs a bounded amount of memory and never delays another."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.support import tokens
from tests.support.clients import CommandError, open_socket
from tests.support.node import Node
from tests.support.stage import Stage, StageMaker
from tests.support.waiting import eventually, run_async

MESSAGES = 700
SIZE = 15_000
BOUND_KB = 24_000


@pytest.mark.parametrize("kind", ["websocket", "sse"])
@run_async
async def test_a_client_that_stops_reading_is_closed_with_4108_at_a_bounded_cost(
    own_stage: StageMaker, kind: str
) -> None:
    stage = own_stage(nodes=1, ttl_ms=60_000, ping_ms=20_000)
    slow = await stage.member(kind, stage.a, "slow")
    reader = await stage.member("websocket", stage.a, "reader")
    before_kb = _memory_kb(stage.a)

    slow.freeze()
    worst_s = 0.0
    for number in range(MESSAGES):
        sent = time.monotonic()
        await stage.message("flood", [number, "x" * SIZE])
        if number % 50 == 0:
            await reader.event(stage.channel, "message", name="flood")
            worst_s = max(worst_s, time.monotonic() - sent)
    await stage.fence(reader)

    assert _memory_kb(stage.a) - before_kb < BOUND_KB
    assert worst_s < 1.0, "the reader waited for the slow one"
    assert len([e for e in reader.events(stage.channel, "message") if e["name"] == "flood"]) == MESSAGES
    metrics = (await stage.probe("/metrics")).body.decode()
    assert "\npresence_slow_clients_total 1.0" in metrics
    slow.thaw()
    assert await slow.until_closed() == 4108


@run_async
async def test_commands_beyond_the_rate_are_refused_and_the_connection_lives(stage: Stage) -> None:
    alice = await stage.connect("websocket", stage.a, "alice")
    replies = await asyncio.gather(*(alice.send({"type": "beat", "id": 1000 + i}) for i in range(150)))

    codes = {reply["code"] for reply in replies if reply["type"] == "error"}
    assert codes == {"limit"}
    refused = [reply for reply in replies if reply["type"] == "error"]
    assert 30 <= len(refused) <= 50
    assert all(reply["retry_ms"] > 0 for reply in refused)
    await eventually(lambda: _beats(alice))


@run_async
async def test_the_limits_of_sessions_channels_and_members_hold_on_every_transport(
    own_stage: StageMaker,
) -> None:
    stage = own_stage(nodes=1, max_sessions=2, max_channels=3, max_members=3)
    for kind in ("websocket", "sse", "longpoll"):
        room = stage.name("room")
        tabs = [await stage.member(kind, stage.a, "alice", channel=room) for _ in range(2)]
        with pytest.raises(CommandError) as third_session:
            await stage.member(kind, stage.a, "alice", channel=room)
        assert third_session.value.code == "limit"

        await tabs[0].join(stage.name("second"))
        await tabs[0].join(stage.name("third"))
        with pytest.raises(CommandError) as fourth_channel:
            await tabs[0].join(stage.name("fourth"))
        assert fourth_channel.value.code in ("limit", "bad_request")  # HTTP: too many in one URL

        await stage.member(kind, stage.a, "bob", channel=room)
        await stage.member(kind, stage.a, "carol", channel=room)
        with pytest.raises(CommandError) as fourth_member:
            await stage.member(kind, stage.a, "dave", channel=room)
        assert fourth_member.value.code == "limit"
        assert sorted(await stage.roster(room)) == ["alice", "bob", "carol"]


@run_async
async def test_one_connection_too_many_is_turned_away_and_the_others_live(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1, max_connections=2)
    first = await stage.member("websocket", stage.a, "alice")
    await stage.member("sse", stage.a, "bob")

    carol = tokens.bearer(tokens.make_token("carol"))
    async with await open_socket(stage.a.ws_url, {}, carol) as third:
        await third.wait_closed()
    refused = await stage.poll(stage.a, "dave", stage.channel)

    assert third.close_code == 4100
    assert refused.problem() == (503, "unavailable")
    assert int(refused.headers["retry-after"]) >= 1
    await stage.fence(first)
    await first.close()
    await eventually(lambda: _poll_succeeds(stage))


async def _beats(client: object) -> bool:
    try:
        await client.beat()  # type: ignore[attr-defined]
    except CommandError:
        return False
    return True


async def _poll_succeeds(stage: Stage) -> bool:
    return (await stage.poll(stage.a, "dave", stage.channel)).status == 200


def _memory_kb(node: Node) -> int:
    for line in Path(f"/proc/{node.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")
