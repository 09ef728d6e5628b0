"""A newer token counts at once, also where a join of the session is on its way."""

from __future__ import annotations

import pytest

import presence.broker
from presence.node import Node
from tests.chaos.workbench import ROOM, Gate, Tab
from tests.support.parts import Ear, Parts, identity
from tests.support.redis_server import RedisServer
from tests.support.waiting import run_async

BLIND = identity(grants=["join"])


@pytest.fixture
def parts(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Parts:
    monkeypatch.setattr(presence.broker, "CANARY_S", 0.1)  # a node that listens says so sooner
    return Parts(redis_server)


async def _ear(node: Node) -> Ear:
    """Another subscriber on the same node: what it has heard, the node has told everybody."""
    ear = Ear(node.hub, ROOM)
    node.hub.attach(ear.topic, ear, await node.tracker.view(ROOM))
    return ear


async def _secret(node: Node, ear: Ear) -> None:
    """Announce a message and wait until the node has passed it on."""
    cursor = await node.tracker.publish(ROOM, "secret", "1")
    await ear.reaches(int(cursor.rpartition(":")[2]))


def _secrets(tab: Tab) -> list[str]:
    events = [event for frame in tab.read() if frame["type"] == "events" for event in frame["events"]]
    return [event["name"] for event in events if event["type"] == "message"]


@run_async
async def test_a_member_that_is_brought_back_while_it_loses_sight_is_shown_nothing(parts: Parts) -> None:
    node = await parts.node(listening=True)
    tab = await parts.tab(node)
    await tab.join(ttl_ms=60_000)
    await parts.touched()
    ear = await _ear(node)
    await parts.forget("alive", "due", "sessions:")  # Redis lost the member, the channel's log stays
    gate = Gate(node.scripts, "join")
    tab.send(type="beat")
    await gate.holds()
    rosters = len([frame for frame in tab.read() if frame["type"] == "joined"])

    tab.session.take_identity(BLIND)
    gate.release()
    await parts.touched()
    await _secret(node, ear)

    assert _secrets(tab) == []
    assert len([frame for frame in tab.read() if frame["type"] == "joined"]) == rosters


@pytest.mark.parametrize("role", ["member", "observer"])
@run_async
async def test_who_loses_sight_while_it_enters_hears_no_event_of_the_channel(parts: Parts, role: str) -> None:
    node = await parts.node(listening=True)
    tab, ear = await parts.tab(node), await _ear(node)
    gate = Gate(node.scripts, "join" if role == "member" else "snapshot")
    entering = tab.send(type="join", channel=ROOM, **{"as": role})
    await gate.holds()

    tab.session.take_identity(BLIND)
    gate.release()
    await tab.reply(entering)
    await _secret(node, ear)

    assert _secrets(tab) == []
    assert tab.problems() == (["not_joined"] if role == "observer" else [])
