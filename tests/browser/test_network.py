"""The client behind bad networks: what a page hears is what happened, once each and in order, whatever the way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.browser.scene import TRANSPORTS, Scene, Tab
from tests.support.browser import Browser
from tests.support.front import Front
from tests.support.waiting import eventually, run_async


async def heard_all(scene: Scene, tabs: dict[str, Tab], first: str) -> None:
    """Each page has heard everything from the message `first` on, as it stands in the history."""
    await scene.message("last")
    log = await scene.history()
    names = [event.get("name") for event in log]
    told = log[names.index(first) :]
    for tab in tabs.values():
        await tab.hears("message", name="last")
        events = (await tab.seen())["events"]
        assert events[-len(told) :] == told
        assert await tab.roster() == await scene.roster()


def connections(seen: Any) -> int:
    """How often the page came online."""
    return sum(1 for status in seen["statuses"] if status["status"] == "online")


@run_async
async def test_a_network_that_was_cut_resumes_without_a_gap(scene: Scene) -> None:
    tabs = await scene.tabs()
    await scene.message("first")
    await asyncio.gather(*(tab.hears("message", name="first") for tab in tabs.values()))

    scene.front.away = True
    scene.front.cut()
    for tab in tabs.values():
        await tab.until(lambda seen: seen["status"] == "offline", "the page is offline")
    for number in range(5):
        await scene.message(f"missed {number}")
    scene.front.away = False

    for tab in tabs.values():
        await tab.until(lambda seen: connections(seen) == 2, "the page is online again")
    await heard_all(scene, tabs, "first")
    assert not await scene.history("leave")
    for tab in tabs.values():
        assert sum(event["type"] == "sync" for event in (await tab.seen())["events"]) == 0


@run_async
async def test_what_is_blocked_is_passed_by_the_next_transport_and_remembered(scene: Scene) -> None:
    scene.front.barred = {"websocket"}
    ann = await scene.tab("ann")
    assert (await ann.seen())["transport"] == "sse"

    scene.front.barred = {"websocket", "sse"}
    bob = await scene.tab("bob")
    assert (await bob.seen())["transport"] == "longpoll"
    await ann.hears("join", user="bob")
    await scene.message("first")
    await heard_all(scene, {"ann": ann, "bob": bob}, "first")

    scene.front.refused.clear()
    await bob.reload()
    scene.front.barred = {"websocket"}
    await ann.reload()
    assert not scene.front.refused
    assert [(await tab.seen())["transport"] for tab in (ann, bob)] == ["sse", "longpoll"]


@run_async
async def test_a_transport_that_worked_survives_a_failure(scene: Scene) -> None:
    tab = await scene.tab("ann")
    scene.front.barred = {"websocket"}
    scene.front.cut()
    await eventually(lambda: scene.front.refused, what="the WebSocket was refused")
    scene.front.barred = set()

    await tab.until(lambda seen: connections(seen) == 2, "the page is online again")
    assert (await tab.seen())["transport"] == "websocket"


@pytest.mark.long
@run_async
async def test_a_proxy_that_keeps_answers_back_is_passed_by_polls(scene: Scene) -> None:
    scene.front.muted = {"websocket", "sse"}
    tab = await scene.tab("ann")
    await scene.message("first")

    assert (await tab.seen())["transport"] == "longpoll"
    await heard_all(scene, {"ann": tab}, "first")


@pytest.mark.long
@run_async
async def test_after_lost_data_pages_are_told_what_really_changed(own_stage: Any, browser: Browser) -> None:
    stage = own_stage(nodes=2, ttl_ms=6000, grace_ms=4000, ping_ms=1000)
    scene = Scene(stage.nodes, stage.redis, Front(stage.nodes), browser)
    await scene.ask("PUT", "channels", scene.channel, "members", "ghost", json={"ttl_ms": 600_000})
    tabs = await scene.tabs(state={"mood": "awake"})
    heard = {name: len((await tab.seen())["events"]) for name, tab in tabs.items()}

    scene.redis.client().flushall()

    for name, tab in tabs.items():
        seen = await tab.until(lambda seen: {"type": "sync"} in seen["events"], "the page has a new snapshot")
        news = seen["events"][heard[name] :]
        assert {"type": "leave", "user": "ghost", "info": {}, "state": {}} in news
        await eventually(lambda tab=tab: same_members(scene, tab), 20, what="the page knows who is there")
        mine = [event["type"] for event in (await tab.seen())["events"][heard[name] :] if event.get("user") == name]
        assert not {"join", "leave"} & set(mine), "it was there all the time"
    await scene.message("first")
    await heard_all(scene, tabs, "first")
    await scene.aclose()


async def same_members(scene: Scene, tab: Tab) -> bool:
    members = await tab.roster()
    states = {user: member["state"] for user, member in members.items()}
    return members == await scene.roster() and states == {name: {"mood": "awake"} for name in TRANSPORTS}


@pytest.mark.long
@run_async
async def test_a_line_that_died_without_a_word_is_noticed_and_nothing_is_lost(scene: Scene) -> None:
    tab = await scene.tab("ann", "websocket")
    await scene.message("first")
    await tab.hears("message", name="first")

    scene.front.strand()
    await scene.message("missed")

    await tab.until(lambda seen: connections(seen) == 2, "the page is online again")
    await heard_all(scene, {"ann": tab}, "first")
    assert not await scene.history("leave")


@pytest.mark.long
@pytest.mark.sample
@run_async
async def test_a_rolling_restart_is_no_event_and_no_gap(own_stage: Any, browser: Browser) -> None:
    stage = own_stage(nodes=2, ttl_ms=20_000, grace_ms=4000, ping_ms=1000, drain_ms=2000)
    scene = Scene(stage.nodes, stage.redis, Front(stage.nodes), browser)
    tabs = await scene.tabs()
    before = await scene.history()
    await scene.message("first")
    for number in range(2):
        scene.front.nodes = [stage.nodes[-1], await stage.start_node()]
        old = scene.nodes.pop(0)
        old.terminate()
        await scene.message(f"while {number} drains")
        assert await asyncio.to_thread(old.wait) == 0
        await scene.message(f"after {number}")

    await heard_all(scene, tabs, "first")
    assert await scene.history("join leave update") == before
    websocket = (await tabs["websocket"].seen())["statuses"]
    assert {status["status"] for status in websocket} == {"connecting", "online"}
    await scene.aclose()
