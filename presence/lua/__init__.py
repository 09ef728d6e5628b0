"""Runs the Lua scripts: the only way by which this server changes anything in Redis.

How a call travels, and what happens where a server refuses it, is the matter of `lanes.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from importlib import resources

from presence.lane import Reply
from presence.lanes import Lanes

PARTS = {
    "join": ("_feed", "_ended", "_announce", "_view"),
    "leave": ("_feed", "_ended", "_announce"),
    "set": ("_feed", "_ended", "_announce"),
    "publish": ("_feed", "_ended", "_announce", "_inbox", "_room"),
    "expire": ("_feed", "_ended", "_announce"),
    "snapshot": ("_view",),
    "touch": (),
    "close": (),
    "connect": (),
    "record": (),
    "release": (),
    "renew": (),
    "promote": ("_feed", "_ended", "_announce"),
    "recall": (),
    "forget": (),
    "erase": (),
    "queue_put": ("_feed",),
    "queue_drop": ("_feed",),
    "queue_take": ("_feed", "_bury", "_portion"),
    "queue_settle": ("_feed",),
    "queue_look": ("_feed", "_portion"),
    "queue_dead": ("_feed",),
    "queue_tidy": ("_feed",),
    "inbox_subscribe": ("_view", "_inbox", "_keep"),
    "inbox_places": (),
    "inbox_locate": ("_inbox",),
    "inbox_ack": ("_inbox",),
    "inbox_erase": ("_inbox",),
    "inbox_look": ("_view", "_inbox", "_keep"),
    "inbox_pending": ("_inbox",),
    "queue_next": ("_feed", "_bury", "_portion"),
    "queue_bury": ("_feed", "_bury"),
    "queue_rewind": ("_feed",),
    "lead": (),
    "attend": (),
}


def read_script(name: str) -> str:
    """Text of a script with the parts that it needs before it."""
    folder = resources.files(__package__)
    texts = [(folder / f"{part}.lua").read_text("utf-8") for part in ("_prelude", *PARTS[name], name)]
    return "\n".join(texts)


class Script:
    """One script and the digest by which Redis knows it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = read_script(name)
        self.sha = hashlib.sha1(self.text.encode()).hexdigest()


class Scripts:
    """Calls scripts by their digest, by their text where the server does not know it yet."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._scripts = {name: Script(name) for name in PARTS}

    def call(self, name: str, keys: Sequence[str], arguments: Sequence[str | int]) -> asyncio.Future[Reply]:
        """Queue one call; the future has the script's reply, or raises Unavailable."""
        script = self._scripts[name]
        tail = (len(keys), *keys, *arguments)
        return self._lanes.send(keys[0], "EVALSHA", script.sha, *tail, fallback=("EVAL", script.text, *tail))
