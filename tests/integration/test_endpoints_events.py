"""GET /v1/events as a stream and as polls: NEXT, Last-Event-ID, `close` frames, refusals per channel."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from tests.support import tokens
from tests.support.http import Exchange, request, sse_events
from tests.support.stage import Stage, StageMaker
from tests.support.waiting import eventually, run_async

STREAM = {"Accept": "text/event-stream"}


@run_async
async def test_the_first_poll_answers_at_once_with_the_joined_frames(stage: Stage) -> None:
    other = stage.name("other")
    start = time.monotonic()

    answer = (await stage.poll(stage.a, "alice", stage.channel, other, session=stage.session, wait=20)).json()

    assert time.monotonic() - start < 1
    assert answer.keys() == {"session", "next", "frames"}
    assert answer["session"] == stage.session
    joined = [frame for frame in answer["frames"] if frame["type"] == "joined"]
    assert sorted(frame["channel"] for frame in joined) == sorted([stage.channel, other])
    assert all(frame["recovered"] is False and frame["count"] == 1 for frame in joined)


@run_async
async def test_a_poll_without_a_session_is_given_one(stage: Stage) -> None:
    answer = (await stage.poll(stage.a, "alice", stage.channel)).json()

    assert len(answer["session"]) >= 22
    assert (await stage.roster())["alice"]["sessions"] == 1


@run_async
async def test_a_poll_with_since_answers_as_soon_as_there_is_an_event(stage: Stage) -> None:
    first = (await stage.poll(stage.a, "alice", stage.channel, session=stage.session)).json()
    waiting = asyncio.create_task(
        stage.poll(stage.b, "alice", stage.channel, session=stage.session, since=first["next"], wait=20)
    )
    await asyncio.sleep(0.3)
    assert not waiting.done()

    await stage.message("news", 1)

    answer = (await asyncio.wait_for(waiting, 1)).json()
    (frame,) = answer["frames"]
    assert (frame["type"], [event["data"] for event in frame["events"]]) == ("events", [1])


@run_async
async def test_the_same_since_gives_the_same_events_again_on_any_node(stage: Stage) -> None:
    first = (await stage.poll(stage.a, "alice", stage.channel, session=stage.session)).json()
    await stage.message("news", 1)
    await stage.message("news", 2)

    polls = []
    for node in (stage.a, stage.b, stage.a):
        answer = await stage.poll(node, "alice", stage.channel, session=stage.session, since=first["next"])
        polls.append([event for frame in answer.json()["frames"] for event in frame["events"]])

    assert [event["data"] for event in polls[0]] == [1, 2]
    assert polls[0] == polls[1] == polls[2]


@run_async
async def test_an_eventless_poll_ends_after_its_wait_and_at_two_thirds_of_the_ttl(stage: Stage) -> None:
    first = (await stage.poll(stage.a, "alice", stage.channel, session=stage.session)).json()
    took = []
    for wait in (0, 1, 30):
        start = time.monotonic()
        answer = await stage.poll(
            stage.a, "alice", stage.channel, session=stage.session, since=first["next"], wait=wait
        )
        took.append(time.monotonic() - start)
        assert answer.json()["frames"] == []

    assert took[0] < 0.5
    assert 0.9 < took[1] < 1.3
    assert 1.2 < took[2] < 1.8  # two thirds of 2 s


@run_async
async def test_polls_are_signs_of_life(stage: Stage) -> None:
    watcher = await stage.watcher()
    since = None
    for _ in range(5):
        answer = await stage.poll(stage.a, "alice", stage.channel, session=stage.session, since=since, wait=0)
        since = answer.json()["next"]
        await asyncio.sleep(0.5)

    await stage.fence(watcher)
    assert watcher.story(stage.channel, "alice") == ["join"]


@run_async
async def test_a_poll_with_since_joins_a_channel_it_timed_out_of_again(stage: Stage) -> None:
    watcher = await stage.watcher()
    first = (await stage.poll(stage.a, "alice", stage.channel, session=stage.session)).json()
    await watcher.event(stage.channel, "leave", user="alice", reason="timeout")

    answer = await stage.poll(stage.a, "alice", stage.channel, session=stage.session, since=first["next"])

    assert answer.status == 200
    await watcher.event(stage.channel, "join", user="alice")
    assert list(await stage.roster()) == ["alice"]


@run_async
async def test_a_poll_with_since_of_a_channel_it_left_answers_not_joined(stage: Stage) -> None:
    other = stage.name("other")
    first = (await stage.poll(stage.a, "alice", stage.channel, other, session=stage.session)).json()
    await stage.command(stage.b, "alice", stage.session, {"type": "leave", "channel": stage.channel})

    answer = await stage.poll(
        stage.a, "alice", stage.channel, other, session=stage.session, since=first["next"], wait=1
    )

    errors = [frame for frame in answer.json()["frames"] if frame["type"] == "error"]
    assert [(frame["code"], frame["channel"]) for frame in errors] == [("not_joined", stage.channel)]
    assert await stage.roster() == {}
    assert list(await stage.roster(other)) == ["alice"]


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
@run_async
async def test_what_is_refused_for_one_channel_is_an_error_frame_and_the_others_go_on(
    stage: Stage, accept: str
) -> None:
    token = tokens.make_token("alice", grants={stage.channel: ["join", "see"], "*x": ["join", "see"]})
    channels = [stage.channel, "not-allowed", "@server", " padded x"]

    frames = await _first_frames(stage, channels, token, accept, 4)

    errors = {frame["channel"]: frame["code"] for frame in frames if frame["type"] == "error"}
    assert errors == {"not-allowed": "forbidden", "@server": "forbidden", " padded x": "bad_name"}
    assert [frame["channel"] for frame in frames if frame["type"] == "joined"] == [stage.channel]


@pytest.mark.parametrize("headers", [{}, STREAM])
@run_async
async def test_a_malformed_request_for_events_is_a_bad_request(stage: Stage, headers: dict[str, str]) -> None:
    room = stage.channel
    answers = [
        await stage.poll(stage.a, "alice", headers=headers),
        await stage.poll(stage.a, "alice", room, session="short", headers=headers),
        await stage.poll(stage.a, "alice", room, since="never-was-one", headers=headers),
        await stage.poll(stage.a, "alice", room, as_="king", headers=headers),
        await stage.poll(stage.a, "alice", room, wait="soon", headers=headers),
        await stage.poll(stage.a, "alice", *(f"room-{n}" for n in range(21)), headers=headers),
    ]

    assert [answer.problem() for answer in answers] == [(400, "bad_request")] * len(answers)
    assert await stage.roster() == {}


@run_async
async def test_a_stream_begins_with_welcome_and_joined_and_every_frame_has_an_id(stage: Stage) -> None:
    query = f"/v1/events?channel={stage.channel}&session={stage.session}"
    exchange = await _stream(stage, query)
    events = sse_events(exchange)

    welcome, joined = [await anext(events) for _ in range(2)]
    await stage.message("news", 1)
    news = await anext(events)
    exchange.close()

    assert exchange.headers["content-type"].startswith("text/event-stream")
    assert "no-cache" in exchange.headers["cache-control"] or "no-store" in exchange.headers["cache-control"]
    frame = json.loads(welcome.data)
    assert frame == {
        "type": "welcome",
        "session": stage.session,
        "user": "alice",
        "node": stage.a.name,
        "ttl_ms": 2000,
        "grace_ms": 500,
        "ping_ms": 500,
    }
    assert json.loads(joined.data)["type"] == "joined"
    assert json.loads(news.data)["events"][0]["data"] == 1
    assert welcome.id and joined.id and news.id
    assert news.id != joined.id


@pytest.mark.parametrize("by", ["since", "last-event-id"])
@run_async
async def test_a_stream_goes_on_from_any_frame_s_id_on_the_other_node(stage: Stage, by: str) -> None:
    query = f"/v1/events?channel={stage.channel}&session={stage.session}"
    exchange = await _stream(stage, query)
    events = sse_events(exchange)
    joined = [await anext(events) for _ in range(2)][-1]
    await stage.message("news", 1)
    await anext(events)
    exchange.close()
    await stage.message("news", 2)

    headers = {"Last-Event-ID": joined.id} if by == "last-event-id" else {}
    more = f"&since={joined.id}" if by == "since" else ""
    exchange = await _stream(stage, query + more, headers, other=True)
    events = sse_events(exchange)
    frames = [json.loads((await anext(events)).data) for _ in range(2)]
    exchange.close()

    assert frames[0]["type"] == "welcome"
    assert (frames[1]["type"], frames[1].get("recovered")) == ("joined", True)
    assert [event["data"] for event in frames[1]["events"]] == [1, 2]


@run_async
async def test_the_last_event_id_of_a_replaced_stream_gets_204_while_the_newer_connection_lives(
    stage: Stage,
) -> None:
    old = await stage.member("sse", stage.a, "alice")
    new = await stage.member("sse", stage.b, "alice", session=old.session)
    assert await old.until_closed() == 4009

    for node in stage.nodes:
        answer = await stage.poll(
            node, "alice", stage.channel, session=old.session, headers={**STREAM, "Last-Event-ID": old.next}
        )
        assert (answer.status, answer.body) == (204, b"")
    await stage.fence(new)
    assert new.closed is None

    await new.abort()
    await eventually(lambda: _gets_a_stream(stage, old.session, old.next), within_s=3)


@run_async
async def test_a_poll_that_waits_is_ended_by_a_newer_one_with_a_close_frame(stage: Stage) -> None:
    first = (await stage.poll(stage.a, "alice", stage.channel, session=stage.session)).json()
    waiting = asyncio.create_task(
        stage.poll(stage.a, "alice", stage.channel, session=stage.session, since=first["next"], wait=20)
    )
    await asyncio.sleep(0.2)

    await stage.poll(stage.b, "alice", stage.channel, session=stage.session, since=first["next"], wait=0)

    frames = (await asyncio.wait_for(waiting, 1)).json()["frames"]
    assert [(frame["type"], frame["code"]) for frame in frames] == [("close", 4009)]


@pytest.mark.long
@run_async
async def test_an_idle_stream_carries_a_comment_every_fifteen_seconds(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1, ttl_ms=60_000, ping_ms=20_000)
    alice = await stage.member("sse", stage.a, "alice")

    await eventually(lambda: alice.comments, within_s=16)


async def _stream(stage: Stage, target: str, headers: dict[str, str] | None = None, other: bool = False) -> Exchange:
    lines = {**STREAM, **tokens.bearer(tokens.make_token("alice")), **(headers or {})}
    exchange = await Exchange.open((stage.b if other else stage.a).url, "GET", target, lines)
    await exchange.read_head()
    assert exchange.status == 200
    return exchange


async def _first_frames(stage: Stage, channels: list[str], token: str, accept: str, count: int) -> list[dict[str, str]]:
    if accept == "application/json":
        return list((await stage.poll(stage.a, "alice", *channels, token=token)).json()["frames"])
    alice = stage.sketch("sse", stage.a, "alice", token=token)
    alice.channels = channels
    await alice.reconnect(resume=False)
    await eventually(lambda: len(alice.frames) > count)
    return alice.frames


async def _gets_a_stream(stage: Stage, session: str, last: str) -> bool:
    query = f"/v1/events?channel={stage.channel}&session={session}"
    lines = {**STREAM, **tokens.bearer(tokens.make_token("alice")), "Last-Event-ID": last}
    exchange = await Exchange.open(stage.a.url, "GET", query, lines)
    try:
        await exchange.read_head()
        return exchange.status == 200
    finally:
        exchange.close()


@run_async
async def test_a_stream_or_poll_can_say_for_each_channel_how_and_from_where(stage: Stage) -> None:
    watched = stage.name("watched")
    cursor = await stage.message("old", 1)
    await stage.message("missed", 2)
    query = [("channel", stage.channel), ("as", "member"), ("cursor", cursor)]
    query += [("channel", watched), ("as", "observer"), ("cursor", ""), ("session", stage.session), ("welcome", "1")]

    response = await request(
        stage.b.url, "GET", "/v1/events", query=query, headers=tokens.bearer(tokens.make_token("ann"))
    )

    frames = {frame.get("channel", frame["type"]): frame for frame in response.json()["frames"]}
    assert response.json()["frames"][0]["type"] == "welcome"
    assert frames["welcome"]["user"] == "ann"
    assert frames[stage.channel]["recovered"] is True
    assert [event["type"] for event in frames[stage.channel]["events"]] == ["message", "join"]
    assert (frames[watched]["as"], frames[watched]["members"]) == ("observer", [])


@run_async
@pytest.mark.parametrize(
    "more",
    [
        [("as", "member"), ("as", "observer"), ("as", "member")],
        [("as", "member"), ("as", "guest")],
        [("cursor", "e:1")],
        [("cursor", "e:1"), ("cursor", "e:1"), ("cursor", "e:1")],
        [("cursor", "nonsense"), ("cursor", "")],
    ],
)
async def test_what_is_said_for_each_channel_must_fit(stage: Stage, more: list[tuple[str, str]]) -> None:
    query = [("channel", stage.channel), ("channel", stage.name("other")), *more]

    response = await request(
        stage.a.url, "GET", "/v1/events", query=query, headers=tokens.bearer(tokens.make_token("ann"))
    )

    assert (response.status, response.json()["code"]) == (400, "bad_request")
