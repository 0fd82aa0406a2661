"""Frames: any bytes in any portions give whole frames or one fault, nothing else."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.ipc.frames import HEADER_BYTES, PROTOCOL, FrameBuffer, FrameError, pack_frame

BODIES = st.lists(st.binary(max_size=300), max_size=12)
CUTS = st.lists(st.integers(min_value=0, max_value=4000), max_size=12)


def header(length: int, version: int = PROTOCOL) -> bytes:
    return struct.pack("<BI", version, length)


def portions(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


def feed_all(buffer: FrameBuffer, parts: list[bytes]) -> list[bytes]:
    frames: list[bytes] = []
    for part in parts:
        if buffer.fault is not None:
            break
        frames += buffer.feed(part)
    return frames


@given(BODIES, CUTS)
def test_frames_come_back_whole_and_in_order_however_the_stream_is_cut(
    bodies: list[bytes], cuts: list[int]
) -> None:
    """What was packed is what is read, whatever portions it arrives in."""
    stream = b"".join(pack_frame(body) for body in bodies)
    buffer = FrameBuffer()
    assert feed_all(buffer, portions(stream, cuts)) == bodies
    buffer.close()
    assert buffer.fault is None


@given(BODIES, st.binary(max_size=400), CUTS)
def test_any_bytes_give_frames_or_a_fault_and_nothing_else(
    bodies: list[bytes], junk: bytes, cuts: list[int]
) -> None:
    """How the bytes are cut changes neither the frames nor the fault, and nothing raises."""
    stream = b"".join(pack_frame(body) for body in bodies) + junk
    whole, cut = FrameBuffer(limit=512), FrameBuffer(limit=512)
    frames = feed_all(whole, [stream])
    assert feed_all(cut, portions(stream, cuts)) == frames
    whole.close()
    cut.close()
    assert str(cut.fault) == str(whole.fault)
    assert frames[: len(bodies)] == bodies


FAULTS = st.sampled_from(
    [
        b"",
        b"\x00",
        b"\xff\x01",
        header(513),
        header(0, PROTOCOL + 1),
        header(9)[:3],
        header(9) + b"x",
    ]
)


@given(BODIES, FAULTS, CUTS)
def test_a_fault_is_the_same_however_it_comes_and_the_frames_before_it_count(
    bodies: list[bytes], fault: bytes, cuts: list[int]
) -> None:
    """In one portion, where whole frames are not copied, byte by byte, and cut anywhere."""
    stream = b"".join(pack_frame(body) for body in bodies) + fault
    whole, single, cut = (FrameBuffer(limit=512) for _ in range(3))
    assert feed_all(whole, [stream]) == bodies
    assert feed_all(single, portions(stream, list(range(len(stream))))) == bodies
    assert feed_all(cut, portions(stream, cuts)) == bodies
    for buffer in (whole, single, cut):
        buffer.close()
    assert str(whole.fault) == str(single.fault) == str(cut.fault)
    assert (whole.fault is None) is (fault == b"")


@given(BODIES, BODIES, st.integers(0, 400))
def test_after_a_cut_frame_whole_portions_are_taken_whole_again(
    before: list[bytes], after: list[bytes], at: int
) -> None:
    """The way back from the rest of a frame to the short way loses nothing."""
    stream = b"".join(pack_frame(body) for body in [*before, b"cut"])
    buffer = FrameBuffer()
    frames = feed_all(buffer, portions(stream, [min(at, len(stream))]))
    assert frames == [*before, b"cut"]
    assert "0 bytes pending" in repr(buffer)
    assert buffer.feed(b"".join(pack_frame(body) for body in after)) == after


@given(st.binary(max_size=600))
def test_the_bytes_of_all_frames_and_the_rest_are_the_bytes_that_were_fed(data: bytes) -> None:
    """A buffer invents nothing and loses nothing: frames packed anew are a prefix of the input."""
    buffer = FrameBuffer(limit=64)
    frames = feed_all(buffer, [data])
    assert data.startswith(b"".join(pack_frame(frame) for frame in frames))


def test_a_frame_of_exactly_the_limit_passes() -> None:
    """The cap itself is allowed, on both sides."""
    buffer = FrameBuffer(limit=100)
    assert buffer.feed(pack_frame(b"x" * 100, limit=100)) == [b"x" * 100]
    assert buffer.fault is None


def test_a_body_over_the_limit_is_not_packed() -> None:
    """The sender is told what it had and what is allowed."""
    with pytest.raises(FrameError, match="got 101 bytes, want at most 100 bytes"):
        pack_frame(b"x" * 101, limit=100)


def test_an_oversized_frame_is_refused_from_its_header_alone() -> None:
    """No byte of an oversized body is waited for, still less buffered."""
    buffer = FrameBuffer(limit=100)
    assert buffer.feed(header(101)) == []
    assert "got length 101 bytes, want at most 100 bytes" in str(buffer.fault)
    assert "0 bytes pending" in repr(buffer)


def test_an_oversized_frame_is_refused_although_it_is_there_as_a_whole() -> None:
    """In one portion with those before and behind it."""
    buffer = FrameBuffer(limit=100)
    stream = pack_frame(b"a") + header(101) + b"x" * 101 + pack_frame(b"b")
    assert buffer.feed(stream) == [b"a"]
    assert "got length 101 bytes" in str(buffer.fault)


def test_a_wrong_version_is_refused_from_its_first_byte() -> None:
    """One byte is enough to know that the peer speaks something else."""
    buffer = FrameBuffer()
    assert buffer.feed(bytes([PROTOCOL + 1])) == []
    assert f"got version {PROTOCOL + 1}, want {PROTOCOL}" in str(buffer.fault)


def test_frames_before_a_fault_count() -> None:
    """What was complete before the garbage is given out."""
    buffer = FrameBuffer()
    assert buffer.feed(pack_frame(b"a") + pack_frame(b"b") + b"\xff\xff") == [b"a", b"b"]
    assert buffer.fault is not None


def test_a_faulty_buffer_gives_nothing_more() -> None:
    """After a fault there is no way to find the next frame: feeding raises that fault."""
    buffer = FrameBuffer()
    buffer.feed(b"\x00")
    with pytest.raises(FrameError, match="got version 0"):
        buffer.feed(pack_frame(b"fine"))


@pytest.mark.parametrize("kept", range(1, HEADER_BYTES + 3))
def test_a_stream_that_ends_inside_a_frame_is_a_fault(kept: int) -> None:
    """A frame cut short anywhere, in its header or its body, is told by its length so far."""
    buffer = FrameBuffer()
    assert buffer.feed(pack_frame(b"abc")[:kept]) == []
    assert buffer.fault is None
    buffer.close()
    assert f"stream ended {kept} bytes into a frame" in str(buffer.fault)


def test_a_stream_that_ends_between_frames_is_no_fault() -> None:
    """A clean end is a clean end, and empty bodies are frames too."""
    buffer = FrameBuffer()
    assert buffer.feed(pack_frame(b"") * 3) == [b"", b"", b""]
    buffer.close()
    assert buffer.fault is None
