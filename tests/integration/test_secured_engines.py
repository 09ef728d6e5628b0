"""Nodes on servers that are locked as docs/deploy.md says: its users with no more rights than it lists, and TLS."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest

from presence.check import diagnose
from presence.findings import Problem
from presence.settings import Settings
from tests.support.clients import TRANSPORTS
from tests.support.clients.base import CommandError
from tests.support.deployments import Engine, start_engine
from tests.support.node import Node
from tests.support.primaries import primary
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_lock import PASSWORDS, Lock, make_certificates, refusals
from tests.support.redis_sentinels import RedisSentinels
from tests.support.redis_server import RedisServer
from tests.support.stage import OwnStage
from tests.support.waiting import eventually, limited, run_async

pytestmark = pytest.mark.engines

PLAIN = [pytest.param(kind, marks=pytest.mark.long) for kind in ("sentinel", "cluster")]  # less of the same
KINDS = ["standalone-tls", "sentinel-tls", "cluster-tls", *PLAIN, "valkey"]
HEAL_S = 30.0
REFUSED_S = 2.0  # how long a node is watched that must not become ready
WRONG = "xw/rong"
COMPLAINTS = {"redis_unreachable", "redis_refused", "primary_unknown"}


def start_locked(kind: str, directory: Path) -> Engine:
    """The engine of that kind with the users of the documentation; Valkey is the packaged one, built without TLS."""
    lock = Lock(make_certificates(directory / "tls") if kind.endswith("-tls") else None)
    return start_engine(kind.removesuffix("-tls"), directory, lock)


@pytest.fixture(params=KINDS, scope="module")
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A locked engine that this module's tests leave as it is."""
    made = start_locked(request.param, tmp_path_factory.mktemp(request.param))
    yield made
    made.stop()


@pytest.fixture
def locked_stage(engine: Engine, nodes_on: Callable[..., list[Node]]) -> OwnStage:
    """Two nodes on the locked engine; what was refused before them is forgotten."""
    for server in _servers(engine):
        server.client().execute_command("ACL", "LOG", "RESET")
    return OwnStage(partial(nodes_on, engine.url, key_prefix="presence:test"), engine, 2, {})


@run_async
@limited(120)
async def test_nodes_need_no_more_rights_than_the_documentation_lists(locked_stage: OwnStage) -> None:
    stage = locked_stage
    assert stage.a.redis.count("***@") == 1
    watcher = await stage.watcher()
    for kind in TRANSPORTS:
        await stage.member(kind, stage.a, kind, state={"mood": "calm"})
    silent = await stage.member("websocket", stage.a, "silent")
    left = await stage.member("websocket", stage.a, "left")

    silent.freeze()
    await left.leave(stage.channel)
    await stage.message("hello")

    await watcher.event(stage.channel, "leave", user="left")
    await watcher.event(stage.channel, "leave", user="silent", reason="timeout")
    assert sorted(await stage.roster(node=stage.b)) == sorted(TRANSPORTS)
    await _ask_everything(stage)
    await watcher.event(stage.channel, "leave", user="sse", reason="disconnected")
    await eventually(lambda: _hears_expiries(stage, stage.b), what="the notifications of every primary")
    assert _refused(stage.redis) == []
    assert not _shown(stage.nodes)


