"""How far does it go? Many live sessions, on one Redis and on a Cluster of three primaries.

    python tests/bench/growth.py --sessions 10000,100000,1000000 --on standalone,cluster --plot docs/growth.svg

For each size and topology: Redis's processor time while every session is refreshed at a third of its ttl, bytes a
session, and how late 200 `leave`s are. Prints a Markdown table; progress goes to stderr; exits with 1 if a leave was
early, missing, double or false. Two real nodes sweep; the 200 fall silent on WebSockets at one and are observed at the
other. The live ones are joined and refreshed by the server's own tracker (crowd.py): over the API, a million joins
would take one node a quarter of an hour. Stops by itself; a million needs 2 GiB of memory and three minutes to load.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started as a program, `tests` is not on the path

from presence.keys import Keys, entry
from tests.bench.growth_engine import TOPOLOGIES, Engine, cpu_of, engine, nodes
from tests.bench.growth_plot import draw
from tests.bench.offline_lag import (
    AFTERWARDS_S,
    Observer,
    Plan,
    Result,
    Silent,
    judge,
    machine,
    percentile,
    say,
    watched,
)
from tests.bench.stand import LOADED_S, PARTITIONS, PREFIX, Crowds
from tests.support.clients.websocket import WebSocketClient
from tests.support.http import request
from tests.support.node import Node

SETTLE_S = 5.0
CAUGHT_UP_S = 90.0
TIMEOUTS = 'presence_events_total{reason="timeout",type="leave"} '


@dataclass(frozen=True)
class Growth:
    """One line of the table; times in ms, None where something never came."""

    sessions: int
    topology: str
    ttl_s: float
    load_s: float
    heartbeats_per_s: float
    redis_percent: float
    busiest_percent: float
    node_percent: float
    bytes_per_session: float
    silent: int
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    early: int
    missing: int
    double: int
    false: int
    refused: int
    load: float

    @property
    def sound(self) -> bool:
        """Whether every leave came, once, not early, and none came of a session that lives."""
        return not (self.early or self.missing or self.double or self.false or self.refused)


async def measure(topology: str, plan: Plan, window_s: float) -> Growth:
    """Load one size into a new deployment and measure it."""
    with engine(topology) as place:
        empty, started_s, load = place.memory(), time.monotonic(), os.getloadavg()[0]
        say(f"{plan.live:,} on {topology}: joining")
        with _crowds(place, plan) as crowds:
            load_s = time.monotonic() - started_s
            size = (place.memory() - empty) / plan.live
            times = {"ttl_ms": plan.ttl_ms, "grace_ms": min(5000, plan.ttl_ms), "ping_ms": plan.ttl_ms // 3}
            with nodes(place, 2, **times) as pair:
                await _caught_up(plan, crowds)
                rates = await _rates(place, crowds, pair, window_s)
                result = await _lags(plan, place, pair, crowds)
    lags = [percentile(result.lags_ms, share) for share in (0.5, 0.99, 1)]
    return Growth(
        *(plan.live, topology, plan.live_ttl_ms / 1000, load_s, *rates, size, plan.silent),
        *(None if lag == float("inf") else lag for lag in lags),
        *(result.early, result.missing, result.double, result.false, result.lost, load),
    )


@contextmanager
def _crowds(place: Engine, plan: Plan) -> Iterator[Crowds]:
    """All live sessions, joined, and refreshed until the end."""
    crowds = Crowds(place.url, plan.live, plan.live_ttl_ms)
    try:
        ends, shown = time.monotonic() + LOADED_S, time.monotonic()
        while (joined := crowds.total("joined")) < plan.live:
            crowds.check()
            assert time.monotonic() < ends, f"only {joined} sessions within {LOADED_S} s"
            if time.monotonic() - shown > 10:
                shown = time.monotonic()
                say(f"  joined {joined:,}")
            time.sleep(0.05)
        yield crowds
    finally:
        crowds.stop()


async def _caught_up(plan: Plan, crowds: Crowds) -> None:
    """Wait until the heartbeats that fell behind while all joined have been made up for."""
    wanted_per_s, ends = 3000 * plan.live / plan.live_ttl_ms, time.monotonic() + CAUGHT_UP_S
    while True:
        before = crowds.total("refreshed")
        await asyncio.sleep(SETTLE_S)
        if crowds.total("refreshed") - before < 1.3 * wanted_per_s * SETTLE_S or time.monotonic() > ends:
            return


async def _rates(place: Engine, crowds: Crowds, pair: list[Node], window_s: float) -> tuple[float, float, float, float]:
    """Heartbeats a second; per cent of a core of all primaries, of the busiest, of a node."""
    say(f"  refreshing only, for {window_s:g} s")
    used, refreshed = place.usage(), crowds.total("refreshed")
    own_s, started_s = [cpu_of(node.process.pid) for node in pair], time.monotonic()
    await asyncio.sleep(window_s)
    passed_s = time.monotonic() - started_s
    spent = place.usage() - used
    node_s = sum(cpu_of(node.process.pid) for node in pair) - sum(own_s)
    parts = (spent.total_s, max(spent.cpu_s), node_s / len(pair))
    beats_per_s = (crowds.total("refreshed") - refreshed) / passed_s
    return (beats_per_s, *(100 * part / passed_s for part in parts))  # type: ignore[return-value]


async def _lags(plan: Plan, place: Engine, pair: list[Node], crowds: Crowds) -> Result:
    say(f"  {plan.silent} sessions fall silent within {plan.spread_s:g} s")
    before, channels = await _timeouts(pair), watched(plan.live)
    observer = Observer(pair[1], "observer")
    silent: list[Silent] = []
    try:
        await observer.connect()
        for channel in channels:
            await observer.join(channel, "observer")
        places = [(f"silent-{number}", channels[number % len(channels)]) for number in range(plan.silent)]
        silent = list(await asyncio.gather(*(_fall_silent(plan, place, pair[0], *where) for where in places)))
        await asyncio.sleep(max(session.deadline_ms for session in silent) / 1000 + AFTERWARDS_S - time.time())
    finally:
        for client in (observer, *(session.client for session in silent if session.client)):
            await client.drop()
    assert not observer.breaches(), observer.breaches()
    result = judge(plan, True, observer.leaves, silent, _offset_ms(place))
    result.false += max(0, await _timeouts(pair) - before - plan.silent)  # also of channels that nobody watches
    crowds.check()
    result.lost = crowds.total("lost")
    return result


async def _fall_silent(plan: Plan, place: Engine, node: Node, user: str, channel: str) -> Silent:
    """Join over a WebSocket and read nothing more, so that no ping is answered."""
    await asyncio.sleep(random.random() * plan.spread_s)
    client = WebSocketClient(node, user)
    await client.connect()
    await client.join(channel, ttl_ms=plan.ttl_ms)
    client.freeze()
    await asyncio.sleep(min(0.3, plan.ttl_ms / 10_000))  # what was still on its way is over
    score = place.client.zscore(Keys(PREFIX, PARTITIONS).due(channel), entry(channel, user, client.session))
    assert isinstance(score, float), f"{user} has no deadline"
    return Silent(user, int(score), client)


async def _timeouts(pair: list[Node]) -> int:
    """Timeouts that the nodes have announced."""
    found = 0
    for node in pair:
        page = (await request(node.url, "GET", "/metrics")).body.decode()
        found += sum(int(float(line[len(TIMEOUTS) :])) for line in page.splitlines() if line.startswith(TIMEOUTS))
    return found


def _offset_ms(place: Engine) -> float:
    """What Redis's clock is ahead of ours, from the quickest of some questions."""
    tries = []
    for _ in range(50):
        before_s = time.time()
        seconds, microseconds = place.servers[0].client().time()
        took_s = time.time() - before_s
        tries.append((took_s, seconds + microseconds / 1e6 - before_s - took_s / 2))
    return min(tries)[1] * 1000


