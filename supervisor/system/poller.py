"""Waits for descriptors and calls whoever asked.

Knows: epoll, one handler per descriptor.
Does not know: what descriptors belong to.
Invariants: waiting happens only in `poll`; a handler that unwatches another descriptor of the
same batch keeps that one's handler from being called.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable
from functools import partial

from fsmv2.ipc.busywait import BUSY_WAIT_S, BusyWait

# epoll counts in whole milliseconds, select in microseconds: a shorter wait is the latter's.
FINE_S = 0.002
EVENTS_MAX = 64
READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT

Handler = Callable[[int], None]


class Poller:
    """Descriptors and their handlers. Its own `fileno` can be watched by another poller."""

    __slots__ = ("_handlers", "_waiting", "batch", "epoll")

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        # What was ready at once, while the handlers are called; empty otherwise.
        self.batch: dict[int, int] = {}
        self._waiting = BusyWait()

    def __repr__(self) -> str:
        return f"<Poller {len(self._handlers)} descriptors>"

    def fileno(self) -> int:
        """Readable when `poll` has something to do."""
        return self.epoll.fileno()

    def watch(self, fd: int, handler: Handler, mask: int = READABLE) -> None:
        """Call ``handler(mask)`` when ``fd`` is ready (or hung up)."""
        if fd in self._handlers:
            self.epoll.modify(fd, mask)
        else:
            self.epoll.register(fd, mask)
        self._handlers[fd] = handler

    def is_watched(self, fd: int) -> bool:
        """Whether a handler waits for ``fd``."""
        return fd in self._handlers

    def unwatch(self, fd: int) -> None:
        """Stop watching ``fd``. Call it before the descriptor is closed; harmless twice."""
        if self._handlers.pop(fd, None) is not None:
            with contextlib.suppress(OSError, ValueError):
                self.epoll.unregister(fd)

    def poll(self, timeout_s: float = 0.0) -> None:
        """Wait up to ``timeout_s`` for the first event, then call the handlers of a batch."""
        self.handle(self.collect(timeout_s))

    def collect(self, timeout_s: float) -> list[tuple[int, int]]:
        """Wait up to ``timeout_s`` for the first event; the batch is for `handle`."""
        if timeout_s <= 0:
            return self.epoll.poll(0, EVENTS_MAX)
        if timeout_s >= FINE_S:
            # Rounded down to its milliseconds, so that the rest can be waited for exactly.
            return self.epoll.poll(int(timeout_s * 1000) / 1000, EVENTS_MAX)
        try:
            select.select([self.epoll], [], [], timeout_s)
        except ValueError:  # its number is over 1,023
            return self.epoll.poll(timeout_s, EVENTS_MAX)
        return self.epoll.poll(0, EVENTS_MAX)

    def collect_soon(self, timeout_s: float, may_look: bool) -> list[tuple[int, int]]:
        """`collect` for who expects the first event at once: see `BusyWait`."""
        if not may_look or timeout_s < BUSY_WAIT_S:
            return self.collect(timeout_s)
        return self._waiting.wait(self._look, partial(self.collect, timeout_s), may_look)

    def _look(self) -> list[tuple[int, int]]:
        return self.epoll.poll(0, EVENTS_MAX)

    def handle(self, ready: list[tuple[int, int]]) -> None:
        """Call the handlers of a batch that `collect` gave, before anything else is unwatched."""
        self.batch = dict(ready)
        for fd, mask in ready:
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(mask)
        self.batch.clear()

    def saw_alone(self, fd: int, other: int) -> bool:
        """Whether the batch under way has ``fd``, and certainly not ``other``. Said once of a
        batch: what is read of ``fd`` after that may be newer."""
        batch = self.batch
        return batch.pop(fd, 0) != 0 and other not in batch and len(batch) < EVENTS_MAX - 1

    def close(self) -> None:
        """Close the epoll descriptor; the watched ones stay their owners'."""
        self._handlers.clear()
        self.epoll.close()
