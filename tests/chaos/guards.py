"""Every guard of the exactly-once promise: the text that makes it work, and the scenario that needs it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.chaos import crossings, numbers, queueing, returning, silence
from tests.chaos.workbench import Workbench
from tests.support.patches import Cut

VARIABLE = "WITHOUT_GUARD"
"""Environment variable that names the guard which `tests.chaos.unguarded` takes out of a node."""

Scenario = Callable[[Workbench], Awaitable[None]]
ORDER = " -- guard: order of connection numbers"


@dataclass(frozen=True)
class Guard:
    """A guard, by the text that makes it work, and the scenario that needs it."""

    name: str
    scenario: Scenario
    cut: Cut


GUARDS = [
    Guard(
        "liveness-check-of-a-claim",
        silence.a_late_claim_leaves_a_session_that_lives_again_alone,
        Cut("expire.lua", "if lives then -- guard: liveness", "if false then"),
    ),
    Guard(
        "first-claim-wins",
        silence.a_claim_that_comes_second_still_ends_the_others_of_its_batch,
        Cut("expire.lua", "if not score then -- another was first\n    return\n  end"),
    ),
    Guard(
        "registry-check-of-a-claim",
        silence.an_entry_without_a_session_stops_nobody_behind_it,
        Cut("expire.lua", "if not session then -- guard: registry check of a claim", "if false then"),
    ),
    Guard(
        "sweep",
        silence.silence_is_noticed_without_any_notification,
        Cut(
            "expire.lua",
            "redis.call('ZRANGEBYSCORE', due, '-inf', '(' .. int(now), 'WITHSCORES', 'LIMIT', skip, batch)",
            "{}",
        ),
    ),
    Guard(
        "round-over-all-partitions",
        silence.a_mass_departure_in_one_partition_delays_no_other,
        Cut(
            "presence.expiry:Expiry._sweep",
            'self._round("repeat", self._partitions)',
            'self._round("repeat", [p for p in self._partitions if p.full])',
        ),
    ),
    Guard(
        "tombstone-for-heartbeats",
        crossings.who_is_taken_out_while_quiet_keeps_the_connection,
        Cut("touch.lua", "if alive and string.sub(alive, 1, 1) == '-' then -- guard: tombstone", "if false then"),
    ),
    Guard(
        "tombstone-for-joins",
        crossings.a_rejoin_does_not_undo_a_disconnect,
        Cut("join.lua", "if tomb and ARGV[13] == '0' then -- guard: tombstone", "if false then"),
    ),
    Guard(
        "registry-check-of-a-refresh",
        crossings.a_heartbeat_never_creates,
        Cut(
            "touch.lua",
            "if not session then\n    return 'lost'\n  end",
            "session = session or {ttl = 1000, number = 0, closed = 0, holds = 0, seen = 0}",
        ),
    ),
    Guard(
        "order-of-numbers-in-leave",
        numbers.an_older_connection_cannot_end_the_newer_one,
        Cut("leave.lua", "if session.number > number then" + ORDER, "if false then"),
    ),
    Guard(
        "order-of-numbers-in-close",
        numbers.an_older_close_starts_no_grace,
        Cut("close.lua", "if session.number > number then" + ORDER, "if false then"),
    ),
    Guard(
        "order-of-numbers-in-join",
        numbers.an_older_join_does_not_cancel_the_grace,
        Cut("join.lua", "if session.number > number then" + ORDER, "if false then"),
    ),
    Guard(
        "order-of-numbers-in-touch",
        numbers.an_older_heartbeat_does_not_cancel_the_grace,
        Cut("touch.lua", "if session.number > number then" + ORDER, "if false then"),
    ),
    Guard(
        "order-of-numbers-after-a-beat",
        numbers.a_beat_between_two_connections_does_not_replace_the_newer_one,
        Cut("touch.lua", "return session.number + 1" + ORDER, "return math.max(session.number + 1, now_us)"),
    ),
    Guard(
        "order-of-numbers-over-a-tombstone",
        numbers.an_older_join_does_not_undo_a_leave,
        Cut("join.lua", "if tomb and tomb > number then", "if false then"),
    ),
    Guard(
        "order-of-numbers-in-set",
        numbers.an_older_connection_does_not_overwrite_the_state,
        Cut("set.lua", "if ARGV[7] ~= '' and session.number > tonumber(ARGV[7]) then" + ORDER, "if false then"),
    ),
    Guard(
        "order-of-numbers-in-the-record",
        numbers.an_older_connection_that_heard_of_nothing_gives_way,
        Cut("record.lua", "if old > number then" + ORDER, "if false then"),
    ),
    Guard(
        "order-of-numbers-of-an-answer",
        numbers.a_connection_replaced_before_it_was_answered_gives_way,
        Cut("presence.session:Session.connect", "if self._heard_number > int(self.number) and", "if False and"),
    ),
    Guard(
        "order-of-numbers-of-a-message",
        numbers.the_news_of_an_older_connection_closes_nobody,
        Cut("presence.session:Session.take_number", "and newest > int(self.number):", "and True:"),
    ),
    Guard(
        "record-behind-a-message",
        numbers.news_that_the_record_denies_closes_nobody,
        Cut("presence.upkeep:check_number", "await newest_number(session)", "session._heard_number"),
    ),
    Guard(
        "order-of-numbers-in-connect",
        numbers.a_connection_that_takes_a_new_number_gives_way_to_a_newer_one,
        Cut("connect.lua", "if ARGV[9] ~= '' and old > tonumber(ARGV[9]) then" + ORDER, "if false then"),
    ),
    Guard(
        "order-of-numbers-after-a-lost-subscription",
        numbers.news_lost_with_a_subscription_is_read_from_the_records,
        Cut("presence.registry:Registry._catch_up_sessions", "session.take_number(number)", "pass"),
    ),
    Guard(
        "joins-that-were-rolled-back",
        crossings.who_joined_behind_a_leave_that_comes_up_again_is_joined_again,
        Cut("presence.upkeep:_ended", "if ago_ms > 1000 * (time.monotonic() - membership.asked_at):", "if False:"),
    ),
    Guard(
        "ends-that-were-not",
        crossings.who_is_taken_out_stays_out,
        Cut("presence.upkeep:_ended", "if ago_ms > 1000 * (time.monotonic() - membership.asked_at):", "if True:"),
    ),
    Guard(
        "mark-of-a-closing-connection",
        crossings.a_heartbeat_on_its_way_does_not_cancel_the_grace,
        Cut("close.lua", "int(number) .. 'c'", "int(number)"),
    ),
    Guard(
        "check-of-that-mark",
        crossings.a_heartbeat_on_its_way_does_not_cancel_the_grace,
        Cut(
            "touch.lua",
            "if session.number == number and session.closed > 0 then -- guard: mark of a closing connection",
            "if false then",
        ),
    ),
    Guard(
        "generation-of-touch-replies",
        crossings.an_old_answer_does_not_end_a_new_membership,
        Cut(
            "presence.membership:Membership._touched",
            "current = self._wanted(generation)  # guard: generation of touch replies",
            "current = True",
        ),
    ),
    Guard(
        "generation-raised-by-bye",
        crossings.bye_does_not_cancel_itself,
        Cut("presence.membership:Membership.part", "self.generation += 1", "pass"),
    ),
    Guard(
        "last-word-before-a-close",
        crossings.a_last_word_before_the_close_counts,
        Cut("close.lua", "if ARGV[6] ~= '' and not known then -- guard: the last word", "if false then"),
    ),
    Guard(
        "closes-that-came-up-again",
        crossings.a_close_that_came_up_again_does_not_shorten_the_next_grace,
        Cut("close.lua", " and session.number == number -- guard: closes that came up again", ""),
    ),
    Guard(
        "leaves-that-overtake-a-poll",
        crossings.a_poll_that_a_leave_overtakes_does_not_hide_it,
        Cut("presence.places:_join_as_member", "going_on=revive", "going_on=False"),
    ),
    Guard(
        "doubt-after-bye",
        crossings.who_said_bye_is_not_brought_back,
        Cut("presence.membership:Membership.part", "self.touching = self.proven = False", "self.touching = False"),
    ),
    Guard(
        "life-shown-by-opening",
        crossings.opening_a_connection_is_a_sign_of_life,
        Cut("presence.session:open_session", "session.alive()"),
    ),
    Guard(
        "hold",
        silence.a_stall_takes_nobody_offline_who_is_still_there,
        Cut("expire.lua", "if redis.call('EXISTS', due) == 1 then -- guard: hold", "if false then"),
    ),
    Guard(
        "limit-of-the-hold-by-ttl",
        silence.a_short_stall_delays_no_long_ttl,
        Cut("expire.lua", "session.ttl > 4 * hold_length or "),
    ),
    Guard(
        "limit-of-the-hold-by-count",
        silence.stalls_without_end_hold_nobody_back_for_ever,
        Cut("expire.lua", " or session.holds >= MAX_HOLDS"),
    ),
    Guard(
        "listen-first",
        crossings.who_enters_misses_nothing_that_happens_meanwhile,
        Cut(
            "presence.places:_take_place",
            "    membership.joining = False\n    if session.ended:",
            "    membership.joining = False\n"
            "    services.hub.close(membership.topic)\n"
            "    membership.topic = services.hub.open(channel)\n"
            "    if session.ended:",
        ),
    ),
    Guard(
        "atomic-snapshot",
        crossings.a_snapshot_and_its_cursor_are_of_one_instant,
        Cut(
            "presence.tracker:Tracker.view",
            "    return view_of(reply[1])",
            '    place = await self._snapshot("roster", channel, None, 1, "", FRAME_BYTES)\n'
            "    from dataclasses import replace\n    return replace(view_of(reply[1]), epoch=place[1].decode(), seq=int(place[2]))",
        ),
    ),
    Guard(
        "holder-of-a-lease",
        queueing.a_late_worker_cannot_settle_what_another_holds,
        Cut("queue_settle.lua", "redis.call('XPENDING', stream, group, id, id, 1, consumer)[1]", "true"),
    ),
    Guard(
        "end-of-a-lease",
        queueing.nobody_else_gets_an_event_while_its_lease_lasts,
        Cut("queue_take.lua", "'-inf', int(now), 'LIMIT'", "'-inf', '+inf', 'LIMIT'"),
    ),
    Guard(
        "clock-of-leases",
        queueing.a_clock_that_steps_back_makes_no_lease_longer,
        Cut("queue_take.lua", "redis.call('ZINCRBY', leases, int(now - latest), entry)"),
    ),
    Guard(
        "longer-lease",
        queueing.a_lease_that_is_kept_longer_lasts_longer,
        Cut("queue_settle.lua", "redis.call('ZADD', leases, int(now + tonumber(ARGV[4])), ARGV[at])"),
    ),
    Guard(
        "limit-of-deliveries",
        queueing.an_event_that_nobody_can_deal_with_is_set_aside,
        Cut("queue_take.lua", "held[4] >= queue.deliveries", "false"),
    ),
    Guard(
        "pin-of-the-feed",
        queueing.what_a_worker_holds_is_not_forgotten,
        Cut("queue_tidy.lua", "if needed and not is_after(needed, row[1]) then", "if false then"),
    ),
    Guard(
        "count-of-what-is-lost",
        queueing.what_a_worker_holds_when_it_has_to_go_is_counted,
        Cut("publish.lua", "redis.call('XPENDING', feed, group.name, '-', last, #rows)", "{}"),
    ),
    Guard(
        "unclaimed-state",
        returning.a_state_that_was_set_is_not_replaced_by_an_archived_one,
        Cut("promote.lua", "not member.unclaimed or "),
    ),
    Guard(
        "end-of-the-wait-for-a-state",
        returning.a_state_that_was_set_is_not_replaced_by_an_archived_one,
        Cut("set.lua", "member.state, member.unclaimed = state, nil", "member.state = state"),
    ),
    Guard(
        "generation-of-a-promotion",
        returning.an_answer_for_an_earlier_presence_changes_nothing_in_the_next,
        Cut("promote.lua", " or member.generation ~= ARGV[6]"),
    ),
    Guard(
        "age-of-a-promoted-state",
        returning.only_the_state_of_an_earlier_presence_comes_back,
        Cut("promote.lua", "tonumber(ARGV[7]) >= tonumber(member.generation)", "false"),
    ),
    Guard(
        "order-of-generations",
        returning.a_clock_that_goes_back_does_not_make_a_new_state_older,
        Cut("join.lua", "math.max(now_us, generation_given() + 1) -- guard: order of generations", "now_us"),
    ),
    Guard(
        "newest-of-the-unarchived",
        returning.of_two_ends_that_wait_for_the_archive_the_newer_comes_back,
        Cut("leave.lua", "redis.call('ZREM', unarchived, older)", "do end"),
    ),
    Guard(
        "end-that-waits-for-the-archive",
        returning.what_is_not_archived_yet_is_known,
        Cut("leave.lua", "  keep_ended(channel, user, member, seen)\n"),
    ),
    Guard(
        "end-that-is-archived",
        returning.what_is_not_archived_yet_is_known,
        Cut("queue_settle.lua", "      let_go(group, row[2])\n"),
    ),
    Guard(
        "end-that-is-not-wanted-any-more",
        returning.what_is_not_wanted_any_more_is_not_kept_for_ever,
        Cut(
            "publish.lua",
            "        let_go(group.name, row[2]) -- also what it does not want any more\n"
            "        lost = lost + (wants(queue, row[2]) and 1 or 0)\n",
            "        if wants(queue, row[2]) then\n          lost = lost + 1\n          let_go(group.name, row[2])\n        end\n",
        ),
    ),
    Guard(
        "end-that-is-lost",
        returning.what_had_to_go_is_not_kept_for_ever,
        Cut("publish.lua", "        let_go(group.name, row[2]) -- also what it does not want any more\n"),
    ),
]
