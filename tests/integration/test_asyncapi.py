"""docs/asyncapi.yaml says what clients and server tell each other: whole conversations are held against it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft7Validator

from presence.caller import VERBS as POSTED
from presence.commands import VERBS
from presence.errors import ERRORS, CloseCode
from tests.support import tokens
from tests.support.clients import Client, CommandError, Frame
from tests.support.documents import DOCS, ROOT, blocks
from tests.support.schemas import SHARED, faults, read, shared
from tests.support.stage import Stage, StageMaker
from tests.support.waiting import run_async

DOCUMENT = DOCS / "asyncapi.yaml"
PLACES = {
    "websocket": ("websocket", "websocket"),
    "sse": ("stream", "commands"),
    "longpoll": ("poll", "commands"),
}
"""By transport: the document's channel of what is pushed, and that of commands and replies."""


def messages(channel: str, kind: str) -> dict[str, Any]:
    """Payload schemas of the `Frame`s or `Command`s of one of the document's channels, by type."""
    every = read(DOCUMENT)["components"]["messages"]
    names = [name for name in read(DOCUMENT)["channels"][channel]["messages"] if name.endswith(kind)]
    return {every[name]["name"]: every[name]["payload"] for name in names}


class Recorder:
    """Everything that a client said and was told, held against the document as it comes."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._pushed, self._spoken = PLACES[client.transport]
        self.replies: list[Frame] = []
        self._plain = client.send
        client.send = self.send  # type: ignore[method-assign]

    async def send(self, command: Frame) -> Frame:
        """Send a command that the document knows."""
        assert not faults(messages(self._spoken, "Command")[command["type"]], command), command
        reply = await self._plain(command)
        self.replies.append(reply)
        return reply

    def check(self) -> set[str]:
        """The types of all frames so far; fail for one that is not as the document says."""
        for where, frames in ((self._pushed, self.client.frames), (self._spoken, self.replies)):
            known = messages(where, "Frame")
            for frame in frames:
                assert frame["type"] in known, f"{where}: {frame}"
                assert not faults(known[frame["type"]], frame), (frame, faults(known[frame["type"]], frame))
                surprise = {**frame, "surprise": 1}
                assert faults(known[frame["type"]], surprise), f"takes anything: {frame['type']}"
        return {frame["type"] for frame in [*self.client.frames, *self.replies]}


def test_the_document_is_an_asyncapi_document() -> None:
    official = ROOT / "tests" / "data" / "asyncapi" / "schema-3.0.0.json.gz"
    schema = json.loads(gzip.decompress(official.read_bytes()))

    found = [error.message for error in Draft7Validator(schema).iter_errors(read(DOCUMENT))]
    assert not found


def test_everything_that_the_document_refers_to_is_there() -> None:
    for document in (DOCUMENT, DOCS / "openapi.yaml", DOCS / SHARED):
        for reference in _references(read(document)):
            file, _, pointer = reference.partition("#")
            node = read(DOCS / file if file else document)
            for part in pointer.strip("/").split("/"):
                assert part.replace("~1", "/") in node, f"{document.name}: {reference}"
                node = node[part.replace("~1", "/")]


def test_every_shared_schema_is_used() -> None:
    used = {
        reference.rpartition("/")[2]
        for document in (DOCUMENT, DOCS / "openapi.yaml", DOCS / SHARED)
        for reference in _references(read(document))
    }

    assert not read(DOCS / SHARED).keys() - used


def test_every_example_is_as_the_document_says() -> None:
    for message in read(DOCUMENT)["components"]["messages"].values():
        assert message["examples"], message["name"]
        for example in message["examples"]:
            assert example["payload"]["type"] == message["name"]
            assert not faults(message["payload"], example["payload"]), example


def test_the_example_on_the_page_works(monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = blocks(DOCS / "reference.md", "python")
    monkeypatch.chdir(DOCS)

    names: dict[str, Any] = {}
    exec(example, names)

    assert not names["validator"].is_valid({"type": "reconnect", "in_ms": "soon", "reason": "drain"})


@pytest.mark.parametrize(("channel", "verbs"), [("websocket", VERBS), ("commands", POSTED)])
def test_every_command_is_in_the_document(channel: str, verbs: dict[str, Any]) -> None:
    assert messages(channel, "Command").keys() == verbs.keys()


def test_errors_and_close_codes_are_those_of_the_server() -> None:
    schemas = read(DOCS / SHARED)

    assert set(schemas["ErrorCode"]["enum"]) == set(ERRORS)
    assert set(schemas["CloseCode"]["enum"]) == {int(code) for code in CloseCode}


def test_the_document_tells_wrong_frames_from_right_ones() -> None:
    right = read(DOCUMENT)["components"]["messages"]["joinedFrame"]
    frame = right["examples"][0]["payload"]

    assert not faults(right["payload"], frame)
    for wrong in (
        {**frame, "recovered": False},
        {**frame, "members": []},
        {**frame, "cursor": "7"},
        {**frame, "events": [{**frame["events"][0], "reason": "bored"}]},
        {name: value for name, value in frame.items() if name != "count"},
    ):
        assert faults(right["payload"], wrong), wrong


@run_async
async def test_a_whole_conversation_is_as_the_document_says(stage: Stage, transport: str) -> None:
    bob = await stage.member("websocket", stage.b, "bob", state={"n": 1})
    await stage.ask("POST", "users", "ann", "messages", json={"name": "waits", "data": {"due": 1}})
    recorder = Recorder(stage.sketch(transport, stage.a, "ann", info={"name": "Ann"}))
    ann = recorder.client
    await ann.connect()

    await ann.join(stage.channel, state={"mood": "fine"})
    cursor = ann.cursor(stage.channel)
    await bob.set(stage.channel, {"n": 2})
    await ann.set(stage.channel, {"mood": "busy"})
    await ann.publish(stage.channel, "note", [1, None, {"deep": True}])
    await ann.event(stage.channel, "message")
    await bob.leave(stage.channel)
    await ann.event(stage.channel, "leave")
    await ann.who(stage.channel)
    assert (await ann.history(stage.channel, limit=2))["events"]
    await ann.beat()
    (box,) = await ann.fetch()
    await ann.ack(box["channel"], box["cursor"])
    await ann.refresh(tokens.make_token("ann"))
    await ann.refused({"type": "leave", "channel": stage.name("nowhere")})
    with pytest.raises(CommandError):
        await ann.command({"type": "ack", "channel": stage.name("nowhere"), "cursor": cursor})
    newcomer = Recorder(await stage.connect(transport, stage.b, "cyd"))
    assert (await newcomer.client.join(stage.channel, cursor=cursor))["recovered"]
    await stage.ask("POST", "users", "ann", "messages", json={"name": "pushed", "data": None})
    await ann.letter("pushed")
    await stage.ask("DELETE", "channels", stage.channel, "members", "ann")
    assert (await ann.beat())["not_joined"] == [stage.channel]
    await ann.bye()
    await stage.ask("POST", "users", "ann", "disconnect", json={})
    await ann.until_closed()

    seen = recorder.check() | newcomer.check()
    pushed, spoken = PLACES[transport]
    unseen = {"reconnect"} | (
        {"welcome"} if transport == "longpoll" else set()
    )  # a poll is greeted where it asks for it
    assert seen == (messages(pushed, "Frame").keys() | messages(spoken, "Frame").keys()) - unseen


@run_async
async def test_the_frames_of_a_drain_are_as_the_document_says(own_stage: StageMaker) -> None:
    stage = own_stage(nodes=1, drain_ms=400)
    recorders = [Recorder(stage.sketch(name, stage.a, name)) for name in PLACES]
    for recorder in recorders:
        await recorder.client.connect()
        await recorder.client.join(stage.channel)

    stage.a.terminate()
    for recorder in recorders:
        await recorder.client.until_closed()

    last = {recorder.client.transport: recorder.check() for recorder in recorders}
    assert "reconnect" in last["websocket"] & last["sse"]
    assert "close" in last["longpoll"]


@run_async
async def test_events_of_a_queue_are_as_the_document_says(stage: Stage) -> None:
    group = stage.name("queue")
    await stage.api("PUT", "queues", group, json={})
    ann = await stage.member("websocket", stage.a, "ann", state={"n": 1})
    await ann.set(stage.channel, {"n": 2})
    await stage.message("note", {"deep": [1]})
    await ann.leave(stage.channel)

    taken = await stage.ask("POST", "queues", group, "take", json={"consumer": "w", "wait_ms": 1000})
    standing = await stage.ask("GET", "queues", group)

    await stage.api("DELETE", "queues", group)
    assert [event["type"] for event in taken["events"]] == ["join", "update", "message", "leave"]
    for event in taken["events"]:
        assert not faults(shared("QueueEvent"), event), event
    answers = read(DOCS / "openapi.yaml")["paths"]["/v1/queues/{group}"]["get"]["responses"]
    assert not faults(answers["200"]["content"]["application/json"]["schema"], standing)


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)
