"""Where the walls are: what one node can read from its buses, what one command costs Redis, what one member fills.

    python tests/bench/walls.py

Events: another process floods the buses, and the clock stops when a client at the node has the last message, so what is
counted is what the node keeps up with, whoever watches. Commands: Redis's processor time for
each, by INFO. Prints Markdown tables; about two minutes. Needs two free cores: a node and Redis both use one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started as a program, `tests` is not on the path

from tests.bench.growth_engine import Engine, cpu_of, engine, nodes
from tests.bench.offline_lag import machine, say
from tests.bench.stand import PARTITIONS, PREFIX
from tests.bench.walls_commands import Command, commands, fan_out, member_bytes
from tests.bench.walls_flood import END, channel_of
from tests.support import tokens
from tests.support.clients.websocket import open_socket
from tests.support.node import ROOT, Node

DATA_BYTES = 60
PATIENCE_S = 60.0
UNWATCHED = 1000  # channels that the messages are spread over if nobody watches
SEQ = re.compile(r'"seq":')


@dataclass(frozen=True)
class Reading:
    """How many events a node read: `watched` channels with one client in each, 0 if nobody watches."""

    watched: int
    events: int
    events_per_s: float
    cpu_us: float  # of the node, an event
    redis_per_s: float  # what Redis passed on: the node was the slower one if this is more
    delivered: int


async def read_events(watched: int, count: int) -> Reading:
    """Flood one node's buses; one client watches these channels, and one more the end."""
    with (
        engine("standalone") as place,
        nodes(place, 1) as (node,),
        _flood(place, watched or UNWATCHED, count) as process,
    ):
        client = await _Watcher.open(node, "watcher", [channel_of(number, watched) for number in range(watched)])
        end = await _Watcher.open(node, "timekeeper", [END])
        await asyncio.sleep(2)
        before_s, started_s = cpu_of(node.process.pid), time.monotonic()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        async with asyncio.timeout(PATIENCE_S):
            await end.at_least(1)
        passed_s = time.monotonic() - started_s
        await client.at_least(count - 1 if watched else 0, within_s=1.0)
        cpu_us = 1e6 * (cpu_of(node.process.pid) - before_s) / count
        taken_s = float(process.stdout.readline())
        for watcher in (client, end):
            await watcher.close()
        return Reading(watched, count, count / passed_s, cpu_us, count / taken_s, client.events)


@contextmanager
def _flood(place: Engine, channels: int, count: int) -> Iterator[subprocess.Popen[str]]:
    flags = {"port": place.servers[0].port, "prefix": PREFIX, "partitions": PARTITIONS, "channels": channels}
    words = [f"--{name}={value}" for name, value in {**flags, "count": count, "bytes": DATA_BYTES}.items()]
    command = [sys.executable, "-m", "tests.bench.walls_flood", *words]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


class _Watcher:
    """A client that counts events and decodes nothing: it must not be the one that is slow."""

    def __init__(self, socket: object) -> None:
        self._socket = socket
        self.events = 0
        self.lost = ""
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, node: Node, user: str, channels: list[str]) -> _Watcher:
        """Observe these channels."""
        bearer = tokens.bearer(tokens.make_token(user))
        socket = await open_socket(node.ws_url, {"session": "watcher-of-the-flood"}, bearer)
        await socket.recv()
        for number, channel in enumerate(channels):
            await socket.send(json.dumps({"type": "join", "channel": channel, "as": "observer", "id": number}))
            assert '"joined"' in str(await socket.recv())
            await asyncio.sleep(0.025)  # a connection may send 50 commands a second
        return cls(socket)

    async def at_least(self, events: int, within_s: float = PATIENCE_S) -> None:
        """Wait until so many have come, or time is up."""
        ends = time.monotonic() + within_s
        while self.events < events and not self._reader.done() and time.monotonic() < ends:
            await asyncio.sleep(0.001)

    async def close(self) -> None:
        """End the connection."""
        await self._socket.close()  # type: ignore[attr-defined]
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(self) -> None:
        async for text in self._socket:  # type: ignore[attr-defined]
            if '"type":"events"' in text[:20]:
                self.events += len(SEQ.findall(text))
            else:
                say(f"  a watcher was sent {text[:120]}")


def reading_table(readings: list[Reading]) -> str:
    """The middle one of the tries for each number of watched channels, as Markdown."""
    head = "channels watched, by one client", "events", "read/s", "µs of the node's time each", "Redis passed on/s"
    lines = [f"| {' | '.join((*head, 'delivered'))} |", "|---" * (len(head) + 1) + "|"]
    for watched in sorted({reading.watched for reading in readings}):
        tries = [reading for reading in readings if reading.watched == watched]
        middle = statistics.median_low(reading.events_per_s for reading in tries)
        one = next(reading for reading in tries if reading.events_per_s == middle)
        cells = [str(watched or "none"), f"{one.events:,}", f"{middle:,.0f}", f"{one.cpu_us:.0f}"]
        lines.append(f"| {' | '.join([*cells, f'{one.redis_per_s:,.0f}', f'{one.delivered:,}'])} |")
    return "\n".join(lines)


def command_table(found: list[Command]) -> str:
    """Redis's time for each, as Markdown."""
    lines = [
        "| command | µs of Redis's time | of that in the script | a second, at 100 % of a core |",
        "|---" * 4 + "|",
    ]
    for one in found:
        inside = f"{one.script_us:.1f}" if one.script_us else "–"
        lines.append(f"| {one.name} | {one.redis_us:.1f} | {inside} | {1e6 / one.redis_us:,.0f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=60_000, help="messages in one flood")
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--members", type=int, default=20_000, help="whose size and commands are measured")
    parser.add_argument("--json", type=Path, help="where to write the figures, too")
    options = parser.parse_args()
    readings = []
    for watched in (0, 1, 100):
        for _ in range(options.tries):
            say(f"{options.events:,} events, {watched or 'no'} channels watched")
            readings.append(asyncio.run(read_events(watched, options.events)))
            say(f"  {readings[-1]}")
    say(f"commands of {options.members:,} members")
    found = asyncio.run(commands(options.members)) + asyncio.run(fan_out())
    sizes = asyncio.run(member_bytes(options.members))
    if options.json:
        figures = {"events": [asdict(one) for one in readings], "commands": [asdict(one) for one in found]}
        options.json.write_text(json.dumps({**figures, "bytes": sizes}, indent=1) + "\n")
    print(f"{reading_table(readings)}\n\n{command_table(found)}\n")
    print(
        "\n".join(
            ["| a member | bytes in Redis |", "|---|---|", *(f"| {name} | {size:,.0f} |" for name, size in sizes)]
        )
    )
    print(f"\n{machine(Engine.version)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
