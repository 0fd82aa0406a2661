"""The channel: over real pipes, bounded in both directions, never blocking."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

import pytest

from fsmv2.ipc.channel import READ_BYTES, Channel
from fsmv2.ipc.frames import FRAME_BYTES_MAX, HEADER_BYTES, FrameError, pack_frame

LIMIT = 200_000


class Pair:
    """Two channels, each the other's peer."""

    def __init__(self) -> None:
        there_read, here_write = os.pipe()
        here_read, there_write = os.pipe()
        self.here = Channel(here_read, here_write, queue_bytes_max=LIMIT)
        self.there = Channel(there_read, there_write, queue_bytes_max=LIMIT)


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.here.close()
    pair.there.close()


def fill(channel: Channel, body: bytes) -> int:
    """Send until the channel refuses; how many frames it took."""
    taken = 0
    while channel.send(body):
        taken += 1
    return taken


def carry(source: Channel, target: Channel) -> list[bytes]:
    """Move everything that waits in ``source`` over to ``target``."""
    frames: list[bytes] = []
    while True:
        source.flush()
        received = target.receive()
        frames += received.frames
        if not source.wants_write and not received.frames:
            return frames


def test_frames_arrive_in_order(pair: Pair) -> None:
    """What one side sends, the other receives."""
    assert all(pair.here.send(b"%d" % i) for i in range(5))
    assert pair.there.receive() == ([b"0", b"1", b"2", b"3", b"4"], False, None)


def test_receive_returns_at_once_when_there_is_nothing(pair: Pair) -> None:
    """An empty pipe is no reason to wait."""
    assert pair.here.receive() == ([], False, None)


def test_a_full_pipe_never_blocks_and_the_queue_refuses(pair: Pair) -> None:
    """A peer that does not read costs a refusal, and no more memory than the limit."""
    taken = fill(pair.here, b"x" * 1000)
    assert taken >= LIMIT // (1000 + HEADER_BYTES)
    assert pair.here.wants_write
    waiting = int(repr(pair.here).split("unsent=")[1].split()[0])
    assert waiting <= LIMIT
    assert pair.here.send(b"x" * 1000) is False
    assert pair.here.flush() is True


def test_a_partial_write_is_resumed_where_it_stopped(pair: Pair) -> None:
    """A frame larger than the pipe goes out in pieces and arrives whole."""
    big = os.urandom(150_000)
    assert pair.here.send(big)
    assert pair.here.send(b"after")
    assert pair.here.wants_write
    assert carry(pair.here, pair.there) == [big, b"after"]
    assert not pair.here.wants_write


def test_every_frame_that_was_taken_arrives_and_no_other(pair: Pair) -> None:
    """A refusal sends nothing, not even a part."""
    bodies = [b"%06d" % i + b"." * 900 for i in range(1000)]
    taken = [body for body in bodies if pair.here.send(body)]
    assert 0 < len(taken) < len(bodies)
    assert carry(pair.here, pair.there) == taken


def test_room_in_the_queue_is_used_again(pair: Pair) -> None:
    """After the peer has read, sending works as before."""
    first = fill(pair.here, b"x" * 1000)
    assert len(carry(pair.here, pair.there)) == first
    assert fill(pair.here, b"y" * 1000) == first


def test_a_body_over_the_cap_is_an_error_and_leaves_the_channel_usable(pair: Pair) -> None:
    """Nothing of it was sent."""
    with pytest.raises(FrameError):
        pair.here.send(b"x" * (FRAME_BYTES_MAX + 1))
    assert pair.here.send(b"fine")
    assert pair.there.receive().frames == [b"fine"]


def test_the_end_of_the_stream_is_told(pair: Pair) -> None:
    """A peer that closes is seen as closed, without a fault, after its last frame."""
    pair.there.send(b"last")
    pair.there.close()
    first = pair.here.receive()
    assert first.frames == [b"last"]
    assert first.fault is None
    assert pair.here.receive() == ([], True, None)


def test_a_peer_that_dies_inside_a_frame_is_a_fault(pair: Pair) -> None:
    """Half a frame is no frame."""
    os.write(pair.there.write_fd, pack_frame(b"whole") + pack_frame(b"half")[:7])
    pair.there.close()
    frames = list(pair.here.receive().frames)
    end = pair.here.receive()
    assert frames == [b"whole"]
    assert end.closed
    assert "stream ended 7 bytes into a frame" in str(end.fault)


def test_frames_before_a_fault_count_and_the_fault_stays(pair: Pair) -> None:
    """The answer that came before the garbage is an answer; afterwards there is nothing."""
    os.write(pair.there.write_fd, pack_frame(b"answer") + b"\xffgarbage")
    received = pair.here.receive()
    assert received.frames == [b"answer"]
    assert received.closed
    assert "got version 255" in str(received.fault)
    os.write(pair.there.write_fd, pack_frame(b"more"))
    assert pair.here.receive() == ([], True, received.fault)


def test_a_flooding_peer_cannot_hold_the_reader(pair: Pair) -> None:
    """One call reads a bounded portion; what is left comes with the next."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(pair.there.write_fd, fcntl.F_SETPIPE_SZ, 8 * READ_BYTES)
    if fcntl.fcntl(pair.there.write_fd, fcntl.F_GETPIPE_SZ) < 8 * READ_BYTES:
        pytest.skip("this machine allows no larger pipes")
    frame = pack_frame(b"x" * 1019)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pair.there.write_fd, frame)
    total = 8 * READ_BYTES // len(frame)
    first = pair.here.receive(reads_max=2)
    assert len(first.frames) == 2 * READ_BYTES // len(frame)
    rest = pair.here.receive()
    assert len(first.frames) + len(rest.frames) == total


def test_sending_to_a_dead_peer_is_refused(pair: Pair) -> None:
    """No exception: the reader learns of the death by itself."""
    pair.there.close()
    assert pair.here.send(b"anyone?") is False
    assert not pair.here.wants_write


def test_what_waited_for_a_dead_peer_is_forgotten(pair: Pair) -> None:
    """A queue for nobody is dropped, so that nothing polls for ever."""
    fill(pair.here, b"x" * 1000)
    pair.there.close()
    assert pair.here.flush() is False
    assert not pair.here.wants_write


def test_a_closed_channel_is_harmless(pair: Pair) -> None:
    """Closing twice, sending, flushing and receiving after it raise nothing."""
    pair.here.close()
    pair.here.close()
    assert pair.here.send(b"x") is False
    assert pair.here.flush() is False
    assert pair.here.receive() == ([], True, None)
