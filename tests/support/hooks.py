"""Nodes that deliver webhooks to receivers of the tests: the file of targets, and what a test asks of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.clients import Frame
from tests.support.node import Node
from tests.support.receiver import OLD_SECRET, SECRET
from tests.support.stage import Stage
from tests.support.waiting import eventually


def write_targets(file: Path, targets: dict[str, Frame]) -> Path:
    """The file of targets; what a target does not say is right for a test that has little time."""
    lines = []
    for name, wishes in targets.items():
        usual = {"name": name, "secret": [SECRET, OLD_SECRET], "channels": f"{name}-*", "allow_private": True}
        lines.append("[[target]]")
        for key, value in {**usual, "timeout_ms": 20_000, "backoff_ms": 50, **wishes}.items():
            if value is not None:
                lines.append(f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}")
    file.write_text("\n".join(lines) + "\n")
    return file


def group(name: str) -> str:
    """The queue of a target."""
    return f"@webhook:{name}"


async def report(stage: Stage, name: str, node: Node | None = None) -> Frame:
    """How a target stands."""
    rows = (await stage.ask("GET", "webhooks", node=node or next(n for n in stage.nodes if n.running)))["webhooks"]
    return next(dict(row) for row in rows if row["name"] == name)


async def leader(stage: Stage, name: str) -> Node:
    """The node that delivers the target."""

    async def found() -> Any:
        led_by = (await report(stage, name))["node"]
        return next((node for node in stage.nodes if node.running and node.name == led_by), None)

    node = await eventually(found, 15, what=f"a node that delivers {name}")
    assert isinstance(node, Node)
    return node


async def come_and_go(stage: Stage, channel: str, *users: str) -> None:
    """A join and a leave of each user."""
    for user in users:
        await stage.ask("PUT", "channels", channel, "members", user, json={"info": {"n": user}})
        await stage.ask("DELETE", "channels", channel, "members", user)
