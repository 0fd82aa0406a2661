"""A kick: has whoever polls the pool look now.

Knows: one eventfd, whether a kick is under way.
Does not know: who polls, what there is to see.
Invariants: one kick at a time is under way, however many are given; none is given once it is
closed, for the descriptor may be another's then.
"""

from __future__ import annotations

import contextlib
import os
import threading


class Kick:
    """Not open yet."""

    __slots__ = ("_lock", "fd", "is_given")

    def __init__(self) -> None:
        self.fd = -1
        self.is_given = False
        self._lock = threading.RLock()

    def open(self) -> None:
        """From now on it can be given. Raises OSError."""
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def give(self) -> None:
        """Have whoever polls ``fd`` look now: something is due earlier than they know."""
        with self._lock:
            if not self.is_given and self.fd >= 0:
                # Nothing between the two: a handler that raises would leave the mark alone.
                self.is_given = True
                os.eventfd_write(self.fd, 1)

    def take(self) -> None:
        """Whoever polled looks: the next one is a new one. Harmless when it was taken already."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        self.is_given = False

    def close(self) -> None:
        """Safe to call twice."""
        with self._lock:
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1
