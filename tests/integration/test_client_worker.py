"""Workers of the Python client, for threads and for asyncio: how much at a time, what comes back, what stopping does."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from presence import client
from presence.client import Worker
from tests.support import tokens
from tests.support.back_ends import KINDS, make_back_end
from tests.support.middle import Middle
from tests.support.node import Node
from tests.support.stage import Stage
from tests.support.waiting import wait_until

QUICK = {"wait_ms": 200}


one_kind = pytest.mark.parametrize("make_bench", ["threads"], indirect=True)
"""Of tests whose matter both kinds share: that for threads runs that for asyncio."""


class Bench:
    """A queue for the messages of one channel, and somebody who looks on."""

    def __init__(self, stage: Stage, kind: str, url: str = "", **wants: Any) -> None:
        self.channel = stage.channel
        self.back_end = make_back_end(kind, url or stage.a.url)
        self.aside = client.Client(stage.a.url, tokens.API_KEY)
        name = stage.name("queue")
        self.queue, self.other = self.back_end.queue(name), self.aside.queue(name)
        self.other.create(types=["message"], channels=stage.channel, **wants)
        self.handled: list[Any] = []

    def publish(self, *data: Any) -> None:
        """One message for each."""
        for value in data:
            self.aside.publish(self.channel, "work", value)

    def note(self, event: client.Event) -> None:
        """The simplest handler."""
        self.handled.append(event.data)

    def settled(self) -> None:
        """Wait until nothing is left."""
        wait_until(lambda: self.standing() == (0, 0), "the queue is empty", 15)

    def standing(self) -> tuple[int, int]:
        """How many wait and how many are in flight."""
        status = self.other.status()
        return status.waiting, status.in_flight

    def close(self) -> None:
        """End the clients."""
        self.back_end.close()
        self.aside.close()


@pytest.fixture(params=KINDS)
def make_bench(request: pytest.FixtureRequest, stage: Stage) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(url: str = "", **wants: Any) -> Bench:
        made.append(Bench(stage, request.param, url, **wants))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


def test_every_event_is_handled_once_and_acknowledged(bench: Bench) -> None:
    bench.publish(*range(50))

    with bench.queue.worker(bench.note, **QUICK):
        wait_until(lambda: len(bench.handled) == 50, "the first fifty are handled")
        bench.publish(*range(50, 60))
        bench.settled()
    assert sorted(bench.handled) == list(range(60))


def test_so_many_are_handled_at_a_time_and_not_more(bench: Bench) -> None:
    together, running, most = threading.Barrier(3, timeout=20), Counter[str](), []
    lock = threading.Lock()

    def handle(event: client.Event) -> None:
        with lock:
            running["now"] += 1
            most.append(running["now"])
        together.wait()
        with lock:
            running["now"] -= 1

    bench.publish(*range(9))
    with bench.queue.worker(handle, concurrency=3, **QUICK):
        wait_until(lambda: len(most) == 9 and not running["now"], "nine are handled, three by three")
        bench.settled()
    assert max(most) == 3


@one_kind
def test_what_fails_comes_back_later_with_everything_else_going_on(bench: Bench, caplog: Any) -> None:
    seen: list[tuple[Any, int, float]] = []

    def handle(event: client.Event) -> None:
        seen.append((event.data, event.deliveries, time.monotonic()))
        if event.data == "bad" and event.deliveries < 3:
            raise LookupError("not yet")

    with caplog.at_level(logging.ERROR, "presence.client"), bench.queue.worker(handle, back_off_s=0.4, **QUICK):
        bench.publish("bad", "good")
        bench.settled()

    bad = [(deliveries, at) for data, deliveries, at in seen if data == "bad"]
    assert [deliveries for deliveries, _ in bad] == [1, 2, 3]
    pauses_s = [later - earlier for (_, earlier), (_, later) in pairwise(bad)]
    assert pauses_s[0] >= 0.3
    assert pauses_s[1] >= 0.6
    assert [data for data, *_ in seen].count("good") == 1
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [LookupError, LookupError]


def test_what_always_fails_becomes_a_dead_letter(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(max_deliveries=2)

    def handle(event: client.Event) -> None:
        bench.note(event)
        raise SystemExit(1) if isinstance(bench.back_end, client.Client) else LookupError

    with bench.queue.worker(handle, back_off_s=0.1, **QUICK):
        bench.publish("bad")
        wait_until(lambda: bench.other.status().dead, "it is given up", 15)
        bench.publish("bad, too")
        wait_until(lambda: bench.other.status().dead == 2, "the worker lives on", 15)
    assert bench.handled == ["bad"] * 2 + ["bad, too"] * 2
    assert [event.deliveries for event in bench.other.dead()] == [2, 2]


def test_stopping_gives_back_what_was_not_begun_and_lets_the_rest_end(bench: Bench) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def handle(event: client.Event) -> None:
        begun.set()
        assert go_on.wait(20)
        bench.note(event)

    bench.publish(*range(6))
    worker = bench.queue.worker(handle, concurrency=1, most_held=5, **QUICK)
    stopping = threading.Thread(target=worker.stop)
    with worker:
        wait_until(lambda: bench.standing() == (1, 5), "five are held")
        assert begun.wait(5)
        stopping.start()
        wait_until(lambda: bench.standing() == (5, 1), "four are given back")
        others = bench.other.take("other")
        go_on.set()
        stopping.join(20)
    assert bench.handled == [0]
    assert [event.data for event in others] == [1, 2, 3, 4, 5]
    assert bench.standing() == (0, 5)


@one_kind
def test_a_handler_that_is_slower_than_its_lease_keeps_its_event(bench: Bench) -> None:
    begun = threading.Event()

    def handle(event: client.Event) -> None:
        begun.set()
        time.sleep(0.9)
        bench.note(event)

    bench.publish("slow", "waits its turn")
    stolen = []
    with bench.queue.worker(handle, concurrency=1, lease_ms=300):
        assert begun.wait(10)
        while len(bench.handled) < 2:
            stolen += bench.other.take("thief", wait_ms=100)
        bench.settled()
    assert bench.handled == ["slow", "waits its turn"]
    assert stolen == []


def test_a_handler_that_never_ends_does_not_hold_the_stop_up_for_ever(bench: Bench) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def handle(event: client.Event) -> None:
        begun.set()
        go_on.wait(30)

    bench.publish("stuck")
    with bench.queue.worker(handle, lease_ms=500, stop_within_s=0.5, **QUICK):
        assert begun.wait(10)
        began = time.monotonic()
    took_s = time.monotonic() - began
    (again,) = bench.other.take("other", wait_ms=5000)  # nobody extends the lease any more
    go_on.set()

    assert 0.5 <= took_s < 5
    assert (again.data, again.deliveries) == ("stuck", 2)


@one_kind
def test_a_worker_goes_on_when_the_server_is_back(make_bench: Callable[..., Bench], stage: Stage) -> None:
    with Middle(stage.a.url) as middle:
        bench = make_bench(middle.url)
        begun, go_on = threading.Event(), threading.Event()

        def handle(event: client.Event) -> None:
            bench.note(event)
            begun.set()
            assert go_on.wait(20)

        with bench.queue.worker(handle, lease_ms=2000, **QUICK):
            bench.publish("before")
            assert begun.wait(10)
            middle.away = True
            middle.cut()
            bench.publish("during")
            go_on.set()
            connections = middle.connections
            wait_until(lambda: middle.connections >= connections + 3, "it has tried for a while")
            assert sum(bench.standing()) == 2  # done, but nobody could be told
            middle.away = False
            bench.settled()
    assert bench.handled == ["before", "during"]


def test_an_idle_worker_stops_at_once_when_the_server_is_away(make_bench: Callable[..., Bench], stage: Stage) -> None:
    with Middle(stage.a.url) as middle:
        bench = make_bench(middle.url)
        with bench.queue.worker(bench.note, **QUICK):
            wait_until(lambda: middle.requests, "it has asked")
            middle.away = True
            middle.cut()
            connections = middle.connections
            wait_until(lambda: middle.connections >= connections + 3, "it has tried for a while")
            began = time.monotonic()
    assert time.monotonic() - began < 2


def test_a_worker_ends_with_its_queue_and_says_so(bench: Bench) -> None:
    with pytest.raises(client.NotFound), bench.queue.worker(bench.note, **QUICK) as worker:
        bench.publish("one")
        bench.settled()
        bench.other.end()
        worker.wait()


def test_an_idle_worker_stops_within_its_wait_and_loses_nothing(bench: Bench) -> None:
    for number in range(5):
        with bench.queue.worker(bench.note, wait_ms=200):
            if number % 2:
                bench.publish(number)  # comes while the worker is told to stop
    status = bench.standing()

    assert status[1] == 0
    assert len(bench.handled) + status[0] == 2


def test_a_coroutine_that_cancels_something_has_failed_and_one_that_hangs_is_cancelled(stage: Stage) -> None:
    seen: list[str] = []

    async def handle(event: client.Event) -> None:
        try:
            seen.append(event.data)
            if event.data == "cancels":
                raise asyncio.CancelledError
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            seen.append(f"{event.data}: cancelled")
            raise

    async def work() -> None:
        async with client.AsyncClient(stage.a.url, tokens.API_KEY) as back_end:
            queue = back_end.queue(stage.name("queue"))
            await queue.create(channels=stage.channel)
            for data in ("cancels", "hangs"):
                await back_end.publish(stage.channel, "work", data)
            async with queue.worker(handle, stop_within_s=0.3, wait_ms=100):
                while len(seen) < 3:
                    await asyncio.sleep(0.01)
            assert (await queue.status()).in_flight == 2  # until their leases end

    asyncio.run(work())
    assert sorted(seen) == ["cancels", "cancels: cancelled", "hangs", "hangs: cancelled"]


def test_a_worker_outlives_a_restart_of_its_node(
    own_nodes: Callable[..., list[Node]], nodes_on: Callable[..., list[Node]], fresh_redis: Any
) -> None:
    (node,) = own_nodes(1, drain_ms=0)
    port = int(node.url.rpartition(":")[2])
    handled: list[Any] = []
    with client.Client(node.url, tokens.API_KEY) as back_end:
        queue = back_end.queue("work")
        queue.create(types=["message"])
        with queue.worker(lambda event: handled.append(event.data), **QUICK):
            back_end.publish("room", "work", "before")
            wait_until(lambda: handled == ["before"], "the first is handled")
            node.kill()
            nodes_on(fresh_redis.url, 1, port=port)
            back_end.publish("room", "work", "after")
            wait_until(lambda: handled == ["before", "after"], "the second is handled")


def test_a_wish_to_stop_that_comes_before_the_worker_has_started_is_not_lost() -> None:
    class Late(Worker):
        def start(self) -> None:
            signal.raise_signal(signal.SIGTERM)  # the handler has run when this returns
            super().start()

    with client.Client("http://127.0.0.1:1", "key") as back_end:
        worker = Late(back_end.place, "work", print, client.Terms())
        ends = threading.Timer(10, worker.ask_to_stop)
        ends.start()
        began = time.monotonic()
        worker.run()
        ends.cancel()
    assert time.monotonic() - began < 8


def test_a_worker_that_could_do_nothing_is_refused() -> None:
    async def handle(event: client.Event) -> None:
        """Never runs."""

    with client.Client("http://127.0.0.1:1", "key") as back_end:
        queue = back_end.queue("work")
        with pytest.raises(TypeError, match="AsyncClient"):
            queue.worker(handle)
        with pytest.raises(ValueError, match="concurrency"):
            queue.worker(print, concurrency=0)
        with pytest.raises(ValueError, match="lease_ms"):
            queue.worker(print, lease_ms=50)
