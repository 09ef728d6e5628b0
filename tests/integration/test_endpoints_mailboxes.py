"""What waits for those who are away: messages to users, subscriptions, fetching and acknowledging, on every transport."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.support import tokens
from tests.support.clients import Client
from tests.support.clients.rooms import INBOX
from tests.support.stage import Stage
from tests.support.waiting import run_async


async def send(stage: Stage, user: str, name: str, data: Any = None, **options: Any) -> str:
    """A message to a user; its cursor."""
    answer = await stage.ask("POST", "users", user, "messages", json={"name": name, "data": data}, **options)
    return str(answer["cursor"])


async def subscribe(stage: Stage, user: str, channel: str = "") -> None:
    """Keep the channel's events for the user."""
    answer = await stage.api("PUT", "channels", channel or stage.channel, "subscribers", user)
    assert (answer.status, answer.body) == (204, b"")


async def waiting(stage: Stage, user: str, **query: Any) -> list[dict[str, Any]]:
    """What waits for the user, as a back end sees it."""
    return list((await stage.ask("GET", "users", user, "inbox", query=query))["channels"])


def data(entry: dict[str, Any]) -> list[Any]:
    """The data of an entry's messages."""
    return [event["data"] for event in entry["events"]]


@run_async
async def test_a_message_reaches_all_live_sessions_of_the_user_and_waits_until_it_is_acknowledged(
    stage: Stage, transport: str
) -> None:
    user, other = stage.name("ann"), stage.name("bob")
    tabs = [await stage.member(transport, node, user) for node in stage.nodes]
    bob = await stage.member(transport, stage.a, other)

    cursor = await send(stage, user, "hello", {"n": 1})
    letters = await asyncio.gather(*(tab.letter("hello") for tab in tabs))
    await send(stage, other, "only you")
    await bob.letter("only you")

    assert [letter["data"] for letter in letters] == [{"n": 1}, {"n": 1}]
    assert all(letter.keys() == {"seq", "at", "type", "name", "data"} for letter in letters)
    assert [event["name"] for event in bob.events(INBOX)] == ["only you"]
    (entry,) = await tabs[0].fetch()
    assert entry == {"channel": INBOX, "cursor": cursor, "events": [letters[0]]}
    assert await waiting(stage, user) == [entry]
    assert await tabs[1].fetch() == [entry], "two tabs do not steal from each other"
    await tabs[0].ack(INBOX, cursor)
    assert await tabs[1].fetch() == []
    assert INBOX not in (await stage.ask("GET", "users", user))["channels"]


@run_async
async def test_who_was_away_fetches_what_was_sent_to_them_in_order(stage: Stage, transport: str) -> None:
    user = stage.name("ann")
    cursors = [await send(stage, user, "news", number) for number in range(5)]

    ann = await stage.member(transport, stage.b, user)
    first = await ann.command({"type": "fetch", "limit": 2})

    assert (data(first["channels"][0]), first["channels"][0]["cursor"], first["more"]) == ([0, 1], cursors[1], True)
    await ann.ack(INBOX, cursors[1])
    (rest,) = await ann.fetch()
    assert (data(rest), rest["cursor"]) == ([2, 3, 4], cursors[4])
    assert "missed" not in rest


@run_async
async def test_a_subscriber_gets_everything_after_the_subscription_and_nothing_before(
    stage: Stage, transport: str
) -> None:
    user = stage.name("ann")
    await stage.message("before")
    await subscribe(stage, user)
    await subscribe(stage, user)
    await stage.message("first")
    await subscribe(stage, user)
    bob = await stage.member("websocket", stage.a, "bob", state={"n": 1})
    await bob.set(stage.channel, {"n": 2})
    last = await stage.message("last")
    elsewhere = stage.name("elsewhere")

    ann = await stage.member(transport, stage.b, user, channel=elsewhere)
    (entry,) = await ann.fetch()

    assert [event.get("name", event["type"]) for event in entry["events"]] == ["first", "join", "update", "last"]
    assert (entry["channel"], entry["cursor"]) == (stage.channel, last)
    assert [event["seq"] for event in entry["events"]] == [2, 3, 4, 5]
    await ann.ack(stage.channel, last)
    assert await ann.fetch() == []


@run_async
async def test_several_channels_are_grouped_and_share_the_room_of_one_answer(stage: Stage, transport: str) -> None:
    user, channels = stage.name("ann"), sorted(stage.name("room") for _ in range(3))
    for channel in channels:
        await subscribe(stage, user, channel)
        for number in range(3):
            await stage.message("m", number, channel=channel)
    await send(stage, user, "m", "own")

    ann = await stage.member(transport, stage.a, user)
    some = await ann.command({"type": "fetch", "limit": 6})
    everything = await ann.fetch()

    assert [entry["channel"] for entry in some["channels"]] == [INBOX, *channels]
    assert [data(entry) for entry in some["channels"]] == [["own"], [0, 1], [0, 1], [0]]
    assert some["more"] is True
    assert [data(entry) for entry in everything] == [["own"], [0, 1, 2], [0, 1, 2], [0, 1, 2]]


