"""What the Sentinels say of the primary and of each other, then what the primary and its replicas say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from redis import exceptions

from presence.addresses import Address, RedisUrl
from presence.examination.asking import SENTINEL_MODE, Replies, ask, fields_of, look_at_replicas, sort_out
from presence.examination.server import Part, examine_server
from presence.findings import Findings, Problem, refusal
from presence.keys import Keys
from presence.settings import Settings
from presence.topology import connection_options

ENOUGH = 3  # fewer cannot agree once one of them is gone

_LOGIN = (
    "the Sentinels have a user and password of their own: put them, percent-encoded, behind "
    "PRESENCE_REDIS_URL as ?sentinel_user=USER&sentinel_password=PASSWORD"
)
_SILENT = (
    "start it, or correct PRESENCE_REDIS_URL (the port of Sentinels is 26379); look at firewalls and, for "
    "rediss+sentinel://, at certificates"
)
_GONE = (
    "start it; if the Sentinels name an address that cannot be reached from here, set replica-announce-ip and "
    "replica-announce-port there"
)


async def examine_sentinels(settings: Settings, url: RedisUrl, keys: Keys, findings: Findings) -> None:
    """Ask all Sentinels of the address, then the primary that a node would follow, then its replicas."""
    name = url.name

    def judge(error: Exception, address: Address) -> Problem:
        problem = refusal(error, str(address), settings.key_prefix)
        return dataclasses.replace(problem, advice=_LOGIN) if problem.name == "auth" else problem

    answers = await ask(
        connection_options(url.sentinel_plain),
        url.seeds,
        ("INFO", "server"),
        ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name),
        ("SENTINEL", "REPLICAS", name),
        ("SENTINEL", "CKQUORUM", name),
        ("SENTINEL", "MASTERS"),
    )
    fit = sort_out(
        answers, findings, mode=SENTINEL_MODE, silent="sentinels_unreachable", if_silent=_SILENT, judge=judge
    )
    views = _views(fit, name, findings)
    if not views:
        return
    _judge_number(views, len(url.seeds), findings)
    primary = _primary(views, name, findings)
    _judge_quorum(views, name, findings)
    options = connection_options(url.plain)
    found = Findings()
    await examine_server(settings, keys, options, primary, found, Part(if_unreachable=_GONE))
    findings.merge({str(primary): found})
    if "replica" in found.names():
        return  # whoever follows whom is just changing
    known = {replica for view in views.values() for replica in view.replicas if replica != primary}
    if known:
        await look_at_replicas(options, sorted(known), findings, settings.key_prefix)
    else:
        what = f"{primary} has no replica: when it fails, presence stands still until it is back"
        findings.add("no_replica", what, "give it at least one replica; the Sentinels find it", fatal=False)


@dataclasses.dataclass(frozen=True)
class _View:
    """What one Sentinel says of the primary with our name."""

    primary: Address
    state: Mapping[str, str]
    replicas: list[Address]
    quorum: Any  # text, or why not

    @property
    def epoch(self) -> int:
        return int(self.state.get("config-epoch", 0))


def _views(fit: Mapping[Address, Replies], name: str, findings: Findings) -> dict[Address, _View]:
    views, names, strangers = {}, set(), []
    for address, (_, place, replicas, quorum, primaries) in fit.items():
        known = {state["name"]: state for state in map(fields_of, primaries)}
        names |= set(known)
        if name not in known or not place or isinstance(place, Exception):
            strangers.append(str(address))
            continue
        rows = [] if isinstance(replicas, Exception) else [fields_of(row) for row in replicas]
        places = [Address(row["ip"], int(row["port"])) for row in rows]
        views[address] = _View(Address(place[0], int(place[1])), known[name], places, quorum)
    if strangers:
        told = ", ".join(sorted(names)) or "no name at all"
        findings.add(
            "unknown_name",
            f"{', '.join(strangers)}: no primary has the name {name!r} there; the Sentinels know: {told}",
            "end PRESENCE_REDIS_URL in /NAME with one of these names, or `sentinel monitor NAME …` on each Sentinel",
            fatal=not views,
        )
    return views


def _judge_number(views: Mapping[Address, _View], named: int, findings: Findings) -> None:
    there = max(int(view.state.get("num-other-sentinels", 0)) for view in views.values()) + 1
    if there < ENOUGH:
        findings.add(
            "few_sentinels",
            f"there {'is one Sentinel' if there == 1 else f'are {there} Sentinels'}: once one is lost, no failover",
            "run at least 3, on machines that do not fail together",
            fatal=False,
        )
    if named < min(there, ENOUGH):
        findings.add(
            "sentinels_unnamed",
            f"PRESENCE_REDIS_URL names {named} of {there} Sentinels: nodes ask no others",
            "name all of them, by comma",
            fatal=False,
        )


def _primary(views: Mapping[Address, _View], name: str, findings: Findings) -> Address:
    """The address that a node would follow: the one of the latest failover."""
    primary = max((view.epoch, view.primary) for view in views.values())[1]
    if all(view.primary == primary for view in views.values()):
        who = "Sentinel says" if len(views) == 1 else "Sentinels agree:"
        findings.good(f"{len(views)} {who} {primary} is the primary of {name}")
        return primary
    said = "; ".join(f"{address} says {view.primary}" for address, view in views.items())
    findings.add(
        "sentinels_disagree",
        f"the Sentinels name different primaries of {name!r}: {said}",
        "wait for the end of a failover that is going on; if it stays, see that they watch the same primary and hear "
        "each other, then `SENTINEL REMOVE NAME` and `SENTINEL MONITOR NAME …` on those that are wrong",
    )
    return primary


def _judge_quorum(views: Mapping[Address, _View], name: str, findings: Findings) -> None:
    lacking = {a: view.quorum for a, view in views.items() if isinstance(view.quorum, Exception)}
    unseen = [a for a, error in lacking.items() if isinstance(error, exceptions.NoPermissionError)]
    for address in unseen:
        del lacking[address]
    if unseen:
        what = f"{', '.join(map(str, unseen))}: this user may not ask whether the quorum is reachable"
        findings.add("no_info", what, "allow it +sentinel|ckquorum, or ask yourself", fatal=False)
    if lacking:
        said = "; ".join(f"{address}: {error}" for address, error in lacking.items())
        findings.add(
            "no_quorum",
            f"a failover of {name!r} would not be agreed upon: {said}",
            "start the Sentinels that are down, see that they reach each other, and set the quorum to their majority",
            fatal=len(lacking) == len(views),
        )
    elif not unseen:
        findings.good("the Sentinels reach the quorum that a failover needs")
