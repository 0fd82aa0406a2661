"""The folder a root works in, and what roots that were killed have left of theirs.

Knows: names in the folder for temporary files, the lock that a root holds while it lives.
Does not know: what is in such a folder, procs (they end by themselves when their root does).
Invariants: a folder is removed only if it is our user's, has our lock's file in it, and nobody
holds the lock; no link is followed; what dead roots left is removed a portion at a time, never
more than `FOLDERS_MAX` folders and `TOTAL_ENTRIES_MAX` entries a start; nothing here waits but
`RunFolder.remove`.

The lock is of the kind that belongs to the open file: flock(2). The kernel drops it when the root
dies, however it dies. Unlike one of fcntl(2), it also keeps out another pool of the same process,
and is not lost when that one opens and closes the file. A process forked from the root would hold
it too: one forked by Python gives it up at once (procs are not forked from the root, and an exec
closes it). One forked by C code keeps the folder alive as long as it lives, no more.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import random
import secrets
import stat
import tempfile
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING

from fsmv2.supervisor.system.removal import Removal

if TYPE_CHECKING:
    from fsmv2.supervisor.pool.pool import Pool

PREFIX = "fsmv2-"
LOCK = "root.lock"
# What one start of a root looks at and removes; the next one goes on.
NAMES_MAX = 10_000
FOLDERS_MAX = 16
TOTAL_ENTRIES_MAX = 100_000
# Each some 10 to 50 µs, with a rest after it: there is no hurry.
ENTRIES_AT_ONCE = 50
REST_S = 0.010
# Names to look at in one portion, until one is found that is a dead root's.
LOOKS_AT_ONCE = 50


class RunFolder:
    """This root's folder, not made yet: its ``path`` begins with ``prefix``. Nobody else removes
    it from `make` until this process ends; `remove` does."""

    def __init__(self, prefix: str) -> None:
        self.path = os.path.join(tempfile.gettempdir(), f"{prefix}{secrets.token_hex(6)}")
        self._lock_fd = -1
        self._pid = 0

    def make(self) -> None:
        """Make and lock it, for this user only. Raises OSError when it cannot be made; where only
        the lock cannot be had, the folder is left behind should this process be killed."""
        os.mkdir(self.path, 0o700)
        self._pid = os.getpid()
        # Under its own name only once it is locked: without a lock, it would be a dead root's.
        new, lock = os.path.join(self.path, f"{LOCK}.new"), os.path.join(self.path, LOCK)
        with contextlib.suppress(OSError):
            self._lock_fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            _holders.add(self)
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(new, lock)

    def remove(self) -> None:
        """Remove it with all that is in it, which takes as long as it takes. Safe to call twice;
        does nothing in a process that was forked from the one that made it."""
        if self._pid == os.getpid():
            self._pid = 0
            with contextlib.suppress(OSError):
                fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                clearing = Clearing(self.path, fd, self._lock_fd)
                self._lock_fd = -1
                while clearing.go_on():
                    pass
            self.let_go()

    def let_go(self) -> None:
        """Close what holds the lock."""
        self._lock_fd = _closed(self._lock_fd)


class Clearing:
    """The removal of one run folder in portions. ``fd`` is open on it, ``lock_fd`` (or -1) holds
    its lock; both are closed at the end. Cut short, it leaves a folder that another root can go
    on with: the lock's file goes last."""

    def __init__(self, path: str, fd: int, lock_fd: int) -> None:
        self._path = path
        self._fd = fd
        self._lock_fd = lock_fd
        # Not by its path: whoever may rename it could have put something else there meanwhile.
        self._inside = f"/proc/self/fd/{fd}"
        self._bin = f"removed-{secrets.token_hex(6)}"
        self._removal = Removal(self._inside, self._bin)
        _holders.add(self)

    def go_on(self, entries_max: int = ENTRIES_AT_ONCE) -> bool:
        """Remove up to ``entries_max`` entries. Whether something is left that can be removed."""
        if self._fd < 0:
            return False
        with contextlib.suppress(OSError):
            if self._removal.go_on(entries_max) or self._take(entries_max):
                return True
            self._end()
        self.let_go()
        return False

    def _take(self, entries_max: int) -> int:
        """Remove files at the top, have folders there removed; how many."""
        taken = 0
        with os.scandir(self._inside) as entries:
            for entry in entries:
                if entry.name in (LOCK, self._bin):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    taken += self._removal.add(entry.path)
                else:
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)
                        taken += 1
                if taken >= entries_max:
                    break
        return taken

    def _end(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(self._bin, dir_fd=self._fd)
        if set(os.listdir(self._fd)) <= {LOCK}:  # else there is what cannot be removed
            with contextlib.suppress(FileNotFoundError):
                os.unlink(LOCK, dir_fd=self._fd)
            os.rmdir(self._path)

    def let_go(self) -> None:
        """Give the folder up, as far as it has come."""
        self._fd = _closed(self._fd)
        self._lock_fd = _closed(self._lock_fd)


class Leftovers:
    """What dead roots left in the folder ``parent``. `begin` it, or `go_on` by hand; `close`."""

    def __init__(self, parent: str | None = None) -> None:
        self._parent = parent
        self._names: list[str] | None = None
        self._clearing: Clearing | None = None
        self._entries_left = TOTAL_ENTRIES_MAX
        self.folders = 0

    def begin(self, pool: Pool) -> None:
        """Have them removed by the timers of ``pool``, from its next step on."""
        pool.deadlines.call(time.monotonic(), partial(self._go_on, pool))

    def _go_on(self, pool: Pool) -> None:
        if not pool.closing and self.go_on():
            pool.deadlines.call(time.monotonic() + REST_S, partial(self._go_on, pool))

    def go_on(self) -> bool:
        """Remove a portion. Whether there is more to do."""
        if self._names is None:
            self._names = self._find()
        if self._clearing is None:
            self._clearing = self._next()
        if self._clearing is not None:
            self._entries_left -= ENTRIES_AT_ONCE
            if not self._clearing.go_on():
                self._clearing = None
                self.folders += 1
        is_over = self._entries_left <= 0 or self.folders >= FOLDERS_MAX
        if is_over or (self._clearing is None and not self._names):
            self.close()
            return False
        return True

    def _find(self) -> list[str]:
        names: list[str] = []
        with contextlib.suppress(OSError):
            self._parent = self._parent or tempfile.gettempdir()
            with os.scandir(self._parent) as entries:
                some = itertools.islice(entries, NAMES_MAX)
                names = [entry.name for entry in some if entry.name.startswith(PREFIX)]
        # So that some that cannot be removed do not always come before the others.
        random.shuffle(names)
        return names

    def _next(self) -> Clearing | None:
        for _ in range(LOOKS_AT_ONCE):
            if not self._names:
                break
            clearing = clearing_of_dead(os.path.join(self._parent or "", self._names.pop()))
            if clearing is not None:
                return clearing
        return None

    def close(self) -> None:
        """Give up what is not done yet; another root goes on with it. Safe to call twice."""
        self._names = []
        if self._clearing is not None:
            self._clearing.let_go()
            self._clearing = None


def clearing_of_dead(path: str) -> Clearing | None:
    """The removal of the run folder ``path``, if its root is proven to be dead; else None."""
    fd = lock_fd = -1
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        if os.fstat(fd).st_uid == os.geteuid():
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            lock_fd = os.open(LOCK, flags, dir_fd=fd)
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = os.fstat(lock_fd)
            # Without a name it has been removed by another root that was faster.
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
                return Clearing(path, fd, lock_fd)
    _closed(lock_fd)
    _closed(fd)
    return None


def _closed(fd: int) -> int:
    if fd >= 0:
        os.close(fd)
    return -1


_holders: weakref.WeakSet[RunFolder | Clearing] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for holder in list(_holders):
        holder.let_go()


os.register_at_fork(after_in_child=_let_go_in_child)
