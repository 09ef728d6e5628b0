"""Asking many servers at once: each answer comes within two seconds, and what fails is an answer too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any

import redis.asyncio
from redis import exceptions

from presence.addresses import Address
from presence.findings import Findings, Problem, refusal
from presence.topology import make_client

TIMEOUT_S = 2.0
AT_ONCE = 8
STANDALONE_MODE, SENTINEL_MODE, CLUSTER_MODE = "standalone", "sentinel", "cluster"

KINDS = {STANDALONE_MODE: "a Redis of its own", SENTINEL_MODE: "a Sentinel", CLUSTER_MODE: "a server of a Cluster"}

_FAILURES = (exceptions.RedisError, OSError, TimeoutError, ValueError)
Replies = list[Any]  # one for each command; an exception where it was refused


def connect(options: dict[str, Any], address: Address) -> redis.asyncio.Redis:
    """A client of that server that answers in text and never tries twice."""
    place = {"host": address.host, "port": address.port} if address.port else {}
    return make_client(options | place | {"decode_responses": True}, TIMEOUT_S)


async def ask(
    options: dict[str, Any], addresses: Iterable[Address], *commands: tuple[str, ...]
) -> dict[Address, Replies | Exception]:
    """What each server replies; an exception where it cannot be reached or refuses the last, the main command."""
    asked = list(addresses)
    answers = await together([partial(_ask, options, address, commands) for address in asked])
    return dict(zip(asked, answers, strict=True))


async def together(jobs: Iterable[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """Results of all, of which a few run at a time: more would only measure themselves."""
    room = asyncio.Semaphore(AT_ONCE)

    async def run(job: Callable[[], Awaitable[Any]]) -> Any:
        async with room:
            return await job()

    return await asyncio.gather(*(run(job) for job in jobs))


def sort_out(
    answers: Mapping[Address, Replies | Exception],
    findings: Findings,
    *,
    mode: str,
    silent: str,
    if_silent: str,
    judge: Callable[[Exception, Address], Problem],
) -> dict[Address, Replies]:
    """Replies of those that answer and run in this mode; `silent` and `if_silent` warn of the others."""
    fit, others, problems = {}, {}, []
    for address, answer in answers.items():
        if isinstance(answer, Exception):
            problems.append(judge(answer, address))
        elif mode_of(answer[0]) not in (mode, ""):
            others[address] = mode_of(answer[0])
        elif isinstance(answer[-1], Exception):
            problems.append(judge(answer[-1], address))
        else:
            fit[address] = answer
    if others:
        kinds = " and ".join(dict.fromkeys(KINDS.get(other, other) for other in others.values()))
        address, other = next(iter(others.items()))
        advice = f"take it out of PRESENCE_REDIS_URL; if it is what you want, write {_example(other, str(address))}"
        what = f"{', '.join(map(str, others))}: {kinds}, not {KINDS[mode]}"
        findings.add("wrong_mode", what, advice, fatal=not fit)
    for name in dict.fromkeys(problem.name for problem in problems):
        alike = [problem for problem in problems if problem.name == name]
        what = "; ".join(problem.what for problem in alike)
        advice = if_silent if name == "unreachable" else alike[0].advice
        findings.add(silent if fit else name, what, advice, fatal=not fit)
    return fit


async def look_at_replicas(
    options: dict[str, Any], replicas: Iterable[Address], findings: Findings, prefix: str, down: Iterable[str] = ()
) -> None:
    """Whether each could take over: it answers us, follows its primary and does not evict. All of it is advice."""
    behind, evicting, fine = list(down), [], 0
    for address, answer in (await ask(options, replicas, ("INFO",))).items():
        if isinstance(answer, exceptions.NoPermissionError):
            continue  # the primary says the same
        if isinstance(answer, Exception):
            behind.append(refusal(answer, str(address), prefix).what)
            continue
        info = answer[0]
        if info.get("role") == "master":
            behind.append(f"{address} is a primary itself")
        elif info.get("master_link_status") != "up":
            behind.append(f"{address} is not in step: its link to the primary is down")
        else:
            fine += 1
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            evicting.append(f"{address} ({policy})")
    if behind:
        advice = (
            "start it, or see its log; a failover may choose nobody else, or nobody. Of a replica that is no more: "
        )
        advice += "SENTINEL RESET NAME, or CLUSTER FORGET"
        findings.add("replicas", "; ".join(behind), advice, fatal=False)
    if evicting:
        what = f"replicas would evict members once they are primaries: {', '.join(evicting)}"
        findings.add("replica_evicts", what, "CONFIG SET maxmemory-policy noeviction on them too", fatal=False)
    if fine:
        findings.good(f"{fine} replica{'s' if fine > 1 else ''} in step")


async def right_address(client: redis.asyncio.Redis, mode: str, address: str) -> str:
    """Advice for a server that turned out to run in this mode; a Sentinel is asked for the names it knows."""
    if mode != SENTINEL_MODE:
        return f"write {_example(mode, address)}"
    try:
        known = names_of(await client.execute_command("SENTINEL", "MASTERS"))  # type: ignore[no-untyped-call]
    except _FAILURES:
        known = []
    names = f"; it knows {', '.join(known)}" if known else ""
    return f"write {_example(mode, address)}{names}"


def names_of(primaries: Any) -> list[str]:
    """Names in a reply to SENTINEL MASTERS."""
    return sorted(fields_of(primary)["name"] for primary in primaries)


def fields_of(pairs: list[str]) -> dict[str, str]:
    """Names and values that a reply holds in turn."""
    return dict(zip(pairs[::2], pairs[1::2], strict=True))


def mode_of(info: Any) -> str:
    """How the server runs; empty if it would not say."""
    if not isinstance(info, dict):
        return ""
    return str(info.get("redis_mode") or info.get("server_mode") or STANDALONE_MODE)


def _example(mode: str, address: str) -> str:
    place = "host:port" if "/" in address else address  # a unix socket's path
    if mode == CLUSTER_MODE:
        return f"redis+cluster://{place} (with TLS rediss+cluster://), and more of its servers by comma"
    if mode == SENTINEL_MODE:
        return f"redis+sentinel://{place}/NAME (with TLS rediss+sentinel://), and all its Sentinels by comma"
    return f"redis://{place}/0 (with TLS rediss://)"


async def _ask(options: dict[str, Any], address: Address, commands: tuple[tuple[str, ...], ...]) -> Replies | Exception:
    client = connect(options, address)
    try:
        pipeline = client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        async with asyncio.timeout(TIMEOUT_S):
            replies: Replies = await pipeline.execute(raise_on_error=False)
    except _FAILURES as error:
        return error
    finally:
        await client.aclose()
    return replies[-1] if all(isinstance(reply, Exception) for reply in replies) else replies
