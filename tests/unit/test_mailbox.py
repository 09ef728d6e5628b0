from presence.errors import CloseCode
from presence.mailbox import Frame, Mailbox, websocket_frame


class Bell:
    def __init__(self) -> None:
        self.rings = 0

    def __call__(self) -> None:
        self.rings += 1


def frames(number: int, size: int = 10) -> list[Frame]:
    return [Frame(b"%0*d" % (size, at)) for at in range(number)]


def test_frames_come_out_in_order_and_only_the_first_one_wakes() -> None:
    bell = Bell()
    mailbox = Mailbox(bell)
    queued = frames(5)

    for frame in queued:
        mailbox.put(frame)

    assert bell.rings == 1
    assert len(mailbox) == 5
    assert mailbox.take() == queued
    assert len(mailbox) == 0
    assert mailbox.take() == []


def test_it_wakes_again_after_it_was_emptied() -> None:
    bell = Bell()
    mailbox = Mailbox(bell)

    for frame in frames(2):
        mailbox.put(frame)
        mailbox.take()

    assert bell.rings == 2


def test_a_batch_is_bounded_in_bytes_but_never_empty() -> None:
    mailbox = Mailbox()
    small, large = frames(3, 10), Frame(b"x" * 1000)

    for frame in (*small, large):
        mailbox.put(frame)

    assert mailbox.take(20) == small[:2]
    assert mailbox.take(20) == small[2:]
    assert mailbox.take(20) == [large]
    assert mailbox.take(20) == []


def test_one_frame_too_many_drops_everything_and_closes_as_too_slow() -> None:
    bell, slow = Bell(), Bell()
    mailbox = Mailbox(bell, max_frames=3, on_overflow=slow)

    for frame in frames(5):
        mailbox.put(frame)

    assert mailbox.closing is not None
    assert mailbox.closing[0] == CloseCode.TOO_SLOW
    assert mailbox.take() == []
    assert (bell.rings, slow.rings) == (2, 1)


def test_one_byte_too_many_closes_as_too_slow() -> None:
    mailbox = Mailbox(max_bytes=100)

    for frame in frames(10, 10):
        mailbox.put(frame)
    assert mailbox.closing is None
    mailbox.put(Frame(b"x"))

    assert mailbox.closing is not None
    assert len(mailbox) == 0


def test_what_was_taken_makes_room_again() -> None:
    mailbox = Mailbox(max_bytes=100)

    for frame in frames(50, 10):
        mailbox.put(frame)
        mailbox.take(10)

    assert mailbox.closing is None


def test_frames_before_a_close_are_still_delivered_and_later_ones_are_not() -> None:
    bell = Bell()
    mailbox = Mailbox(bell)
    first, late = frames(2)
    mailbox.put(first)

    mailbox.close(CloseCode.REPLACED, "replaced")
    mailbox.close(CloseCode.SILENT, "a second reason")
    mailbox.put(late)

    assert mailbox.closing == (CloseCode.REPLACED, "replaced")
    assert mailbox.take() == [first]
    assert bell.rings == 2


def test_a_dropped_mailbox_takes_nothing_and_wakes_nobody() -> None:
    bell = Bell()
    mailbox = Mailbox(bell)
    mailbox.put(Frame(b"1"))

    mailbox.drop()
    mailbox.put(Frame(b"2"))
    mailbox.close(CloseCode.DRAIN, "bye")

    assert len(mailbox) == 0
    assert bell.rings == 1


def test_an_idle_mailbox_owns_no_queue() -> None:
    mailbox = Mailbox()
    mailbox.put(Frame(b"1"))

    mailbox.take()

    assert mailbox._queue is None


def test_the_websocket_frame_is_built_once_and_shared() -> None:
    frame = Frame(b'{"type":"ok"}')

    assert frame.ws is frame.ws
    assert frame.ws == b'\x81\x0d{"type":"ok"}'


def test_the_length_of_a_websocket_frame_takes_7_16_or_64_bits() -> None:
    assert websocket_frame(b"x" * 125)[:2] == b"\x81\x7d"
    assert websocket_frame(b"x" * 126)[:4] == b"\x81\x7e\x00\x7e"
    assert websocket_frame(b"x" * 65535)[:4] == b"\x81\x7e\xff\xff"
    assert websocket_frame(b"x" * 65536)[:10] == b"\x81\x7f" + (65536).to_bytes(8)
