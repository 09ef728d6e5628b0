"""The demo page in a real browser: two tabs see each other; who closes is counted down, and gone when it is over."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest

from tests.support.browser import Browser, Page
from tests.support.http import request
from tests.support.node import Node
from tests.support.redis_server import RedisServer
from tests.support.stage import Stage
from tests.support.waiting import run_async

GRACE_MS = 2500
TIMES = {"ttl_ms": 12_000, "grace_ms": GRACE_MS, "ping_ms": 1000}
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
LOOKS = [(size, scheme) for size in ("wide", "phone") for scheme in ("light", "dark")]
NAMES = "[...document.querySelectorAll('#members .name')].map((one) => one.textContent)"
ROW = "(name) => [...document.querySelectorAll('#members li')].find((one) => one.querySelector('.name').textContent === name)"


@pytest.fixture(scope="module")
def demo_node(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Node]:
    """A node that shows the demo page, with a grace that can be watched."""
    folder = tmp_path_factory.mktemp("demo")
    node = Node.start(folder, redis_server.url, key_prefix=secrets.token_hex(4), arguments=("--dev",), **TIMES)
    yield node
    node.kill()
    assert not node.complaints()


@pytest.fixture
def demo(demo_node: Node, redis_server: RedisServer) -> Stage:
    """That node, and a channel of the test's own."""
    return Stage([demo_node], redis_server)


@pytest.fixture
def own_demo(nodes_on: Callable[..., list[Node]], redis_server: RedisServer) -> Stage:
    """A node that may be disturbed."""
    return Stage(nodes_on(redis_server.url, 1, arguments=("--dev",), **TIMES), redis_server)


async def _tab(browser: Browser, demo: Stage, user: str, *, more: str = "") -> Page:
    """A tab of its own that is in the channel."""
    page = await browser.open(f"{demo.a.url}/?channel={demo.channel}&user={quote(user)}{more}")
    await page.until(f"(name) => {NAMES}.includes(name)", user)
    return page


async def _sees(page: Page, *users: str, within_s: float = 10.0) -> None:
    await page.until(f"(names) => JSON.stringify({NAMES}.toSorted()) === names", _list(users), within_s=within_s)


def _list(users: tuple[str, ...]) -> str:
    return "[" + ",".join(f'"{user}"' for user in sorted(users)) + "]"


@run_async
async def test_two_tabs_see_each_other_and_a_closed_one_is_counted_down_and_goes(browser: Browser, demo: Stage) -> None:
    ann, bob = await _tab(browser, demo, "Ann"), await _tab(browser, demo, "Bob")
    await _sees(ann, "Ann", "Bob")
    await _sees(bob, "Ann", "Bob")

    await bob.close()

    await ann.until(f"(name) => /^gone in [1-3] s$/.test(({ROW})(name)?.querySelector('.mark').textContent)", "Bob")
    assert await ann.run(f"(name) => ({ROW})(name).className", "Bob") == "new leaving"
    shares = f"(name) => Number(({ROW})(name)?.querySelector('circle').getAttribute('stroke-dashoffset'))"
    first = await ann.run(shares, "Bob")
    await ann.until(f"([name, first]) => ({shares})(name) > first", ["Bob", first])
    await _sees(ann, "Ann")
    assert "Bob is gone: no sign of life" in await ann.text("#feed")
    assert "ms" in await ann.text("#late")
    await ann.until("document.querySelector('#announce').textContent.includes('Bob left')")


@run_async
async def test_who_comes_back_within_their_grace_stays_without_a_word(browser: Browser, demo: Stage) -> None:
    ann, bob = await _tab(browser, demo, "Ann"), await _tab(browser, demo, "Bob")
    await _sees(ann, "Ann", "Bob")
    heard = await ann.text("#feed")
    again = bob.url
    await bob.close()
    await ann.until(f"(name) => ({ROW})(name).classList.contains('leaving')", "Bob")

    await browser.open(again)

    await ann.until(f"(name) => !({ROW})(name).classList.contains('leaving')", "Bob")
    await demo.message("fence", channel=demo.channel)
    await ann.until("document.querySelector('#feed').textContent.includes('fence')")
    assert (await ann.text("#feed")).endswith(heard)