@run_async
async def test_acknowledging_never_moves_backwards_and_only_as_far_as_there_are_events(
    stage: Stage, transport: str
) -> None:
    user = stage.name("ann")
    await subscribe(stage, user)
    cursors = [await stage.message("m", number) for number in range(4)]
    ann = await stage.member(transport, stage.a, user, channel=stage.name("elsewhere"))
    epoch, _, seq = cursors[-1].rpartition(":")

    await asyncio.gather(*(ann.ack(stage.channel, cursor) for cursor in (cursors[2], cursors[0], cursors[1])))
    await ann.ack(stage.channel, cursors[0])
    await ann.ack(stage.channel, "abcdef:1")

    ahead = {"type": "ack", "channel": stage.channel, "cursor": f"{epoch}:{int(seq) + 1}"}
    assert await ann.refused(ahead) == "bad_request"
    assert [data(entry) for entry in await ann.fetch()] == [[3]]


@run_async
async def test_a_subscription_alone_gives_no_right_to_read(stage: Stage, transport: str) -> None:
    user = stage.name("ann")
    await subscribe(stage, user)
    cursor = await stage.message("secret")
    await send(stage, user, "hello")
    elsewhere = stage.name("open")
    grants = {"open-*": ["join", "see"], stage.channel: ["join", "publish", "history"]}

    ann = await stage.member(transport, stage.a, user, channel=elsewhere, grants=grants)

    assert [entry["channel"] for entry in await ann.fetch()] == [INBOX]
    assert await ann.refused({"type": "ack", "channel": stage.channel, "cursor": cursor}) == "forbidden"
    await ann.refresh(tokens.make_token(user, grants={"*": ["see"]}))
    again = await stage.member(transport, stage.a, user, as_="observer", channel=elsewhere, token=ann.token)
    assert [entry["channel"] for entry in await again.fetch()] == [INBOX, stage.channel]


@run_async
async def test_who_ends_a_subscription_fetches_nothing_more(stage: Stage, transport: str) -> None:
    user = stage.name("ann")
    await subscribe(stage, user)
    cursor = await stage.message("m")

    answer = await stage.api("DELETE", "channels", stage.channel, "subscribers", user)
    again = await stage.api("DELETE", "channels", stage.channel, "subscribers", user)

    assert (answer.status, again.status) == (204, 204)
    ann = await stage.member(transport, stage.a, user, channel=stage.name("elsewhere"))
    assert await ann.fetch() == []
    assert await ann.refused({"type": "ack", "channel": stage.channel, "cursor": cursor}) == "not_found"
    await subscribe(stage, user)
    assert await ann.fetch() == []


@run_async
async def test_fetch_and_ack_are_read_strictly(stage: Stage, transport: str) -> None:
    ann = await stage.member(transport, stage.a, stage.name("ann"))

    for limit in (0, 1001, "5", 1.0, True):
        assert await ann.refused({"type": "fetch", "limit": limit}) == "bad_request"
    for wrong in ({}, {"cursor": None}, {"cursor": 5}, {"cursor": "nonsense"}):
        assert await ann.refused({"type": "ack", "channel": INBOX, **wrong}) == "bad_request"
    for channel in ("@inbox:bob", "@server", "@"):
        assert await ann.refused({"type": "ack", "channel": channel, "cursor": "e:1"}) == "forbidden"
    assert await ann.refused({"type": "ack", "channel": "", "cursor": "e:1"}) == "bad_name"
    assert await ann.refused({"type": "ack", "channel": stage.channel, "cursor": "e:1"}) == "not_found"
    assert await ann.ack(INBOX, "e:1"), "of an epoch that nobody knows"


@run_async
async def test_nobody_gets_at_a_mailbox_as_a_channel(stage: Stage, transport: str) -> None:
    await send(stage, "bob", "private")
    ann = await stage.member(transport, stage.a, "bob", channel=stage.name("elsewhere"))

    for channel in (INBOX, "@inbox:bob"):
        for command in ("history", "who", "publish", "join", "set"):
            frame = {"type": command, "channel": channel, "name": "m", "data": 1, "state": {}}
            assert await ann.refused(frame) == "forbidden", (command, channel)
    for parts in (["members"], ["events"], [], ["messages"], ["subscribers", "bob"], ["members", "bob"]):
        method = {"messages": "POST", "subscribers": "PUT", "members": "GET"}.get(next(iter(parts), ""), "GET")
        answer = await stage.api("PUT" if len(parts) == 2 else method, "channels", "@inbox:bob", *parts, json={})
        assert answer.problem() == (403, "forbidden"), parts
    listed = await stage.ask("GET", "channels", query={"prefix": "@"})
    assert listed["channels"] == []