def table(results: list[Growth]) -> str:
    """All lines as Markdown."""
    head = "sessions", "on", "ttl", "loaded in", "heartbeats/s", "Redis, % of a core", "busiest primary", "a node"
    head += "bytes a session", "lag p50 ms", "p99", "max", "early", "missing", "double", "false", "refused"
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for result in results:
        cells = [f"{result.sessions:,}", result.topology, f"{result.ttl_s:g} s", f"{result.load_s:.0f} s"]
        cells += [f"{result.heartbeats_per_s:,.0f}"]
        cells += [f"{value:.1f}" for value in (result.redis_percent, result.busiest_percent, result.node_percent)]
        cells += [f"{result.bytes_per_session:,.0f}"]
        cells += ["never" if lag is None else f"{lag:.0f}" for lag in (result.p50_ms, result.p99_ms, result.max_ms)]
        counts = result.early, result.missing, result.double, result.false, result.refused
        lines.append(f"| {' | '.join([*cells, *map(str, counts)])} |")
    return "\n".join(lines)


def _run(options: argparse.Namespace) -> list[Growth]:
    results: list[Growth] = []
    for sessions in (int(text) for text in options.sessions.split(",")):
        for topology in options.on.split(","):
            plan = Plan(sessions, options.silent, options.ttl_ms, options.spread_s)
            results.append(asyncio.run(measure(topology, plan, options.window_s)))
            say("so far:\n" + table(results))
            if options.json:
                options.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    return results


def _topologies(text: str) -> str:
    unknown = set(text.split(",")) - set(TOPOLOGIES)
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: must be among {', '.join(TOPOLOGIES)}")
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", default="10000,100000,1000000", help="numbers of live sessions, by comma")
    parser.add_argument("--on", type=_topologies, default=",".join(TOPOLOGIES), help="topologies, by comma")
    parser.add_argument("--silent", type=int, default=200, help="sessions that fall silent")
    parser.add_argument("--ttl-ms", type=int, default=30_000, help="longer for the live ones, where they are many")
    parser.add_argument("--spread-s", type=float, default=20.0, help="time over which they fall silent")
    parser.add_argument("--window-s", type=float, default=20.0, help="for how long Redis's time is taken")
    parser.add_argument("--json", type=Path, help="where to write the figures, too")
    parser.add_argument("--plot", type=Path, help="where to draw them (SVG)")
    parser.add_argument("--read", type=Path, nargs="+", help="measure nothing: read the figures of earlier runs")
    options = parser.parse_args()
    if options.read:
        results = [Growth(**line) for path in options.read for line in json.loads(path.read_text())]
    else:
        results = _run(options)
    print(table(results) + "\n")
    if not options.read:
        print(f"{machine(Engine.version)}.")
    if options.plot:
        options.plot.write_text(draw([asdict(result) for result in results]))
    return 0 if all(result.sound for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
