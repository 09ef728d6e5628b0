"""What another node must know of a session: its record is renewed, and what a client left it does not need to know."""

from __future__ import annotations

from tests.support.stage import Stage
from tests.support.waiting import run_async

SESSION = "a-session-0001"


def _forget(stage: Stage, *patterns: str) -> None:
    """Delete keys, as their expiry would after a minute or three."""
    redis = stage.redis.client()
    keys = [key for pattern in patterns for key in redis.keys(pattern)]
    assert keys
    redis.delete(*keys)


@run_async
async def test_a_member_kept_alive_by_heartbeats_alone_is_online_and_can_be_disconnected(stage: Stage) -> None:
    room, user = stage.channel, f"courier-{stage.channel}"
    await stage.ask("PUT", "channels", room, "members", user, json={})
    _forget(stage, f"*:session:{user}*", f"*:user:{user}")

    beats = await stage.ask("POST", "heartbeats", json={"members": [{"channel": room, "user": user}]})
    presence = await stage.ask("GET", "users", user, node=stage.b)
    ended = await stage.ask("POST", "users", user, "disconnect", json={}, node=stage.b)

    assert beats == {"results": ["refreshed"]}
    assert (presence["online"], presence["sessions"], presence["channels"]) == (True, 1, [room])
    assert ended == {"sessions": 1}


@run_async
async def test_last_seen_is_right_for_a_ttl_that_a_later_put_does_not_name(stage: Stage) -> None:
    user = f"long-{stage.channel}"
    members = ("channels", stage.channel, "members", user)
    await stage.ask("PUT", *members, json={"ttl_ms": 90_000})
    await stage.ask("PUT", *members, json={})

    presence = await stage.ask("GET", "users", user)
    (since,) = [member["since"] for name, member in (await stage.roster()).items() if name == user]

    assert since <= presence["last_seen"] <= since + 10_000


@run_async
async def test_a_left_channel_stays_left_for_whoever_goes_on_with_next(stage: Stage) -> None:
    room, user = stage.channel, f"walker-{stage.channel}"
    first = (await stage.poll(stage.a, user, room, session=SESSION)).json()
    (left,) = (await stage.command(stage.b, user, SESSION, {"type": "leave", "channel": room})).json()
    second = (await stage.poll(stage.a, user, room, session=SESSION, since=first["next"])).json()
    _forget(stage, f"*:session:{user}*", f"*:alive:{room}*")

    third = (await stage.poll(stage.b, user, room, session=SESSION, since=second["next"])).json()
    (joined,) = (await stage.command(stage.a, user, SESSION, {"type": "join", "channel": room})).json()
    fourth = (await stage.poll(stage.b, user, room, session=SESSION, since=third["next"])).json()

    assert left["type"] == "ok"
    for answer in (second, third):
        assert [(frame["type"], frame["code"]) for frame in answer["frames"]] == [("error", "not_joined")]
    assert joined["type"] == "joined"
    assert [(frame["type"], frame["channel"]) for frame in fourth["frames"]] == [("joined", room)]


@run_async
async def test_a_poller_that_was_between_two_polls_when_it_was_disconnected_is_told_so(stage: Stage) -> None:
    room, user = stage.channel, f"between-{stage.channel}"
    first = (await stage.poll(stage.a, user, room, session=SESSION)).json()

    ended = await stage.ask("POST", "users", user, "disconnect", json={})
    second = (await stage.poll(stage.b, user, room, session=SESSION, since=first["next"])).json()
    fresh = (await stage.poll(stage.b, user, room, session=SESSION)).json()

    assert ended == {"sessions": 1}
    assert [(frame["type"], frame["code"]) for frame in second["frames"]] == [("close", 4003)]
    assert [frame["type"] for frame in fresh["frames"]] == ["joined"]
