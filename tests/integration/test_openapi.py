"""docs/openapi.yaml says what the server does: all its addresses, and what they take and answer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate
from tornado.web import RequestHandler

from presence.handlers import DEV_ROUTES, ROUTES
from tests.support import tokens
from tests.support.documents import DOCS, ROOT
from tests.support.node import Node
from tests.support.redis_server import SOONER, RedisServer
from tests.support.schemas import faults, read

DOCUMENT = DOCS / "openapi.yaml"
CONFIGURATION = ROOT / "tests" / "data" / "schemathesis.toml"
METHODS = ("get", "head", "post", "put", "delete", "options", "patch")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "negative_data_rejection",
    "ignored_auth",
    "unsupported_method",
    "allow_header_conformance",
)
HOOKS = """
[[target]]
name = "billing"
url = "http://127.0.0.1:9/nobody-listens"
secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
allow_private = true
"""


def test_the_document_is_an_openapi_document() -> None:
    validate(read(DOCUMENT), base_uri=DOCUMENT.as_uri())


def test_the_document_has_every_address_and_method_of_the_server_and_no_other() -> None:
    documented = {
        (re.sub(r"\{\w+\}", "{}", path), method)
        for path, operations in read(DOCUMENT)["paths"].items()
        for method in operations
    }

    assert documented == set(_served())


def test_operations_have_names_of_their_own() -> None:
    names = [operation["operationId"] for path in read(DOCUMENT)["paths"].values() for operation in path.values()]

    assert len(set(names)) == len(names)


def test_every_example_in_the_document_fits_its_schema() -> None:
    examples = list(_examples(read(DOCUMENT)))

    assert len(examples) > 40
    for schema, example in examples:
        assert not faults(schema, example), example


@pytest.fixture
def tried_node(tmp_path: Path, nodes_on: Callable[..., list[Node]]) -> Iterator[Node]:
    """A node with everything that has an address: the demo page, a webhook, and a replica for durable writes."""
    (tmp_path / "webhooks.toml").write_text(HOOKS)
    with RedisServer(tmp_path / "primary", config=SOONER) as primary:
        follow = {**SOONER, "replicaof": f"127.0.0.1 {primary.port}"}
        with RedisServer(tmp_path / "replica", config=follow):
            (node,) = nodes_on(
                primary.url, 1, arguments=("--dev",), webhooks_file=str(tmp_path / "webhooks.toml"), partitions=2
            )
            yield node


def test_the_server_answers_as_the_document_says(tried_node: Node, tmp_path: Path) -> None:
    _try_out(tried_node, tmp_path, "--phases", "coverage", "--mode", "positive")


@pytest.mark.long
def test_the_server_refuses_what_the_document_does_not_allow(tried_node: Node, tmp_path: Path) -> None:
    _try_out(tried_node, tmp_path, "--phases", "coverage,fuzzing", "--mode", "all", "--max-examples", "20")


def _try_out(node: Node, folder: Path, *arguments: str) -> None:
    """Let schemathesis ask the node, the same questions each time."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION)),
        *("run", str(DOCUMENT), "--url", node.url, "--checks", ",".join(CHECKS), *arguments),
        *("--generation-deterministic", "--no-color", "--warnings", "off", "--request-timeout", "10"),
    ]
    more = {
        "PRESENCE_TEST_KEY": tokens.API_KEY,
        "PRESENCE_TEST_TOKEN": tokens.make_token("ann"),
        "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks",
        "PYTHONPATH": str(ROOT),
    }

    ran = subprocess.run(
        command, cwd=folder, env={**os.environ, **more}, capture_output=True, text=True, timeout=300, check=False
    )

    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr
    assert node.running


def _served() -> Iterator[tuple[str, str]]:
    for route, handler in [*ROUTES, *DEV_ROUTES]:
        alternatives = re.search(r"\(\?:([\w|]+)\)", route)
        for choice in alternatives[1].split("|") if alternatives else [""]:
            path = route.replace(alternatives[0], choice) if alternatives else route
            for method in METHODS:
                if getattr(handler, method) is not getattr(RequestHandler, method):
                    yield re.sub(r"\([^)]*\)", "{}", path), method


def _examples(node: Any) -> Iterator[tuple[Any, Any]]:
    """Everything beside a schema that says how it looks."""
    if isinstance(node, dict):
        if "schema" in node and "example" in node:
            yield node["schema"], node["example"]
        for value in node.values():
            yield from _examples(value)
    elif isinstance(node, list):
        for value in node:
            yield from _examples(value)
