"""Who may, and from where: tokens that end, policies against workers, pages of another origin, hostile names."""

from __future__ import annotations

import asyncio

import pytest

from tests.browser.conftest import PATIENT
from tests.browser.scene import TRANSPORTS, Scene
from tests.support import tokens
from tests.support.front import STRICT, Front
from tests.support.waiting import eventually, run_async

HOSTILE = (
    "__proto__",
    "constructor",
    "toString",
    "<img src=x onerror=document.title='taken'>",
    "\"';--\\ &amp; {x}*|/",
    "👩🏽‍🚀".replace("\u200d", "") + "🏳",
    "مرحبا שלום",
    "ж" * 100,
)


@pytest.mark.long
@run_async
async def test_a_token_function_is_asked_in_time_and_nobody_leaves_or_reconnects(scene: Scene) -> None:
    scene.front.token_ttl_s = 3
    tabs = await scene.tabs()
    before = await scene.history()

    await scene.passes(4000)
    await eventually(lambda: all(scene.front.given.count(name) >= 3 for name in TRANSPORTS), what="three tokens each")

    await scene.message("still here")
    for name, tab in tabs.items():
        await tab.hears("message", name="still here")
        seen = await tab.seen()
        assert seen["errors"] == []
        assert [status["status"] for status in seen["statuses"]] == ["connecting", "online"], name
    assert scene.front.opened("/v1/ws") == 1
    assert await scene.history("join leave update") == before


@run_async
async def test_a_text_token_that_ends_closes_the_client(scene: Scene) -> None:
    tab = await scene.busy_tab(
        {name: scene.wish(name, name, fixed=tokens.make_token(name, ttl_s=3)) for name in TRANSPORTS}
    )
    for name in TRANSPORTS:
        seen = await tab.until(lambda seen: seen["status"] == "closed", "the client is closed", name)
        assert seen["statuses"][-1]["code"] == 4001
    over = await scene.busy_tab(
        {name: scene.wish(name, name, fixed=tokens.make_token(name, ttl_s=-1)) for name in TRANSPORTS}
    )
    for name in TRANSPORTS:
        seen = await over.seen(name)
        assert (seen["refused"], seen["status"], seen["statuses"][-1]["code"]) == ("unauthorized", "closed", 4001)


@pytest.mark.long
@run_async
async def test_where_no_worker_may_run_the_page_itself_shows_life(quick_scene: Scene) -> None:
    scene = quick_scene
    scene.front.policy = f"{STRICT}; worker-src 'none'"
    tab = await scene.tab("ann", "sse")
    session = (await tab.seen())["session"]

    await eventually(lambda: scene.front.posted(session) >= 6, 20, what="six beats, of which four are a ttl")

    assert [event["type"] for event in await scene.history()] == ["join"]
    tab.forgive("Content Security Policy")


@pytest.mark.long
@run_async
async def test_a_page_of_another_origin_is_served_by_every_transport(scene: Scene, elsewhere: Front) -> None:
    there = {"from": scene.front.url, "server": scene.front.url}
    tab = await scene.busy_tab({name: scene.wish(name, name, **there) for name in TRANSPORTS}, url=elsewhere.url)
    await scene.message("hello")

    for name in TRANSPORTS:
        await tab.hears("message", key=name, name="hello")
    kept = [(await tab.seen(name))["session"] for name in ("sse", "longpoll")]
    await eventually(lambda: all(scene.front.posted(session) for session in kept), what="signs of life")
    await tab.page.close()
    leaves = await scene.leaves(3)
    assert {leave["reason"] for leave in leaves.values()} == {"timeout"}


@run_async
async def test_names_that_mean_something_elsewhere_are_only_names(scene: Scene) -> None:
    wishes = {name: scene.wish(name, TRANSPORTS[at % 3], state={"__proto__": name}) for at, name in enumerate(HOSTILE)}
    tab = await scene.busy_tab(wishes)
    watching = await scene.tab("watching", place={"show": True})

    for key in HOSTILE:
        assert set((await tab.until(lambda seen: seen["rosters"], "joined", key))["rosters"][0][0:1]) == {scene.channel}
        await tab.until(lambda seen: len(seen["rosters"][0][1]) == len(HOSTILE) + 1, "all are there", key)
    members = await watching.roster()
    assert members == await scene.roster()
    assert set(members) == {*HOSTILE, "watching"}
    assert [members[name]["state"] for name in HOSTILE] == [{"__proto__": name} for name in HOSTILE]
    shown = await watching.page.run("[...document.querySelectorAll('#members li')].map((entry) => entry.textContent)")
    assert set(shown) == set(members)
    assert await watching.page.run("[document.title, document.images.length, 'taken' in Object.prototype]") == [
        "A page under test",
        0,
        False,
    ]


@pytest.mark.long
@run_async
async def test_two_clients_in_one_page_are_two_and_a_closed_one_frees_everything(scene: Scene) -> None:
    watcher = await scene.tab("watcher")
    tab = await scene.busy_tab({f"{name} {n}": scene.wish(name, name) for name in TRANSPORTS for n in (1, 2)})
    assert {user: member["sessions"] for user, member in (await scene.roster()).items()} == {
        **dict.fromkeys(TRANSPORTS, 2),
        "watcher": 1,
    }
    for name in TRANSPORTS:
        await tab.page.run("(key) => journals.get(key).client.close()", f"{name} 1")
    closed = [(await tab.seen(f"{name} 1")) for name in TRANSPORTS]
    assert [seen["status"] for seen in closed] == ["closed"] * 3
    before = {seen["session"]: scene.front.posted(seen["session"]) for seen in closed}

    await scene.passes(PATIENT["grace_ms"])
    await scene.message("still here")
    for name in TRANSPORTS:
        await tab.hears("message", key=f"{name} 2", name="still here")
    await watcher.hears("message", name="still here")
    assert not await scene.history("leave")
    assert {session: scene.front.posted(session) for session in before} == before
    await asyncio.gather(*(tab.page.run("(key) => journals.get(key).client.close()", f"{n} 2") for n in TRANSPORTS))
    assert set(await scene.leaves(3)) == set(TRANSPORTS)
