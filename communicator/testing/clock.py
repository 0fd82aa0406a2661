"""How time passes for a relay stand-in: as for everybody, or as a test says.

Knows: who waits and until when.
Does not know: what is waited for, sockets.
Invariants: on a `VirtualClock` a wait ends when it is moved there, or by what is waited for, and
never because real time passes; moving it wakes everybody whose time has come, from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

# Any moment will do, as long as it is the same each time.
BEGINS_AT = 1_800_000_000.0


def wait_really(changed: threading.Condition, is_over: Callable[[], bool], seconds: float) -> None:
    """Wait, with ``changed`` held, until ``is_over`` or for ``seconds`` of real time."""
    changed.wait_for(is_over, seconds)


class VirtualClock:
    """Epoch seconds that pass in `advance` only. Give it to a stand-in as its ``clock``: the
    delays, drips and long polls of that one are waited out on it too."""

    def __init__(self, now: float = BEGINS_AT) -> None:
        self._now = now
        self._moved = threading.Condition()
        self._waiting: list[threading.Condition] = []

    def __call__(self) -> float:
        return self._now

    def __repr__(self) -> str:
        return f"<VirtualClock {self._now:.3f}, {len(self._waiting)} waiting>"

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        with self._moved:
            self._now += seconds
            waiting = list(self._waiting)
        for changed in waiting:
            with changed:
                changed.notify_all()

    def await_waiting(self, count: int = 1, timeout_s: float = 20.0) -> bool:
        """Wait until ``count`` waits are under way, so that `advance` is for them; False when
        there are not so many after ``timeout_s`` seconds of real time."""
        with self._moved:
            return self._moved.wait_for(lambda: len(self._waiting) >= count, timeout_s)

    def wait(
        self, changed: threading.Condition, is_over: Callable[[], bool], seconds: float
    ) -> None:
        """`wait_really`, on this clock."""
        with self._moved:
            ends_at = self._now + seconds
            self._waiting.append(changed)
            self._moved.notify_all()
        try:
            changed.wait_for(lambda: is_over() or self._now >= ends_at)
        finally:
            with self._moved:
                self._waiting.remove(changed)
