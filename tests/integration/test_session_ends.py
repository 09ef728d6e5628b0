"""A session whose connection begins, ends or changes its number while something else is on its way."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

import presence.broker
from presence import places, streams
from presence.errors import CloseCode
from presence.keys import INBOX
from presence.mailbox import Mailbox
from presence.session import Session
from tests.chaos.workbench import ROOM, Gate, gone_after_the_grace
from tests.support import tokens
from tests.support.http import Exchange, SseEvent, sse_events
from tests.support.parts import Brake, Loss, Parts, identity, sketch
from tests.support.redis_server import RedisServer
from tests.support.stage import Stage, StageMaker
from tests.support.waiting import eventually, run_async

LONG = {"ttl_ms": 30_000, "ping_ms": 10_000}


@pytest.fixture
def parts(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Parts:
    monkeypatch.setattr(presence.broker, "CANARY_S", 0.1)  # a node that listens says so sooner
    return Parts(redis_server)


@run_async
async def test_a_connection_that_may_have_a_number_unknown_to_it_ends_as_unavailable_not_as_replaced(
    parts: Parts,
) -> None:
    node = await parts.node(listening=True)
    tab = await parts.tab(node)
    await tab.join()
    await tab.ask(type="bye")
    loss = Loss(node.scripts, "connect")

    def beats() -> int | None:
        tab.send(type="beat")
        return tab.closed

    await eventually(beats, 5, what="the end of the connection")

    assert loss.lost == 1
    assert tab.closed == CloseCode.UNAVAILABLE


@run_async
async def test_a_session_that_a_back_end_closes_while_it_opens_is_not_counted_and_not_kept(parts: Parts) -> None:
    node = await parts.node()
    session = sketch(node, identity())
    gate = Gate(node.scripts, "connect")
    opening = asyncio.create_task(session.open())
    await gate.holds()

    node.registry.heard_control(["close", "alice"])
    gate.release()
    await opening
    await session.end(by_client=True)

    assert session.mailbox.closing[0] == CloseCode.DISCONNECTED
    assert node.metrics.sessions["websocket"]._value.get() == 0
    assert node.registry.all() == [] and len(node.wheel) == 0


@run_async
async def test_a_client_that_closes_while_its_node_brings_it_back_is_gone_after_the_grace(parts: Parts) -> None:
    node = await parts.node()
    tab = await parts.tab(node)
    await tab.join(ttl_ms=60_000)
    await parts.touched()
    await parts.forget(ROOM, "due")  # Redis lost the channel
    brake = Brake(node.scripts, "join")
    tab.send(type="beat")
    await brake.holds()

    await tab.session.end(by_client=True)
    brake.release()
    await eventually(lambda: parts.redis.hlen(node.keys.sessions(ROOM)), 3, what="the join to be done")
    await eventually(lambda: _closing(parts, node), 3, what="the grace to begin")

    await gone_after_the_grace(parts)


async def _closing(parts: Parts, node: Any) -> bool:
    """Whether Redis has noted that alice's connection was closed."""
    row = await parts.redis.hget(node.keys.sessions(ROOM), "alice\x1fsession-1")
    return row is not None and int(row.split(b"\x1f")[2]) > 0


@run_async
async def test_next_names_a_place_only_when_the_frame_that_leads_there_is_taken(parts: Parts) -> None:
    node = await parts.node()
    known, rooms = {}, ("den", "hall")
    for room in rooms:
        await node.tracker.publish(room, "first", "1")
        view = await node.tracker.view(room)
        known[room] = (view.epoch, view.seq)
        await node.tracker.publish(room, "second", "2")
    session = Session(node.services, identity(), "session-1", Mailbox(), "longpoll")
    session.positions |= known
    await session.open()

    for room in rooms:
        await places.enter(session, room, "observer", known[room], "", None, revive=True, as_events=True)
    entered = dict(session.positions)
    named = [streams.decode(session.next_for(frame)) for frame in session.mailbox.take()]
    await session.end(by_client=False)

    assert entered == {**known, INBOX: ("", 0)}
    seqs = [[place.position(room)[1] - known[room][1] for room in rooms] for place in named]  # type: ignore[index]
    assert seqs == [[1, 0], [1, 1]]


