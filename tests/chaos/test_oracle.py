"""The oracle of the random runs finds what it is there for: each kind of breach, in a run of one user."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos.journal import End, Journal, Life, Snapshot
from tests.chaos.oracle import Oracle

PLACE = ("ann", "room")
NOW = 60_000.0


def join(at: int, seq: int = 1) -> dict[str, Any]:
    return {"seq": seq, "at": at, "type": "join", "user": "ann", "info": {}, "state": {}}


def leave(at: int, seq: int = 2, reason: str = "timeout", last_seen: int = 1503) -> dict[str, Any]:
    return {"seq": seq, "at": at, "type": "leave", "user": "ann", "reason": reason, "last_seen": last_seen}


def journal() -> Journal:
    """Joined within 1000–1005, with a ttl of 1 s; a heartbeat counted within 1500–1503; then silence."""
    made = Journal()
    made.lives.append(Life(PLACE, "one", 1000, 1005, 1000, sure=True))
    made.lives.append(Life(PLACE, "one", 1500, 1503, 1000, sure=True, unbroken=True))
    return made


def closed() -> Journal:
    """The same with a ttl of 5 s, closed by its client at 2000, with a grace of 300 ms."""
    made = Journal()
    made.lives.append(Life(PLACE, "one", 1000, 1005, 5000, sure=True))
    made.ends.append(End(PLACE, "one", 2000, 2000, "timeout", grace=300))
    return made


def verdict(made: Journal, *history: dict[str, Any]) -> list[str]:
    return Oracle(made, {"room": list(history)}).check(NOW)


def connection(asked: float, welcomed: float, ended: float | None, code: int | None, sent: list[float]) -> Any:
    facts = {"asked_ms": asked, "welcomed_ms": welcomed, "closed_ms": ended, "code": code, "sent_ms": sent}
    return Connection(user="ann", session="one", **facts)


class Connection(SimpleNamespace):
    __hash__ = object.__hash__


def test_a_run_as_promised_has_no_breach() -> None:
    assert verdict(journal(), join(1002), leave(2510)) == []
    assert verdict(closed(), join(1002), leave(2310, last_seen=2004)) == []


@pytest.mark.parametrize(
    ("history", "word"),
    [
        ([join(1002), leave(2500)], "was there from"),
        ([join(1002), leave(1200), join(1300, 3), leave(2510, 4)], "was there from"),
        ([join(1002), leave(4600)], "can have been there"),
        ([join(1002)], "can have been there"),
        ([], "was there from"),
        ([join(1002), leave(2510, reason="left")], "nobody asked"),
        ([join(1002), leave(2510), join(2600, 3), leave(2700, 4)], "nobody asked"),
        ([join(1002), leave(2510), leave(2520, 3)], "left without being there"),
        ([join(1002), join(1003, 2), leave(2510, 3)], "joined twice"),
        ([join(1002), leave(2510, 3)], "seq 3 where 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_was_announced_wrongly_is_found(history: list[dict[str, Any]], word: str) -> None:
    assert any(word in breach for breach in verdict(journal(), *history))


@pytest.mark.parametrize(
    ("event", "word"),
    [
        (leave(2290, last_seen=2004), "was there from"),
        (leave(3400, last_seen=2004), "too long"),
        (leave(2310, last_seen=1002), "last seen"),
    ],
    ids=["too short", "too long", "last seen"],
)
def test_a_wrong_grace_is_found(event: dict[str, Any], word: str) -> None:
    assert any(word in breach for breach in verdict(closed(), join(1002), event))


def test_a_refused_heartbeat_of_somebody_who_is_there_is_found() -> None:
    made = journal()
    made.refused.append(Life(PLACE, "one", 1200, 1203, 1000))
    assert any("was refused" in breach for breach in verdict(made, join(1002), leave(2510)))


def test_a_snapshot_that_its_events_do_not_give_is_found() -> None:
    made = journal()
    made.snapshots.append(Snapshot("room", "e:2", {"ann": ({}, {})}, "ben"))
    assert any("is not its events" in breach for breach in verdict(made, join(1002), leave(2510)))


@pytest.mark.parametrize(
    ("connections", "word"),
    [
        ([connection(0, 5, 100, 4009, [])], "no connection is newer"),
        ([connection(0, 5, None, None, []), connection(10, 15, 100, 4009, [])], "no connection is newer"),
        ([connection(0, 5, None, None, []), connection(10, 15, None, None, [])], "outlived a newer"),
        ([connection(0, 5, 3000, 4101, [1000.0, 2000.0])], "silent for 1000"),
        ([connection(0, 5, 3000, 4003, [])], "nobody disconnected"),
        ([connection(0, 5, 3000, 1006, [])], "why?"),
    ],
    ids=["newest replaced", "newest replaced by older", "two at once", "not silent", "not disconnected", "broken"],
)
def test_a_connection_closed_wrongly_is_found(connections: list[Any], word: str) -> None:
    made = Journal(sockets=connections, ttls=dict.fromkeys(connections, 2000.0))
    assert any(word in breach for breach in verdict(made))


def test_connections_closed_rightly_are_no_breach() -> None:
    older, newer = connection(0, 5, 100, 4009, []), connection(10, 15, 5000, 4101, [2000.0])
    kicked = connection(6000, 6005, 7010, 4003, [6500.0])
    made = Journal(sockets=[older, newer, kicked], ttls=dict.fromkeys((older, newer, kicked), 2000.0))
    made.disconnects.append(("ann", 7000, 7005))
    assert verdict(made) == []
