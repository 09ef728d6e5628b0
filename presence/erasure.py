"""Forgets a user: who asks for it must find nothing of them afterwards but what the pages name.

Each step may be repeated, so that an erasure which was `Unavailable` half way is simply asked for again. What other
users and back ends were told already is theirs: events in the histories of channels and in work queues stay there
until they give way.
"""

from __future__ import annotations

from presence.directory import KICKED_MS
from presence.doors import Doors
from presence.errors import LimitExceeded
from presence.keys import Keys
from presence.past import Past

MOST_ROUNDS = 20  # of ending sessions, a few hundred in each


class Erasure:
    """All that keeps something of a user, one after the other."""

    def __init__(self, past: Past, keys: Keys) -> None:
        self._past = past
        self._keys = keys

    async def erase(self, user: str, doors: Doors) -> tuple[int, int]:
        """End the user's sessions and forget their states, mailbox, subscriptions, hints and archive; returns how many
        sessions ended and how many rows of the archive went. Raises Unavailable: ask again. LimitExceeded where the
        sessions come back as fast as they are ended. Conflict where this node cannot reach the archive that there is.
        """
        # Also first: who cannot forget everything shall end nothing.
        await self._past.forget(user, doors.scripts)
        ended = 0
        for _ in range(MOST_ROUNDS):
            more = await doors.directory.disconnect(user, None)
            ended += more
            if not more:
                break
        else:
            raise LimitExceeded("the user's sessions come back; stop what makes them, and ask again")
        await doors.inboxes.erase(user)
        await doors.scripts.call("erase", self._keys.script(self._keys.user_partition(user)), (user, KICKED_MS))
        # Last: the ends of those sessions are archived, too, and must be forgotten with the others.
        return ended, await self._past.erase(user, doors.scripts)