async def _first_events(stage: Stage, user: str, rooms: list[str], since: str, count: int) -> list[SseEvent]:
    """The first events of a stream that goes on from `since`."""
    query = "&".join(f"channel={room}" for room in rooms)
    headers = {**tokens.bearer(tokens.make_token(user)), "Accept": "text/event-stream"}
    target = f"/v1/events?{query}&session={stage.session}&since={since}"
    exchange = await Exchange.open(stage.a.url, "GET", target, headers)
    try:
        await exchange.read_head()
        told: list[SseEvent] = []
        async for event in sse_events(exchange):
            told.append(event)
            if len(told) == count:
                break
        return told
    finally:
        exchange.close()


@run_async
async def test_the_first_id_of_a_stream_that_goes_on_keeps_the_places_of_all_its_channels(stage: Stage) -> None:
    user, rooms = stage.name("reader"), [stage.name("den"), stage.name("hall")]
    since = (await stage.poll(stage.a, user, *rooms, session=stage.session)).json()["next"]
    for room in rooms:
        await stage.message("news", channel=room)

    told = await _first_events(stage, user, rooms, since, 3)

    asked, named = streams.decode(since), [streams.decode(event.id or "") for event in told]
    moved = [[place.position(room) != asked.position(room) for room in rooms] for place in named]
    assert None not in [asked.position(room) for room in rooms]
    assert moved[0] == [False, False]
    assert sorted(moved[1]) == [False, True] and moved[2] == [True, True]
    assert all(place.position(room) is not None for place in named for room in rooms)


@run_async
async def test_a_poll_of_a_member_who_may_not_see_waits_as_long_as_it_was_told(stage: Stage) -> None:
    user = stage.name("blind")
    asked: dict[str, Any] = {"session": stage.session, "token": tokens.make_token(user, grants={"*": ["join"]})}
    first = (await stage.poll(stage.a, user, stage.channel, **asked)).json()
    started_s = time.monotonic()

    second = (await stage.poll(stage.a, user, stage.channel, since=first["next"], wait=1, **asked)).json()

    assert time.monotonic() - started_s >= 0.9
    assert [frame["type"] for frame in first["frames"]] == ["joined"]
    assert second["frames"] == []
    assert user in await stage.roster()


@pytest.mark.parametrize("joins_again", [False, True])
@run_async
async def test_a_member_whose_newer_token_does_not_let_it_see_hears_no_further_event(
    stage: Stage, joins_again: bool
) -> None:
    watcher = await stage.watcher(node=stage.a)
    member = await stage.member("websocket", stage.a, stage.name("eve"))
    await stage.fence(watcher, member)
    heard = len(member.events(stage.channel))

    await member.refresh(tokens.make_token(member.user, grants={"*": ["join"]}))
    if joins_again:
        assert (await member.join(stage.channel))["members"] == []
    await stage.message("secret")
    await stage.fence(watcher)  # on the same node, so the node has told everybody
    await member.beat()

    assert len(member.events(stage.channel)) == heard
    assert member.user in await stage.roster()


@pytest.mark.parametrize("kind", ["websocket", "sse"])
@run_async
async def test_an_observer_whose_newer_token_does_not_let_it_see_is_told_that_it_is_out(
    stage: Stage, kind: str
) -> None:
    observer = await stage.member(kind, stage.a, stage.name("eve"), as_="observer")

    await observer.refresh(tokens.make_token(observer.user, grants={"*": ["join"]}))

    await observer.expect("error", code="not_joined", channel=stage.channel)


@run_async
async def test_a_stream_whose_node_missed_that_a_back_end_took_it_out_is_told_after_all(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=2, **LONG)
    member = await stage.member("sse", stage.a, "alice", beats=False)
    await stage.fence(member)
    await member.beat()  # the heartbeat of its join is answered, too: no later one tells it by chance

    stage.a.pause()  # so that its subscription is surely down until it goes on
    try:
        stage.redis.client().execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await stage.ask("DELETE", "channels", stage.channel, "members", "alice", node=stage.b)
    finally:
        stage.a.resume()

    await member.expect("error", within_s=8, code="not_joined", channel=stage.channel)
