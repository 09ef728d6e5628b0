"""How far a target has got: kept in Redis with the lease of whoever delivers, so that the next one goes on with it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

from presence.codec import compact
from presence.errors import NotFound
from presence.keys import Keys
from presence.lua import Scripts

LEASE_MS = 3_000
RENEW_S = 0.75


@dataclass(frozen=True, slots=True)
class Note:
    """`ids`: the batch that is being tried, under `webhook_id`, for the `attempts`th time, not again before `retry_at`;
    `cursor`: the last event that was delivered or given up. Instants are Unix ms, None where there was none."""

    webhook_id: str = ""
    ids: tuple[str, ...] = ()
    attempts: int = 0
    retry_at: int | None = None
    cursor: str | None = None
    delivered_at: int | None = None
    failing_since: int | None = None
    error: str | None = None
    error_at: int | None = None

    @classmethod
    def parse(cls, text: bytes) -> Note:
        """The note that another node, or this one, wrote; of a newer version what this one knows."""
        fields = json.loads(text) if text else {}
        fields["ids"] = tuple(fields.get("ids", ()))
        return cls(**{name: value for name, value in fields.items() if name in cls.__slots__})

    @property
    def text(self) -> str:
        """As it is kept; never empty."""
        return compact(asdict(self))

    def begun(self, webhook_id: str, ids: tuple[str, ...]) -> Note:
        """With another batch to be tried."""
        return replace(self, webhook_id=webhook_id, ids=ids, attempts=0, retry_at=None)

    def tried(self) -> Note:
        """With one attempt more."""
        return replace(self, attempts=self.attempts + 1, retry_at=None)

    def failed(self, error: str, now_ms: int, retry_at: int) -> Note:
        """After an attempt that came to nothing."""
        since = now_ms if self.failing_since is None else self.failing_since
        return replace(self, failing_since=since, error=error, error_at=now_ms, retry_at=retry_at)

    def delivered(self, cursor: str | None, now_ms: int) -> Note:
        """After one that was taken."""
        return replace(self.without_batch(cursor), delivered_at=now_ms, failing_since=None)

    def without_batch(self, cursor: str | None = None) -> Note:
        """With nothing under way; the cursor stays unless there is another."""
        return replace(self, webhook_id="", ids=(), attempts=0, retry_at=None, cursor=cursor or self.cursor)


@dataclass(frozen=True, slots=True)
class Lead:
    """What the node that has the lease knows; `term` changes whenever another node had it in between."""

    term: int
    note: Note


class Standing:
    """Who delivers a target, and its note."""

    def __init__(self, scripts: Scripts, keys: Keys, work: str) -> None:
        self._scripts = scripts
        self._keys = keys.script(keys.partition(work))
        self._work = work

    async def lead(
        self, node: str, note: Note | None = None, lease_ms: int | None = None, term: int = 0
    ) -> Lead | None:
        """Take or renew the lease, and write the note if there is one, unless it was written in another term than this
        is. What stands there then; None if another node has the lease. A lease of 0 gives it up."""
        text = "" if note is None else note.text
        life_ms = LEASE_MS if lease_ms is None else lease_ms
        reply = await self._scripts.call("lead", self._keys, (self._work, node, life_ms, text, term))
        return Lead(reply[3], Note.parse(reply[2])) if reply[0] else None

    async def look(self) -> tuple[str | None, Note]:
        """Who has the lease, if anybody has, and the note."""
        reply = await self._scripts.call("lead", self._keys, (self._work, "", 0, "", 0))
        return reply[1].decode() or None, Note.parse(reply[2])


def no_such_target(name: str) -> NotFound:
    """The refusal where a target is not configured."""
    return NotFound(f"there is no webhook {name}; targets are in the file PRESENCE_WEBHOOKS_FILE")
