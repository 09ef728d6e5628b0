"""What a server's error says of the command that it answers: whether anything was changed, and why not."""

from __future__ import annotations

import re

from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)


def is_read_only(reply: object) -> bool:
    """Whether a replica was asked to write; from a script Redis 6 says it behind words of its own."""
    return isinstance(reply, ReadOnlyError) or (isinstance(reply, ResponseError) and "-READONLY" in str(reply))


def changed_nothing(reply: Exception) -> bool:
    """Whether the server said no before it changed anything, so that asking again cannot do it twice."""
    return (
        isinstance(reply, MovedError | AskError | TryAgainError | ClusterDownError)
        or is_read_only(reply)
        or (isinstance(reply, ResponseError) and ("NOREPLICAS" in str(reply) or "non local key" in str(reply)))
    )


def kind_of(error: Exception) -> str:
    # A script error can quote its arguments: only its kind is for the log.
    return f"{type(error).__name__}: {re.split(r'[:,]', str(error))[0][:80]}"
