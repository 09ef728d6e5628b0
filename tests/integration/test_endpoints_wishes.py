"""GET /v1/events with a role and a cursor for each channel, and polls that begin with `welcome`."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support import tokens
from tests.support.clients import Frame
from tests.support.http import Exchange, Response, request, sse_events
from tests.support.stage import Stage
from tests.support.waiting import run_async

POLL, STREAM = {"Accept": "application/json"}, {"Accept": "text/event-stream"}


@pytest.mark.parametrize("headers", [POLL, STREAM], ids=["poll", "stream"])
@run_async
async def test_each_channel_is_entered_with_its_own_role_and_from_its_own_cursor(
    stage: Stage, headers: dict[str, str]
) -> None:
    watched, fresh, joined = stage.channel, stage.name("fresh"), stage.name("joined")
    for channel in (watched, fresh, joined):
        await stage.ask("PUT", "channels", channel, "members", "bob", json={})
    seen = (await stage.ask("GET", "channels", watched))["cursor"]
    await stage.message("missed", 1)
    names, roles, cursors = (watched, fresh, joined), ("observer", "observer", "member"), (seen, "", "nowhere:7")
    wishes = zip(("channel", "as", "cursor"), (names, roles, cursors), strict=True)

    frames = await _entered(stage, headers, [(name, value) for name, values in wishes for value in values])

    assert frames[watched]["as"] == frames[fresh]["as"] == "observer"
    assert frames[joined]["as"] == "member"
    assert [frames[channel]["recovered"] for channel in (watched, fresh, joined)] == [True, False, False]
    assert [event["data"] for event in frames[watched]["events"]] == [1]
    assert [member["user"] for member in frames[joined]["members"]] == ["ann", "bob"]
    assert [member["user"] for member in frames[fresh]["members"]] == ["bob"]


@run_async
async def test_a_poll_with_since_goes_on_from_there_and_not_from_a_cursor(stage: Stage) -> None:
    await stage.message("old", 1)
    start = (await stage.ask("GET", "channels", stage.channel))["cursor"].replace(":1", ":0")
    first = (await stage.poll(stage.a, "ann", stage.channel, session=stage.session)).json()
    await stage.message("new", 2)

    answer = await _ask(
        stage,
        POLL,
        [("channel", stage.channel), ("cursor", start), ("session", stage.session), ("since", first["next"])],
    )

    assert [event["data"] for frame in answer.json()["frames"] for event in frame["events"]] == [2]


@run_async
async def test_a_poll_begins_with_welcome_only_where_that_is_asked_for(stage: Stage) -> None:
    plain = await _ask(stage, POLL, [("channel", stage.channel)])
    greeted = await _ask(stage, POLL, [("channel", stage.channel), ("welcome", "1")])

    assert [frame["type"] for frame in plain.json()["frames"]] == ["joined"]
    assert [frame["type"] for frame in greeted.json()["frames"]] == ["welcome", "joined"]
    assert greeted.json()["frames"][0]["session"] == greeted.json()["session"]


@run_async
async def test_roles_and_cursors_of_which_it_is_not_known_whose_they_are_are_refused(stage: Stage) -> None:
    three = [("channel", name) for name in "abc"]
    for more in (
        [("as", "member"), ("as", "observer")],
        [("cursor", "x:1"), ("cursor", "")],
        [("cursor", "x:1")],
        [("as", "member"), ("as", "guest"), ("as", "member")],
        [("cursor", "x"), ("cursor", ""), ("cursor", "")],
    ):
        assert (await _ask(stage, POLL, [*three, *more])).problem() == (400, "bad_request"), more


async def _ask(stage: Stage, headers: dict[str, str], query: list[tuple[str, Any]]) -> Response:
    bearer = tokens.bearer(tokens.make_token("ann"))
    return await request(stage.a.url, "GET", "/v1/events", query=query, headers={**bearer, **headers})


async def _entered(stage: Stage, headers: dict[str, str], query: list[tuple[str, Any]]) -> dict[str, Frame]:
    """The `joined` frame of each channel."""
    if headers is POLL:
        frames = (await _ask(stage, headers, query)).json()["frames"]
    else:
        bearer = tokens.bearer(tokens.make_token("ann"))
        exchange = await Exchange.open(stage.a.url, "GET", f"/v1/events?{urlencode(query)}", {**bearer, **headers})
        await exchange.read_head()
        events = sse_events(exchange)
        frames = [json.loads((await anext(events)).data) for _ in range(4)][1:]
        exchange.close()
    return {frame["channel"]: frame for frame in frames}
