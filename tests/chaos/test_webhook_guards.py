"""Every guard of the order of webhooks, and the proof that without it the order breaks."""

from __future__ import annotations

import pytest

from tests.chaos import deliveries
from tests.chaos.guards import Guard
from tests.chaos.test_guards import play
from tests.support.patches import Cut, without
from tests.support.redis_server import RedisServer

HOLD = Cut(
    "presence.webhooks.deliverer:Deliverer._try",
    "if not await self._course.hold(batch):",
    "if not (await self._course.hold(batch), True)[1]:",
)
GUARDS = [
    Guard(
        "ripeness",
        deliveries.what_happened_first_is_delivered_first_whichever_partition_answers_late,
        Cut("presence.webhooks.course:Course.first", "item.turn == self._turn or "),
    ),
    Guard(
        "end-of-a-full-partition",
        deliveries.nothing_overtakes_what_a_full_partition_has_not_shown_yet,
        Cut("presence.webhooks.course:Course.first", "end is not None and item.key > end", "False"),
    ),
    Guard(
        "one-node-at-a-time",
        deliveries.one_node_at_a_time_delivers,
        Cut(
            "lead.lua",
            "if ARGV[2] == '' or (node ~= '' and node ~= ARGV[2]) then -- guard: one node at a time",
            "if ARGV[2] == '' then",
        ),
    ),
    Guard(
        "hold-before-an-attempt",
        deliveries.who_lost_the_lease_unawares_sends_nothing_old_behind_what_is_new,
        HOLD,
    ),
    Guard(
        "lease-kept-in-an-attempt",
        deliveries.a_receiver_that_takes_its_time_is_not_asked_by_another_node,
        Cut("presence.webhooks.deliverer:Deliverer._post", "await self._standing.lead(self._node)", "pass"),
    ),
    Guard(
        "hold-before-an-attempt-in-a-replay",
        deliveries.a_replay_does_not_send_what_is_under_way_before_what_it_begins_with,
        HOLD,
    ),
    Guard(
        "term-of-a-note",
        deliveries.who_lost_the_lease_in_mid_attempt_leaves_the_note_of_its_successor_alone,
        Cut("lead.lua", " and tonumber(ARGV[5]) == term then -- guard: no note of an earlier term", " then"),
    ),
]


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_the_order_holds_in_the_awkward_case(guard: Guard, redis_server: RedisServer) -> None:
    play(guard.scenario, redis_server)


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_without_its_guard_the_order_breaks(guard: Guard, redis_server: RedisServer) -> None:
    with without(guard.cut), pytest.raises(AssertionError):
        play(guard.scenario, redis_server)
