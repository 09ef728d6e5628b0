"""Who is there stays there: a hidden tab, a page that is stuck, one that comes back out of the browser's cache."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.browser.scene import TRANSPORTS, Scene
from tests.support.browser import Browser, Chromium
from tests.support.node import QUICK
from tests.support.waiting import eventually, limited, run_async

THROTTLED = "--enable-features=IntensiveWakeUpThrottling:grace_period_seconds/1"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Chromium:
    with Chromium(tmp_path_factory.mktemp("chromium"), THROTTLED) as process:
        yield process


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
async def test_a_page_that_is_busy_for_two_ttls_stays(quick_scene: Scene) -> None:
    scene = quick_scene
    tab = await scene.busy_tab({name: scene.wish(name, name) for name in TRANSPORTS})
    before = await scene.history()

    await tab.page.run("(ms) => { const ends = performance.now() + ms; while (performance.now() < ends); }", 2 * QUICK["ttl_ms"])

    await scene.message("fence")
    for name in TRANSPORTS:
        await tab.hears("message", key=name, name="fence")
    assert await scene.history() == before


@run_async
async def test_hidden(quick_scene: Scene) -> None:
    scene = quick_scene
    tabs = {}
    for name in TRANSPORTS:
        tabs[name] = await scene.tab(name, name, beside=True, profile="one")
    other = await scene.tab("bob", beside=True, profile="one")
    for name in TRANSPORTS:
        await tabs[name].page.until("document.visibilityState === 'hidden'")
    for _ in range(8):
        await scene.passes(1000)
        print([await t.page.run("window.ticks") for t in tabs.values()])
    print(await scene.history())


@run_async
async def test_bf(scene: Scene) -> None:
    tabs = await scene.tabs()
    seen = {}
    for name, tab in tabs.items():
        said = []
        tab.page.listeners.append(lambda m, p, said=said: said.append((m, p)) if "ackForward" in m else None)
        await tab.page.goto(scene.front.url + "/healthz")
        await tab.page.back()
        await asyncio.sleep(2)
        print(said)
        print(await tab.page.run("window.shown"))
        print((await tab.seen())["statuses"])
    print(await scene.history())
