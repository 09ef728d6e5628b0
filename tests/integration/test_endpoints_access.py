"""Who gets in: tokens, origins, sessions, on every way in (contract §4); and the WebSocket handshake itself."""

from __future__ import annotations

import asyncio

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support import tokens
from tests.support.clients import open_socket
from tests.support.http import Refused, Response, request
from tests.support.stage import Stage, StageMaker
from tests.support.waiting import run_async

BAD_TOKENS = tokens.bad_tokens()


@pytest.mark.parametrize("why", sorted(BAD_TOKENS))
@run_async
async def test_a_bad_token_opens_nothing(stage: Stage, why: str) -> None:
    token = BAD_TOKENS[why]
    headers = tokens.bearer(token)
    stream = {"Accept": "text/event-stream", **headers}

    for answer in (
        await request(stage.a.url, "GET", f"/v1/events?channel={stage.channel}", headers=headers),
        await request(stage.a.url, "GET", f"/v1/events?channel={stage.channel}", headers=stream),
        await request(
            stage.a.url, "POST", "/v1/commands?session=session-alice", headers=headers, json_body={"type": "beat"}
        ),
        await request(stage.a.url, "GET", f"/v1/events?channel={stage.channel}&token={token}"),
    ):
        assert answer.problem() == (401, "unauthorized")
    assert await _close_code(stage, {}, headers) == 4001
    assert await stage.roster() == {}


@run_async
async def test_no_token_at_all_opens_nothing(stage: Stage) -> None:
    answer = await request(stage.a.url, "GET", f"/v1/events?channel={stage.channel}")

    assert answer.problem() == (401, "unauthorized")
    assert await _close_code(stage, {}, {}) == 4001


@run_async
async def test_an_api_key_opens_no_client_endpoint(stage: Stage) -> None:
    headers = tokens.bearer(tokens.API_KEY)

    answer = await request(stage.a.url, "GET", f"/v1/events?channel={stage.channel}", headers=headers)

    assert answer.problem() == (401, "unauthorized")
    assert await _close_code(stage, {}, headers) == 4001


@run_async
async def test_both_secrets_are_accepted_while_they_are_rotated(stage: Stage) -> None:
    for secret in (tokens.SECRET, tokens.OLD_SECRET):
        token = tokens.make_token("alice", secret=secret)
        assert (await stage.poll(stage.a, "alice", stage.channel, token=token)).status == 200


@run_async
async def test_the_token_may_stand_in_the_url_and_never_in_a_log(stage: Stage) -> None:
    token = tokens.make_token("alice")

    answer = await request(stage.a.url, "GET", f"/v1/events?channel={stage.channel}&token={token}")
    async with await open_socket(stage.a.ws_url, {"token": token}, {}) as socket:
        assert '"welcome"' in str(await socket.recv())

    assert answer.status == 200
    for node in stage.nodes:
        assert token not in node.log.read_text() + node.out.read_text()
        assert token.split(".")[2] not in node.log.read_text()


@pytest.mark.parametrize("session", ["short", "with space", "x" * 65, "üüüüüüüü", "a/b/c/d/e/f"])
@run_async
async def test_a_session_text_that_is_none_is_refused_at_the_handshake(stage: Stage, session: str) -> None:
    with pytest.raises(Refused) as refusal:
        await open_socket(stage.a.ws_url, {"session": session}, tokens.bearer(tokens.make_token("alice")))

    assert refusal.value.status == 400


@run_async
async def test_a_socket_without_a_session_is_given_one(stage: Stage) -> None:
    async with await open_socket(stage.a.ws_url, {}, tokens.bearer(tokens.make_token("alice"))) as socket:
        welcome = str(await socket.recv())

    assert '"type":"welcome"' in welcome.replace(" ", "")
    assert socket.response is not None
    assert "Sec-WebSocket-Extensions" not in socket.response.headers


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost.evil"])
@run_async
async def test_a_foreign_origin_is_refused_everywhere(stage: Stage, origin: str) -> None:
    headers = {**tokens.bearer(tokens.make_token("alice")), "Origin": origin}

    with pytest.raises(Refused) as refusal:
        await open_socket(stage.a.ws_url, {}, headers)
    poll = await stage.poll(stage.a, "alice", stage.channel, headers={"Origin": origin})
    stream = {"Origin": origin, "Accept": "text/event-stream"}
    streamed = await stage.poll(stage.a, "alice", stage.channel, headers=stream)
    command = await stage.command(
        stage.a, "alice", "session-alice", {"type": "join", "channel": stage.channel}, headers={"Origin": origin}
    )

    assert refusal.value.status == 403
    for answer in (poll, streamed, command, *await _preflights(stage, origin)):
        assert answer.status == 403
        assert "access-control-allow-origin" not in answer.headers
    assert await stage.roster() == {}


@run_async
async def test_the_same_origin_is_welcome_whatever_its_scheme(stage: Stage) -> None:
    for scheme in ("http", "https"):
        origin = {"Origin": stage.a.url.replace("http", scheme, 1)}
        headers = {**tokens.bearer(tokens.make_token("alice")), **origin}
        async with await open_socket(stage.a.ws_url, {}, headers) as socket:
            assert '"welcome"' in str(await socket.recv())
        assert (await stage.poll(stage.a, "alice", stage.channel, headers=origin)).status == 200


@run_async
async def test_a_connection_that_sends_nonsense_harms_nobody(stage: Stage, transport: str) -> None:
    alice = await stage.member(transport, stage.a, "alice")
    host, port = stage.a.url.removeprefix("http://").split(":")
    for noise in (b"\x00" * 100, b"GET / HTTP/9.9\r\n\r\n", b"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n" * 50):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(noise)
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 5)
        writer.close()

    await stage.fence(alice)
    assert alice.closed is None


@run_async
async def test_a_configured_origin_may_preflight_and_read_the_answer(own_stage: StageMaker) -> None:
    origin = "https://app.example"
    stage = own_stage(nodes=1, allowed_origins=origin)

    preflights = await _preflights(stage, origin)
    poll = await stage.poll(stage.a, "alice", stage.channel, headers={"Origin": origin})

    for answer in preflights:
        assert answer.status in (200, 204)
        assert "authorization" in answer.headers["access-control-allow-headers"].lower()
    assert poll.status == 200
    for answer in (*preflights, poll):
        assert answer.headers["access-control-allow-origin"] == origin
        assert "origin" in answer.headers["vary"].lower()


async def _close_code(stage: Stage, query: dict[str, str], headers: dict[str, str]) -> int | None:
    """With which code a socket is closed that is accepted only to be told so."""
    socket = await open_socket(stage.a.ws_url, query, headers)
    try:
        async with asyncio.timeout(5):
            while True:
                frame = str(await socket.recv())
                assert '"welcome"' not in frame
    except ConnectionClosed as end:
        return end.rcvd.code if end.rcvd else None


async def _preflights(stage: Stage, origin: str) -> list[Response]:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    paths = ("/v1/events", "/v1/commands")
    return [await request(stage.a.url, "OPTIONS", target, headers=headers) for target in paths]
