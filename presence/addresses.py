"""What PRESENCE_REDIS_URL says: one Redis, a primary that Sentinels name, or a Cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, unquote_plus, urlencode, urlsplit

SENTINEL, CLUSTER = "redis+sentinel", "redis+cluster"
UNIX = "unix"
PLAIN = ("redis", "rediss", UNIX)
DEFAULT_PORT = {SENTINEL: 26_379, CLUSTER: 6_379}
_PLACE = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]@,/\s]+)(?::(?P<port>[0-9]{1,5}))?")
_ENCODE = "percent-encode what user and password hold besides letters and digits (`/` is %2F, `@` is %40)"

_ANY, _NUMBER, _SECONDS = ".+", "[0-9]{1,18}", "[0-9]{1,9}(\\.[0-9]{1,9})?"
_FLAG = "(?i:0|1|no|yes|false|true|n|y|f|t)"
_TLS = "ssl_"
# What may stand behind `?`, with its values: options of the client library, as far as they have a meaning here.
OPTIONS = {
    "db": _NUMBER,
    "username": _ANY,
    "password": _ANY,
    "client_name": "[!-~]+",
    "socket_keepalive": _FLAG,
    "ssl_ca_certs": _ANY,
    "ssl_ca_path": _ANY,
    "ssl_ca_data": _ANY,
    "ssl_certfile": _ANY,
    "ssl_keyfile": _ANY,
    "ssl_password": _ANY,
    "ssl_cert_reqs": "none|optional|required",
    "ssl_check_hostname": _FLAG,
    "ssl_min_version": "771|772",  # TLS 1.2, 1.3
    "ssl_ciphers": _ANY,
    # Of addresses that were made for others: the server has its own time-outs and protocol.
    "socket_timeout": _SECONDS,
    "socket_connect_timeout": _SECONDS,
    "health_check_interval": _NUMBER,
    "protocol": "2|3",
}
SENTINEL_LOGIN = ("sentinel_user", "sentinel_password")


class Address(NamedTuple):
    """Where one server listens; a unix socket has its path as host, and port 0."""

    host: str
    port: int

    def __str__(self) -> str:
        if not self.port:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class RedisUrl:
    """The parts of one address setting. `kind` is the scheme without TLS: `redis`, `redis+sentinel` …"""

    kind: str
    seeds: tuple[Address, ...]
    name: str  # of the primary, as the Sentinels know it
    database: int
    plain: str  # the same user, password and options as a redis:// or rediss:// address of some server
    sentinel_plain: str  # the same for the Sentinels, which have a user and password of their own


def parse_redis_url(text: str) -> RedisUrl:
    """Return the parts; a ValueError says what is wrong without quoting what may hold a password."""
    parts = _split(text)
    kind = parts.scheme.replace("rediss+", "redis+")
    if kind not in (*PLAIN, SENTINEL, CLUSTER):
        raise ValueError(
            "must begin with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// "
            "(with TLS rediss+…), or be empty for an embedded server"
        )
    query = _query(parts, kind)
    return _one(text, parts, query) if kind in PLAIN else _several(kind, parts, query)


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
    except ValueError:  # it quotes what may be half of a password
        raise ValueError(f"host:port cannot be told apart from the rest; {_ENCODE}") from None
    if parts.fragment:
        raise ValueError(f"nothing may stand behind a `#`; if it belongs to a password, write %23 and {_ENCODE}")
    return parts


def _query(parts: SplitResult, kind: str) -> dict[str, str]:
    """Options behind `?` that have a value; each must be known, have a value that can be read, and stand there once."""
    found: dict[str, str] = {}
    for pair in filter(None, parts.query.split("&")):
        name, _, value = pair.partition("=")
        if kind == SENTINEL and name in SENTINEL_LOGIN:
            pattern = _ANY
        elif name in OPTIONS:
            pattern = OPTIONS[name]
        else:  # not quoted: it may be the end of a password that is not encoded
            allowed = ", ".join([*OPTIONS, *(SENTINEL_LOGIN if kind == SENTINEL else ())])
            raise ValueError(f"what stands behind `?` is no option of it; those are {allowed}. Else {_ENCODE}")
        if value and not re.fullmatch(pattern, unquote_plus(value), re.DOTALL):
            raise ValueError(f"{name} has a value that cannot be read" + (": db must be a number" * (name == "db")))
        if name in found:
            raise ValueError(f"{name} stands twice behind `?`")
        if name.startswith(_TLS) and not parts.scheme.startswith("rediss"):
            raise ValueError(f"{name} needs TLS: begin with rediss")
        if value:
            found[name] = unquote_plus(value)
    return found


def _one(text: str, parts: SplitResult, query: dict[str, str]) -> RedisUrl:
    """One Redis: the client library reads such an address, but takes what it cannot read for something else."""
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme == UNIX:
        if host or not parts.path.strip("/"):
            raise ValueError(f"write unix:///path/of/the/socket, with three slashes; {_ENCODE}")
        return RedisUrl("redis", (), "", int(query.get("db", "0")), text, "")
    if "," in host:
        raise ValueError("one Redis has one host; several are redis+sentinel://h1,h2/NAME or redis+cluster://h1,h2")
    if host:
        _seeds(f"localhost{host}" if host.startswith(":") else host, DEFAULT_PORT[CLUSTER])
    path = parts.path.strip("/")
    if path and not re.fullmatch(_NUMBER, path):
        raise ValueError(
            f"behind host:port comes the number of the database or nothing: redis://host:port/0; {_ENCODE}"
        )
    return RedisUrl("redis", (), "", int(query.get("db") or path or "0"), text, "")


def _several(kind: str, parts: SplitResult, query: dict[str, str]) -> RedisUrl:
    """Sentinels, or servers of a Cluster."""
    login, _, hosts = parts.netloc.rpartition("@")
    database = query.pop("db", "0")
    if kind == CLUSTER and (int(database) or parts.path.strip("/")):
        raise ValueError(f"a Cluster has one database: write redis+cluster://host1,host2 and nothing behind; {_ENCODE}")
    name = unquote(parts.path.strip("/"))
    if kind == SENTINEL and (not name or "/" in name or "@" in parts.path):
        raise ValueError(f"name the primary as the Sentinels do: redis+sentinel://host1,host2/NAME; {_ENCODE}")
    scheme = "rediss" if parts.scheme.startswith("rediss") else "redis"
    own = [query.pop(word, "") for word in SENTINEL_LOGIN]
    # The query names the Sentinels' own user and password: what opens Redis must not be shown to them.
    sentinel_login = ":".join(quote(word, safe="") for word in own)
    shown = {word: value for word, value in query.items() if word not in ("username", "password")}
    return RedisUrl(
        kind,
        _seeds(hosts, DEFAULT_PORT[kind]),
        name,
        int(database),
        f"{scheme}://{login + '@' if login else ''}host/{database}{_tail(query)}",
        f"{scheme}://{sentinel_login + '@' if sentinel_login != ':' else ''}host/0{_tail(shown)}",
    )


def _tail(query: dict[str, str]) -> str:
    return f"?{urlencode(query)}" if query else ""


def _seeds(hosts: str, port: int) -> tuple[Address, ...]:
    found = []
    for word in filter(None, (word.strip() for word in hosts.split(","))):
        place = _PLACE.fullmatch(word)
        if place is None or not 0 < int(place["port"] or port) < 65_536:
            raise ValueError(f"each address must be host or host:port, separated by commas; {_ENCODE}")
        found.append(Address(place["host"].strip("[]"), int(place["port"] or port)))
    if not found:
        raise ValueError("name at least one host")
    return tuple(dict.fromkeys(found))
