"""What a deployment needs, by the formulas and figures of docs/capacity.md.

    python tests/bench/growth_capacity.py --members 100000,1000000,10000000 --ttl-s 30 --stay-s 1800

Members in one channel each. Measures nothing: change `Costs` after measuring on machines of your own.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass

TICK_S = 0.005  # a node sends the heartbeats of so long in one call for each partition
SWEEPS_PER_S = 20


@dataclass(frozen=True)
class Costs:
    """Processor time in µs, of Redis unless it says of a node; sizes in bytes. Sources: docs/capacity.md."""

    heartbeat: float = 15.2
    enter: float = 54.6 + 75.2  # connect, record and join
    expiry: float = 127
    message: float = 37.2
    fan_out: float = 3.5  # an event, for each node that reads it
    sweep: float = 40  # a call that finds that another node has just swept
    node_idle_share: float = 0.04
    node_heartbeat: float = 1e6 / 14_834
    node_enter: float = 1e6 / 1017
    node_delivery: float = 1e6 / 25_782
    node_event: float = 15
    member_bytes: float = 983 + 409  # with the record of its session
    event_bytes: float = 849 / 9
    connection_bytes: float = 5.2 * 1024


@dataclass(frozen=True)
class Question:
    """How much there is to do. `busy`: how much of a core may be used."""

    members: int
    ttl_s: float = 30
    stay_s: float = 1800
    channel_size: int = 100
    messages_per_s: float = 0
    connections: int = 10_000
    partitions: int = 16
    history: int = 1000
    busy: float = 0.5


@dataclass(frozen=True)
class Answer:
    """What it takes."""

    question: Question
    heartbeats_per_s: float
    events_per_s: float
    nodes: int
    node_share: float  # of a core, each node
    node_gib: float
    redis_cores: float
    sweep_cores: float  # of those
    fan_out_cores: float  # of those
    primaries: int
    gib: float

    @property
    def possible(self) -> bool:
        """Whether it fits at all: no node must be busy with reading alone, and no primary be without a partition."""
        return self.node_share <= self.question.busy and self.primaries <= self.question.partitions


def answer(question: Question, costs: Costs) -> Answer:
    """The fewest nodes that hold the connections and are not too busy, and the primaries that they need."""
    members = question.members
    beats, arrivals = 3 * members / question.ttl_s, members / question.stay_s
    events = 2 * arrivals + question.messages_per_s
    shared = beats * costs.node_heartbeat + arrivals * costs.node_enter
    shared += events * question.channel_size * costs.node_delivery
    own = costs.node_idle_share + events * costs.node_event / 1e6  # every node has this, however many there are
    nodes = math.ceil(members / question.connections)
    if own < question.busy:
        nodes = max(nodes, math.ceil(shared / 1e6 / (question.busy - own)))
    sweeps = nodes * question.partitions * SWEEPS_PER_S * costs.sweep / 1e6
    fan_out = nodes * events * costs.fan_out / 1e6
    rest = beats * costs.heartbeat + arrivals * (costs.enter + costs.expiry) + question.messages_per_s * costs.message
    cores = sweeps + fan_out + rest / 1e6
    kept = members / question.channel_size * question.history * costs.event_bytes
    return Answer(
        *(question, beats, events, nodes, own + shared / 1e6 / nodes),
        members / nodes * costs.connection_bytes / 2**30,
        *(cores, sweeps, fan_out, math.ceil(cores / question.busy)),
        (members * costs.member_bytes + kept) / 2**30,
    )


def table(answers: list[Answer]) -> str:
    """All lines as Markdown."""
    head = "members", "connections a node, at most", "heartbeats/s", "events/s", "nodes", "each of a core"
    head += (
        "GiB each for connections",
        "cores of Redis",
        "of that sweeps",
        "of that fan-out",
        "primaries",
        "GiB in Redis",
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for one in answers:
        question = one.question
        cells = [f"{question.members:,}", f"{question.connections:,}", f"{one.heartbeats_per_s:,.0f}"]
        cells += [f"{one.events_per_s:,.0f}", f"{one.nodes:,}", f"{100 * one.node_share:.0f} %", f"{one.node_gib:.2f}"]
        cells += [f"{value:.1f}" for value in (one.redis_cores, one.sweep_cores, one.fan_out_cores)]
        cells += [f"{one.primaries}" if one.possible else f"{one.primaries} (does not fit)", f"{one.gib:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", default="100000,1000000,10000000", help="concurrent members, by comma")
    parser.add_argument("--ttl-s", type=float, default=30, help="three heartbeats")
    parser.add_argument("--stay-s", type=float, default=1800, help="how long a member stays, on average")
    parser.add_argument("--channel-size", type=int, default=100, help="members of a channel")
    parser.add_argument("--messages-per-s", type=float, default=0, help="besides joins and leaves, all together")
    parser.add_argument("--connections", type=int, default=10_000, help="PRESENCE_MAX_CONNECTIONS")
    parser.add_argument("--partitions", type=int, default=16, help="PRESENCE_PARTITIONS")
    parser.add_argument("--history", type=int, default=1000, help="events that a channel has in its history")
    parser.add_argument("--busy", type=float, default=0.5, help="how much of a core may be used")
    options = vars(parser.parse_args())
    sizes = [int(text) for text in options.pop("members").split(",")]
    print(table([answer(Question(size, **options), Costs()) for size in sizes]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
