"""Tabs come, are reloaded, closed and lost: who watches hears of those who really came and went, once."""

from __future__ import annotations

import asyncio

from tests.browser.conftest import PATIENT
from tests.browser.scene import TRANSPORTS, Scene
from tests.support.waiting import eventually, run_async


@run_async
async def test_tabs_on_every_transport_see_each_other_come_change_talk_and_go(scene: Scene) -> None:
    tabs = await scene.tabs(place={"show": True})
    bob = await scene.tab("bob", state={"mood": "awake"})
    for name, tab in tabs.items():
        await tab.hears("join", user="bob", state={"mood": "awake"})
        assert (await tab.seen())["transport"] == name

    await bob.page.run("async () => { const [[, c]] = journals.get('0').channels; await c.set({mood: 'busy'});"
                       " await c.publish('wave', {to: 'all'}); await c.leave(); }")  # fmt: skip

    for tab in tabs.values():
        await tab.hears("leave", user="bob", reason="left")
        log = await scene.history()
        assert (await tab.seen())["events"][-4:] == log[-4:]
        assert await tab.roster() == await scene.roster()
        assert set(TRANSPORTS) == set((await tab.page.text("#members")).split())


@run_async
async def test_a_reload_is_no_event(scene: Scene) -> None:
    tabs = await scene.tabs()
    before = await scene.history()
    sessions = [(await tab.seen())["session"] for tab in tabs.values()]

    await asyncio.gather(*(tab.reload() for tab in tabs.values()))

    assert not set(sessions) & {(await tab.seen())["session"] for tab in tabs.values()}

    async def only_new_pages_are_there() -> bool:
        members = (await scene.roster()).values()
        return [member["sessions"] for member in members] == [1, 1, 1]

    await eventually(only_new_pages_are_there, within_s=PATIENT["ttl_ms"] / 1000 + 15)
    assert await scene.history() == before


@run_async
async def test_a_closed_tab_is_gone_one_grace_later_and_with_leave_on_hide_at_once(scene: Scene) -> None:
    polite = await scene.tabs("polite ", leaveOnHide=True)
    tabs = await scene.tabs()

    for tab in polite.values():
        await tab.page.close()
    assert {leave["reason"] for leave in (await scene.leaves(3)).values()} == {"left"}
    for tab in tabs.values():
        for name in TRANSPORTS:
            await tab.hears("leave", user=f"polite {name}")
    await scene.passes(1000)  # a poll that is only beginning may overtake the last words: it would count as life
    closed_ms = scene.now_ms()
    for tab in tabs.values():
        await tab.page.close()

    leaves = await scene.leaves(6)
    for name in TRANSPORTS:
        assert leaves[name]["reason"] == "timeout"
        assert PATIENT["grace_ms"] <= leaves[name]["at"] - closed_ms < PATIENT["ttl_ms"] - 5000


@run_async
async def test_a_state_that_is_set_while_joining_is_set(scene: Scene) -> None:
    tab = await scene.busy_tab({name: scene.wish(name, name, channel="") for name in TRANSPORTS})
    both = """async (name, channel) => {
      const { client } = journals.get(name);
      const refused = await client.join(" not a name").catch(({ code }) => code);
      if (refused !== "bad_name") throw new Error(refused);
      await client.join(`${channel} of others`);
      await Promise.all([client.join(channel), client.join(channel, { state: { mood: "awake" } })]);
    }"""

    await asyncio.gather(*(tab.page.run(both, name, scene.channel) for name in TRANSPORTS))

    async def set_for_all() -> bool:
        members = await scene.roster()
        return [members[name]["state"] for name in TRANSPORTS] == [{"mood": "awake"}] * 3

    await eventually(set_for_all)
