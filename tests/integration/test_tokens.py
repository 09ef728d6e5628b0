"""Client tokens and keys of the back end: who is let in, by which door, and who is not (contract §4)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.support import tokens
from tests.support.clients import CommandError, open_socket
from tests.support.hostile import JSON, MARK, STREAM, Arena, fault_list
from tests.support.node import Node
from tests.support.redis_server import RedisServer
from tests.support.waiting import run_async

AUDIENCE, ISSUER = "https://presence.example", "https://login.example"
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
CLAIMED = {"aud": AUDIENCE, "iss": ISSUER}


@pytest.fixture(scope="module")
def keyed_node(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that knows public keys beside a secret, an audience and an issuer."""
    directory = tmp_path_factory.mktemp("keyed")
    keys = {
        "rsa": RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True),
        "ec": ECAlgorithm.to_jwk(EC_KEY.public_key(), as_dict=True),
        "ed": OKPAlgorithm.to_jwk(ED_KEY.public_key(), as_dict=True),
    }
    jwks = Path(directory / "keys.json")
    jwks.write_text(json.dumps({"keys": [{**key, "kid": kid} for kid, key in keys.items()]}))
    settings = {"token_key_file": jwks, "token_audience": AUDIENCE, "token_issuer": ISSUER}
    node = Node.start(directory, redis_server.url, key_prefix=secrets.token_hex(4), **settings)
    yield node
    node.kill()
    assert not node.complaints(), node.tail()


@pytest.fixture
def arena(two_nodes: list[Node], redis_server: RedisServer) -> Arena:
    return Arena(two_nodes, redis_server)