@run_async
async def test_states_messages_and_names_are_text(browser: Browser, demo: Stage) -> None:
    ann, bob = await _tab(browser, demo, HOSTILE), await _tab(browser, demo, "__proto__", more="&transport=sse")
    await bob.until(f"{NAMES}.length === 2")

    await ann.fill("#state", HOSTILE)
    await ann.press("Enter")
    await ann.fill("#say", f"hello {HOSTILE}")
    await ann.press("Enter")

    await bob.until("(text) => document.querySelector('#feed').textContent.includes(`hello ${text}`)", HOSTILE)
    await bob.until("(text) => document.querySelector('#members .doing:not(:empty)')?.textContent === text", HOSTILE)
    await bob.until("document.querySelector('#status').textContent.includes('event stream')")
    for page, user in ((ann, HOSTILE), (bob, "__proto__")):
        assert await page.run("document.querySelectorAll('main img').length") == 0
        assert await page.run("document.title") == f"{user} · Presence"


@run_async
async def test_leaving_and_coming_back_are_one_press_each(browser: Browser, demo: Stage) -> None:
    ann, bob = await _tab(browser, demo, "Ann"), await _tab(browser, demo, "Bob")
    await _sees(ann, "Ann", "Bob")

    await bob.click("#leave")

    await _sees(ann, "Ann", within_s=GRACE_MS / 1000)
    assert "Bob left" in await ann.text("#feed")
    assert await bob.flaws() == []
    await bob.click("#enter")
    await _sees(ann, "Ann", "Bob")


@run_async
async def test_a_lost_server_is_said_and_found_again(browser: Browser, own_demo: Stage) -> None:
    demo = own_demo
    ann = await _tab(browser, demo, "Ann")
    await ann.until("document.querySelector('#status').textContent.startsWith('online')")

    await ann.command(
        "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1
    )
    demo.a.pause()
    await ann.until("!document.querySelector('#offline').hidden", within_s=30)
    assert await ann.flaws() == []
    await ann.screenshot("demo-offline")
    demo.a.resume()
    await ann.command(
        "Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1
    )

    await ann.until("document.querySelector('#offline').hidden", within_s=30)
    await _sees(ann, "Ann")


@run_async
async def test_it_is_usable_on_a_phone_in_the_dark_by_keyboard_and_by_ear(browser: Browser, demo: Stage) -> None:
    ann = await _tab(browser, demo, "Ann")
    for user, doing in (
        ("Bo", "on the phone"),
        ("Chiamaka Okafor", "reviewing the spring catalogue"),
        ("דנה", ""),
        ("Eva", ""),
    ):
        state = {"doing": doing} if doing else {}
        await demo.member("websocket", demo.a, user, state=state, ttl_ms=60_000)
    await demo.message("chat", "Lunch is at noon")
    leaving = await demo.member("websocket", demo.a, "Gus", ttl_ms=60_000)
    await _sees(ann, "Ann", "Bo", "Chiamaka Okafor", "Eva", "Gus", "דנה")
    await ann.until("document.querySelector('#trip').textContent.includes('ms')")
    await leaving.close()
    await ann.until(f"(name) => ({ROW})(name)?.classList.contains('leaving')", "Gus")

    for size, scheme in LOOKS:
        await ann.look(size, scheme, motion="reduce")
        await ann.screenshot(f"demo-{size}-{scheme}")
    for size, scheme in LOOKS:
        await ann.look(size, scheme, motion="reduce")
        assert await ann.flaws() == [], (size, scheme)

    await ann.run("document.activeElement.blur()")
    reached = []
    for _ in range(10):
        await ann.press("Tab")
        reached.append(
            await ann.run(
                "document.activeElement.id || document.activeElement.className || document.activeElement.localName"
            )
        )
    order = ["skip", "another", "copy", "state", "leave", "say"]
    assert [one for one in reached if one in order][: len(order)] == order
    assert await ann.run("getComputedStyle(document.querySelector('#copy')).outlineStyle") == "none"
    await ann.run("() => { document.querySelector('#another').focus(); }")
    await ann.press("Tab")
    assert await ann.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@run_async
async def test_the_pages_of_the_demo_are_for_this_machine_and_this_site_only(demo: Stage) -> None:
    page = await demo.probe("/")
    assert (page.status, page.headers["x-content-type-options"]) == (200, "nosniff")
    assert "default-src 'none'" in page.headers["content-security-policy"]

    strange = {"Sec-Fetch-Site": "cross-site"}
    for path in ("/dev/token?user=ann", f"/dev/deadlines?channel={demo.channel}"):
        assert (await request(demo.a.url, "GET", path)).status == 200
        assert (await request(demo.a.url, "GET", path, headers=strange)).problem() == (403, "forbidden")
    own = await request(demo.a.url, "GET", "/dev/deadlines?channel=@inbox:ann")
    assert own.problem() == (403, "forbidden")
