"""Holds an action to its type's limits while it runs, and lifts them afterwards.

Knows: soft resource limits, niceness, what the proc itself uses already.
Does not know: memory guard and concurrency, which the root holds; what becomes of the proc.
Invariants: a limit never loosens one that is stricter already; only soft limits are touched, so
that the next action gets its own; a limit that cannot be set is the attempt's failure before it
begins, never skipped (but `processes`, see there); whatever the action raised, the limits are
lifted before its error is encoded. Sources: getrlimit(2), setpriority(2).
"""

from __future__ import annotations

import math
import mmap
import os
import resource
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from fsmv2.ipc.page import Page

# Room that is given back first when the limits are lifted: an action may have used up its
# address space to the last page. Never touched, so it costs no memory.
BALLAST_BYTES = 4 << 20
# The inode of the first pid namespace (linux/proc_ns.h): there /proc shows every process.
_FIRST_PID_NAMESPACE = 0xEFFFFFFC
# In this order: with the address space limited, setting another could run out of memory.
_IN_PROC = ("niceness", "processes", "open_files", "cpu_s", "address_space_bytes")


class LimitError(Exception):
    """A limit of the action's type could not be set; the action was not run."""


class Applied:
    """Limits in force inside the ``with`` block. ``restored`` is False when something could not
    be put back: the page says so too, and the proc should be recycled."""

    __slots__ = ("_ballast", "_limits", "_page", "_undo", "restored")

    def __init__(self, limits: Any, page: Page | None) -> None:
        self._limits = limits
        self._page = page
        self._undo: list[Callable[[], object]] = []
        self._ballast: mmap.mmap | None = None
        self.restored = True

    def __enter__(self) -> Self:
        limits = self._limits
        try:
            for name in _IN_PROC:
                want = getattr(limits, name, None)
                if want is not None:
                    getattr(self, f"_set_{name}")(want)
        except BaseException:
            self._lift()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._undo:
            self._lift()

    def _lift(self) -> None:
        if self._ballast is not None:
            self._ballast.close()
            self._ballast = None
        while self._undo:
            undo = self._undo.pop()
            try:
                undo()
            except (OSError, ValueError, MemoryError):
                self.restored = False
                if self._page is not None:
                    self._page.wear_out()

    def _set_soft(self, name: str, which: int, want: int) -> None:
        """Lower the soft limit ``which`` to ``want``, unless it is lower already."""
        soft, hard = resource.getrlimit(which)
        new = min([want, *(one for one in (soft, hard) if one != resource.RLIM_INFINITY)])
        if new == soft:
            return
        try:
            resource.setrlimit(which, (new, hard))
        except (OSError, ValueError) as error:
            raise LimitError(
                f"cannot limit {name}: got {error}, want a soft limit of {new} "
                f"(now {soft}, hard {hard})"
            ) from None
        self._undo.append(lambda: resource.setrlimit(which, (soft, hard)))

    def _set_niceness(self, want: int) -> None:
        now = os.getpriority(os.PRIO_PROCESS, 0)
        if want <= now:
            return
        try:
            os.setpriority(os.PRIO_PROCESS, 0, want)
        except OSError as error:
            raise LimitError(
                f"cannot limit niceness: got {error.strerror}, want {want} (now {now})"
            ) from None
        # This thread's, as setpriority(2) has it on Linux; the action's threads inherited it.
        self._undo.append(lambda: os.setpriority(os.PRIO_PROCESS, 0, now))

    def _set_processes(self, want: int) -> None:
        # Root is not bound by it; and where a pid namespace hides the user's other processes,
        # a limit counted from those in sight would refuse the very first one. The root's own
        # watch over the action's processes remains.
        if os.getuid() == 0 or not _sees_all_processes():
            return
        self._set_soft("processes", resource.RLIMIT_NPROC, _tasks_of_user() + want)

    def _set_open_files(self, want: int) -> None:
        soft = want
        # The limit is on a descriptor's number: leave exactly ``want`` free ones below it.
        for fd in _open_fds():
            if fd >= soft:
                break
            soft += 1
        self._set_soft("open_files", resource.RLIMIT_NOFILE, soft)

    def _set_cpu_s(self, want: int) -> None:
        self._set_soft("cpu_s", resource.RLIMIT_CPU, math.ceil(time.process_time() + want))

    def _set_address_space_bytes(self, want: int) -> None:
        self._ballast = mmap.mmap(-1, BALLAST_BYTES)
        with open("/proc/self/statm", "rb") as file:
            has = int(file.read().split()[0]) * mmap.PAGESIZE
        if want <= has:
            raise LimitError(
                f"cannot limit address_space_bytes: got {want} bytes, want more than the "
                f"{has} bytes the proc has before the action begins"
            )
        self._set_soft("address_space_bytes", resource.RLIMIT_AS, want)


def are_none(limits: Any) -> bool:
    """Whether ``limits`` (None: no limits) hold nothing in the proc."""
    return all(getattr(limits, name, None) is None for name in _IN_PROC)


def applied(limits: Any, page: Page) -> Applied:
    """``with applied(kind.limits, page): …`` holds the block to ``limits``, an object with the
    fields of the supervisor's `Limits`.

    Entering raises `LimitError`: cannot limit what, got what, want what.
    """
    return Applied(limits, page)


def _open_fds() -> list[int]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            os.fstat(int(name))
        except OSError:  # the one that listed them
            continue
        found.append(int(name))
    return sorted(found)


def _sees_all_processes() -> bool:
    try:
        return os.stat("/proc/self/ns/pid").st_ino == _FIRST_PID_NAMESPACE
    except OSError:
        return False


def _tasks_of_user() -> int:
    """How many threads this user runs, as far as /proc tells."""
    user = os.getuid()
    count = 0
    with os.scandir("/proc") as entries:
        for entry in entries:
            if not entry.name.isdigit():
                continue
            try:
                if entry.stat().st_uid == user:
                    with open(f"/proc/{entry.name}/stat", "rb") as file:
                        count += int(file.read().rpartition(b")")[2].split()[17])
            except (OSError, IndexError):  # it has ended
                continue
    return count
