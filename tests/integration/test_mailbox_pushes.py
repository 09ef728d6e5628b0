"""Messages to users as their connections hear them, also where the bus has lost some."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from presence.events import Event
from presence.keys import INBOX, inbox_of
from presence.mailbox import Frame
from presence.node import Node
from tests.chaos.workbench import Gate, Tab
from tests.support.mailboxes import ANN, OWN, publish
from tests.support.parts import Parts
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually, run_async


@pytest.fixture
def parts(redis_server: RedisServer) -> Parts:
    return Parts(redis_server)


def letters(tab: Tab) -> list[Any]:
    """The data of the pushed messages; None for a frame that says that some were missed."""
    pushed = [frame for frame in tab.read() if frame.get("channel") == INBOX]
    return [value for frame in pushed for value in ([event["data"] for event in frame["events"]] or [None])]


def deafen(node: Node) -> Callable[[], None]:
    """Let the bus be silent for this node, until the answer is called."""
    heard, node.broker.on_event = node.broker.on_event, lambda event: None

    def hear_again() -> None:
        node.broker.on_event = heard

    return hear_again


@run_async
async def test_messages_that_the_bus_lost_are_read_again(parts: Parts) -> None:
    node = await parts.node(listening=True)
    tab = await parts.tab(node, ANN)
    await publish(node, OWN, 1)
    await eventually(lambda: letters(tab) == [1], 5)

    hear_again = deafen(node)
    await publish(node, OWN, 2, 3)
    hear_again()
    await publish(node, OWN, 4)

    await eventually(lambda: letters(tab) == [1, 2, 3, 4], 5)


@run_async
async def test_a_node_that_subscribes_again_looks_for_messages_that_it_did_not_hear(parts: Parts) -> None:
    node = await parts.node(listening=True)
    tabs = [await parts.tab(node, ANN, f"session-{number}") for number in range(2)]
    other = await parts.tab(node, "bob")
    hear_again = deafen(node)
    await publish(node, OWN, 1)
    hear_again()

    await node._subscribed(frozenset([0]))

    for tab in tabs:
        await eventually(lambda tab=tab: letters(tab) == [1], 5)
    assert letters(other) == []


@run_async
async def test_who_missed_more_than_a_frame_holds_is_told_to_fetch(parts: Parts) -> None:
    node = await parts.node(listening=True)
    tab = await parts.tab(node, ANN)
    await publish(node, OWN, 0)
    await eventually(lambda: letters(tab) == [0], 5)

    hear_again = deafen(node)
    await publish(node, OWN, *("x" * 15_000 for _ in range(20)))
    hear_again()
    (cursor,) = await publish(node, OWN, 1)
    await eventually(lambda: letters(tab) == [0, None], 5)
    await publish(node, OWN, 2)

    await eventually(lambda: letters(tab) == [0, None, 2], 5)
    assert next(frame for frame in tab.frames if frame.get("events") == [])["cursor"] == cursor


@run_async
async def test_large_messages_at_once_come_in_frames_of_bounded_size(parts: Parts) -> None:
    node = await parts.node(listening=True)
    tab = await parts.tab(node, ANN)
    cursor = await publish(node, OWN, 0)
    await eventually(lambda: letters(tab) == [0], 5)
    epoch, text = cursor[0].partition(":")[0], b"x" * 15_000

    for seq in range(2, 42):  # as from a bus on which they came at once
        node.inflow.heard(Event(OWN, epoch, seq, 1, "message", "", "", "", "", text))

    frames: list[Frame] = []
    await eventually(lambda: frames.extend(tab.session.mailbox.take(1 << 30)) or (frames and frames[-1].seq == 41), 5)
    assert max(len(frame.json) for frame in frames) <= 60_000 + 15_000 + 1000
    assert len(frames) < 15


@run_async
async def test_a_message_that_comes_while_a_connection_is_opened_follows_its_welcome(parts: Parts) -> None:
    node = await parts.node(listening=True)
    gate = Gate(node.scripts, "connect")
    opening = asyncio.create_task(parts.tab(node, ANN))
    await gate.holds()
    await publish(node, OWN, 1)
    await eventually(lambda: [session.inbox.behind for session in node.registry.all()] == [True], 5)
    gate.release()
    tab = await opening

    await eventually(lambda: letters(tab) == [1], 5)
    assert tab.frames[0]["type"] == "welcome"


@run_async
async def test_a_user_may_be_called_as_if_they_were_a_mailbox(parts: Parts) -> None:
    user = "@inbox:bob"
    node = await parts.node(listening=True, partitions=16)
    assert node.keys.user_partition(user) == node.keys.partition(inbox_of(user)) != node.keys.user_partition("bob")
    await publish(node, inbox_of(user), 1, 2, 3)

    tab = await parts.tab(node, user)
    await publish(node, inbox_of(user), 4)
    await eventually(lambda: letters(tab) == [4], 5)
    pending = await node.inboxes.fetch(user, 10)
    await node.inboxes.erase(user)

    assert [len(entry.events) for entry in pending.channels] == [4]
    assert [name async for name in parts.redis.scan_iter(f"*:{inbox_of(user)}*")] == []
