from __future__ import annotations

import logging

import pytest

from presence.wheel import TICK_S, Entry, Wheel


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Bench:
    """A wheel on a clock of its own; `pass_s` lets time pass tick by tick, `freeze_s` in one go."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.wheel = Wheel(clock=self.clock)
        self.calls: list[float] = []

    def call(self) -> None:
        self.calls.append(round(self.clock.now_s - 1000, 3))

    def pass_s(self, duration_s: float) -> None:
        end_s = self.clock.now_s + duration_s
        while self.clock.now_s < end_s - 1e-9:
            self.clock.now_s = min(end_s, self.clock.now_s + TICK_S / 2)
            self.wheel.turn()

    def freeze_s(self, duration_s: float) -> None:
        self.clock.now_s += duration_s
        self.wheel.turn()


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.05, 0.33, 1.0, 59.99])
def test_an_entry_comes_up_once_and_never_early(bench: Bench, delay_s: float) -> None:
    bench.pass_s(0.12)
    begun_s = bench.clock.now_s - 1000

    bench.wheel.add(delay_s, bench.call)
    bench.pass_s(delay_s + 1)

    assert len(bench.calls) == 1
    assert delay_s - 1e-6 <= bench.calls[0] - begun_s <= delay_s + 2 * TICK_S


def test_a_moved_entry_comes_up_at_its_new_time_only(bench: Bench) -> None:
    later, sooner = bench.wheel.add(1, bench.call), bench.wheel.add(5, bench.call)

    bench.wheel.move(later, 3)
    bench.wheel.move(sooner, 2)
    bench.pass_s(10)

    assert bench.calls == [pytest.approx(2, abs=0.11), pytest.approx(3, abs=0.11)]


def test_an_entry_moved_to_and_fro_comes_up_once(bench: Bench) -> None:
    entry = bench.wheel.add(1, bench.call)

    for delay_s in (4, 0.5, 2, 1, 3, 1):
        bench.wheel.move(entry, delay_s)
    bench.pass_s(10)

    assert bench.calls == [pytest.approx(1, abs=0.11)]


def test_an_entry_that_moves_itself_comes_up_again_and_again(bench: Bench) -> None:
    entries: list[Entry] = []

    def again() -> None:
        bench.call()
        bench.wheel.move(entries[0], 1)

    entries.append(bench.wheel.add(1, again))
    bench.pass_s(5.4)

    assert len(bench.calls) == 5


def test_a_cancelled_entry_never_comes_up_and_is_let_go(bench: Bench) -> None:
    entry = bench.wheel.add(1, bench.call)

    entry.cancel()
    bench.wheel.move(entry, 2)
    bench.pass_s(5)

    assert bench.calls == []
    assert entry.callback is None
    assert len(bench.wheel) == 0


def test_what_came_up_while_the_process_stood_still_is_called_when_it_goes_on(bench: Bench) -> None:
    bench.wheel.add(1, bench.call)
    bench.wheel.add(60, bench.call)

    bench.freeze_s(30)

    assert bench.calls == [30]


def test_time_in_which_the_process_stood_still_is_not_time_awake(bench: Bench) -> None:
    bench.pass_s(2)
    bench.freeze_s(30)
    bench.pass_s(1)

    assert bench.wheel.awake_s == pytest.approx(3, abs=0.11)
    assert bench.wheel.stalled_at == pytest.approx(1032, abs=0.11)


def test_a_busy_loop_is_no_stall(bench: Bench) -> None:
    for _ in range(100):
        bench.freeze_s(0.12)

    assert bench.wheel.stalled_at == float("-inf")
    assert bench.wheel.awake_s == pytest.approx(12)


def test_a_failing_callback_does_not_stop_the_others(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("secret input")

    bench.wheel.add(1, fail)
    bench.wheel.add(1, bench.call)
    with caplog.at_level(logging.ERROR):
        bench.pass_s(2)

    assert len(bench.calls) == 1
    assert "wheel_callback_failed" in caplog.text
    assert "secret input" not in caplog.text
