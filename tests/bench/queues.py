"""What queues cost: Redis's processor time for one announced event, without a queue, with idle ones, and with a worker.

    python tests/bench/queues.py [--events 20000] [--rounds 5] [--other FOLDER]

Each round measures every case once, in turn, on one Redis; the table has the medians and their ratio to the first case.
`--other` is the folder `presence/lua` of another version, whose `publish.lua` is the first case then: so that a change
can be compared with what was before it. Prints a Markdown table; half a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import statistics
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started as a program, `tests` is not on the path

from presence.addresses import parse_redis_url
from presence.announcing import announcing
from presence.keys import Keys
from presence.lanes import Lanes
from presence.lua import PARTS, Scripts
from presence.metrics import Metrics
from presence.queues import Queue, Queues
from presence.settings import Settings
from presence.topology import make_topology
from presence.tracker import Tracker
from tests.bench.growth_engine import Engine, engine
from tests.bench.offline_lag import machine

ROOMS = 100
AT_ONCE = 200
TAKEN = 100

Publish = Callable[[str], Awaitable[object]]


class Case:
    """One way to have queues, or none."""

    def __init__(self, name: str, publish: Publish, queues: Queues | None = None, idle: int = 0) -> None:
        self.name = name
        self.publish = publish
        self.queues = queues
        self.idle = idle
        self.us: list[float] = []

    async def run(self, events: int, cpu_s: Callable[[], float]) -> None:
        """Publish, and work the queue off where there is a worker; note the time of Redis for each event."""
        for number in range(self.idle):
            assert self.queues
            await self.queues.put(f"q{number}", Queue(), from_start=False)
        before = cpu_s()
        for at in range(0, events, AT_ONCE):
            await asyncio.gather(*(self.publish(f"room-{(at + n) % ROOMS}") for n in range(AT_ONCE)))
        if self.queues and not self.idle:
            await self._work(self.queues)
        self.us.append(1e6 * (cpu_s() - before) / events)
        for number in range(self.idle):
            assert self.queues
            await self.queues.drop(f"q{number}")

    async def _work(self, queues: Queues) -> None:
        while events := (await queues.take("worked", "w", TAKEN, 60_000))[0]:
            await queues.settle("worked", "w", "ack", [event["id"] for event in events])


async def run(options: argparse.Namespace) -> None:
    with engine("standalone") as place:
        settings = Settings()
        url = parse_redis_url(place.url)
        keys = Keys("bench", settings.partitions)
        topology = make_topology(url, [keys.script(0)[0]])
        await topology.start()
        lanes = Lanes(topology)
        scripts = Scripts(lanes)
        tracker = Tracker(scripts, keys, settings, "bench", Metrics())
        queues = Queues(scripts, keys, Metrics())

        async def publish(room: str) -> object:
            return await tracker.publish(room, "news", '{"n":1}')

        cases = [
            Case("no queue", publish),
            Case("one queue, nobody works", publish, queues, 1),
            Case("five queues, nobody works", publish, queues, 5),
        ]
        if options.other:
            cases.insert(0, Case("no queue, the other version", _other(Path(options.other), lanes, keys, settings)))

        def cpu_s() -> float:
            used = place.client.info("cpu")
            return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])

        for _ in range(options.rounds):
            for case in cases:
                await case.run(options.events, cpu_s)
        await queues.put("worked", Queue(), from_start=False)
        worked = Case(f"one queue, taken and acknowledged by {TAKEN}", publish, queues)
        for _ in range(options.rounds):
            await worked.run(options.events, cpu_s)
        _show([*cases, worked], options)
        await lanes.close()
        await topology.stop()


def _other(folder: Path, lanes: Lanes, keys: Keys, settings: Settings) -> Publish:
    """`publish` by the scripts of that folder; their second argument was a plain number once."""
    parts = [part for part in ("_prelude", *PARTS["publish"], "publish") if (folder / f"{part}.lua").exists()]
    text = "\n".join((folder / f"{part}.lua").read_text("utf-8") for part in parts)
    digest = hashlib.sha1(text.encode()).hexdigest()
    plain = "FEED_KEPT" not in text

    async def publish(room: str) -> object:
        partition = keys.partition(room)
        history_ms, feed, bus = announcing(settings, keys, partition)
        arguments = (history_ms, feed.split()[0] if plain else feed, bus, room, '"news"', '{"n":1}', "", "", "", "", 0)
        tail = (2, *keys.script(partition), *arguments)
        guard = keys.script(partition)[0]
        return await lanes.send(guard, "EVALSHA", digest, *tail, fallback=("EVAL", text, *tail))

    return publish


def _show(cases: list[Case], options: argparse.Namespace) -> None:
    print(f"{machine(Engine.version)}; {options.events} events a round, median of {options.rounds}\n")
    print("| case | µs of Redis an event | ratio |\n|---|---|---|")
    first = statistics.median(cases[0].us)
    for case in cases:
        median = statistics.median(case.us)
        print(f"| {case.name} | {median:.1f} | {median / first:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--other", default="")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
