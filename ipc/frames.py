"""Frames: a version byte, a length, a body. Sans-I/O.

Knows: where one frame ends and the next begins.
Does not know: what a body means, where bytes come from.
Invariants: a frame longer than the cap is refused from its header, before its body is
buffered; a faulty buffer gives nothing more.

Layout, little endian: ``u8 version | u32 body length | body``.
"""

from __future__ import annotations

import struct

PROTOCOL = 1
FRAME_BYTES_MAX = 1 << 20

_HEADER = struct.Struct("<BI")
HEADER_BYTES = _HEADER.size
_unpack_header = _HEADER.unpack_from


class FrameError(Exception):
    """Bytes that are no frame of ours. The channel they came from is lost; nothing else is."""


def pack_frame(body: bytes, limit: int = FRAME_BYTES_MAX) -> bytes:
    """Return header and body as one bytes object, ready for one write.

    Raises `FrameError` when the body is longer than ``limit`` bytes.
    """
    if len(body) > limit:
        raise FrameError(f"cannot send frame: got {len(body)} bytes, want at most {limit} bytes")
    return _HEADER.pack(PROTOCOL, len(body)) + body


class FrameBuffer:
    """Collects bytes in any portions and gives back whole frame bodies in order.

    A wrong version, an oversized frame, or a stream that ends inside a frame sets `fault`.
    The frames before it still count; feeding a faulty buffer raises its `FrameError`.
    """

    __slots__ = ("_buffer", "_limit", "fault")

    def __init__(self, limit: int = FRAME_BYTES_MAX) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self.fault: FrameError | None = None

    def __repr__(self) -> str:
        return f"<FrameBuffer {len(self._buffer)} bytes pending, fault={self.fault}>"

    def feed(self, data: bytes) -> list[bytes]:
        """Take ``data`` and return the bodies of all frames that are now complete."""
        if self.fault is not None:
            raise self.fault
        buffer = self._buffer
        frames: list[bytes] = []
        start = 0
        # The common case, whole frames only, costs one slice a frame and no copy.
        if not buffer:
            size, limit = len(data), self._limit
            if size > HEADER_BYTES:
                version, length = _unpack_header(data)
                if length == size - HEADER_BYTES and version == PROTOCOL and length <= limit:
                    return [data[HEADER_BYTES:]]
            while (body := start + HEADER_BYTES) <= size:
                version, length = _unpack_header(data, start)
                end = body + length
                if end > size or version != PROTOCOL or length > limit:
                    break
                frames.append(data[body:end])
                start = end
            if start == size:
                return frames
            data = data[start:]
            start = 0
        buffer += data
        while start < len(buffer) and self._header_is_fine(start):
            if len(buffer) - start < HEADER_BYTES:
                break
            end = start + HEADER_BYTES + _HEADER.unpack_from(buffer, start)[1]
            if end > len(buffer):
                break
            frames.append(bytes(buffer[start + HEADER_BYTES : end]))
            start = end
        del buffer[: start if self._usable() else len(buffer)]
        return frames

    def _usable(self) -> bool:
        return self.fault is None

    def close(self) -> None:
        """Say that the stream has ended: a frame that was cut short becomes the fault."""
        if self.fault is None and self._buffer:
            size = len(self._buffer)
            self._buffer.clear()
            self.fault = FrameError(f"cannot read frame: stream ended {size} bytes into a frame")

    def _header_is_fine(self, start: int) -> bool:
        version = self._buffer[start]
        if version != PROTOCOL:
            self.fault = FrameError(f"cannot read frame: got version {version}, want {PROTOCOL}")
            return False
        if len(self._buffer) - start >= HEADER_BYTES:
            length = _HEADER.unpack_from(self._buffer, start)[1]
            if length > self._limit:
                self.fault = FrameError(
                    f"cannot read frame: got length {length} bytes, "
                    f"want at most {self._limit} bytes"
                )
                return False
        return True