@pytest.mark.parametrize(
    "engine", ["sentinel-tls", pytest.param("cluster-tls", marks=pytest.mark.long), *PLAIN], indirect=True
)
@run_async
@limited(120)
async def test_a_failover_needs_no_more_rights_than_the_documentation_lists(
    engine: RedisSentinels | RedisCluster, locked_stage: OwnStage
) -> None:
    stage = locked_stage
    watcher = await stage.watcher()
    stayed = await stage.member("websocket", stage.a, "stayed", ttl_ms=20_000)

    old = await eventually(lambda: primary(engine), HEAL_S)
    old.kill()
    await eventually(lambda: primary(engine) not in (None, old), HEAL_S, 0.1, what="a replica to take over")
    old.restart()  # in this thread, for it dies with the one that starts it

    await eventually(lambda: _follows(old), HEAL_S, 0.1, what="the old primary to follow the new one")
    await eventually(lambda: _sound(engine), HEAL_S, 0.2, what="nothing for the check to find")
    await eventually(lambda: _ready(stage), HEAL_S, 0.1, what="both nodes to be ready")
    came = await stage.connect("websocket", stage.b, "came")

    async def all_are_there() -> bool:  # Sentinels may think again, and ask for another failover
        await came.join(stage.channel)
        await stage.fence(watcher, stayed)  # by an event or, as a failover begins a new epoch, in a snapshot
        return sorted(await stage.roster()) == ["came", "stayed"]

    await eventually(lambda: _done(all_are_there()), HEAL_S, 0.2, what="who came and who stayed")
    await eventually(lambda: _sound(engine), HEAL_S, 0.2, what="nothing for the check to find")
    assert _refused(engine) == []
    assert not _shown(stage.nodes)


@pytest.mark.parametrize("engine", ["standalone-tls", "valkey"], indirect=True)
@run_async
async def test_a_locked_redis_reads_all_of_its_file_when_it_starts_again(
    engine: Engine, locked_stage: OwnStage
) -> None:
    stage = locked_stage
    stayed = await stage.member("websocket", stage.a, "stayed", ttl_ms=20_000)
    (server,) = _servers(engine)
    await eventually(lambda: _saved(server), what="the file to be on the disk")
    before = {key: server.client().dump(key) for key in server.client().scan_iter("*roster*")}

    server.pause()  # nodes must not write back what is lost
    server.kill()
    for node in stage.nodes:
        node.pause()
    server.restart()
    after = {key: server.client().dump(key) for key in before}
    for node in stage.nodes:
        node.resume()

    assert before
    assert after == before
    assert _refused(engine) == []
    await eventually(lambda: _ready(stage), HEAL_S, 0.1, what="both nodes to be ready")
    await eventually(lambda: _takes_messages(stage), HEAL_S, 0.1, what="the connections of before to be given up")
    await stage.fence(stayed)


async def _takes_messages(stage: OwnStage) -> bool:
    message = {"name": "back", "data": None}
    response = await stage.api("POST", "channels", stage.channel, "messages", json=message)
    return response.status == 200


def _saved(server: RedisServer) -> bool:
    info = server.client().info("persistence")
    return bool(info["aof_pending_bio_fsync"] == 0 and info["aof_buffer_length"] == 0)


def _follows(server: RedisServer) -> bool:
    return bool(server.client().info("replication").get("master_link_status") == "up")


async def _sound(engine: Engine) -> bool:
    found = await diagnose(_settings(as_check_user(engine.url)))
    assert not found, found
    return True


async def _ready(stage: OwnStage) -> bool:
    return all([(await stage.probe("/readyz", node=node)).status == 200 for node in stage.nodes])


async def _ask_everything(stage: OwnStage) -> None:
    """Every endpoint of a back end, for each has commands of its own."""
    member = ("channels", stage.channel, "members", "by-api")
    assert (await stage.ask("PUT", *member, json={"info": {"name": "x"}, "state": {}}))["joined"]
    beat = {"members": [{"channel": stage.channel, "user": "by-api"}]}
    assert (await stage.ask("POST", "heartbeats", json=beat))["results"] == ["refreshed"]
    assert (await stage.ask("GET", "channels", stage.channel))["count"] == len(TRANSPORTS) + 1
    assert (await stage.ask("GET", "channels", query={"prefix": stage.channel}))["channels"]
    assert (await stage.ask("GET", "users", "by-api"))["online"]
    assert (await stage.ask("POST", "users", "query", json={"users": ["by-api", "nobody"]}))["users"]
    assert (await stage.log(node=stage.b))[-1]["type"] == "join"
    assert (await stage.ask("DELETE", *member))["left"]
    assert (await stage.ask("POST", "users", "sse", "disconnect", json={}))["sessions"] == 1
    repeated = {"Idempotency-Key": secrets.token_hex(8)}
    for _ in range(2):
        body = {"name": "again", "data": 1}
        await stage.ask("POST", "channels", stage.channel, "messages", json=body, headers=repeated)


