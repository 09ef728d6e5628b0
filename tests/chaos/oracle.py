"""Judges a random run: what must have been announced, given what the clients did.

Redis and the clients share one clock (this machine's), so every act is known to have happened between two moments:
when it was sent and when it was answered. From these follow, for each session, the time in which it was *certainly*
there and the time in which it was *possibly* there. Whatever was announced must lie between the two.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from tests.chaos.journal import UNANSWERED_MS, End, Journal, Life, Place, Snapshot, settled
from tests.chaos.raw_socket import RawSocket

Span = tuple[float, float]
Event = dict[str, Any]

LATE_MS = 2000.0  # how late a `leave` may be on a machine that does other things, too
GRACE_LATE_MS = 1000.0
ENDED_MS = 3000.0  # within which a replaced connection is closed
LIVELY = 0.7  # of the ttl: who sent something that recently is not silent
DECIDED_MS = 500.0  # before the client knows of it, the server may have decided to close
NEVER = math.inf


class Oracle:
    """Compares a journal with the whole history of the channels."""

    def __init__(self, journal: Journal, histories: dict[str, list[Event]], late_ms: float = LATE_MS) -> None:
        self._journal = journal
        self._late_ms = late_ms
        self._histories = histories
        self.breaches = list(journal.breaches)
        self.lateness_ms: list[float] = []
        self.graces = 0
        self._lives: dict[Place, list[Life]] = defaultdict(list)
        self._ends: dict[Place, list[End]] = defaultdict(list)
        for life in journal.lives:
            self._lives[life.place].append(life)
        for end in journal.ends:
            self._ends[end.place].append(end)

    def check(self, ended_ms: float) -> list[str]:
        """Everything that contradicts the promises."""
        presence = {place: list(spans) for place, spans in self._presence().items()}
        for place in sorted(set(presence) | set(self._lives)):
            self._check_place(place, presence.get(place, []), ended_ms)
        self._check_leaves()
        self._check_joins()
        self._check_refusals()
        self._check_told(presence)
        self._check_sockets(ended_ms)
        self._check_snapshots()
        return self.breaches

    # ---- who was there when ----

    def _presence(self) -> dict[Place, list[Span]]:
        spans: dict[Place, list[Span]] = defaultdict(list)
        since: dict[Place, float] = {}
        for channel, history in self._histories.items():
            for number, event in enumerate(history, 1):
                self._expect(event["seq"] == number, f"{channel}: seq {event['seq']} where {number} was due")
                place = (event.get("user", ""), channel)
                if event["type"] == "join":
                    self._expect(place not in since, f"{place} joined twice: {event}")
                    since[place] = event["at"]
                elif event["type"] == "leave":
                    self._expect(place in since, f"{place} left without being there: {event}")
                    spans[place].append((since.pop(place, 0), event["at"]))
        for place, start in since.items():
            spans[place].append((start, NEVER))
        return spans

    def certain(self, place: Place, session: str | None = None) -> list[Span]:
        """When the user (or one session of it) was there beyond doubt, up to the first moment at which it may end."""
        spans = []
        for life in self._lives[place]:
            if not life.sure or life.acked is None or session not in (None, life.session):
                continue
            start, end = self._unbroken_since(life), math.floor(life.sent) + life.ttl + 1
            for other in self._ends[place]:
                if other.concerns(life) and other.acked > life.sent:
                    end = min(end, math.floor(other.sent) + (other.grace + 1 if other.grace else 0))
            if end > start:
                spans.append((start, end))
        return list(_merged(spans))

    def possible(self, place: Place, late_ms: float) -> list[Span]:
        """When the user may have been there; a timeout may be noticed `late_ms` after it."""
        spans = []
        for life in self._lives[place]:
            end = settled(life) + life.ttl + late_ms
            for other in self._ends[place]:
                if other.sure and other.concerns(life) and other.certainly_after(life):
                    end = min(end, other.acked + 1 + (other.grace + late_ms if other.grace else 0))
            spans.append((math.floor(life.sent), end))
        return list(_merged(spans))

    def _unbroken_since(self, life: Life) -> float:
        """A heartbeat that counted and cannot create: its session was there ever since its last certain sign."""
        assert life.acked is not None
        if not life.unbroken:
            return life.acked
        earlier = [
            other.acked
            for other in self._lives[life.place]
            if other.sure and other.session == life.session and other.acked is not None and other.acked <= life.sent
        ]
        start = max(earlier, default=life.acked)
        for end in self._ends[life.place]:
            if end.concerns(life) and not end.grace and end.acked >= start and end.sent <= life.acked:
                return life.acked
        return start

    def _check_place(self, place: Place, present: list[Span], ended_ms: float) -> None:
        for start, end in self.certain(place):
            if min(end, ended_ms) <= start:
                continue
            fits = any(since <= start and min(end, ended_ms) <= until for since, until in present)
            self._expect(fits, f"{place} was there from {start:.0f} to {end:.0f}, announced: {present}", place)
        possible = self.possible(place, self._late_ms)
        for since, until in present:
            fits = any(start <= since and min(until, ended_ms) <= end for start, end in possible)
            self._expect(fits, f"{place} announced from {since} to {until}, can have been there: {possible}", place)

    # ---- each leave: why, and how late ----

    def _check_leaves(self) -> None:
        for channel, history in self._histories.items():
            for event in history:
                if event["type"] == "leave":
                    self._check_leave((event["user"], channel), event)

    def _check_leave(self, place: Place, event: Event) -> None:
        at, reason = event["at"], event["reason"]
        if reason != "timeout":
            ends = [end for end in self._ends[place] if end.reason == reason and end.sent - 1 <= at <= end.acked + 1000]
            self._expect(bool(ends), f"{place}: nobody asked for {event}")
            return
        before = [end for _, end in self.certain(place) if end <= at]
        if before:
            self.lateness_ms.append(at - max(before))
        self._check_grace(place, event)

    def _check_grace(self, place: Place, event: Event) -> None:
        """Where one close was certainly the last thing that happened, the leave follows it by the grace."""
        at, lives = event["at"], [life for life in self._lives[place] if life.sent < event["at"]]
        closes = [end for end in self._ends[place] if end.grace and end.sure and end.sent < at]
        if not lives or not closes:
            return
        close, last = max(closes, key=lambda end: end.sent), max(lives, key=lambda life: life.sent)
        alone = {life.session for life in lives if settled(life) + life.ttl > close.sent} == {close.session}
        if not alone or not close.certainly_after(last) or settled(last) > close.sent + UNANSWERED_MS:
            return
        if not any(start <= close.sent < end for start, end in self.certain(place, close.session)):
            return  # its last sign may have come too late
        full = min(last.sent + last.ttl, close.sent + close.grace)
        self._expect(at > math.floor(full), f"{place}: the grace was {full - at:.0f} ms too short: {event}")
        if last.sent + last.ttl < close.sent + close.grace + self._late_ms:
            return  # an ignored grace would not show
        self.graces += 1
        late = at - close.acked - close.grace
        self._expect(late <= GRACE_LATE_MS, f"{place}: the grace was {late:.0f} ms too long: {event}")
        seen = close.sent - 1 <= event["last_seen"] <= close.acked + GRACE_LATE_MS
        self._expect(seen, f"{place}: last seen when it closed, at {close.sent:.0f}: {event}")

    def _check_joins(self) -> None:
        """A join needs an act that creates: a refresh never does."""
        for channel, history in self._histories.items():
            for event in history:
                if event["type"] != "join":
                    continue
                acts = [life for life in self._lives[event["user"], channel] if not life.unbroken]
                spans = [(math.floor(act.sent), settled(act) + (1 if act.sure else LATE_MS)) for act in acts]
                fits = any(start <= event["at"] <= end for start, end in spans)
                self._expect(fits, f"{channel}: nobody asked for {event}")

    def _check_refusals(self) -> None:
        """Who is there beyond doubt is not told the opposite."""
        for life in self._journal.refused:
            assert life.acked is not None
            for start, end in self.certain(life.place, life.session):
                told = start <= life.sent and life.acked < end
                self._expect(not told, f"{life} was refused between {start:.0f} and {end:.0f}")

    def _check_told(self, presence: dict[Place, list[Span]]) -> None:
        """`joined` and `left` of a back end's call: whether this call made or ended the membership."""
        for place, kind, sent, acked, value in self._journal.told:
            at = 0 if kind == "join" else 1
            spans = presence.get(place, [])
            caused = any(math.floor(sent) <= span[at] <= acked + 1 for span in spans)
            self._expect(caused or not value, f"{place}: told of a {kind} that is not there, {sent:.0f} to {acked:.0f}")
            if kind == "join" and not value:
                there = any(start <= acked and end >= math.floor(sent) for start, end in spans)
                self._expect(there, f"{place}: told it was there already, {sent:.0f} to {acked:.0f}: {spans}")

    # ---- who was closed, and why ----

    def _check_sockets(self, ended_ms: float) -> None:
        rivals: dict[tuple[str, str], list[RawSocket]] = defaultdict(list)
        for socket in self._journal.sockets:
            rivals[socket.user, socket.session].append(socket)
        for sockets in rivals.values():
            for socket in sockets:
                others = [other for other in sockets if other is not socket]
                self._check_code(socket, others)
                self._check_disconnected(socket, ended_ms)
                for newer in others:
                    self._check_replaced(socket, newer, ended_ms)

    def _check_code(self, socket: RawSocket, others: Iterable[RawSocket]) -> None:
        code, closed = socket.code, socket.closed_ms
        if code is None or closed is None:
            return
        who = f"{socket.user}/{socket.session} of {socket.asked_ms:.0f}, closed at {closed:.0f} with {code}"
        if code == 4009:
            newer = [o for o in others if o.asked_ms < closed and (o.welcomed_ms or NEVER) >= socket.asked_ms]
            self._expect(bool(newer), f"{who}: no connection is newer")
        elif code == 4101:
            ttl = self._journal.ttls[socket]
            sent = [moment for moment in socket.sent_ms if moment < closed - DECIDED_MS]
            silent = closed - max(sent, default=socket.asked_ms)
            told = [round(moment - closed) for moment in socket.sent_ms[-4:]]
            self._expect(silent >= LIVELY * ttl, f"{who}: silent for {silent:.0f} ms only, sent at {told}, ttl {ttl}")
        elif code == 4003:
            asked = [user for user, sent, acked in self._journal.disconnects if sent < closed and user == socket.user]
            self._expect(bool(asked), f"{who}: nobody disconnected the user")
        else:
            self.breaches.append(f"{who}: why?")

    def _check_disconnected(self, socket: RawSocket, ended_ms: float) -> None:
        """Whoever was connected when a back end disconnected the user was closed, if the nodes could hear of it."""
        for user, sent, acked in self._journal.disconnects:
            deaf = any(sent - 1000 < kill < acked + 1000 for kill in self._journal.kills_ms)
            here = socket.user == user and socket.welcomed_ms is not None and socket.welcomed_ms < sent
            if here and not deaf and acked + ENDED_MS < ended_ms:
                ended = socket.closed_ms is not None and socket.closed_ms < acked + ENDED_MS
                self._expect(ended, f"{user}/{socket.session} outlived its disconnection at {sent:.0f}")

    def _check_replaced(self, older: RawSocket, newer: RawSocket, ended_ms: float) -> None:
        if older.welcomed_ms is None or newer.welcomed_ms is None or older.welcomed_ms >= newer.asked_ms:
            return
        limit = newer.welcomed_ms + ENDED_MS
        if limit < ended_ms:
            ended = older.closed_ms is not None and older.closed_ms <= limit
            self._expect(ended, f"{older.user}/{older.session} of {older.asked_ms:.0f} outlived a newer connection")

    # ---- what was shown ----

    def _check_snapshots(self) -> None:
        wanted: dict[str, list[Snapshot]] = defaultdict(list)
        for snapshot in self._journal.snapshots:
            wanted[snapshot.channel].append(snapshot)
        for channel, snapshots in wanted.items():
            folded = {shot[0]: shot[1] for shot in self._folds(channel)}
            for shot in snapshots:
                seq = int(shot.cursor.rpartition(":")[2])
                if seq > len(self._histories[channel]):
                    continue  # of after the end of the comparison
                known = folded.get(seq, {})
                wrong = {user for user in {*known, *shot.members} if known.get(user) != shot.members.get(user)}
                told = [f"{user}: {known.get(user)}, shown {shot.members.get(user)}" for user in sorted(wrong)]
                self._expect(not wrong, f"{channel} at {shot.cursor} as shown to {shot.who} is not its events: {told}")

    def _folds(self, channel: str) -> Iterator[tuple[int, dict[str, tuple[Any, Any]]]]:
        members: dict[str, tuple[Any, Any]] = {}
        yield 0, {}
        for event in self._histories[channel]:
            user = event.get("user", "")
            if event["type"] == "join":
                members = {**members, user: (event["info"], event["state"])}
            elif event["type"] == "leave":
                members = {name: member for name, member in members.items() if name != user}
            elif event["type"] == "update":
                info = event.get("info", members.get(user, (None, None))[0])
                members = {**members, user: (info, event["state"])}
            yield event["seq"], members

    def _expect(self, holds: bool, what: str, place: Place | None = None) -> None:
        if not holds:
            acts: list[Life | End] = [*self._lives[place], *self._ends[place]] if place else []
            told = [f"\n    {act}" for act in sorted(acts, key=lambda act: act.sent)]
            self.breaches.append(what + "".join(told[-60:]))


def _merged(spans: Iterable[Span]) -> Iterator[Span]:
    current: Span | None = None
    for start, end in sorted(spans):
        if current is not None and start <= current[1]:
            current = (current[0], max(current[1], end))
            continue
        if current is not None:
            yield current
        current = (start, end)
    if current is not None:
        yield current
