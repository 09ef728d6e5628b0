from __future__ import annotations

import os

import pytest

from presence.handlers.frames import MAX_MESSAGE_BYTES, Parser, ProtocolError, close_frame, close_reply

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
MASK = b"\x12\x00\xff\x7f"


def frame(payload: bytes, opcode: int = TEXT, *, final: bool = True, reserved: int = 0) -> bytes:
    """One masked client frame."""
    size = len(payload)
    head = bytes([(0x80 if final else 0) | reserved << 4 | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += b"\xfe" + size.to_bytes(2)
    else:
        head += b"\xff" + size.to_bytes(8)
    return head + MASK + bytes(byte ^ MASK[at % 4] for at, byte in enumerate(payload))


def parse(*chunks: bytes) -> list[tuple[int, bytes]]:
    parser, found = Parser(), []
    for chunk in chunks:
        parser.feed(chunk)
        while (event := parser.next()) is not None:
            found.append(event)
    return found


STREAM = (
    frame(b'{"type":"beat"}')
    + frame(b"", PING)
    + frame(b"one ", TEXT, final=False)
    + frame(b"pong", PONG)
    + frame(b"two ", 0, final=False)
    + frame(b"", 0, final=False)
    + frame(b"three", 0)
    + frame(b"x" * 126)
    + frame(b"\x00\xff", BINARY)
    + frame(b"")
    + frame(b"\x03\xe8bye", CLOSE)
)
EVENTS = [
    (TEXT, b'{"type":"beat"}'),
    (PING, b""),
    (PONG, b"pong"),
    (TEXT, b"one two three"),
    (TEXT, b"x" * 126),
    (BINARY, b"\x00\xff"),
    (TEXT, b""),
    (CLOSE, b"\x03\xe8bye"),
]


def test_a_stream_means_the_same_wherever_it_is_split_in_two() -> None:
    for at in range(len(STREAM) + 1):
        assert parse(STREAM[:at], STREAM[at:]) == EVENTS, f"split at {at}"


def test_a_stream_means_the_same_byte_by_byte() -> None:
    assert parse(*(STREAM[at : at + 1] for at in range(len(STREAM)))) == EVENTS


def test_a_stream_means_the_same_split_in_three() -> None:
    for first in range(0, len(STREAM), 3):
        for second in range(first, len(STREAM), 7):
            chunks = STREAM[:first], STREAM[first:second], STREAM[second:]
            assert parse(*chunks) == EVENTS, f"split at {first} and {second}"


@pytest.mark.parametrize("size", [125, 126, 127, 65535, MAX_MESSAGE_BYTES])
def test_every_form_of_length_is_understood(size: int) -> None:
    payload = os.urandom(size)
    data = frame(payload, BINARY)

    assert parse(data) == [(BINARY, payload)]
    assert parse(data[:9], data[9:]) == [(BINARY, payload)]


def test_nothing_is_kept_of_what_was_parsed() -> None:
    parser = Parser()
    parser.feed(STREAM)
    while parser.next() is not None:
        pass

    assert parser._data == b""
    assert parser._message is None


BROKEN = {
    "unmasked": (b"\x81\x02hi", 1002),
    "reserved bit": (frame(b"hi", reserved=4), 1002),
    "unknown opcode": (frame(b"hi", 3), 1002),
    "unknown control opcode": (frame(b"hi", 11), 1002),
    "long control frame": (frame(b"x" * 126, PING), 1002),
    "fragmented control frame": (frame(b"x", PING, final=False), 1002),
    "continuation of nothing": (frame(b"hi", 0), 1002),
    "new message inside another": (frame(b"a", final=False) + frame(b"b"), 1002),
    "too long": (frame(b"x" * (MAX_MESSAGE_BYTES + 1)), 1009),
    "too long by its header alone": (b"\x81\xff" + b"\xff" * 8, 1009),
    "too long in fragments": (frame(b"x" * MAX_MESSAGE_BYTES, final=False) + frame(b"y", 0), 1009),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_stream_ends_with_its_code_wherever_it_is_split(name: str) -> None:
    data, code = BROKEN[name]
    edges = {*range(min(len(data), 300)), *range(max(0, len(data) - 20), len(data))}

    for at in edges:
        with pytest.raises(ProtocolError) as caught:
            parse(data[:at], data[at:])
        assert caught.value.code == code, f"split at {at}"


def test_frames_before_a_broken_one_still_count() -> None:
    parser = Parser()
    parser.feed(frame(b"good") + b"\x81\x02hi")

    assert parser.next() == (TEXT, b"good")
    with pytest.raises(ProtocolError):
        parser.next()


def test_a_control_frame_does_not_count_into_the_size_of_the_message_around_it() -> None:
    data = frame(b"x" * MAX_MESSAGE_BYTES, final=False) + frame(b"p" * 125, PING) + frame(b"", 0)

    assert parse(data) == [(PING, b"p" * 125), (TEXT, b"x" * MAX_MESSAGE_BYTES)]


def test_a_close_frame_is_answered_with_its_own_code() -> None:
    assert close_reply((1000).to_bytes(2) + b"bye") == b"\x88\x02\x03\xe8"
    assert close_reply((4999).to_bytes(2)) == b"\x88\x02" + (4999).to_bytes(2)
    assert close_reply(b"") == b"\x88\x00"


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
def test_a_close_frame_with_an_impossible_code_is_a_protocol_error(code: int) -> None:
    assert close_reply(code.to_bytes(2))[2:4] == (1002).to_bytes(2)


def test_a_close_frame_of_one_byte_or_with_a_reason_that_is_not_utf8_is_an_error() -> None:
    assert close_reply(b"\x03")[2:4] == (1002).to_bytes(2)
    assert close_reply(b"\x03\xe8\xff")[2:4] == (1007).to_bytes(2)


def test_a_long_reason_is_cut_at_a_character() -> None:
    data = close_frame(4100, "é" * 100)

    assert data[1] == 124
    assert data[4:].decode() == "é" * 61
