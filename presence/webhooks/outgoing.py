"""One POST to a target: the only place from which this server speaks to somebody else's.

Before changing it: the name is resolved once, every address that comes back is judged, and the connection goes to a
judged address; so a name that changes its mind (rebinding) changes nothing. Redirects are not followed, proxies out of
the environment not used, and of an answer only its head counts. That is why no HTTP client is used here: each would
have to be kept from doing more.
"""

from __future__ import annotations

import asyncio
import email.utils
import errno
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from presence.webhooks.reach import is_public
from presence.webhooks.targets import Target

MOST_HEAD_BYTES = 32 * 1024
MOST_REST_BYTES = 64 * 1024  # of a body: read, so that the receiver is not reset while it writes, and thrown away
REST_S = 1.0
MOST_ADDRESSES = 4
MOST_RETRY_AFTER_S = 3600.0

Resolve = Callable[[str, int], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it: `error` is "" for a 2xx, else a few words without anything that the receiver wrote."""

    status: int | None
    error: str = ""
    retry_after_s: float = 0.0


class _Refused(Exception):
    """We do not go there, or do not take what comes from there."""


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, as the system knows them. In a thread of its own: a name server that does not answer
    must not occupy those few threads in which the names of Redis are resolved, nor delay the end of the process."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[str]] = loop.create_future()

    def tell(addresses: list[str], error: OSError | UnicodeError | None) -> None:
        if not found.done():
            found.set_result(addresses) if error is None else found.set_exception(error)

    def work() -> None:
        addresses, problem = [], None
        try:
            rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(str(row[4][0]) for row in rows))
        except (OSError, UnicodeError) as error:  # the latter: a label that is too long
            problem = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, addresses, problem)

    threading.Thread(target=work, name="webhook-resolver", daemon=True).start()
    return await found


class Outgoing:
    """Posts bodies to targets."""

    def __init__(
        self,
        resolve: Resolve = resolve,
        allows: Callable[[str], bool] = is_public,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """`allows`: whether an address may be reached where the target does not allow private ones."""
        self._resolve = resolve
        self._allows = allows
        self._context = context or ssl.create_default_context()

    async def post(self, target: Target, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send the body; whatever happens on the way is an Answer with an `error`."""
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(target.timeout_ms / 1000):
                reader, writer = await self._connect(target)
                writer.write(_head(target, headers, len(body)) + body)
                answer = await _read_head(reader)
            await _read_rest(reader)
            return answer
        except TimeoutError:
            return Answer(None, f"no answer within {target.timeout_ms} ms")
        except _Refused as error:
            return Answer(None, str(error))
        except ssl.SSLCertVerificationError as error:
            return Answer(None, f"TLS: {error.verify_message}")
        except ssl.SSLError as error:
            return Answer(None, f"TLS: {error.reason}")
        except (socket.gaierror, UnicodeError):
            return Answer(None, "the host's name cannot be resolved")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return Answer(None, "closed before its answer, or no answer in HTTP")
        except OSError as error:
            return Answer(None, f"connection failed: {errno.errorcode.get(error.errno or 0, 'unknown')}")
        finally:
            if writer is not None:
                writer.transport.abort()

    async def _connect(self, target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the first address that takes us; refuse all where one of them is private."""
        addresses = await self._resolve(target.host, target.port)
        if not target.allow_private and not all(self._allows(address) for address in addresses):
            raise _Refused("the host leads to a private address; allow_private = true would allow that")
        secure = target.url.scheme == "https"
        extra = {"ssl": self._context, "server_hostname": target.host} if secure else {}
        tried = addresses[:MOST_ADDRESSES]
        for number, address in enumerate(tried, 1):
            # One address that swallows everything must leave time for the others.
            share_s = None if number == len(tried) else target.timeout_ms / 1000 / len(tried)
            try:
                async with asyncio.timeout(share_s):
                    return await asyncio.open_connection(
                        address,
                        target.port,
                        limit=MOST_HEAD_BYTES,
                        **extra,  # type: ignore[arg-type]
                    )
            except (OSError, TimeoutError) as error:
                if number == len(tried) or isinstance(error, ssl.SSLError):
                    raise
        raise _Refused("the host has no address")


def _head(target: Target, headers: Mapping[str, str], length: int) -> bytes:
    path = target.url.path or "/"
    lines = {
        "Host": target.url.netloc,
        "User-Agent": "presence-webhooks",
        "Content-Type": "application/json",
        "Content-Length": str(length),
        "Accept": "*/*",
        "Connection": "close",
        **headers,
    }
    first = f"POST {path}{'?' + target.url.query if target.url.query else ''} HTTP/1.1\r\n"
    return (first + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n").encode("ascii")


async def _read_head(reader: asyncio.StreamReader) -> Answer:
    """Status and Retry-After; interim answers (1xx) are passed over."""
    left = MOST_HEAD_BYTES
    while True:
        lines = []
        while line := (await reader.readuntil(b"\n")).rstrip(b"\r\n"):
            left -= len(line) + 2
            if left < 0:
                raise _Refused("the head of the answer is too long")
            lines.append(line.decode("latin-1"))
        status = _status(lines[0] if lines else "")
        if status >= 200:
            return Answer(status, _judged(status), _retry_after_s(lines[1:]))
        left -= 2


def _status(line: str) -> int:
    parts = line.split(" ", 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not (len(parts[1]) == 3 and parts[1].isdecimal()):
        raise _Refused("the answer is no HTTP/1.1")
    return int(parts[1])


def _judged(status: int) -> str:
    if status < 300:
        return ""
    return f"status {status}: redirects are not followed" if status < 400 else f"status {status}"


def _retry_after_s(lines: list[str]) -> float:
    """Seconds that the receiver asks us to wait; 0 where it does not say, or nothing that can be understood."""
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip().lower() == "retry-after":
            return min(MOST_RETRY_AFTER_S, max(0.0, _delay_s(value.strip())))
    return 0.0


def _delay_s(value: str) -> float:
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    with suppress(ValueError, TypeError, OverflowError):
        return email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    return 0.0


async def _read_rest(reader: asyncio.StreamReader) -> None:
    left = MOST_REST_BYTES
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(REST_S):
            while left > 0 and (piece := await reader.read(left)):
                left -= len(piece)
