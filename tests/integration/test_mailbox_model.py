"""Random lives of a subscription, step by step against a model that knows what must wait."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field

import pytest

from presence.events import parse_cursor
from presence.keys import INBOX, inbox_of
from presence.node import Node
from tests.chaos.workbench import ROOM
from tests.support.parts import Parts
from tests.support.redis_server import RedisServer
from tests.support.waiting import run_async

STEPS = 400
PAST = 4  # earlier epochs that are kept
ANN = "ann"


@pytest.fixture
def parts(redis_server: RedisServer) -> Parts:
    return Parts(redis_server)


@dataclass
class Model:
    """What was published since the subscription, by epoch, and how much of it was acknowledged."""

    epochs: list[list[int]] = field(default_factory=lambda: [[]])
    place: int = 0
    ending: bool = False  # the next event begins an epoch
    cursors: list[tuple[str, int]] = field(default_factory=list)  # of every event, and how many there are with it

    @property
    def total(self) -> int:
        return sum(map(len, self.epochs))

    def publish(self, cursor: str) -> None:
        """One more event: its data is its number, from 0."""
        if self.ending:
            self.epochs.append([])
            self.ending = False
        self.epochs[-1].append(self.total)
        self.cursors.append((cursor, self.total))

    def waiting(self, limit: int) -> tuple[list[int], int]:
        """Data that `fetch` must give, of one epoch, and how many are missed."""
        gone = sum(map(len, self.epochs[: -PAST - 1]))
        first = max(self.place, gone)
        given = next((epoch[epoch.index(first) :] for epoch in self.epochs if first in epoch), [])
        return given[:limit], max(0, gone - self.place)

    def known(self) -> list[tuple[str, int]]:
        """Cursors of epochs that the server still knows."""
        return self.cursors[sum(map(len, self.epochs[: -PAST - 1])) :]


async def _check(node: Node, channel: str, model: Model, limit: int) -> None:
    pending = await node.inboxes.fetch(ANN, limit)
    entry = next((entry for entry in pending.channels if entry.channel == channel), None)
    given, missed = model.waiting(limit)
    if not given:
        assert entry is None
        return
    assert entry is not None
    assert ([json.loads(text)["data"] for text in entry.events], entry.missed) == (given, missed)
    assert (entry.cursor, given[-1] + 1) in model.cursors
    assert pending.more == (given[-1] + 1 < model.total)


async def _live(parts: Parts, seed: int, channel: str) -> None:
    chance = random.Random(seed)
    node = await parts.node(inbox_ms=3_600_000)
    own = channel == INBOX
    place = inbox_of(ANN) if own else ROOM
    if not own:
        await node.tracker.publish(ROOM, "m", '"before"')
        await node.inboxes.subscribe(ROOM, ANN)
    meta = node.keys.meta(place)
    model = Model()
    for _ in range(STEPS):
        step = chance.choices(["publish", "end", "fetch", "ack", "subscribe"], [8, 2, 4, 3, 1])[0]
        if step == "publish":
            model.publish(await node.tracker.publish(place, "m", str(model.total)))
        elif step == "end" and model.cursors:
            model.ending = True
            await parts.redis.hset(meta, "replid", f"of another {chance.random()}")
        elif step == "fetch":
            await _check(node, channel, model, chance.choice([1, 3, 1000]))
        elif step == "ack" and model.cursors:
            cursor, count = chance.choice(model.cursors[-12:])
            parsed = parse_cursor(cursor)
            assert parsed is not None
            await node.inboxes.ack(ANN, channel, parsed)
            if (cursor, count) in model.known():
                model.place = max(model.place, count)
        elif step == "subscribe" and not own:
            await node.inboxes.subscribe(ROOM, ANN)
    await _check(node, channel, model, 1000)


@pytest.mark.parametrize("channel", [ROOM, INBOX])
@pytest.mark.parametrize("seed", range(4))
@run_async
async def test_a_random_life_of_a_subscription_gives_what_the_model_says(parts: Parts, seed: int, channel: str) -> None:
    await _live(parts, seed, channel)
