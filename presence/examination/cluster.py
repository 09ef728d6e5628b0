"""What a Cluster says of its slots and servers, then what each primary of this deployment and its replicas say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from redis.crc import key_slot

from presence.addresses import Address, RedisUrl
from presence.examination.asking import CLUSTER_MODE, Replies, ask, look_at_replicas, sort_out, together
from presence.examination.server import Part, examine_server
from presence.findings import Findings, refusal
from presence.keys import Keys
from presence.settings import Settings
from presence.topology import connection_options

SLOTS = 16_384
MOST_PARTITIONS = 1024
SHOWN = 10  # partitions in one line

_SILENT = (
    "start it, or name another server of the Cluster in PRESENCE_REDIS_URL; look at firewalls and, for "
    "rediss+cluster://, at certificates"
)
_GONE = (
    "start it; if the Cluster names an address that cannot be reached from here, set cluster-announce-ip or "
    "cluster-announce-hostname there"
)


async def examine_cluster(settings: Settings, url: RedisUrl, keys: Keys, findings: Findings) -> None:
    """Ask the servers of the address who has which slots, then every primary with a partition, then their replicas."""
    options = connection_options(url.plain)
    answers = await ask(
        options,
        url.seeds,
        ("INFO", "server"),
        ("COMMAND INFO", "SPUBLISH"),  # one word for the client library, which cannot read the reply to COMMAND
        ("CLUSTER", "INFO"),
        ("CLUSTER", "NODES"),
    )
    fit = sort_out(
        answers,
        findings,
        mode=CLUSTER_MODE,
        silent="seeds_unreachable",
        if_silent=_SILENT,
        judge=lambda error, address: refusal(error, str(address), settings.key_prefix),
    )
    if not fit:
        return
    _judge_sharding(fit, keys, findings)
    members = _judge_states(fit, findings)
    slots = {number: key_slot(keys.script(number)[0].encode()) for number in range(keys.partitions)}
    primaries = [member for member in members if member.spans and "fail" not in member.flags]
    _judge_slots(members, primaries, slots, findings)
    homes = {member: mine for member in primaries if (mine := [n for n, slot in slots.items() if member.has(slot)])}
    _judge_spread(settings, primaries, homes, findings)
    await _examine_primaries(settings, keys, options, homes, findings)
    await _examine_replicas(settings, options, members, homes, findings)


@dataclass(frozen=True)
class Member:
    """One line of CLUSTER NODES."""

    identity: str
    address: Address
    flags: frozenset[str]
    primary: str  # identity of the one that it follows
    spans: tuple[tuple[int, int], ...]  # slots, first and last

    def has(self, slot: int) -> bool:
        """Whether it claims the slot."""
        return any(low <= slot <= high for low, high in self.spans)


def members_of(text: str, asked: str) -> list[Member]:
    """Servers in a reply to CLUSTER NODES; `asked` is the host of whoever does not know its own yet."""
    members = []
    for word in map(str.split, text.splitlines()):
        flags = frozenset(word[2].split(",")) if len(word) >= 8 else frozenset({"noaddr"})
        if flags & {"noaddr", "handshake"}:
            continue
        place, _, rest = word[1].partition(",")
        host, _, port = place.partition("@")[0].rpartition(":")
        address = Address(rest.partition(",")[0] or host.strip("[]") or asked, int(port))
        spans = [span.partition("-") for span in word[8:] if not span.startswith("[")]
        pairs = tuple((int(low), int(high or low)) for low, _, high in spans)
        members.append(Member(word[0], address, flags, word[3], pairs))
    return members


def _judge_sharding(fit: Mapping[Address, Replies], keys: Keys, findings: Findings) -> None:
    """Take the way of announcing that nodes take: sharded channels if all servers know them."""
    unable = [str(address) for address, replies in fit.items() if replies[1] == [None]]
    keys.sharded = not unable
    if unable:
        findings.add(
            "not_sharded",
            f"{', '.join(unable)}: no sharded pub/sub (Redis before 7.0), so announcements reach every server",
            "upgrade to Redis 7.0 or Valkey: more primaries do not carry more announcements until then",
            fatal=False,
        )


def _judge_states(fit: Mapping[Address, Replies], findings: Findings) -> list[Member]:
    """Members in the view of the server that knows most; others may be cut off, or belong elsewhere."""
    views = {address: members_of(replies[-1], address.host) for address, replies in fit.items()}
    states = {address: _state(replies[2]) for address, replies in fit.items()}
    best = max(views, key=lambda address: (states[address][0] != "fail", states[address][1]))
    failed = [str(address) for address, (state, _) in states.items() if state == "fail"]
    if failed:
        findings.add(
            "cluster_down",
            f"{', '.join(failed)}: cluster_state is fail" + ("" if len(failed) == len(fit) else ", others say ok"),
            "see `redis-cli --cluster check`; bring back the primaries that are down, or what cuts this server off",
            fatal=len(failed) == len(fit),
        )
    own = {member.identity for member in views[best]}
    for address, view in views.items():
        if not own & {member.identity for member in view}:
            what = f"{address} and {best} belong to different Clusters: members would be kept in both"
            findings.add("two_clusters", what, "name servers of one Cluster only in PRESENCE_REDIS_URL")
    return views[best]


def _state(reply: Any) -> tuple[str, int]:
    """State and epoch, as far as this user may ask for them."""
    fields = {} if isinstance(reply, Exception) else dict(line.partition(":")[::2] for line in reply.split())
    return fields.get("cluster_state", ""), int(fields.get("cluster_current_epoch", 0))


def _judge_slots(
    members: Iterable[Member], primaries: Iterable[Member], slots: Mapping[int, int], findings: Findings
) -> None:
    served = {slot for member in primaries for low, high in member.spans for slot in range(low, high + 1)}
    lost = [number for number, slot in slots.items() if slot not in served]
    if len(served) == SLOTS:
        findings.good(f"{len(list(primaries))} primaries serve all {SLOTS} slots")
        return
    down = [str(member.address) for member in members if member.spans and "fail" in member.flags]
    whose = f" ({', '.join(down)}: down)" if down else ""
    some = ", ".join(map(str, lost[:SHOWN])) + (" …" if len(lost) > SHOWN else "")
    ours = f"and with them {len(lost)} of {len(slots)} partitions ({some})" if lost else "but no partition lies in them"
    advice = "bring back the primary that is down or a replica of it; give slots that nobody has to somebody: "
    advice += "`redis-cli --cluster fix`"
    what = f"{SLOTS - len(served)} of {SLOTS} slots are served by nobody{whose}, {ours}"
    findings.add("slots_missing", what, advice, fatal=bool(lost))


def _judge_spread(
    settings: Settings, primaries: list[Member], homes: Mapping[Member, list[int]], findings: Findings
) -> None:
    idle = [member for member in primaries if member not in homes]
    if not idle:
        return
    counts = [1 << power for power in range(MOST_PARTITIONS.bit_length()) if 1 << power > settings.partitions]
    enough = next((count for count in counts if _reaches_all(settings.key_prefix, count, primaries)), None)
    named = ", ".join(str(member.address) for member in idle)
    advice = "nothing if it is for others' data; a deployment keeps the number that it was started with"
    if enough:
        advice += f", a new one may set PRESENCE_PARTITIONS={enough}, with which each primary has one"
    what = f"{named}: none of the {settings.partitions} partitions, so it carries nothing of this deployment"
    findings.add("idle_primary", what, advice, fatal=False)


def _reaches_all(prefix: str, count: int, primaries: Iterable[Member]) -> bool:
    keys = Keys(prefix, count)
    slots = [key_slot(keys.script(number)[0].encode()) for number in range(count)]
    return all(any(member.has(slot) for slot in slots) for member in primaries)


async def _examine_primaries(
    settings: Settings,
    keys: Keys,
    options: dict[str, Any],
    homes: Mapping[Member, list[int]],
    findings: Findings,
) -> None:
    async def examine(member: Member) -> Findings:
        found = Findings()
        part = Part(CLUSTER_MODE, homes[member][0], _GONE)
        await examine_server(settings, keys, options, member.address, found, part)
        return found

    results = await together([partial(examine, member) for member in homes])
    parts = {str(member.address): found for member, found in zip(homes, results, strict=True)}
    if "cluster_down" in findings.names():
        for found in parts.values():
            found.problems = [problem for problem in found.problems if problem.name != "cluster_down"]
    findings.merge(parts)


async def _examine_replicas(
    settings: Settings,
    options: dict[str, Any],
    members: Iterable[Member],
    homes: Mapping[Member, list[int]],
    findings: Findings,
) -> None:
    served = {member.identity for member in homes}
    ours = [member for member in members if member.primary in served]
    alone = [str(m.address) for m in homes if not any(replica.primary == m.identity for replica in ours)]
    if alone:
        what = f"{', '.join(alone)}: without a replica; when it fails, its partitions stand still"
        findings.add("no_replica", what, "give each primary a replica: `redis-cli --cluster add-node`", fatal=False)
    down = [f"{member.address} is down, says the Cluster" for member in ours if "fail" in member.flags]
    alive = [member.address for member in ours if "fail" not in member.flags]
    await look_at_replicas(options, alive, findings, settings.key_prefix, down)
