"""The page a proc and the root share: marks without system calls.

Knows: whether a proc lives, which attempt it has begun and when, its last heartbeat, the time it
asks for, whether its Python code still answers signals, which attempt should end or begin nothing
more, where stacks go.
Does not know: what anyone does about it.
Invariants: each field has one writer (`cancelled`, `revoked` and `told_of_stop`: the root, all
others: the proc); a field is one aligned machine word, stored at once, so that no reader sees half
of it; the moments are CLOCK_MONOTONIC seconds, which all processes of one machine share; the dump
area begins at `DUMP_OFFSET` so that a dump never overwrites the marks.

A mark costs 0.2 µs where a pipe write costs 0.5 µs and a wake-up, so every action can be
marked: deadlines count from the true start, and an action that never began is not blamed.

Not the struct module: it clears the place before it writes, and a reader could see the zeros.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import threading

from fsmv2.ipc.lifeline import OWNER_DIED, WAITERS, take_hold

DUMP_OFFSET = 4096
DUMP_BYTES_MAX = 256 * 1024
# From linux/fcntl.h; Python names them only in newer versions.
F_ADD_SEALS = 1033
F_SEAL_SHRINK = 0x0002

# In words of 8 bytes. What the root writes, and what is written often, has cache lines of its own.
_BEGUN_ID, _BEGUN_AT, _BEGUN_CPU, _BEGUN_PLACE = 0, 1, 2, 3
_CANCELLED, _REVOKED, _TOLD_OF_STOP = 8, 9, 10
_BEAT_AT = 16
_EXTENSION = 24
_HEARD = 32
_WORN_OUT = 40
# A mutex of the C library, whose first 32 bits are the futex: see `ipc.lifeline`.
_LIFELINE = 48

# An extension is one word, so that the id of one attempt is never seen with the time of
# another: milliseconds below, as much of the attempt's id as there is room for above.
_MS_BITS = 27
_MS_MAX = (1 << _MS_BITS) - 1
_ID_MASK = (1 << (64 - _MS_BITS)) - 1


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

    __slots__ = ("_map", "_moments", "_words")

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, DUMP_OFFSET)
        whole = memoryview(self._map)
        self._words = whole.cast("Q")
        self._moments = whole.cast("d")

    def begin(self, attempt_id: int, now: float, cpu_s: float, place: int = 0) -> None:
        """The proc: this attempt, its ``place``th order, begins now, unless it finds it revoked;
        ``cpu_s`` is the CPU time the proc has used."""
        # The number last: who sees it must not pair it with the attempt before's moment.
        self._moments[_BEGUN_AT] = now
        self._moments[_BEGUN_CPU] = cpu_s
        self._words[_BEGUN_PLACE] = place
        self._words[_BEGUN_ID] = attempt_id

    def begun_place(self) -> int:
        """The root: the last order begun; those before it are over. Not to be told from the
        attempt's number: that may be one that was revoked here and is elsewhere by now, or that
        came back."""
        return self._words[_BEGUN_PLACE]

    def has_begun(self, attempt_id: int, place: int) -> bool:
        """The root, of a dead proc: whether it had begun that order. Of the last one the number
        must be there too: killed between the two marks, it had run nothing of it."""
        last = self._words[_BEGUN_PLACE]
        return place < last or (place == last and self._words[_BEGUN_ID] == attempt_id)

    def begun(self) -> tuple[int, float, float]:
        """The root: the last attempt begun, when, and the proc's CPU seconds at that moment."""
        moments = self._moments
        return self._words[_BEGUN_ID], moments[_BEGUN_AT], moments[_BEGUN_CPU]

    def is_begun(self, attempt_id: int) -> bool:
        """The proc: is this the attempt it is at (and not a thread of one before that asks)?"""
        return self._words[_BEGUN_ID] == attempt_id

    def cancel(self, attempt_id: int) -> None:
        """The root: this attempt should end by itself."""
        self._words[_CANCELLED] = attempt_id

    def is_cancelled(self, attempt_id: int) -> bool:
        """The proc: should this attempt end?"""
        return self._words[_CANCELLED] == attempt_id

    def tell_of_stop(self, attempt_id: int) -> None:
        """The root: what this attempt works for is to stop; it should begin nothing more."""
        self._words[_TOLD_OF_STOP] = attempt_id

    def is_told_of_stop(self, attempt_id: int) -> bool:
        """The proc: should this attempt begin nothing more?"""
        return self._words[_TOLD_OF_STOP] == attempt_id

    def revoke(self, first: int, end: int) -> None:
        """The root: orders with places from ``first`` up to ``end`` must not be begun any more.
        After it comes a `memory_barrier`, and then a look at what was begun."""
        self._words[_REVOKED] = first << 32 | end

    def is_revoked(self, place: int) -> bool:
        """The proc, once it has marked the attempt as begun: must it not be run after all?"""
        word = self._words[_REVOKED]
        return word != 0 and word >> 32 <= place < word & 0xFFFF_FFFF

    def beat(self, now: float) -> None:
        """The proc: the attempt it is at gets on."""
        self._moments[_BEAT_AT] = now

    def heartbeat_at(self) -> float:
        """The root: the last heartbeat's moment, 0.0 if there was none. It may be an earlier
        attempt's: the later of it and the attempt's begin counts."""
        return self._moments[_BEAT_AT]

    def extend(self, attempt_id: int, extra_s: float) -> None:
        """The proc: this attempt asks for ``extra_s`` seconds in all beyond its timeout; told in
        whole milliseconds, at most some 37 hours."""
        extra_ms = min(max(0, round(extra_s * 1000)), _MS_MAX)
        self._words[_EXTENSION] = (attempt_id & _ID_MASK) << _MS_BITS | extra_ms

    def extension_of(self, attempt_id: int) -> float:
        """Either side: the seconds this attempt asks for, 0.0 if none. What the root gives is
        never more than the action type's ceiling, whatever stands here."""
        word = self._words[_EXTENSION]
        if word >> _MS_BITS != attempt_id & _ID_MASK:
            return 0.0
        return (word & _MS_MAX) / 1000

    def hear(self) -> None:
        """The proc: its Python code has run a handler for the dump signal."""
        self._words[_HEARD] = (self._words[_HEARD] + 1) & 0xFFFF_FFFF

    def heard(self) -> int:
        """The root: how often it did. Unchanged after a dump signal: the main thread is in C
        code that does not look at signals. The dump's own word comes before this one."""
        return self._words[_HEARD]

    def wear_out(self) -> None:
        """The proc: something could not be put back after an attempt; no other should run here."""
        self._words[_WORN_OUT] = 1

    def is_worn_out(self) -> bool:
        """The root: should this proc be recycled once it is idle?"""
        return self._words[_WORN_OUT] != 0

    def take_hold(self) -> None:
        """The proc: hold the lifeline for as long as the calling thread lives."""
        is_held = take_hold(self.lifeline_at())
        # Other C libraries keep the futex elsewhere in the mutex.
        if is_held and self.lifeline() == threading.get_native_id():
            # Whoever waits must be woken; ours do not take the lock's own way, where they say so.
            self._words[_LIFELINE] |= WAITERS
        else:
            self._words[_LIFELINE] = 0

    def lifeline_at(self) -> int:
        """Either side: the address of the lifeline, good until `close`."""
        # The view of ctypes goes at once, or the map could not be closed.
        return ctypes.addressof(ctypes.c_char.from_buffer(self._map)) + 8 * _LIFELINE

    def lifeline(self) -> int:
        """The root: the lifeline's futex; 0: the proc has none. Raises ValueError once closed."""
        return self._words[_LIFELINE] & 0xFFFF_FFFF

    def has_let_go(self) -> bool:
        """The root: the thread that held the lifeline has come to its end, and its process will
        at once (or runs another program from now on, see execve(2))."""
        return self.lifeline() & OWNER_DIED != 0

    def close(self) -> None:
        """Drop the mapping. Safe to call twice."""
        self._words.release()
        self._moments.release()
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
