"""The console in a real browser: what it shows, what it keeps to itself, and that it holds ten thousand channels."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import pytest
import redis

from presence.keys import Keys
from tests.support import tokens
from tests.support.browser import Browser, Page
from tests.support.node import Node
from tests.support.redis_server import RedisServer
from tests.support.stage import Stage
from tests.support.waiting import eventually, run_async

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
LOOKS = [(size, scheme) for size in ("wide", "phone") for scheme in ("light", "dark")]
CHANNELS = 10_000
DRAWN_AT_MOST = 2500


async def _enter(browser: Browser, node: Node, key: str = tokens.API_KEY, route: str = "") -> Page:
    """The console, opened with a key."""
    page = await browser.open(f"{node.url}/console{route}")
    await page.fill("#key", key)
    await page.press("Enter")
    await page.until("!document.querySelector('#inside').hidden")
    return page


def _at(*parts: str) -> str:
    return "#/" + "/".join(parts)


@run_async
async def test_the_page_runs_only_files_of_ours_and_is_in_nobodys_frame(stage: Stage) -> None:
    answer = await stage.probe("/console")

    policy = answer.headers["content-security-policy"].split("; ")
    assert answer.status == 200
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"} <= set(policy)
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"


@run_async
async def test_a_wrong_key_opens_nothing_and_a_right_one_stays_in_memory(browser: Browser, stage: Stage) -> None:
    page = await browser.open(f"{stage.a.url}/console")
    assert await page.flaws() == []
    await page.screenshot("console-key")
    await page.fill("#key", "wrong-key")
    await page.press("Enter")
    await page.until("document.querySelector('#login-said').textContent.includes('not accepted')")

    await page.fill("#key", tokens.READ_KEY)
    await page.press("Enter")
    await page.until("document.querySelectorAll('#nodes li').length >= 2")

    kept = await page.run(
        "JSON.stringify([document.cookie, localStorage, sessionStorage, location.href, document.documentElement.outerHTML])"
    )
    assert tokens.READ_KEY not in kept
    assert await page.run("document.querySelector('#key').value") == ""
    await page.reload()
    assert await page.run("document.querySelector('#inside').hidden")


@run_async
async def test_it_shows_nodes_channels_people_and_what_happens_as_text(browser: Browser, stage: Stage) -> None:
    channel = f"{stage.channel} {HOSTILE}"
    await stage.member("websocket", stage.b, HOSTILE, channel=channel, state={"doing": HOSTILE})
    page = await _enter(browser, stage.a)
    await page.until("document.querySelectorAll('#nodes [data-tone=here]').length >= 2")

    await page.until("document.querySelectorAll('#channels a').length > 0")
    await page.fill("#find", channel)
    await page.until("(name) => document.querySelector('#channels a')?.textContent === name", channel)
    await page.click("#channels a")
    await page.until("(name) => document.querySelector('#roster a')?.textContent === name", HOSTILE)
    assert "is now" not in await page.text("#feed")
    await stage.message("note", HOSTILE, channel=channel)
    await page.until("(text) => document.querySelector('#feed li').textContent.includes(`note: ${text}`)", HOSTILE)

    await page.click("#roster a")
    await page.until("document.querySelector('#user-facts').textContent.includes('online')")
    assert HOSTILE in await page.text("#user-name")
    assert channel in await page.text("#user-channels")
    assert await page.run("document.querySelectorAll('main img').length") == 0
    assert await page.run("document.title") == "Presence console"


@run_async
async def test_disconnecting_asks_first_and_ends_the_sessions(browser: Browser, stage: Stage) -> None:
    ann = await stage.member("websocket", stage.a, stage.name("ann"))
    page = await _enter(browser, stage.a, route=_at("users", ann.user))
    await page.until("!document.querySelector('#disconnect').disabled")

    await page.click("#disconnect")
    assert await page.run("document.querySelector('#confirm').open")
    await page.press("Escape")
    assert stage.channel in await page.text("#user-channels")
    assert ann.user in await stage.roster()
    await page.click("#disconnect")
    await page.click("#confirm-yes")

    await page.until("document.querySelector('#user-said').textContent.includes('1 session ended')")
    await eventually(lambda: _gone(stage, ann.user), what="the user is gone")
    await page.until("document.querySelector('#user-facts').textContent.includes('offline')")


@run_async
async def test_a_key_that_may_only_read_is_told_so(browser: Browser, stage: Stage) -> None:
    ann = await stage.member("websocket", stage.a, stage.name("ann"))
    page = await _enter(browser, stage.a, tokens.READ_KEY, _at("users", ann.user))
    await page.until("!document.querySelector('#disconnect').disabled")

    await page.click("#disconnect")
    await page.click("#confirm-yes")

    await page.until("document.querySelector('#user-said').textContent.includes('may only read')")
    assert ann.user in await stage.roster()


@run_async
async def test_departures_are_on_the_chart_with_their_lag(browser: Browser, alone: Stage) -> None:
    page = await _enter(browser, alone.a)
    await page.until("document.querySelector('#lag-said').textContent.includes('Nobody was announced')")

    for number in range(6):
        await alone.ask("PUT", "channels", alone.channel, "members", f"u{number}", json={"ttl_ms": 1000})

    await page.until("document.querySelector('#lag-said').textContent.includes('6 departures')", within_s=20)
    label = await page.run("document.querySelector('#lag svg').getAttribute('aria-label')")
    assert "99 % within" in label and "ms" in label
    await page.click("#lag summary")
    assert await page.until("document.querySelectorAll('#lag tbody tr').length") >= 1
    await page.screenshot("console-departures")


@pytest.fixture
def alone(nodes_on: Callable[..., list[Node]], redis_server: RedisServer) -> Stage:
    """One node of a deployment of its own: what is announced it announces."""
    return Stage(nodes_on(redis_server.url, 1), redis_server)


@pytest.fixture
def crowded(nodes_on: Callable[..., list[Node]], redis_server: RedisServer) -> Node:
    """A node whose Redis lists ten thousand channels, written as `join` writes them: sessions take no part in lists."""
    prefix = secrets.token_hex(4)
    (node,) = nodes_on(redis_server.url, 1, key_prefix=prefix, partitions=16)
    keys = Keys(prefix, 16)
    with redis.Redis.from_url(redis_server.url) as client:
        pipe = client.pipeline(transaction=False)
        for number in range(CHANNELS):
            channel = f"room:{number:05}"
            pipe.zadd(keys.channels(keys.partition(channel)), {channel: 0})
            pipe.zadd(keys.roster(channel), {f"user-{one}": 0 for one in range(1 + number % 7 * (number % 3))})
        pipe.execute()
    return node


@run_async
async def test_ten_thousand_channels_neither_freeze_nor_fill_the_page(browser: Browser, crowded: Node) -> None:
    page = await _enter(browser, crowded)
    await page.run(
        "() => { window.longest = 0; new PerformanceObserver((list) => { for (const one of list.getEntries())"
        " longest = Math.max(longest, one.duration); }).observe({ type: 'longtask' }); }"
    )
    await page.until("document.querySelector('#channels-said').textContent.startsWith('10,000 channels')", within_s=30)
    whole = "document.querySelectorAll('*').length"

    assert "1–50 of 10,000" in await page.text("#which")
    for _ in range(3):
        await page.click("#after")
    assert "151–200 of 10,000" in await page.text("#which")
    await page.fill("#find", "room:0999")
    await page.until("document.querySelector('#which').textContent === '1–10 of 10'")
    await page.fill("#find", "")
    await page.click("[data-order=name]")
    await page.until("document.querySelector('#channels a').textContent === 'room:00000'")

    assert await page.run("document.querySelectorAll('#channels tr').length") == 50
    assert await page.run(whole) < DRAWN_AT_MOST
    # What it would take to draw them all, here and now, is the measure for what the page takes.
    drawing = await page.run(
        "() => { const began = performance.now(); const body = document.querySelector('#channels').cloneNode(true);"
        " const table = document.createElement('table'); document.body.append(table); table.append(body);"
        " for (let at = 0; at < 199; at++) table.append(body.cloneNode(true));"
        " table.getBoundingClientRect(); const took = performance.now() - began; table.remove(); return took; }"
    )
    assert await page.run("longest") < drawing
    await page.screenshot("console-10000-channels", whole=False)


@run_async
async def test_it_is_usable_on_a_phone_in_the_dark_and_by_ear(browser: Browser, stage: Stage) -> None:
    people: list[Any] = []
    for name in ("Ann Lindqvist", "Bo", "Chiamaka Okafor", "דנה", "Eva"):
        state = {"doing": "reading the release notes"}
        people.append(stage.member("websocket", stage.a, name, state=state, info={"team": "Support"}))
    await asyncio.gather(*people)
    await stage.message("chat", "good morning")
    page = await _enter(browser, stage.a, route=_at("channels", stage.channel))
    await page.until("document.querySelectorAll('#roster li').length === 5")
    await page.until("document.querySelectorAll('#feed li').length >= 6")
    await page.until("document.querySelectorAll('.plot polyline').length > 0")

    for size, scheme in LOOKS:
        await page.look(size, scheme, motion="reduce")
        assert await page.flaws() == [], (size, scheme)
        await page.screenshot(f"console-{size}-{scheme}")
    await page.fill("#user-field", "Bo")
    await page.press("Enter")
    await page.until("!document.querySelector('#disconnect').disabled")
    assert await page.run("document.activeElement.id") == "user-name"
    await page.click("#disconnect")
    assert await page.flaws() == []
    await page.screenshot("console-confirm", whole=False)


async def _gone(stage: Stage, user: str) -> bool:
    return user not in await stage.roster()
