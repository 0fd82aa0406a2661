"""zstd, from the standard library where it is there and else from its backport.

Knows: the level and the window other senders use, how to stop at a size.
Does not know: messages, what a frame is recognised by (`codec`). Import it where something is
packed or unpacked, not at the top of a module that the root loads.
Invariants: never more than the size asked for is unpacked, whatever a frame claims or hides;
every fault of the input is a `CompressionError`.
"""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# The fastest level and a window of 32 KiB, as the instances in the field send it.
_OPTIONS: dict[int, int] = {
    zstd.CompressionParameter.compression_level: 1,
    zstd.CompressionParameter.window_log: 15,
}
# A frame may demand a window of this many bytes (as a power of two) before its first byte.
_WINDOW_LOG_MAX = 23


class CompressionError(ValueError):
    """Bytes that are no zstd frame, or one that is too large."""


def compress(data: bytes) -> bytes:
    """``data`` as one frame."""
    return zstd.compress(data, options=_OPTIONS)


def decompress(data: bytes, bytes_max: int) -> bytes:
    """What ``data``, one or several frames, holds.

    Raises `CompressionError` for broken or unfinished frames, for bytes behind them, and for
    more than ``bytes_max`` bytes, after having unpacked no more than one byte beyond that.
    """
    parts: list[bytes] = []
    size = 0
    while data:
        unpacker = zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}
        )
        while not unpacker.eof:
            try:
                part = unpacker.decompress(data, bytes_max + 1 - size)
            except zstd.ZstdError:
                raise CompressionError("got a broken zstd frame") from None
            size += len(part)
            if size > bytes_max:
                raise CompressionError(f"got more than {bytes_max} bytes in zstd")
            parts.append(part)
            if unpacker.needs_input and not unpacker.eof:
                raise CompressionError("got a zstd frame without an end")
            data = b""
        data = unpacker.unused_data
    return b"".join(parts)
