"""The Python client's calls, for threads and for asyncio: what they say, what they answer, how they fail."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from presence import client
from presence.client import AsyncClient, Client
from presence.errors import ERRORS
from tests.support import tokens
from tests.support.back_ends import KINDS, make_back_end
from tests.support.stage import Stage

AWKWARD = ("..", ".", "a/b", "%41", "a?b#c", "*", "{x}", "__proto__", "Zoë", "日本", "a b", "a\\b", "…")


@pytest.fixture(params=KINDS)
def back_end(request: pytest.FixtureRequest, stage: Stage) -> Iterator[Any]:
    with make_back_end(request.param, stage.a.url) as made:
        yield made


def test_members_come_stay_and_go(stage: Stage, back_end: Any) -> None:
    room = stage.channel
    put = back_end.put_member(room, "ann", info={"n": 1}, state={"mood": "fine"}, ttl_ms=60_000)
    again = back_end.put_member(room, "ann", state={"mood": "better"})
    back_end.put_member(room, "bob", session="session-of-bob")
    beats = back_end.heartbeats([(room, "ann"), (room, "bob", "session-of-bob"), (room, "carol"), ("", "x")])

    assert (put.joined, again.joined) == (True, False)
    assert again.cursor == put.cursor.replace(":1", ":2")
    assert beats == ["refreshed", "refreshed", "not_joined", "bad_name"]
    ann, bob = back_end.members(room)
    assert (ann.user, ann.info, ann.state, ann.sessions) == ("ann", {"n": 1}, {"mood": "better"}, 1)
    assert back_end.channel(room) == client.Channel(room, 2, 2, back_end.history(room).cursor)
    assert back_end.remove_member(room, "bob", session="another-session") is False
    assert back_end.remove_member(room, bob.user) is True
    assert back_end.remove_member(room, bob.user) is False


def test_lists_are_iterated_page_by_page(stage: Stage, back_end: Any) -> None:
    users = [f"user-{number}" for number in range(7)]
    for user in users:
        back_end.put_member(stage.channel, user)
        back_end.put_member(f"{stage.channel}/{user}", user)

    assert [member.user for member in back_end.members(stage.channel, page=3)] == users
    assert [member.user for member in back_end.members(stage.channel, page=7)] == users
    listed = list(back_end.channels(f"{stage.channel}/", page=2))
    assert listed == [client.Channel(f"{stage.channel}/{user}", 1) for user in users]
    assert list(back_end.members(stage.name("empty"))) == []


def test_what_happened_can_be_read_from_a_cursor_on(stage: Stage, back_end: Any) -> None:
    first = back_end.put_member(stage.channel, "ann").cursor
    second = back_end.publish(stage.channel, "note", {"n": [1, None]})
    third = back_end.publish(stage.channel, "note", None)

    past = back_end.history(stage.channel, cursor=first, limit=10)
    assert (past.recovered, past.cursor) == (True, third)
    assert [event.cursor for event in past.events] == [second, third]
    assert [(event.type, event.channel, event.name, event.data) for event in past.events] == [
        ("message", stage.channel, "note", {"n": [1, None]}),
        ("message", stage.channel, "note", None),
    ]
    assert back_end.history(stage.channel, cursor="another:1").recovered is False


def test_users_are_found_and_taken_out(stage: Stage, back_end: Any) -> None:
    ann, nobody = stage.name("ann"), stage.name("nobody")
    back_end.put_member(stage.channel, ann)

    here, gone = back_end.users([ann, nobody])
    assert here == back_end.user(ann)
    assert (here.online, here.sessions, here.channels) == (True, 1, (stage.channel,))
    assert (gone.user, gone.online, gone.last_seen) == (nobody, False, None)
    assert back_end.disconnect(ann, channel=stage.channel) == 1
    assert back_end.disconnect(ann) == 0
    assert back_end.history(stage.channel).events[-1].reason == "disconnected"


def test_names_are_taken_literally(stage: Stage, back_end: Any) -> None:
    for name in AWKWARD:
        channel = name if name in (".", "..") else f"{name}-{stage.channel}"
        back_end.put_member(channel, name)
        assert name in [member.user for member in back_end.members(channel)], name
        assert channel in back_end.user(name).channels, name
        assert back_end.remove_member(channel, name) is True, name


def test_a_key_of_ones_own_makes_a_message_once_and_for_one_body_only(stage: Stage, back_end: Any) -> None:
    first = back_end.publish(stage.channel, "note", 1, idempotency_key="order-17")
    again = back_end.publish(stage.channel, "note", 1, idempotency_key="order-17")

    assert again == first
    with pytest.raises(client.Conflict) as refused:
        back_end.publish(stage.channel, "note", 2, idempotency_key="order-17")
    assert (refused.value.status, refused.value.code) == (409, "conflict")


@pytest.mark.parametrize("kind", KINDS)
def test_each_refusal_is_an_exception_of_its_own(stage: Stage, kind: str) -> None:
    with make_back_end(kind, stage.a.url) as good, make_back_end(kind, stage.a.url, tokens.READ_KEY) as reading:
        refusals = {
            client.BadName: lambda: good.put_member("", "ann"),
            client.BadRequest: lambda: good.put_member(stage.channel, "ann", ttl_ms=1),
            client.TooLarge: lambda: good.put_member(stage.channel, "ann", info={"x": "x" * 2000}),
            client.Forbidden: lambda: reading.put_member(stage.channel, "ann"),
            client.NotFound: lambda: good.queue(stage.name("queue")).status(),
        }
        for expected, call in refusals.items():
            with pytest.raises(expected) as refused:
                call()
            error = refused.value
            assert isinstance(error, client.PresenceError)
            assert type(error) is expected
            assert error.detail
            assert str(error) == f"{error.code}: {error.detail}"
            assert not error.passes
        assert reading.channel(stage.channel).count == 0
    with make_back_end(kind, stage.a.url, "no-such-key") as bad, pytest.raises(client.Unauthorized) as refused:
        bad.channel("x")
    assert (refused.value.status, refused.value.code) == (401, "unauthorized")


def test_a_value_that_is_no_json_is_not_sent(stage: Stage, back_end: Any) -> None:
    for value in (float("nan"), {1, 2}, "\ud800"):
        with pytest.raises((ValueError, TypeError)):
            back_end.publish(stage.channel, "note", value)
    assert back_end.history(stage.channel).events == ()


def test_what_waits_for_a_user_is_read_and_acknowledged(stage: Stage, back_end: Any) -> None:
    user = stage.name("user")
    back_end.publish(stage.channel, "note", "before")
    back_end.subscribe(stage.channel, user)
    back_end.subscribe(stage.channel, user)
    first = back_end.publish(stage.channel, "note", 1)
    back_end.publish(stage.channel, "note", 2)
    letter = back_end.send(user, "letter", {"n": 3}, idempotency_key="a-letter")
    assert back_end.send(user, "letter", {"n": 3}, idempotency_key="a-letter") == letter

    inbox = back_end.inbox(user)
    assert inbox.more is False
    mine, notes = inbox
    assert (mine.channel, mine.cursor, [event.data for event in mine.events]) == ("@inbox", letter, [{"n": 3}])
    assert (notes.channel, notes.missed, notes.recovered) == (stage.channel, 0, True)
    assert [(event.cursor, event.data) for event in notes.events][0] == (first, 1)
    assert back_end.inbox(user, 1).more is True
    back_end.ack_inbox(user, "@inbox", mine.cursor)
    back_end.ack_inbox(user, stage.channel, first)
    (left,) = back_end.inbox(user)
    assert [event.data for event in left.events] == [2]
    back_end.unsubscribe(stage.channel, user)
    assert list(back_end.inbox(user)) == []
    with pytest.raises(client.NotFound):
        back_end.ack_inbox(user, stage.channel, first)


def test_a_queue_from_its_making_to_its_end(stage: Stage, back_end: Any) -> None:
    queue = back_end.queue(stage.name("queue"))
    queue.create(types=["leave"], channels=stage.channel, max_deliveries=1)
    for user in ("ann", "bob", "carol"):
        back_end.put_member(stage.channel, user, state={"of": user})
        back_end.remove_member(stage.channel, user)

    events = queue.take("one", 10, lease_ms=60_000)
    assert [(event.type, event.user, event.state) for event in events] == [
        ("leave", user, {"of": user}) for user in ("ann", "bob", "carol")
    ]
    assert all(event.id and event.generation and event.deliveries == 1 for event in events)
    ann, bob, carol = (event.id for event in events)
    assert queue.ack("one", [ann]) == client.Settled((ann,), ())
    assert queue.ack("two", [bob]) == client.Settled((), (bob,))
    assert queue.extend("one", [bob, carol], lease_ms=50_000) == client.Settled((bob, carol), ())
    assert queue.release("one", [bob]).acked == (bob,)
    status = queue.status()
    assert (status.waiting, status.in_flight, status.types) == (1, 1, ("leave",))
    assert queue.take("two") == []  # bob has had his one delivery
    (dead,) = queue.dead()
    assert (dead.id, dead.user, dead.deliveries) == (dead.id, "bob", 1)
    assert queue.requeue([dead.id]).acked == (dead.id,)
    assert [event.user for event in queue.take("two", wait_ms=2000)] == ["bob"]
    queue.end()
    with pytest.raises(client.NotFound):
        queue.take("one")


def test_every_code_of_the_server_has_its_exception() -> None:
    known = {kind.known_as for kind in client.PresenceError.__subclasses__()}

    assert known == {*ERRORS, "unreachable"}


def test_both_clients_have_the_same_calls_and_say_what_they_take() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(AsyncClient) - {"at"} == public(Client) - {"close"} | {"aclose"}
    assert public(client.AsyncQueue) == public(client.Queue)
    with Client("http://127.0.0.1:1", "key") as one:
        assert list(inspect.signature(one.put_member).parameters)[:3] == ["channel", "user", "info"]
        assert list(inspect.signature(one.queue("q").take).parameters) == ["consumer", "count", "wait_ms", "lease_ms"]
        assert "Make the user a member" in str(one.put_member.__doc__)
        assert "key" not in repr(one.place)
