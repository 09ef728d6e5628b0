"""The rights that docs/deploy.md gives to nodes are those for which there is a use."""

from __future__ import annotations

import re

from presence.lua import PARTS, read_script
from tests.support.documents import ROOT, options

LIBRARY = {"ping", "select", "subscribe", "ssubscribe"}  # what the client library says for us


def _granted(user: str) -> set[str]:
    """Commands of a user, subcommands in the words that are sent."""
    rights = options("redis.conf: users")[f"user {user}"].split()
    return {right[1:].replace("|", " ") for right in rights if right.startswith("+")}


def test_the_nodes_may_run_every_command_of_the_scripts() -> None:
    used = {word.lower() for name in PARTS for word in re.findall(r"p?call\('([A-Z]+)'", read_script(name))}

    assert used
    assert used <= _granted("presence")


def test_the_nodes_may_run_nothing_that_is_not_in_the_source() -> None:
    files = [path for pattern in ("*.py", "*.lua") for path in (ROOT / "presence").rglob(pattern)]
    source = "\n".join(path.read_text("utf-8") for path in files).replace('", "', " ")

    unused = [
        command
        for command in _granted("presence") - LIBRARY
        if not re.search(rf"['\" ]{command.upper()}['\", ]", source)
    ]
    assert not unused


def test_the_check_may_run_nothing_that_changes_data_outside_its_own_key() -> None:
    words = options("redis.conf: users")["user presence-check"].split()

    assert [word for word in words if "~" in word] == ["~presence:{p*}:canary:check-*", "%R~presence:{p*}:guard"]
    assert not [word for word in words if word.startswith("+@")]
