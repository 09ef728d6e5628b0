"""How far a stream or poll has got, as the opaque text `NEXT`: good on every node, because it holds everything.

It carries the number of the connection and, for each channel, a short digest of its name with epoch and seq: the
request names the channels again. A checksum tells what never was one.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from dataclasses import dataclass

from presence.errors import BadRequest

_PLACE = re.compile(r"([0-9a-f]{12})-([0-9a-z]{0,32})-(\d{1,15})")
_TEXT = re.compile(r"1\.(\d{1,20})\.([0-9a-z~-]*)\.([0-9a-f]{8})")
MAX_TEXT = 16_000

LEFT = ("left", 0)  # the place of a channel that the session left or was taken out of: no epoch is called so

Positions = dict[str, tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Next:
    """A decoded NEXT."""

    number: int
    places: dict[str, tuple[str, int]]

    def position(self, channel: str) -> tuple[str, int] | None:
        """(epoch, seq) that was sent last; an empty epoch: joined, but shown nothing."""
        return self.places.get(_digest(channel))


def encode(number: str, positions: Positions) -> str:
    """NEXT after everything up to these positions."""
    places = "~".join(f"{_digest(channel)}-{epoch}-{seq}" for channel, (epoch, seq) in positions.items())
    body = f"1.{number}.{places}"
    return f"{body}.{_checksum(body)}"


def decode(text: str) -> Next:
    """The Next of a text that this server (any node) made; anything else is BadRequest."""
    match = _TEXT.fullmatch(text) if len(text) <= MAX_TEXT else None
    if match is None or _checksum(text.rpartition(".")[0]) != match[3]:
        raise BadRequest("this is no `next` that the server gave")
    places = {}
    for part in filter(None, match[2].split("~")):
        place = _PLACE.fullmatch(part)
        if place is None:
            raise BadRequest("this is no `next` that the server gave")
        places[place[1]] = (place[2], int(place[3]))
    return Next(int(match[1]), places)


def _digest(channel: str) -> str:
    return hashlib.blake2b(channel.encode(), digest_size=6).hexdigest()


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
