"""Streams and polls by plain `curl`, as a shell script uses them."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support import tokens
from tests.support.http import curl
from tests.support.programs import need_program
from tests.support.stage import Stage
from tests.support.waiting import run_async


@run_async
async def test_curl_sees_a_join_and_a_leave_on_a_stream(stage: Stage) -> None:
    need_program("curl")
    url = f"{stage.a.url}/v1/events?channel={stage.channel}&as=observer"
    with _running("-H", "Accept: text/event-stream", "-H", _authorization(), url) as process:
        lines = _Lines(process)
        assert (await lines.frame())["type"] == "welcome"
        assert (await lines.frame())["type"] == "joined"

        alice = await stage.member("websocket", stage.b, "alice")
        await alice.leave(stage.channel)

        seen = [event for _ in range(1) for event in (await lines.frame())["events"]]
        if len(seen) < 2:
            seen += (await lines.frame())["events"]
    assert [(event["type"], event["user"]) for event in seen] == [("join", "alice"), ("leave", "alice")]
    assert seen[1]["reason"] == "left"


@run_async
async def test_curl_polls_join_wait_and_bring_the_next_event(stage: Stage) -> None:
    need_program("curl")
    url = f"{stage.a.url}/v1/events?channel={stage.channel}&session=curl-session"
    first = await _get(url)
    assert [frame["type"] for frame in first["frames"]] == ["joined"]

    waiting = asyncio.create_task(_get(f"{url}&since={first['next']}&wait=10"))
    await stage.message("news", 1)

    (frame,) = (await waiting)["frames"]
    assert [event["data"] for event in frame["events"]] == [1]


@run_async
async def test_curl_makes_a_member_and_takes_it_away(stage: Stage) -> None:
    need_program("curl")
    url = f"{stage.a.url}/v1/channels/{stage.channel}/members/sensor"
    key = f"Authorization: Bearer {tokens.API_KEY}"

    put = await _run("-X", "PUT", "-H", key, "-H", "Content-Type: application/json", "-d", '{"ttl_ms":5000}', url)
    delete = await _run("-X", "DELETE", "-H", key, url)

    assert put["joined"] is True
    assert delete == {"left": True}


class _Lines:
    """The frames that a curl process prints."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    async def frame(self) -> dict[str, list[dict[str, str]]]:
        assert self._process.stdout
        while True:
            line = await asyncio.wait_for(asyncio.to_thread(self._process.stdout.readline), 8)
            assert line, "curl ended"
            if line.startswith("data: "):
                return dict(json.loads(line.removeprefix("data: ")))


@contextmanager
def _running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = curl(*arguments)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _authorization() -> str:
    return f"Authorization: Bearer {tokens.make_token('alice')}"


async def _get(url: str) -> dict[str, list[dict[str, list[dict[str, int]]]]]:
    return await _run("-H", _authorization(), url)


async def _run(*arguments: str) -> dict[str, list[dict[str, list[dict[str, int]]]]]:
    with _running(*arguments) as process:
        out, _ = await asyncio.to_thread(process.communicate, None, 10)
    return dict(json.loads(out))
