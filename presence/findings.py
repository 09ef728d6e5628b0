"""What `presence check` may find: problems with fixed names, and how an error of Redis becomes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

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

    def merge(self, parts: Mapping[str, Findings]) -> None:
        """Add what was found at several servers: what is said of more than one stands once, with their names."""
        fine: dict[str, list[str]] = {}
        problems: dict[Problem, list[str]] = {}
        for server, part in parts.items():
            for what in part.fine:
                fine.setdefault(what, []).append(server)
            for problem in part.problems:
                problems.setdefault(problem, []).append(server)
        self.fine += [what for what, servers in fine.items() if len(parts) == 1 or servers[0] in what]
        for what, servers in fine.items():
            where = f"all {len(parts)} primaries" if len(servers) == len(parts) else ", ".join(servers)
            if what not in self.fine:
                self.good(f"{where}: {what}")
        for problem, servers in problems.items():
            named = len(parts) == 1 or servers[0] in problem.what
            self.problems.append(problem if named else replace(problem, what=f"{', '.join(servers)}: {problem.what}"))

    def good(self, what: str) -> None:
        """Note what is in order."""
        self.fine.append(what)


def refusal(error: Exception, address: str, prefix: str) -> Problem:
    """Name the problem behind an error that Redis, or the way to it, answered with."""
    said = str(error) or "no answer within two seconds"
    said = said.partition(", with args beginning with")[0]  # an unknown AUTH is quoted with its password
    for kind, words, name, what, advice in _REFUSALS:
        if isinstance(error, kind) and (not words or any(word in said for word in words)):
            fatal = name not in _PASSING
            return Problem(name, f"{address} {what}: {said}", advice.format(prefix=prefix), fatal)
    advice = "see the log of Redis; the server needs what it refuses"
    return Problem("refused", f"{address} answers with an error: {said}", advice)


_GRANT = (
    "ACL SETUSER NAME ~{prefix}:* &{prefix}:* &__keyevent@*__:expired "
    "+@read +@write +@connection +@scripting +@pubsub +time +info"
)
_PASSING = {"moving"}  # ends by itself
# The first that fits is taken: in the client library a wrong password and LOADING are connection errors too.
_REFUSALS: list[tuple[type[Exception], tuple[str, ...], str, str, str]] = [
    (
        exceptions.RedisError,
        ("NOAUTH", "WRONGPASS", "Authentication required", "invalid username", "AUTH ", "'AUTH'", "invalid password"),
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
        ("'cluster",),
        "forbidden",
        "forbids this user to ask which server has what",
        "on every server: ACL SETUSER NAME +cluster|nodes +cluster|info",
    ),
    (
        exceptions.NoPermissionError,
        ("'sentinel",),
        "forbidden",
        "forbids this user to ask for the primary",
        "on every Sentinel: ACL SETUSER NAME +sentinel +info",
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
        exceptions.ClusterDownError,
        (),
        "cluster_down",
        "takes no changes, because slots of its Cluster are not served",
        "see `redis-cli --cluster check`; bring back the primaries that are down",
    ),
    (
        exceptions.AskError,  # MOVED is one of these
        (),
        "moving",
        "is giving a part of the data away just now, so not all could be tried out",
        "check again when the slots have moved; nodes follow them by themselves",
    ),
    (
        exceptions.TryAgainError,
        (),
        "moving",
        "is giving a part of the data away just now, so not all could be tried out",
        "check again when the slots have moved; nodes follow them by themselves",
    ),
    (
        exceptions.ResponseError,
        ("not allowed in cluster mode",),
        "wrong_mode",
        "is a server of a Cluster, not a Redis of its own",
        "write redis+cluster://host:port, and no database: a Cluster has one",
    ),
    (
        exceptions.ResponseError,
        ("cluster support disabled",),
        "wrong_mode",
        "is not a server of a Cluster",
        "write redis://host:port/0",
    ),
    (
        exceptions.ResponseError,
        ("unknown command 'SELECT'", "unknown command `SELECT`"),
        "wrong_mode",
        "has no databases, as a Sentinel has none",
        "write redis+sentinel://host:port/NAME if it is one",
    ),
    (
        exceptions.ResponseError,
        ("unknown command 'SENTINEL'", "unknown command `SENTINEL`"),
        "wrong_mode",
        "is no Sentinel",
        "write redis://host:port/0, or the addresses of the Sentinels (their port is 26379)",
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
