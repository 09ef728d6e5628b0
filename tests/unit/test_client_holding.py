"""What a worker holds: nothing is begun whose lease may be over, nothing is begun twice."""

from __future__ import annotations

from presence.client.answers import Event, Settled
from presence.client.holding import Holding, Order


def event(name: str) -> Event:
    return Event("leave", "room", "epoch", 1, 0, id=name)


def test_an_event_is_begun_once_and_only_within_its_lease() -> None:
    holding = Holding(4, 1000)
    holding.add([event("a"), event("b")], sent_s=10.0)

    assert holding.begin(10.9) == event("a")
    assert holding.begin(11.0) is None  # b may have gone to somebody else
    (extension,) = holding.extensions()
    assert extension == Order("extend", ("a", "b"), 1000, last=False)
    holding.carried_out(extension, Settled(("a", "b"), ()), sent_s=12.0)
    assert holding.begin(12.9) == event("b")
    assert holding.begin(12.9) is None


def test_what_the_server_refuses_is_let_go() -> None:
    holding = Holding(4, 1000)
    holding.add([event("a"), event("b")], sent_s=0.0)
    assert holding.begin(0.0) == event("a")

    holding.carried_out(Order("extend", ("a", "b"), 1000, last=False), Settled((), ("a", "b")), sent_s=5.0)
    holding.done(event("a"))  # too late: nobody asks any more
    assert (len(holding), holding.verdicts(), holding.begin(0.0)) == (0, [], None)


def test_what_is_held_already_is_not_begun_again_when_it_comes_again() -> None:
    holding = Holding(4, 1000)
    holding.add([event("a")], sent_s=0.0)
    holding.begin(0.0)

    holding.add([event("a")], sent_s=5.0)  # its lease was over, and nobody else took it
    assert holding.begin(5.1) is None
    assert len(holding) == 1


def test_more_is_asked_for_when_a_quarter_is_free_or_nothing_waits() -> None:
    holding = Holding(8, 1000)
    assert holding.begs
    holding.add(map(event, "abcdefg"), sent_s=0.0)
    assert (holding.room, holding.begs) == (1, False)
    holding.begin(0.0)
    holding.done(event("a"))
    (verdict,) = holding.verdicts()
    holding.carried_out(verdict, Settled(("a",), ()), sent_s=0.1)
    assert (verdict.what, holding.room, holding.begs) == ("ack", 2, True)
    for _ in "bcdefg":
        holding.begin(0.2)
    holding.add([event("h")], sent_s=0.2)
    assert not holding.begs
    holding.begin(0.2)
    assert holding.begs


def test_what_was_not_begun_is_given_back_in_parts() -> None:
    holding = Holding(500, 1000)
    holding.add((event(str(number)) for number in range(301)), sent_s=0.0)
    holding.begin(0.0)
    holding.failed(event("0"), 700)

    holding.give_back()
    orders = holding.verdicts()
    assert sorted((order.what, order.lease_ms, len(order.ids)) for order in orders) == [
        ("extend", 700, 1),
        ("release", 0, 100),
        ("release", 0, 200),
    ]
    for order in orders:
        holding.carried_out(order, Settled((), order.ids), sent_s=0.1)
    assert len(holding) == 0