async def _hears_expiries(stage: OwnStage, node: Node) -> bool:
    return bool((await stage.probe("/readyz", node=node)).json()["keyspace_events"])


def problems(url: str) -> dict[str, Problem]:
    """What `presence check` finds, by name."""
    return {problem.name: problem for problem in asyncio.run(diagnose(_settings(url)))}


def _settings(url: str) -> Settings:
    return Settings(redis_url=url, token_secret=(secrets.token_urlsafe(32),))


def test_the_check_finds_nothing_fatal_with_the_address_of_the_nodes(engine: Engine) -> None:
    assert set(problems(engine.url)) == {"no_config"}


def test_the_check_sees_everything_with_its_own_user(engine: Engine) -> None:
    assert problems(as_check_user(engine.url)) == {}


def test_the_user_of_the_check_cannot_read_who_is_where(engine: Engine) -> None:
    ask = partial(_servers(engine)[0].client().execute_command, "ACL", "DRYRUN", "presence-check")

    assert b"no permissions" in ask("HGETALL", "presence:{p0}:sessions:room")
    assert b"no permissions" in ask("HSET", "presence:{p0}:guard", "schema", "9")
    assert b"no permissions" in ask("PUBLISH", "presence:{p0}:bus:0", "x")
    assert ask("HMGET", "presence:{p0}:guard", "schema") == b"OK"


@run_async
async def test_with_a_wrong_password_a_node_is_not_ready_and_says_so_without_showing_it(
    engine: Engine, tmp_path: Path
) -> None:
    for url in wrong_addresses(engine.url):
        node = Node.launch(tmp_path, url)
        try:
            await eventually(lambda node=node: _warnings([node]), what="a word about it")  # type: ignore[misc]
            await asyncio.sleep(REFUSED_S)

            assert node.running
            assert "presence ready" not in node.out.read_text()
            assert {line.split()[2] for line in _warnings([node])} <= COMPLAINTS
            assert any("AuthenticationError" in line for line in _warnings([node]))
            assert not [word for word in (WRONG, quote(WRONG, safe="")) if word in node.tail()]
            assert not _shown([node])
        finally:
            node.kill()


def as_check_user(url: str) -> str:
    """The address with the login of the check."""
    nodes = f"presence:{quote(PASSWORDS['NODES_PASSWORD'], safe='')}@"
    assert nodes in url
    return url.replace(nodes, f"presence-check:{PASSWORDS['CHECK_PASSWORD']}@")


def wrong_addresses(url: str) -> list[str]:
    """The address with one of its passwords wrong, in turn."""
    logins = [quote(PASSWORDS[name], safe="") for name in ("NODES_PASSWORD", "ASKING_PASSWORD")]
    return [url.replace(login, quote(WRONG, safe="")) for login in logins if login in url]


def _servers(engine: Engine) -> list[RedisServer]:
    """All its processes."""
    if isinstance(engine, RedisSentinels):
        return [*engine.servers, *engine.sentinels]
    return engine.servers if isinstance(engine, RedisCluster) else [engine]  # type: ignore[list-item]


def _refused(engine: Engine) -> list[object]:
    """What any server has refused to any user, be it a node, a replica or a Sentinel."""
    return [entry for server in _servers(engine) for entry in refusals(server.client())]


def _warnings(nodes: list[Node]) -> list[str]:
    """Log lines that want somebody to act."""
    lines = [line for node in nodes for line in node.log.read_text().splitlines()]
    return [line for line in lines if line.split()[1] in ("warning", "error")]


def _shown(nodes: list[Node]) -> list[str]:
    """Passwords that a log or a ready line shows, whole or in part."""
    said = "\n".join(node.log.read_text() + node.out.read_text() for node in nodes)
    parts = {part for password in PASSWORDS.values() for part in (password, quote(password, safe=""), password[:7])}
    return [part for part in parts if part in said]


async def _done(work: Awaitable[bool]) -> bool:
    try:
        return await work
    except (AssertionError, CommandError, OSError):
        return False
