"""Signals as ordinary events of the loop.

Knows: which signals the root answers, and the wake-up descriptor.
Does not know: what they mean.
Invariants: a handler does nothing; everything happens in the loop; the handlers that were
there before come back at the end.
"""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self

HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Heard too, so that a child's end wakes the loop even when nobody holds its pidfd.
WAKING = (signal.SIGCHLD,)


def _nothing(_signal: int, _frame: FrameType | None) -> None:
    """The number is in the wake-up pipe already."""


class Signals:
    """A context: inside it, `fileno` is readable after a signal and `take` gives the numbers."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._before: dict[int, Any] = {}
        self._fd_before = -1

    def __enter__(self) -> Self:
        self._fd_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (*HEARD, *WAKING):
            self._before[number] = signal.signal(number, _nothing)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        for fd in (self._read, self._write):
            os.close(fd)

    def fileno(self) -> int:
        """Readable when `take` has something."""
        return self._read

    def take(self) -> list[int]:
        """The signals since the last call, in order; those that only wake are left out."""
        numbers: list[int] = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._read, 4096):
                numbers += [number for number in data if number in HEARD]
        return numbers
