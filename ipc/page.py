"""The page a proc and the root share: marks without system calls.

Knows: which attempt a proc has begun and when, which attempt should end, where stack dumps go.
Does not know: what anyone does about it.
Invariants: each field has one writer (`begun_*`: the proc, `cancelled`: the root); the moments
are CLOCK_MONOTONIC seconds, which all processes of one machine share; the dump area begins at
`DUMP_OFFSET` so that a dump never overwrites the marks.

A mark costs 0.2 µs where a pipe write costs 0.5 µs and a wake-up, so every action can be
marked: deadlines count from the true start, and an action that never began is not blamed.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct

DUMP_OFFSET = 4096
DUMP_BYTES_MAX = 256 * 1024
# From linux/fcntl.h; Python names them only in newer versions.
F_ADD_SEALS = 1033
F_SEAL_SHRINK = 0x0002

_ID = struct.Struct("<Q")
_MOMENT = struct.Struct("<dd")
_CANCELLED_AT = 64  # a cache line of its own: the two writers do not share one


def create_page(name: str) -> int:
    """Return the descriptor of a new, zeroed page file in memory (a memfd)."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, DUMP_OFFSET)
    # The root maps this page. Without the seal an action could shrink the file, and the root
    # would die of SIGBUS at its next look (memfd_create(2)).
    fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK)
    return fd


class Page:
    """One side's view of the page behind ``fd``. Does not own the descriptor."""

    __slots__ = ("_map",)

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, DUMP_OFFSET)

    def begin(self, attempt_id: int, now: float, cpu_s: float) -> None:
        """The proc: this attempt begins now; ``cpu_s`` is the CPU time the proc has used."""
        # The number last: who sees it must not pair it with the attempt before's moment.
        _MOMENT.pack_into(self._map, _ID.size, now, cpu_s)
        _ID.pack_into(self._map, 0, attempt_id)

    def begun(self) -> tuple[int, float, float]:
        """The root: the last attempt begun, when, and the proc's CPU seconds at that moment."""
        attempt_id = _ID.unpack_from(self._map, 0)[0]
        at, cpu_s = _MOMENT.unpack_from(self._map, _ID.size)
        return int(attempt_id), float(at), float(cpu_s)

    def cancel(self, attempt_id: int) -> None:
        """The root: this attempt should end by itself."""
        _ID.pack_into(self._map, _CANCELLED_AT, attempt_id)

    def is_cancelled(self, attempt_id: int) -> bool:
        """The proc: should this attempt end?"""
        return bool(_ID.unpack_from(self._map, _CANCELLED_AT)[0] == attempt_id)

    def extension_of(self, attempt_id): return 0.0
    def heartbeat_at(self): return 0.0
    def heard(self): return 0
    def close(self) -> None:
        """Drop the mapping."""
        self._map.close()


def read_dump(fd: int) -> str:
    """The stack dump written so far; empty if none. At most 256 KiB are read."""
    data = os.pread(fd, DUMP_BYTES_MAX, DUMP_OFFSET)
    return data.partition(b"\0")[0].decode("utf-8", "replace").strip("\n")


def clear_dump(fd: int) -> None:
    """Forget an earlier dump, so that the next one starts at `DUMP_OFFSET`."""
    written = min(os.fstat(fd).st_size - DUMP_OFFSET, DUMP_BYTES_MAX)
    if written > 0:
        os.pwrite(fd, bytes(written), DUMP_OFFSET)
    os.lseek(fd, DUMP_OFFSET, os.SEEK_SET)
