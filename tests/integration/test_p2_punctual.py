"""P2: a silent session ends at its deadline, never before it, and soon after it.

The bounds are generous to a busy machine; how late a leave really is, the benchmark measures.
"""

from __future__ import annotations

import asyncio
import time

from tests.support.clients import Client, Frame
from tests.support.stage import Stage, StageMaker
from tests.support.waiting import run_async

LATE_MS = 1000
ROUNDING_MS = 2
SHORT_TTL_MS = 1000


@run_async
async def test_a_silent_member_times_out_one_ttl_after_its_last_sign_of_life(stage: Stage, transport: str) -> None:
    watcher = await stage.watcher(transport)
    alice = await stage.member(transport, stage.a, "alice", ttl_ms=SHORT_TTL_MS)

    frozen_at = _now_ms()
    alice.freeze()

    leave = await watcher.event(stage.channel, "leave", user="alice")
    assert leave["reason"] == "timeout"
    _assert_punctual(leave, leave["last_seen"] + SHORT_TTL_MS)
    assert frozen_at - SHORT_TTL_MS <= leave["last_seen"] <= frozen_at + 100 + _poll_slack(alice)
    await stage.fence(watcher)
    assert watcher.story(stage.channel, "alice") == ["join", "leave:timeout"]


@run_async
async def test_a_websocket_that_is_silent_for_a_ttl_is_closed_with_4101(stage: Stage) -> None:
    watcher = await stage.watcher()
    alice = await stage.member("websocket", stage.a, "alice")

    alice.freeze()
    await watcher.event(stage.channel, "leave", user="alice", reason="timeout")
    await asyncio.sleep(0.5)  # the leave is Redis's, the close the node's own, a tick later; nothing shows it
    alice.thaw()

    assert await alice.until_closed() == 4101


@run_async
async def test_a_member_whose_connection_closed_is_gone_after_the_grace(stage: Stage, transport: str) -> None:
    watcher = await stage.watcher(transport)
    alice = await stage.member(transport, stage.a, "alice")

    before_ms = _now_ms()
    await alice.close()
    after_ms = _now_ms()

    leave = await watcher.event(stage.channel, "leave", user="alice")
    assert leave["reason"] == "timeout"
    assert before_ms + 500 - ROUNDING_MS <= leave["at"] <= after_ms + 500 + LATE_MS
    assert leave["last_seen"] <= after_ms + LATE_MS
    await stage.fence(watcher)
    assert watcher.story(stage.channel, "alice") == ["join", "leave:timeout"]


@run_async
async def test_a_reset_connection_starts_the_grace_and_an_aborted_poll_keeps_the_ttl(
    stage: Stage, transport: str
) -> None:
    watcher = await stage.watcher(transport)
    alice = await stage.member(transport, stage.a, "alice")

    reset_at = _now_ms()
    await alice.abort()

    leave = await watcher.event(stage.channel, "leave", user="alice")
    assert leave["reason"] == "timeout"
    if transport == "longpoll":
        _assert_punctual(leave, leave["last_seen"] + 2000)
        assert leave["at"] > reset_at + 500
    else:
        assert reset_at + 500 - ROUNDING_MS <= leave["at"] <= reset_at + 500 + LATE_MS


@run_async
async def test_ttls_of_one_second_and_of_a_day_live_side_by_side(stage: Stage, transport: str) -> None:
    watcher = await stage.watcher(transport)
    short = await stage.member(transport, stage.a, "short", ttl_ms=SHORT_TTL_MS)
    long = await stage.member(transport, stage.b, "long", ttl_ms=86_400_000)

    short.freeze()
    long.freeze()

    leave = await watcher.event(stage.channel, "leave", user="short")
    _assert_punctual(leave, leave["last_seen"] + SHORT_TTL_MS)
    assert list(await stage.roster()) == ["long"]

    long.thaw()
    closed_at = _now_ms()
    await long.close()
    leave = await watcher.event(stage.channel, "leave", user="long")
    assert closed_at + 500 - ROUNDING_MS <= leave["at"] <= closed_at + 500 + LATE_MS


@run_async
async def test_a_deadline_shortened_by_a_join_is_noticed_punctually(stage: Stage) -> None:
    watcher = await stage.watcher()
    alice = await stage.member("sse", stage.a, "alice", ttl_ms=86_400_000, beats=False)

    shortened_at = _now_ms()
    await alice.join(stage.channel, ttl_ms=SHORT_TTL_MS)

    leave = await watcher.event(stage.channel, "leave", user="alice")
    _assert_punctual(leave, leave["last_seen"] + SHORT_TTL_MS)
    assert leave["at"] <= shortened_at + SHORT_TTL_MS + LATE_MS


@run_async
async def test_heartbeats_keep_a_session_s_own_ttl(stage: Stage) -> None:
    watcher = await stage.watcher()
    alice = await stage.member("sse", stage.a, "alice", ttl_ms=SHORT_TTL_MS, beats=False)

    await alice.beat()

    leave = await watcher.event(stage.channel, "leave", user="alice")
    _assert_punctual(leave, leave["last_seen"] + SHORT_TTL_MS)


@run_async
async def test_members_of_a_back_end_time_out_like_any_other(stage: Stage) -> None:
    watcher = await stage.watcher()
    await stage.ask("PUT", "channels", stage.channel, "members", "sensor", json={"ttl_ms": SHORT_TTL_MS})

    leave = await watcher.event(stage.channel, "leave", user="sensor")

    assert leave["reason"] == "timeout"
    _assert_punctual(leave, leave["last_seen"] + SHORT_TTL_MS)


@run_async
async def test_leaves_are_as_punctual_and_single_with_notifications_switched_off(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=2)
    stage.redis.client().config_set("notify-keyspace-events", "")
    watcher = await stage.watcher()
    members = [await stage.member("websocket", stage.a, f"user-{i}", ttl_ms=SHORT_TTL_MS) for i in range(5)]

    for member in members:
        member.freeze()

    for _ in members:
        await watcher.event(stage.channel, "leave")
    await stage.fence(watcher)
    for member in members:
        assert watcher.story(stage.channel, member.user) == ["join", "leave:timeout"]
        leave = next(e for e in watcher.events(stage.channel, "leave") if e["user"] == member.user)
        _assert_punctual(leave, leave["last_seen"] + SHORT_TTL_MS)


def _assert_punctual(leave: Frame, deadline_ms: int) -> None:
    assert deadline_ms - ROUNDING_MS <= leave["at"] <= deadline_ms + LATE_MS, leave


def _poll_slack(client: Client) -> int:
    """A frozen long-poller's last poll may have begun while freezing; nothing else lives on."""
    return 500 if client.transport == "longpoll" else 0


def _now_ms() -> int:
    return int(time.time() * 1000)
