"""The way out of webhooks: over real sockets, to receivers that behave and such that do not."""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path
from urllib.parse import urlsplit

from presence.queues import Queue
from presence.webhooks.outgoing import Answer, Outgoing
from presence.webhooks.targets import Target
from tests.support.receiver import Receiver, answer
from tests.support.redis_lock import make_certificates
from tests.support.waiting import run_async

GOOD, PRIVATE = "127.0.0.2", "127.0.0.1"  # which of the two is called public here


def target(url: str, *, allow_private: bool = True, timeout_ms: int = 3000) -> Target:
    return Target("t", urlsplit(url), (b"k" * 32,), Queue(), timeout_ms=timeout_ms, allow_private=allow_private)


class Names:
    """A resolver whose answers are given beforehand."""

    def __init__(self, *answers: list[str]) -> None:
        self.asked = 0
        self._answers = list(answers)

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        return self._answers.pop(0)


async def post(url: str, names: Names | None = None, **options: object) -> Answer:
    out = Outgoing(names, GOOD.__eq__) if names else Outgoing()
    return await out.post(target(url, **options), {"webhook-id": "msg_1"}, b'{"a":1}')  # type: ignore[arg-type]


@run_async
async def test_a_body_arrives_as_it_is_with_our_headers_and_the_name_of_the_host() -> None:
    async with Receiver() as receiver:
        got = await post(f"http://hooks.example:{receiver.port}/a?b=c", Names([PRIVATE]))

    assert got == Answer(204)
    (call,) = receiver.calls
    assert (call.target, call.body) == ("/a?b=c", b'{"a":1}')
    assert call.headers["host"] == f"hooks.example:{receiver.port}"
    assert call.headers["content-type"] == "application/json"
    assert call.headers["webhook-id"] == "msg_1"
    assert call.headers["connection"] == "close"


@run_async
async def test_the_name_is_resolved_once_and_the_judged_address_is_the_one_that_is_reached() -> None:
    async with Receiver(host=PRIVATE) as inside, Receiver(inside.port, host=GOOD) as good:
        names = Names([GOOD], [PRIVATE])
        url = f"http://rebinding.example:{good.port}/"

        first = await post(url, names, allow_private=False)
        asked = names.asked
        second = await post(url, names, allow_private=False)

    assert (first, asked) == (Answer(204), 1)
    assert "private address" in second.error
    assert (len(good.calls), len(inside.calls)) == (1, 0)


@run_async
async def test_one_private_address_among_several_refuses_them_all() -> None:
    async with Receiver(host=PRIVATE) as inside, Receiver(inside.port, host=GOOD) as good:
        got = await post(f"http://both.example:{good.port}/", Names([GOOD, PRIVATE]), allow_private=False)

    assert got.status is None
    assert "private address" in got.error
    assert not good.calls + inside.calls


@run_async
async def test_names_and_spellings_of_this_machine_are_refused_without_a_connection() -> None:
    async with Receiver() as receiver:
        for host in ("localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]", "0.0.0.0"):
            got = await post(f"http://{host}:{receiver.port}/", allow_private=False)
            assert "private address" in got.error, host

    assert not receiver.calls


@run_async
async def test_the_next_address_is_tried_where_the_first_does_not_answer() -> None:
    async with Receiver() as receiver:
        got = await post(f"http://two.example:{receiver.port}/", Names([GOOD, PRIVATE]))

    assert got == Answer(204)


@run_async
async def test_a_redirect_is_not_followed() -> None:
    async with Receiver() as elsewhere, Receiver() as receiver:
        receiver.answers.append(answer(307, f"Location: http://127.0.0.1:{elsewhere.port}/"))
        got = await post(f"http://127.0.0.1:{receiver.port}/")

    assert (got.status, got.error) == (307, "status 307: redirects are not followed")
    assert not elsewhere.calls


@run_async
async def test_no_proxy_out_of_the_environment_is_used(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    async with Receiver() as proxy, Receiver() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        got = await post(f"http://127.0.0.1:{receiver.port}/")

    assert got == Answer(204)
    assert not proxy.calls


@run_async
async def test_what_is_no_success_is_an_error_in_few_words() -> None:
    cases: list[tuple[bytes | asyncio.Event | None, str]] = [
        (answer(500, body=b"<script>alert(1)</script>"), "status 500"),
        (answer(410), "status 410"),
        (None, "closed before its answer, or no answer in HTTP"),
        (b"220 smtp.example ESMTP\r\n\r\n", "the answer is no HTTP/1.1"),
        (b"HTTP/1.1 2xx\r\n\r\n", "the answer is no HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000, "closed before its answer, or no answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000, "the head of the answer is too long"),
        (asyncio.Event(), "no answer within 300 ms"),
    ]
    for reply, error in cases:
        async with Receiver() as receiver:
            receiver.answers.append(reply)
            patience_ms = 300 if isinstance(reply, asyncio.Event) else 5000
            got = await post(f"http://127.0.0.1:{receiver.port}/", timeout_ms=patience_ms)
        assert got.error == error
    nobody = await post(f"http://127.0.0.1:{receiver.port}/")
    assert nobody.error == "connection failed: ECONNREFUSED"
    unknown = await post("http://name.invalid/")
    assert unknown.error == "the host's name cannot be resolved"
    too_long = await post(f"http://{'x' * 70}.example/")
    assert too_long.error == "the host's name cannot be resolved"


@run_async
async def test_interim_answers_are_passed_over_and_an_endless_body_is_cut() -> None:
    async with Receiver() as receiver:
        receiver.answers.append(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answer(200, body=b"fine"))
        receiver.answers.append(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (8 << 20))
        url = f"http://127.0.0.1:{receiver.port}/"
        before = time.monotonic()

        assert await post(url) == Answer(200)
        assert await post(url) == Answer(200)

    assert time.monotonic() - before < 5


@run_async
async def test_retry_after_is_understood_in_both_forms_and_bounded() -> None:
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 120))
    given = {"7": 7, "99999999999999999999": 3600, "soon": 0, "-5": 0, "²": 0, "Mon, 01 Jan 2001 00:00:00 GMT": 0}
    async with Receiver() as receiver:
        for text, seconds in given.items():
            receiver.answers.append(answer(503, f"Retry-After: {text}".encode().decode("latin-1")))
            assert (await post(f"http://127.0.0.1:{receiver.port}/")).retry_after_s == seconds, text
        receiver.answers.append(answer(429, f"retry-after: {later}"))
        got = await post(f"http://127.0.0.1:{receiver.port}/")

    assert 100 < got.retry_after_s <= 121


@run_async
async def test_tls_is_checked_against_the_name_of_the_host_and_not_the_address(tmp_path: Path) -> None:
    folder = make_certificates(tmp_path / "tls")
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(folder / "redis.crt", folder / "redis.key")
    trusting = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    async with Receiver(context=serving) as receiver:

        async def ask(host: str, context: ssl.SSLContext | None) -> Answer:
            out = Outgoing(Names([PRIVATE]), context=context)
            return await out.post(target(f"https://{host}:{receiver.port}/"), {}, b"{}")

        assert await ask("localhost", trusting) == Answer(204)  # the certificate is for this name
        assert "TLS: Hostname mismatch" in (await ask("other.example", trusting)).error
        assert "TLS: " in (await ask("localhost", None)).error  # nobody knows its authority

    assert len(receiver.calls) == 1