@run_async
async def test_a_stream_or_poll_that_goes_on_gets_the_messages_between(stage: Stage, transport: str) -> None:
    user = stage.name("ann")
    ann: Client = await stage.member(transport, stage.a, user)
    await send(stage, user, "one")
    await ann.letter("one")
    await ann.parked()
    await ann.drop()

    await send(stage, user, "two")
    await send(stage, user, "three")
    if transport == "websocket":  # it has no `next`: it fetches
        return
    await ann.reconnect(stage.b)

    await ann.letter("three")
    assert [event["name"] for event in ann.events(INBOX)] == ["one", "two", "three"]


@run_async
async def test_a_burst_of_messages_arrives_in_order_and_once(stage: Stage, transport: str) -> None:
    user = stage.name("ann")
    ann = await stage.member(transport, stage.b, user)

    await asyncio.gather(*(send(stage, user, "m", n, node=stage.nodes[n % 2]) for n in range(60)))
    await send(stage, user, "last")

    await ann.letter("last")
    assert [event["seq"] for event in ann.events(INBOX)] == list(range(1, 62))
    assert sorted(event["data"] for event in ann.events(INBOX)[:-1]) == list(range(60))


@run_async
async def test_the_back_end_fetches_and_acknowledges_for_a_user(stage: Stage) -> None:
    user = stage.name("ann")
    await subscribe(stage, user)
    cursor = await stage.message("m", 1)
    own = await send(stage, user, "own")

    both = await waiting(stage, user, limit=2)
    assert [entry["channel"] for entry in both] == [INBOX, stage.channel]
    for channel, place in ((INBOX, own), (stage.channel, cursor)):
        answer = await stage.api("POST", "users", user, "inbox", "ack", json={"channel": channel, "cursor": place})
        assert (answer.status, answer.body) == (204, b"")
    assert await waiting(stage, user) == []

    for body, problem in [
        ({"channel": stage.channel}, (400, "bad_request")),
        ({"channel": stage.channel, "cursor": "nonsense"}, (400, "bad_request")),
        ({"channel": stage.name("other"), "cursor": cursor}, (404, "not_found")),
        ({"channel": "@inbox:bob", "cursor": cursor}, (403, "forbidden")),
        ({"cursor": cursor}, (400, "bad_name")),
    ]:
        assert (await stage.api("POST", "users", user, "inbox", "ack", json=body)).problem() == problem
    for limit in ("0", "1001", "x"):
        answer = await stage.api("GET", "users", user, "inbox", query={"limit": limit})
        assert answer.problem() == (400, "bad_request")


@run_async
async def test_a_repeated_idempotency_key_is_one_message(stage: Stage) -> None:
    user, other = stage.name("ann"), stage.name("bob")
    key = {"Idempotency-Key": stage.name("key")}

    first = await send(stage, user, "m", 1, headers=key)
    again = await send(stage, user, "m", 1, headers=key, node=stage.b)
    await send(stage, other, "m", 2, headers=key)

    assert first == again
    body = {"name": "m", "data": 2}
    assert (await stage.api("POST", "users", user, "messages", json=body, headers=key)).problem() == (409, "conflict")
    assert [data(entry) for entry in await waiting(stage, user)] == [[1]]


@run_async
async def test_keys_and_tokens_open_what_they_should(stage: Stage) -> None:
    user = stage.name("ann")
    calls = [
        ("POST", ["users", user, "messages"], {"name": "m", "data": 1}),
        ("PUT", ["channels", stage.channel, "subscribers", user], None),
        ("DELETE", ["channels", stage.channel, "subscribers", user], None),
        ("POST", ["users", user, "inbox", "ack"], {"channel": INBOX, "cursor": "e:1"}),
    ]

    for method, parts, body in calls:
        assert (await stage.api(method, *parts, json=body, key=None)).problem() == (401, "unauthorized")
        assert (await stage.api(method, *parts, json=body, key=tokens.READ_KEY)).problem() == (403, "forbidden")
        token = tokens.make_token(user)
        assert (await stage.api(method, *parts, json=body, key=token)).problem() == (401, "unauthorized")
    assert (await stage.api("GET", "users", user, "inbox", key=tokens.READ_KEY)).status == 200
    assert (await stage.api("GET", "users", user, "inbox", key=None)).problem() == (401, "unauthorized")
