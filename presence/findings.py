"""What `presence check` may find: problems with fixed names, and how an error of Redis becomes one."""

from __future__ import annotations

from dataclasses import dataclass, field

from redis import exceptions


@dataclass(frozen=True)
class Problem:
    """One finding: a fixed name, what is the case, and what to do."""

    name: str
    what: str
    advice: str
    fatal: bool = True


@dataclass
class Findings:
    """Problems, worst news first as they are met, and what was found to be in order."""

    problems: list[Problem] = field(default_factory=list)
    fine: list[str] = field(default_factory=list)

    def add(self, name: str, what: str, advice: str, *, fatal: bool = True) -> None:
        """Note a problem."""
        self.problems.append(Problem(name, what, advice, fatal))

    def names(self) -> set[str]:
        """Names of the problems so far."""
        return {problem.name for problem in self.problems}

    def good(self, what: str) -> None:
        """Note what is in order."""
        self.fine.append(what)


def refusal(error: Exception, address: str, prefix: str) -> Problem:
    """Name the problem behind an error that Redis, or the way to it, answered with."""
    said = str(error) or "no answer within two seconds"
    for kind, words, name, what, advice in _REFUSALS:
        if isinstance(error, kind) and (not words or any(word in said for word in words)):
            return Problem(name, f"{address} {what}: {said}", advice.format(prefix=prefix))
    advice = "see the log of Redis; the server needs what it refuses"
    return Problem("refused", f"{address} answers with an error: {said}", advice)


_GRANT = (
    "ACL SETUSER NAME ~{prefix}:* &{prefix}:* &__keyevent@*__:expired "
    "+@read +@write +@connection +@scripting +@pubsub +time +info"
)
# The first that fits is taken: in the client library a wrong password and LOADING are connection errors too.
_REFUSALS: list[tuple[type[Exception], tuple[str, ...], str, str, str]] = [
    (
        exceptions.RedisError,
        ("NOAUTH", "WRONGPASS", "Authentication required", "invalid username", "AUTH ", "invalid password"),
        "auth",
        "does not accept this user and password",
        "put them into PRESENCE_REDIS_URL, percent-encoded: redis://user:password@host:port/0",
    ),
    (
        exceptions.RedisError,
        ("protected mode",),
        "protected",
        "is in protected mode",
        "give it a password (requirepass) and put it into PRESENCE_REDIS_URL",
    ),
    (
        exceptions.BusyLoadingError,
        (),
        "loading",
        "is still loading its data",
        "wait: nodes serve by themselves as soon as it is done",
    ),
    (
        exceptions.ReadOnlyError,
        (),
        "replica",
        "refuses changes as a replica does",
        "give the address of the primary; `INFO replication` on the replica names it",
    ),
    (
        exceptions.NoPermissionError,
        ("'eval", "'script"),
        "scripts",
        "forbids this user to run scripts, which every change is made by",
        _GRANT,
    ),
    (exceptions.NoPermissionError, (), "forbidden", "forbids this user what the server needs", _GRANT),
    (
        exceptions.ResponseError,
        ("user executing the script", "ACL failure"),
        "forbidden",
        "forbids this user what the server's scripts do",
        _GRANT,
    ),
    (
        exceptions.OutOfMemoryError,
        (),
        "memory_full",
        "has used up its maxmemory and refuses joins",
        "raise maxmemory; do not let it evict",
    ),
    (
        exceptions.ResponseError,
        ("MISCONF", "NOREPLICAS"),
        "writes_refused",
        "refuses changes for now",
        "free its disk (MISCONF) or bring its replicas back (NOREPLICAS)",
    ),
    (
        exceptions.ResponseError,
        ("DB index", "invalid DB"),
        "database",
        "has no such database",
        "end PRESENCE_REDIS_URL in /0, or raise `databases` in redis.conf",
    ),
    (
        exceptions.InvalidResponse,
        (),
        "unreachable",
        "does not speak the protocol of Redis",
        "correct host and port in PRESENCE_REDIS_URL",
    ),
    (
        OSError,
        (),
        "unreachable",
        "cannot be reached",
        "start Redis, or correct PRESENCE_REDIS_URL; look at firewalls and, for rediss://, at certificates",
    ),
]
# The library's own connection errors and time-outs are none of Python's.
_REFUSALS += [(kind, *_REFUSALS[-1][1:]) for kind in (exceptions.ConnectionError, exceptions.TimeoutError)]
