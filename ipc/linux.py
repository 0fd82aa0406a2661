"""The few Linux calls that Python has no function for.

Knows: membarrier; prctl's parent-death signal and child sub-reaper; /proc's lists of children.
Does not know: whom they concern.
Invariants: none of them can block; a kernel without them gives an OSError or an empty answer,
never a crash. Sources: prctl(2), membarrier(2), proc(5).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
from collections import deque
from collections.abc import Container
from typing import NamedTuple

# A look at a process costs some 20 to 70 µs: an action may start ten thousand of them.
DESCENDANTS_MAX = 1_000

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37

# linux/membarrier.h; the C library has no function for it.
_MEMBARRIER = {"x86_64": 324, "aarch64": 283}.get(platform.machine())
_MEMBARRIER_GLOBAL_EXPEDITED = 1 << 1
_MEMBARRIER_REGISTER_GLOBAL_EXPEDITED = 1 << 2

_libc = ctypes.CDLL(None, use_errno=True)


def register_for_barriers() -> bool:
    """Have `memory_barrier` of other processes reach this one. False: the kernel cannot."""
    return _membarrier(_MEMBARRIER_REGISTER_GLOBAL_EXPEDITED)


def memory_barrier() -> bool:
    """Order what this process wrote to shared memory before what it reads next, as seen by all
    processes that have registered, which need no barrier of their own: each of them sees our
    write, or we see what it wrote before it looked. Source: membarrier(2). False: it cannot."""
    return _membarrier(_MEMBARRIER_GLOBAL_EXPEDITED)


def _membarrier(command: int) -> bool:
    return _MEMBARRIER is not None and _libc.syscall(_MEMBARRIER, command, 0, 0) == 0


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel SIGKILL this process when its parent ends; exit now if it has already.

    The signal is bound to the parent's *thread* that created us (prctl(2)); whoever calls this
    must know that thread to live as long as its process.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(0)


def set_name(name: str) -> None:
    """Name this process as ``ps -o comm`` shows it; the kernel keeps 15 bytes. Unlike command
    line and environment, the name is still readable once the process is a zombie."""
    _libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def flush_c_streams() -> None:
    """Write out what C code has printed and libc still holds: a fork would copy it, and every
    copy would be written. Waits for a stream that another thread reads from: fflush(3)."""
    _libc.fflush(None)


def set_subreaper(on: bool) -> None:
    """Make orphaned descendants of this process its own children (or no longer)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1 if on else 0)


def is_subreaper() -> bool:
    """Whether orphaned descendants come to this process."""
    value = ctypes.c_int(0)
    if _libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(value), 0, 0, 0) != 0:
        return False
    return bool(value.value)


def children_of(pid: int) -> list[int]:
    """The direct children of ``pid``, over all its threads; empty if it is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            path = f"/proc/{pid}/task/{thread}/children"
            with contextlib.suppress(OSError, ValueError), open(path, "rb") as file:
                found += [int(part) for part in file.read().split()]
    return found


def descendants_of(pid: int, limit: int = DESCENDANTS_MAX, skip: Container[int] = ()) -> list[int]:
    """The processes below ``pid``, parents before children: the first ``limit`` of them.

    ``skip`` are neither looked at nor counted, nor is anybody below them.
    """
    found: list[int] = []
    todo = deque(children_of(pid))
    while todo and len(found) < limit:
        child = todo.popleft()
        if child not in skip:
            found.append(child)
            todo += children_of(child)
    return found


class Place(NamedTuple):
    """Where /proc says a process stands: its parent's pid, its state letter ("Z": a zombie)."""

    parent_pid: int
    state: str


def place_of(pid: int) -> Place | None:
    """Parent and state of ``pid``; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name in brackets may hold anything, so count from its end.
            fields = file.read().rpartition(b")")[2].split()
        return Place(int(fields[1]), fields[0].decode())
    except (OSError, ValueError, IndexError):
        return None


def has_children_lists() -> bool:
    """Whether /proc lists children (CONFIG_PROC_CHILDREN, proc(5)); without, `children_of` and
    `descendants_of` find nobody, and `descendants_by_scan` is what is left."""
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def descendants_by_scan(
    pid: int, limit: int = DESCENDANTS_MAX, skip: Container[int] = ()
) -> list[int]:
    """As `descendants_of`, by reading the parent of each process there is: some 10 µs each, and
    ``limit`` makes that no cheaper."""
    below: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (place := place_of(int(name))) is not None:
            below.setdefault(place.parent_pid, []).append(int(name))
    found: list[int] = []
    todo = deque(below.get(pid, ()))
    while todo and len(found) < limit:
        child = todo.popleft()
        if child not in skip:
            found.append(child)
            todo += below.get(child, ())
    return found


class Orphan(NamedTuple):
    """What /proc tells of a child we did not start: its name, whether it is a zombie, and the
    pid of the proc it comes from (its session's leader, or the mark in its environment), 0 if
    unknown."""

    name: str
    is_zombie: bool
    proc_pid: int


def orphan_of(pid: int) -> Orphan:
    """Look at ``pid``. A process that is gone reads as no zombie and unknown."""
    proc_pid = 0
    name = state = ""
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open(f"/proc/{pid}/stat", "rb") as file:
            head, _, tail = file.read().rpartition(b")")
        name = head.partition(b"(")[2].decode("utf-8", "replace")
        fields = tail.split()
        state, proc_pid = fields[0].decode(), int(fields[3])
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/environ", "rb") as file:
        for entry in file.read().split(b"\0"):
            if entry.startswith(b"FSMV2_SLOT="):
                proc_pid = int(entry.rpartition(b":")[2])
    return Orphan(name, state == "Z", proc_pid)


def is_alive(pid: int) -> bool:
    """Whether ``pid`` exists and is not a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (OSError, IndexError):
        return False
