"""What many nodes cost Redis: its processor time with 1, 2, 4 and 8 nodes that all sweep.

    python tests/bench/nodes.py --nodes 1,2,4,8

Idle by the second; then by the heartbeat, the expiry and the message, each as what more of them cost a Redis that has
500 heartbeats a second anyway: one that sleeps and wakes for each call pays more for everything, and beside idle a
little work looks cheaper than it is. The nodes are real processes; heartbeats are sent from here through as many
connections, batched by the 5 ms as each node would batch its own. Nobody watches the channels. The last column tells
whether the machine was full: nodes that get no processor sweep less, and the figures before it are then too small.
Prints a Markdown table; about a minute and a quarter for each number of nodes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started as a program, `tests` is not on the path

from presence.keys import entry
from presence.tracker import Tracker
from tests.bench.growth_engine import TOPOLOGIES, Engine, cpu_of, engine, nodes, tracker, usage_over
from tests.bench.offline_lag import machine, say
from tests.support.node import Node

NUMBER = "1"  # of the only connection that each session ever has
LONG_MS = 3_600_000
SETTLE_S = 4.0  # after the start: by then nothing is held back any more
TICK_S = 0.005
AT_ONCE = 500
ROOM = 100


@dataclass(frozen=True)
class Load:
    """How much is asked of Redis, and for how long each."""

    live: int = 20_000
    window_s: float = 10.0
    beats_per_s: int = 500
    expiries_per_s: int = 300
    messages_per_s: int = 300


@dataclass
class Cost:
    """One line of the table: processor time of Redis. `busy_percent`: with Load.beats_per_s."""

    nodes: int
    topology: str
    idle_percent: float
    scripts_per_s: float
    script_us: float
    node_percent: float
    busy_percent: float = 0.0
    per_beat_us: float = 0.0
    per_expiry_us: float = 0.0
    per_message_us: float = 0.0
    least_scripts_per_s: float = float("inf")


async def measure(count: int, topology: str, load: Load) -> Cost:
    """Cost with so many nodes, on a deployment of their own."""
    with engine(topology) as place:
        async with AsyncExitStack() as ends:
            trackers = [await ends.enter_async_context(tracker(place)) for _ in range(count)]
            await _join(trackers[0], "live", [LONG_MS] * load.live)
            with nodes(place, count) as running:
                await asyncio.sleep(SETTLE_S)
                cost = await _idle(place, running, topology, load)
                cost.busy_percent = 100 * await _busy(place, trackers, cost, load, load.beats_per_s)
                twice = await _busy(place, trackers, cost, load, 2 * load.beats_per_s)
                cost.per_beat_us = (twice - cost.busy_percent / 100) / load.beats_per_s * 1e6
                talking = await _busy(place, trackers, cost, load, load.beats_per_s, load.messages_per_s)
                cost.per_message_us = (talking - cost.busy_percent / 100) / load.messages_per_s * 1e6
                cost.per_expiry_us = await _expiries(place, trackers, cost, load)
                return cost


async def _idle(place: Engine, running: list[Node], topology: str, load: Load) -> Cost:
    before = [cpu_of(node.process.pid) for node in running]
    used = await usage_over(place, load.window_s)
    own_s = [cpu_of(node.process.pid) - start for node, start in zip(running, before, strict=True)]
    return Cost(
        len(running),
        topology,
        idle_percent=100 * used.total_s / load.window_s,
        scripts_per_s=used.scripts / load.window_s,
        script_us=1e6 * used.script_s / used.scripts,
        node_percent=100 * sum(own_s) / load.window_s / len(own_s),
    )


async def _busy(
    place: Engine,
    trackers: list[Tracker],
    cost: Cost,
    load: Load,
    beats_per_s: int,
    messages_per_s: int = 0,
    window_s: float = 0,
) -> float:
    """Share of a core that Redis uses with so many a second, evenly over the window and the nodes."""
    window_s = window_s or load.window_s
    before, started_s = place.usage(), time.monotonic()
    beats: list[asyncio.Future[list[str]]] = []
    messages: list[asyncio.Future[str]] = []
    while (passed_s := time.monotonic() - started_s) < window_s:
        for number in range(len(beats), int(passed_s * beats_per_s)):
            session = number % load.live
            own = trackers[session % len(trackers)]
            item = own.keys.partition(_channel("live", session)), _entry("live", session), NUMBER, LONG_MS
            beats.append(asyncio.ensure_future(own.heartbeats.refresh([item])))
        for number in range(len(messages), int(passed_s * messages_per_s)):
            channel = _channel("live", number * ROOM % load.live)
            own = trackers[number % len(trackers)]
            messages.append(asyncio.ensure_future(own.publish(channel, "bench", '{"text":"hello"}', user="user-0")))
        await asyncio.sleep(TICK_S / 5)
    words = {word for reply in beats for word in await reply}
    assert words <= {"ok"}, words
    await asyncio.gather(*messages)
    used, passed_s = place.usage() - before, time.monotonic() - started_s
    cost.least_scripts_per_s = min(cost.least_scripts_per_s, used.scripts / passed_s)
    return used.total_s / passed_s


async def _expiries(place: Engine, trackers: list[Tracker], cost: Cost, load: Load) -> float:
    """µs for each of the sessions that lapse evenly over the time, in channels of a hundred."""
    total, lead_s = int(load.expiries_per_s * load.window_s), 4.0
    ttls_ms = [int(1000 * (lead_s + number / load.expiries_per_s)) for number in range(total)]
    await _join(trackers[0], "gone", ttls_ms)
    window_s = lead_s + load.window_s + 1
    used = await _busy(place, trackers, cost, load, load.beats_per_s, window_s=window_s) - cost.busy_percent / 100
    assert not place.client.exists(trackers[0].keys.roster(_channel("gone", total - 1))), "some did not expire in time"
    return used * window_s / total * 1e6


async def _join(by: Tracker, name: str, ttls_ms: list[int]) -> None:
    for start in range(0, len(ttls_ms), AT_ONCE):
        part = range(start, min(len(ttls_ms), start + AT_ONCE))
        await asyncio.gather(
            *(
                by.join(_channel(name, at), f"user-{at}", f"session-{at}", NUMBER, ttl_ms=ttls_ms[at], show=False)
                for at in part
            )
        )


def _channel(name: str, number: int) -> str:
    return f"{name}-{number // ROOM}"


def _entry(name: str, number: int) -> str:
    return entry(_channel(name, number), f"user-{number}", f"session-{number}")


def table(costs: list[Cost]) -> str:
    """All lines as Markdown."""
    head = "nodes", "topology", "Redis idle, % of a core", "scripts/s idle", "µs in a script idle", "a node idle, %"
    head += "Redis at 500 heartbeats/s, %", "µs a heartbeat", "µs an expiry", "µs a message", "scripts/s, least"
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for cost in costs:
        cells = [str(cost.nodes), cost.topology, f"{cost.idle_percent:.1f}", f"{cost.scripts_per_s:,.0f}"]
        cells += [f"{cost.script_us:.1f}", f"{cost.node_percent:.1f}", f"{cost.busy_percent:.1f}"]
        cells += [f"{value:.0f}" for value in (cost.per_beat_us, cost.per_expiry_us, cost.per_message_us)]
        cells.append(f"{cost.least_scripts_per_s:,.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", default="1,2,4,8", help="numbers of nodes, by comma")
    parser.add_argument("--on", choices=TOPOLOGIES, default="standalone")
    parser.add_argument("--window-s", type=float, default=10.0, help="length of each of the measurements")
    parser.add_argument("--live", type=int, default=20_000, help="sessions that are there all the time")
    parser.add_argument("--json", type=Path, help="where to write the figures, too")
    options = parser.parse_args()
    costs = []
    for count in (int(text) for text in options.nodes.split(",")):
        say(f"{count} nodes")
        costs.append(asyncio.run(measure(count, options.on, Load(options.live, options.window_s))))
        say("so far:\n" + table(costs))
    if options.json:
        options.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=1))
    print(f"{table(costs)}\n\n{machine(Engine.version)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
