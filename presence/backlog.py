"""Commands of one connection that wait for those before them: answered one after the other, bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

MAX_WAITING = 16

Command = dict[str, object]


class Backlog:
    """Holds nothing while nothing waits; `resume` is called when a full one has room again."""

    __slots__ = ("_waiting", "idle", "resume")

    def __init__(self) -> None:
        self.idle = True  # whether no command is being answered
        self.resume: Callable[[], None] | None = None
        self._waiting: deque[Command] | None = None

    @property
    def full(self) -> bool:
        """Whether the transport must stop reading."""
        return self._waiting is not None and len(self._waiting) >= MAX_WAITING

    def put(self, command: Command) -> bool:
        """Add a command; true if nobody is answering, so that the caller must see to it."""
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(command)
        begin, self.idle = self.idle, False
        return begin

    def take(self) -> Command | None:
        """The command to be answered next, or None when all are."""
        if not self._waiting:
            self.clear()
            return None
        command = self._waiting.popleft()
        if self.resume is not None and len(self._waiting) == MAX_WAITING - 1:
            self.resume()
        return command

    def clear(self) -> None:
        """Forget what waits."""
        self._waiting = None
        self.idle = True
