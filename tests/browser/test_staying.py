"""Who is there stays there: a hidden tab, a page that is busy, one that comes back out of the browser's cache."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import PATIENT
from tests.browser.scene import TRANSPORTS, Scene, Tab
from tests.support.browser import Browser, Chromium
from tests.support.front import STRICT, Front
from tests.support.node import QUICK
from tests.support.waiting import eventually, limited, run_async

SOON_THROTTLED = "--enable-features=IntensiveWakeUpThrottling:grace_period_seconds/1"
"""Timers of a hidden page that has painted nothing run once a minute from the second second on. (Of others: from the
second minute on.)"""
BUSY_TTL_MS = 5000
BESIDE = {"profile": "one", "beside": True}
NO_WORKERS = f"{STRICT}; worker-src 'none'"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """One that is soon strict with hidden tabs."""
    with Chromium(tmp_path_factory.mktemp("chromium"), SOON_THROTTLED) as process:
        yield process


async def worker_runs(scene: Scene, tab: Tab, key: str = "0") -> None:
    """Wait for more signs of life by POST than those of entering."""
    session = (await tab.seen(key))["session"]
    before = scene.front.posted(session)
    await eventually(lambda: scene.front.posted(session) >= before + 2, what="the worker runs")


async def hide(scene: Scene, *tabs: Tab) -> None:
    """Cover the tabs (of profile "one") by another, and wait until their timers are throttled."""
    await scene.browser.open("about:blank", profile="one", beside=True)
    for tab in tabs:
        await tab.page.until("document.visibilityState === 'hidden'")

    async def throttled() -> bool:
        before = [await tab.page.run("window.ticks") for tab in tabs]
        await scene.passes(1500)
        return before == [await tab.page.run("window.ticks") for tab in tabs]

    await eventually(throttled, 20, what="the timers of hidden pages stand still")


async def hidden_tabs(scene: Scene) -> dict[str, Tab]:
    """One tab for each transport, in one window and soon covered."""
    await scene.browser.open("about:blank", profile="one")
    return {name: await scene.tab(name, name, place=BESIDE) for name in TRANSPORTS}


@pytest.mark.long
@run_async
async def test_hidden_tabs_stay_though_their_timers_stand_still(quick_scene: Scene) -> None:
    scene = quick_scene
    tabs = await hidden_tabs(scene)
    scene.front.policy = NO_WORKERS
    unkept = await scene.tab("unkept", "sse", place=BESIDE)
    for name in ("sse", "longpoll"):
        await worker_runs(scene, tabs[name])

    await hide(scene, *tabs.values(), unkept)
    before = await asyncio.gather(*(tab.page.run("window.ticks") for tab in tabs.values()))
    await scene.passes(2 * QUICK["ttl_ms"])

    after = await asyncio.gather(*(tab.page.run("window.ticks") for tab in tabs.values()))
    assert all(now - then <= 2 for now, then in zip(after, before, strict=True))
    await eventually(lambda: scene.history("leave"), what="who has no worker is gone")
    assert {event["user"] for event in await scene.history("leave")} == {"unkept"}
    await scene.message("still here")
    for tab in tabs.values():
        await tab.hears("message", name="still here")
    unkept.forgive("Content Security Policy")


@pytest.mark.long
@run_async
@limited(180)
async def test_hidden_tabs_stay_for_90_seconds(own_stage: Any, browser: Browser) -> None:
    stage = own_stage(nodes=1, ttl_ms=30_000, grace_ms=5000, ping_ms=10_000)
    scene = Scene(stage.nodes, stage.redis, Front(stage.nodes), browser)
    tabs = await hidden_tabs(scene)
    await hide(scene, *tabs.values())
    before = await asyncio.gather(*(tab.page.run("window.ticks") for tab in tabs.values()))

    await scene.passes(90_000)

    after = await asyncio.gather(*(tab.page.run("window.ticks") for tab in tabs.values()))
    assert all(now - then <= 3 for now, then in zip(after, before, strict=True))
    assert not await scene.history("leave")
    assert [await tab.page.run("document.visibilityState") for tab in tabs.values()] == ["hidden"] * 3
    for tab in tabs.values():
        assert (await tab.seen())["status"] == "online"
    await scene.aclose()


@run_async
async def test_a_page_that_is_busy_for_two_ttls_stays(own_stage: Any, browser: Browser) -> None:
    stage = own_stage(nodes=2, ttl_ms=BUSY_TTL_MS, grace_ms=2000, ping_ms=500)
    scene = Scene(stage.nodes, stage.redis, Front(stage.nodes), browser)
    tab = await scene.busy_tab({name: scene.wish(name, name) for name in TRANSPORTS})
    before = await scene.history()
    for name in ("sse", "longpoll"):
        await worker_runs(scene, tab, name)

    busy = "(ms) => { const ends = performance.now() + ms; while (performance.now() < ends); }"
    await tab.page.run(busy, 2 * BUSY_TTL_MS)

    await scene.message("still here")
    for name in TRANSPORTS:
        await tab.hears("message", key=name, name="still here")
    assert await scene.history("join leave update") == before


@run_async
async def test_a_killed_browser_is_a_timeout(quick_scene: Scene, tmp_path: Path) -> None:
    scene = quick_scene
    with Chromium(tmp_path / "killed") as chromium:
        doomed = Scene(scene.nodes, scene.redis, scene.front, Browser(chromium, tmp_path))
        doomed.channel = scene.channel
        await doomed.tabs()

        chromium.kill()

        leaves = await scene.leaves(3)
        await doomed.browser.aclose()
    assert {user: leave["reason"] for user, leave in leaves.items()} == dict.fromkeys(TRANSPORTS, "timeout")


@run_async
async def test_a_return_from_the_back_forward_cache_is_a_new_session_no_event_and_no_gap(scene: Scene) -> None:
    tabs = await scene.tabs()
    before = await scene.history()
    sessions = {name: (await tab.seen())["session"] for name, tab in tabs.items()}

    await asyncio.gather(*(tab.page.goto(f"{scene.front.url}/healthz") for tab in tabs.values()))
    await scene.message("missed")
    await asyncio.gather(*(tab.page.back() for tab in tabs.values()))

    for name, tab in tabs.items():
        await tab.page.until("window.shown?.at(-1)")
        await tab.hears("message", name="missed")
        seen = await tab.until(lambda seen: seen["status"] == "online", "the page is online again")
        assert seen["session"] != sessions[name]
        assert [event["type"] for event in seen["events"]].count("message") == 1
        late = await scene.command(scene.a, name, sessions[name], [{"type": "bye"}])
        assert late.status == 200
    await scene.passes(PATIENT["grace_ms"])
    assert {member["sessions"] for member in (await scene.roster()).values()} == {1}
    assert await scene.history("join leave update") == before