@pytest.fixture
def keyed(keyed_node: Node, redis_server: RedisServer) -> Arena:
    return Arena([keyed_node], redis_server)


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def forge(header: Any, payload: Any, secret: bytes = tokens.SECRET.encode()) -> str:
    """A token signed by HMAC whatever its header says; bytes go in as they are."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    signed = b".".join(_encode(part) for part in parts)
    return (signed + b"." + _encode(hmac.new(secret, signed, hashlib.sha256).digest())).decode()


def _claims(**more: Any) -> dict[str, Any]:
    return {"sub": "alice", "exp": int(time.time()) + 600, **more}


def _bad_tokens() -> dict[str, str]:
    good = tokens.make_token()
    head, body, signature = good.split(".")
    hs256 = {"alg": "HS256", "typ": "JWT"}
    unsigned = _encode(json.dumps(_claims()).encode()).decode()
    bad = {
        **tokens.bad_tokens(),
        "a space": " ",
        "two parts": f"{head}.{body}",
        "four parts": f"{good}.{signature}",
        "five parts": f"{good}.x.y",
        "a cut signature": good[:-6],
        "no signature": f"{head}.{body}.",
        "a longer signature": good + "AAAA",
        "the signature of another": f"{head}.{body}." + tokens.make_token("bob").split(".")[2],
        "padding": f"{head}=.{body}.{signature}",
        "letters of other base64": f"{head}.{body}+/.{signature}",
        "other letters": f"{head}.{body}é.{signature}",
        "a NUL": f"{head}.{body}\x00.{signature}",
        "17 KiB": tokens.make_token(padding="x" * 17_000),
        "a header that is no JSON": forge(b"{", _claims()),
        "a header that is no object": forge(b"[]", _claims()),
        "a header twice": forge(b'{"alg":"HS256","alg":"HS256"}', _claims()),
        "a payload that is no JSON": forge(hs256, MARK.encode()),
        "a payload that is no object": forge(hs256, ["sub", "exp"]),
        "a payload that is no UTF-8": forge(hs256, b'{"sub":"\xff","exp":9999999999}'),
        "a payload with a byte order mark": forge(hs256, b'\xef\xbb\xbf{"sub":"alice","exp":9999999999}'),
        "sub twice": forge(hs256, b'{"sub":"bob","sub":"alice","exp":9999999999}'),
        "no payload": forge(hs256, b""),
        "an unknown critical header": forge({**hs256, "crit": ["x"], "x": 1}, _claims()),
        "a detached payload": forge({**hs256, "crit": ["b64"], "b64": False}, _claims()),
        "a key of its own": forge({**hs256, "jwk": {"kty": "oct", "k": "AAAA"}}, _claims(), b"\0\0\0"),
        "an empty secret": forge(hs256, _claims(), b""),
        "the secret of none": forge(hs256, _claims(), b"none"),
        "both secrets at once": forge(hs256, _claims(), f"{tokens.SECRET},{tokens.OLD_SECRET}".encode()),
    }
    for name in ("none", "None", "NONE", "nOnE", "", "HS512", "hs256", "RS256", "ES256", "EdDSA", None, ["HS256"], 7):
        bad[f"algorithm {name!r}, signed"] = forge({"alg": name}, _claims())
        bad[f"algorithm {name!r}, unsigned"] = _encode(json.dumps({"alg": name}).encode()).decode() + f".{unsigned}."
    bad["no algorithm"] = forge({"typ": "JWT"}, _claims())
    for sub in ("", "x" * 201, "e\u0301", "a\x00b", "a\nb", "a\u200bb", "\ue000", "x ", None, 7, True, [], {}):
        bad[f"sub {sub!r}"] = forge(hs256, _claims(sub=sub))
    bad["sub with a surrogate"] = forge(hs256, b'{"sub":"\\ud800","exp":9999999999}')
    for exp in (
        b"0",
        b"-1",
        b"1",
        b'"9999999999"',
        b"null",
        b"true",
        b"[]",
        b"NaN",
        b"Infinity",
        b"1e999",
        b"9" * 5000,
    ):
        bad[f"exp {exp[:12]!r}"] = forge(hs256, b'{"sub":"alice","exp":' + exp + b"}")
    for info in ([], "x", 7, None, True, {"k": "x" * 1020}, {"k": "é" * 600}):
        bad[f"info {str(info)[:12]}"] = forge(hs256, _claims(info=info))
    bad["info of 40 levels"] = forge(hs256, _claims(info=json.loads('{"a":' * 40 + "1" + "}" * 40)))
    channels: list[Any] = [
        [], "*", 7, None, {"*": "join"}, {"*": None}, {"*": {"join": True}}, {"*": ["fly"]}, {"*": ["JOIN"]},
        {"*": [7]}, {"*": ["join", None]}, {"": ["join"]}, {" x": ["join"]}, {"a\x00*": []}, {"e\u0301*": ["see"]}, {"x" * 201: ["see"]},
    ]  # fmt: skip
    for value in channels:
        bad[f"channels {str(value)[:24]!r}"] = forge(hs256, _claims(channels=value))
    return bad


BAD_TOKENS = _bad_tokens()


async def doors(arena: Arena, token: str) -> dict[str, Any]:
    """What a client is told who comes with this token by every door, carried in the query or, where it can, the
    header."""
    room, node, query = arena.channel, arena.a, f"&token={quote(token, safe='')}"
    sendable = bool(token.strip()) and token.isascii() and token.isprintable()
    headers, or_query = (tokens.bearer(token), "") if sendable else ({}, query)
    command = json.dumps({"type": "join", "channel": room}).encode()
    commands = f"/v1/commands?session=session-of-alice{or_query}"
    answers = {
        "poll": await arena.raw(f"/v1/events?channel={room}{or_query}", headers=headers),
        "poll by query": await arena.raw(f"/v1/events?channel={room}{query}"),
        "stream by query": await arena.raw(f"/v1/events?channel={room}{query}", headers=STREAM),
        "commands": await arena.raw(commands, method="POST", headers={**headers, **JSON}, body=command),
    }
    assert {answer.headers["www-authenticate"] for answer in answers.values()} == {"Bearer"}
    told = {door: answer.problem() for door, answer in answers.items()}
    return {**told, "socket by query": await close_code(node, query, {})}


async def close_code(node: Node, query: str, headers: dict[str, str]) -> int | None:
    """The code of a socket that is accepted only to be closed; a `welcome` fails."""
    socket = await connect(
        f"{node.ws_url}/v1/ws?x=1{query}", additional_headers=headers, compression=None, proxy=None, close_timeout=1
    )
    try:
        async with asyncio.timeout(5):
            raise AssertionError(f"let in: {await socket.recv()!r}")
    except ConnectionClosed as end:
        return end.rcvd.code if end.rcvd else None
    finally:
        socket.transport.abort()


def refused_everywhere(answers: dict[str, Any]) -> list[str]:
    """What is not the refusal of its door."""
    sockets = {way: answer for way, answer in answers.items() if way.startswith("socket")}
    others = {way: answer for way, answer in answers.items() if way not in sockets}
    return fault_list(4001, sockets) + fault_list((401, "unauthorized"), others)


@pytest.mark.parametrize("why", BAD_TOKENS)
@run_async
async def test_a_bad_token_opens_no_door(arena: Arena, why: str) -> None:
    await arena.settle()

    assert not refused_everywhere(await doors(arena, BAD_TOKENS[why]))

    await arena.untouched()


@run_async
async def test_a_refresh_by_a_bad_token_is_refused_and_changes_nothing(arena: Arena) -> None:
    alice = await arena.member("websocket", arena.a, "alice")
    answers = {}
    for number, (why, token) in enumerate(BAD_TOKENS.items()):
        if number % 90 == 0:
            alice = await arena.member("websocket", arena.a, "alice")
        if len(token) < 16_000:
            answers[why] = await alice.refused({"type": "refresh", "token": token})

    assert not fault_list("unauthorized", answers)
    assert (await alice.beat())["type"] == "ok"
    assert await alice.refused({"type": "refresh", "token": tokens.make_token("mallory")}) == "forbidden"
    assert alice.closed is None


@run_async
async def test_no_token_and_other_ways_to_authorize_open_no_door(arena: Arena) -> None:
    good = tokens.make_token("alice")
    await arena.settle()
    answers: dict[str, Any] = {}
    tries: list[tuple[dict[str, str], str]] = [
        ({}, ""),
        ({}, "&token="),
        ({}, "&token=%FF"),
        ({}, f"&token={good}&token={good}"),
        ({}, f"&Token={good}"),
        ({"Authorization": ""}, ""),
        ({"Authorization": "Bearer"}, ""),
        ({"Authorization": "Bearer "}, ""),
        ({"Authorization": good}, ""),
        ({"Authorization": f"Basic {good}"}, ""),
        ({"Authorization": f"Bearer {good} {good}"}, ""),
        ({"Authorization": f"Bearer {good},Bearer {good}"}, ""),
        ({"Authorization": f"Bearer {tokens.unsigned_token()}"}, f"&token={good}"),
        ({"X-Token": good, "Cookie": f"token={good}"}, ""),
    ]
    for headers, query in tries:
        name = f"{headers} {query}".replace(good, "TOKEN")
        answer = await arena.raw(f"/v1/events?channel={arena.channel}{query}", headers=headers)
        answers[f"poll {name}"] = answer.problem()
        target = f"/v1/commands?session=session-of-alice{query}"
        answer = await arena.raw(target, method="POST", headers={**headers, **JSON}, body=b'{"type":"beat"}')
        answers[f"commands {name}"] = answer.problem()
        answers[f"socket {name}"] = await close_code(arena.a, query, headers)

    assert not refused_everywhere(answers)
    await arena.untouched()


@run_async
async def test_good_tokens_of_every_form_are_let_in(arena: Arena) -> None:
    hs256 = {"alg": "HS256"}
    good = {
        "the first secret": tokens.make_token(),
        "the second secret": tokens.make_token(secret=tokens.OLD_SECRET),
        "without a type": forge(hs256, _claims()),
        "with a key id": forge({**hs256, "kid": "../../dev/null"}, _claims()),
        "with unknown claims": forge(hs256, _claims(admin=True, aud="x", iss="y", jti="z")),
        "for ever": forge(hs256, b'{"sub":"alice","exp":1e300}'),
        "a fraction": forge(hs256, _claims(exp=time.time() + 60.5)),
        "info of 1,024 bytes": forge(hs256, _claims(info={"k": "x" * 1016})),
    }
    for why, token in good.items():
        answer = await arena.poll(arena.a, "alice", arena.channel, token=token, session="session-of-alice")
        assert answer.status == 200, (why, answer)
        async with await open_socket(arena.b.ws_url, {"token": token}, {}) as socket:
            assert '"welcome"' in str(await socket.recv()), why
    for scheme in ("bearer", "BEARER", "Bearer "):
        headers = {"Authorization": f"{scheme} {tokens.make_token()}"}
        assert (await arena.raw(f"/v1/events?channel={arena.channel}&token=bad", headers=headers)).status == 200


@run_async
async def test_a_refused_refresh_does_not_keep_a_connection_whose_token_ends(arena: Arena) -> None:
    clients = []
    for transport in ("websocket", "sse", "longpoll"):
        token = tokens.make_token(transport, ttl_s=1.5)
        client = await arena.member(transport, arena.a, transport, token=token)
        for bad, code in (
            (tokens.make_token("mallory"), "forbidden"),
            (tokens.make_token(transport, ttl_s=-1), "unauthorized"),
            ("garbage", "unauthorized"),
        ):
            with pytest.raises(CommandError) as refusal:
                await client.refresh(bad)
            assert refusal.value.code == code
        clients.append(client)

    assert [await client.until_closed() for client in clients] == [4001] * 3


# ---- public keys, audience, issuer ----


@run_async
async def test_every_configured_key_is_taken_with_its_own_algorithm(keyed: Arena) -> None:
    for key, algorithm, kid in (
        (RSA_KEY, "RS256", "rsa"),
        (EC_KEY, "ES256", "ec"),
        (ED_KEY, "EdDSA", "ed"),
        (tokens.SECRET, "HS256", None),
    ):
        for headers in ({"kid": kid}, {}) if kid else ({},):
            token = jwt.encode(_claims(**CLAIMED), key, algorithm=algorithm, headers=headers)
            answer = await keyed.poll(keyed.a, "alice", keyed.channel, token=token, session="session-of-alice")
            assert answer.status == 200, (algorithm, answer)


@run_async
async def test_a_public_key_is_never_a_secret_and_a_key_has_one_algorithm(keyed: Arena) -> None:
    await keyed.settle()
    claims = _claims(**CLAIMED)
    bad = {
        "rsa-pss": jwt.encode(claims, RSA_KEY, algorithm="PS256"),
        "rs512": jwt.encode(claims, RSA_KEY, algorithm="RS512"),
    }
    for name, key in (("rsa", RSA_KEY), ("ec", EC_KEY), ("ed", ED_KEY)):
        public = key.public_key()
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for secret in (pem, pem.strip(), der):
            for header in ({"alg": "HS256"}, {"alg": "HS256", "kid": name}):
                bad[f"HMAC by the public key of {name}, {len(secret)}, {header}"] = forge(header, claims, secret)
        bad[f"none for {name}"] = forge({"alg": "none", "kid": name}, claims)
    other = rsa.generate_private_key(65537, 2048)
    bad["another rsa key"] = jwt.encode(claims, other, algorithm="RS256", headers={"kid": "rsa"})
    bad["the key of another kid"] = jwt.encode(claims, RSA_KEY, algorithm="RS256", headers={"kid": "ec"})
    bad["an empty ec signature"] = forge({"alg": "ES256", "kid": "ec"}, claims)[:-43] + "A" * 86

    faults = [
        f"{why}: {fault}" for why, token in bad.items() for fault in refused_everywhere(await doors(keyed, token))
    ]

    assert not faults
    await keyed.untouched()


@run_async
async def test_a_token_for_another_audience_or_of_another_issuer_opens_no_door(keyed: Arena) -> None:
    await keyed.settle()
    wrong: list[dict[str, Any]] = [
        {},
        {"aud": AUDIENCE},
        {"iss": ISSUER},
        {"aud": AUDIENCE + "/", "iss": ISSUER},
        {"aud": AUDIENCE.upper(), "iss": ISSUER},
        {"aud": [], "iss": ISSUER},
        {"aud": ["x", 7], "iss": ISSUER},
        {"aud": {AUDIENCE: 1}, "iss": ISSUER},
        {"aud": None, "iss": ISSUER},
        {"aud": AUDIENCE, "iss": "https://evil.example"},
        {"aud": AUDIENCE, "iss": [ISSUER]},
        {"aud": AUDIENCE, "iss": ISSUER[:-1]},
    ]
    faults = []
    for claims in wrong:
        answers = await doors(keyed, forge({"alg": "HS256"}, _claims(**claims)))
        faults += [f"{claims}: {fault}" for fault in refused_everywhere(answers)]

    assert not faults
    listed = forge({"alg": "HS256"}, _claims(aud=["x", AUDIENCE], iss=ISSUER))
    assert (await keyed.poll(keyed.a, "alice", keyed.channel, token=listed)).status == 200


# ---- keys of the back end ----


def _endpoints(arena: Arena) -> dict[str, tuple[str, tuple[str, ...], Any, bool]]:
    """Method, path, body, and whether it only reads."""
    room = ("channels", arena.channel)
    return {
        "PUT member": ("PUT", (*room, "members", "newcomer"), {}, False),
        "DELETE member": ("DELETE", (*room, "members", arena.resident), None, False),
        "heartbeats": ("POST", ("heartbeats",), {"members": []}, False),
        "members": ("GET", (*room, "members"), None, True),
        "channel": ("GET", room, None, True),
        "channels": ("GET", ("channels",), None, True),
        "events": ("GET", (*room, "events"), None, True),
        "user": ("GET", ("users", arena.resident), None, True),
        "users query": ("POST", ("users", "query"), {"users": []}, True),
        "disconnect": ("POST", ("users", arena.resident, "disconnect"), {}, False),
        "messages": ("POST", (*room, "messages"), {"name": "x", "data": 1}, False),
    }


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {MARK}",
        f"Bearer {tokens.API_KEY}x",
        f"Bearer {tokens.API_KEY[:-1]}",
        f"Bearer {tokens.API_KEY.upper()}",
        f"Bearer {tokens.API_KEY},{tokens.READ_KEY}",
        f"Bearer {tokens.API_KEY} {tokens.API_KEY}",
        f"Basic {tokens.API_KEY}",
        tokens.API_KEY,
        f"Bearer {tokens.SECRET}",
        "Bearer \u00ff\u00fe",
        "client token",
    ],
    ids=lambda header: str(header)[:24],
)
@run_async
async def test_a_back_end_endpoint_opens_to_nothing_but_its_keys(arena: Arena, header: str | None) -> None:
    await arena.settle()
    given = f"Bearer {tokens.make_token('alice')}" if header == "client token" else header
    headers = {} if given is None else {"Authorization": given}
    answers = {}
    for way, (method, parts, body, _) in _endpoints(arena).items():
        for query in ({}, {"token": tokens.API_KEY, "key": tokens.API_KEY}):
            answer = await arena.api(method, *parts, json=body, key=None, headers=headers, query=query)
            answers[f"{way} {query}"] = answer.problem()

    assert not fault_list((401, "unauthorized"), answers)
    await arena.untouched()


@run_async
async def test_a_read_key_opens_what_reads_and_is_forbidden_what_writes(arena: Arena) -> None:
    await arena.settle()
    for way, (method, parts, body, reads) in _endpoints(arena).items():
        answer = await arena.api(method, *parts, json=body, key=tokens.READ_KEY)
        if reads:
            assert answer.status == 200, way
        else:
            assert answer.problem() == (403, "forbidden"), way
    await arena.untouched()


@pytest.mark.parametrize("key", [tokens.API_KEY, tokens.READ_KEY])
@run_async
async def test_a_key_of_the_back_end_opens_no_door_of_a_client(arena: Arena, key: str) -> None:
    await arena.settle()

    assert not refused_everywhere(await doors(arena, key))

    await arena.untouched()


@run_async
async def test_without_configured_keys_no_back_end_endpoint_answers(redis_server: RedisServer, tmp_path: Path) -> None:
    settings = {"api_keys": None, "read_keys": None, "key_prefix": secrets.token_hex(4)}
    node = Node.start(tmp_path, redis_server.url, **settings)
    try:
        arena = Arena([node], redis_server)
        for way, (method, parts, body, _) in _endpoints(arena).items():
            for key in (tokens.API_KEY, "", "None", "null"):
                answer = await arena.api(method, *parts, json=body, key=key, headers={"Authorization": f"Bearer {key}"})
                assert answer.problem() == (401, "unauthorized"), way
        assert (await arena.probe("/healthz")).status == 200
    finally:
        node.kill()
