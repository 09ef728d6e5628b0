"""What one client knows of one channel: the folded log, and the promises about order checked at every step."""

from __future__ import annotations

from typing import Any

Frame = dict[str, Any]
INBOX = "@inbox"


class Room:
    """Snapshot plus events of a channel. Whatever breaks order, alternation or the cursor is noted in `breaches`."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.epoch = ""
        self.seq = 0
        self.log: list[Frame] = []
        self.members: dict[str, Frame] = {}
        self.joined: list[Frame] = []
        self.breaches: list[str] = []
        self.partial = False
        self.unread = 0

    @property
    def cursor(self) -> str:
        """The last event this client has seen."""
        return f"{self.epoch}:{self.seq}"

    def take_joined(self, frame: Frame) -> None:
        """Fold a `joined` frame: a snapshot replaces everything, a recovered one continues."""
        self.joined.append(frame)
        if frame.get("recovered"):
            self._check("members" not in frame, "a recovered joined carries a snapshot", frame)
            if not self.epoch:
                self._begin_at(frame)
            self._check(frame["epoch"] == self.epoch, "recovered into another epoch", frame)
            self._fold(frame["events"], frame)
        elif "members" in frame:
            self._check(not frame.get("events"), "a snapshot carries events", frame)
            self.epoch, self.seq = _split(frame["cursor"])
            self.partial = bool(frame.get("truncated"))
            self.members = {member["user"]: _face(member) for member in frame["members"]}
            self._check(self.partial or frame["count"] == len(self.members), "count is not the roster's", frame)
        if "cursor" in frame:
            self._check(_split(frame["cursor"])[0] == frame["epoch"], "cursor of another epoch", frame)

    def take_events(self, frame: Frame) -> None:
        """Fold an `events` frame."""
        self._check(bool(self.joined), "events before joined", frame)
        self._check(frame["epoch"] == self.epoch, "events of another epoch", frame)
        self._check(bool(frame["events"]), "an empty events frame", frame)
        self._fold(frame["events"], frame)

    def next_unread(self) -> Frame | None:
        """The next event that no caller has asked for yet."""
        if self.unread >= len(self.log):
            return None
        self.unread += 1
        return self.log[self.unread - 1]

    def _begin_at(self, frame: Frame) -> None:
        """A client that starts by a cursor somebody else saw: it knows the log from there, not the roster."""
        self.epoch, last = _split(frame["cursor"])
        self.seq = last - len(frame["events"])
        self.partial = True

    def _fold(self, events: list[Frame], frame: Frame) -> None:
        for event in events:
            self._check(event["seq"] == self.seq + 1, f"seq {event['seq']} after {self.seq}", frame)
            self.seq = event["seq"]
            self.log.append(event)
            self._apply(event, frame)
        self._check(frame["cursor"] == self.cursor, f"cursor is not that of the last event, {self.cursor}", frame)

    def _apply(self, event: Frame, frame: Frame) -> None:
        kind, user = event["type"], event.get("user")
        if kind == "join":
            self._check(self.partial or user not in self.members, f"{user} joined twice", frame)
            self.members[str(user)] = _face(event)
        elif kind == "leave":
            self._check(self.partial or user in self.members, f"{user} left without being there", frame)
            self.members.pop(str(user), None)
        elif kind == "update":
            self._check(self.partial or user in self.members, f"update of absent {user}", frame)
            changed = {name: event[name] for name in ("info", "state") if name in event}
            self.members[str(user)] = {**self.members.get(str(user), {}), **changed}

    def _check(self, holds: bool, what: str, frame: Frame) -> None:
        if not holds:
            self.breaches.append(f"{self.channel}: {what}: {frame}")


class Letters(Room):
    """The user's own mailbox, of which only what is new is pushed: it begins where the first message says, nothing in
    it is pushed twice, and a hole is told by a frame without events."""

    def take_events(self, frame: Frame) -> None:
        """Take an `events` frame."""
        self._check(all(event["type"] == "message" for event in frame["events"]), "not only messages", frame)
        epoch, last = _split(frame["cursor"])
        if epoch != self.epoch or not frame["events"]:
            self.epoch, self.seq = epoch, last - len(frame["events"])
        self._fold(frame["events"], frame)


def _split(cursor: str) -> tuple[str, int]:
    epoch, _, seq = cursor.rpartition(":")
    return epoch, int(seq)


def _face(member: Frame) -> Frame:
    """What folding promises to know of a member: info and state (`sessions` stands in rosters only)."""
    return {"info": member["info"], "state": member["state"]}
