"""A process that floods the buses with messages, faster than any node reads them.

One message in each channel is announced by the server's script; the others are copies of what that put on the bus, with
the numbers that follow, and are published without the script, which one Redis does not run often enough. So they are in
no history, and a node that missed one would say so. Prints `ready`; floods when it reads a line, and prints how long
Redis took; ends with its standard input. The last message goes to a channel of its own.
"""

from __future__ import annotations

import argparse
import socket
import sys
import threading
import time

import redis

from presence.keys import SEPARATOR, Keys
from presence.lua import Script
from presence.settings import Settings
from presence.tracker import announcing

END = "flood-end"
CHUNK = 1 << 16
HEARD_S = 5.0


def channel_of(number: int, channels: int) -> str:
    """Channel of the message with that number."""
    return f"flood-{number % channels}"


class Template:
    """What the script put on the bus for a channel's first message."""

    def __init__(self, bus: str, message: bytes) -> None:
        self._bus = bus.encode()
        self._parts = message.split(SEPARATOR.encode(), 10)
        self._seq = int(self._parts[3])

    def following(self) -> bytes:
        """The command that publishes the next one."""
        before = b'{"seq":%d,' % self._seq
        assert self._parts[10].startswith(before), self._parts
        self._seq += 1
        self._parts[3] = b"%d" % self._seq
        self._parts[10] = b'{"seq":%d,' % self._seq + self._parts[10][len(before) :]
        return _command(b"PUBLISH", self._bus, SEPARATOR.encode().join(self._parts))


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def _announce(client: redis.Redis, keys: Keys, channel: str, data: str) -> Template:
    number = keys.partition(channel)
    script = Script("publish")
    own = channel, '"flood"', data, '"somebody"', "somebody", "", "", 0
    with client.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe(keys.bus(number))
        listener.get_message(timeout=HEARD_S)
        client.eval(script.text, 2, *keys.script(number), *announcing(Settings(), keys, number), *own)
        message = listener.get_message(timeout=HEARD_S)
        assert message is not None, "the script's message did not come"
        return Template(keys.bus(number), message["data"])


def _flood(port: int, blob: bytes) -> float:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        started_s = time.monotonic()
        sender = threading.Thread(target=connection.sendall, args=(blob,))
        sender.start()
        tail = b""
        while not tail.endswith(b"+PONG\r\n"):
            tail = (tail + connection.recv(CHUNK))[-16:]
        sender.join()
        return time.monotonic() - started_s


def main() -> None:
    parser = argparse.ArgumentParser(description="Flood the buses")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--channels", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--bytes", type=int, required=True, help="of a message's data")
    options = parser.parse_args()
    keys, data = Keys(options.prefix, options.partitions), '"' + "x" * (options.bytes - 2) + '"'
    with redis.Redis(port=options.port) as client:
        channels = [channel_of(number, options.channels) for number in range(options.channels)]
        templates = [_announce(client, keys, channel, data) for channel in channels]
        end = _announce(client, keys, END, data)
    messages = [templates[number % options.channels].following() for number in range(options.count - 1)]
    blob = b"".join([*messages, end.following(), _command(b"PING")])
    print("ready", flush=True)
    if sys.stdin.readline():
        print(_flood(options.port, blob), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
