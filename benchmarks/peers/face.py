"""The one face behind which each pool stands.

Knows: what the measurements need of a pool.
Does not know: any pool.
Invariants: `value` never waits longer than it was told, whatever the pool does.
"""

from __future__ import annotations

import abc
import contextlib
import threading
from collections.abc import Callable
from typing import Any, ClassVar

PROCS = 2


class Lost(Exception):
    """The pool said that a task did not end well."""


class Peer(abc.ABC):
    """A pool of two processes. ``name`` is for the command line, ``distribution`` what has to
    be installed for it.

    ``own_limits`` says that it frees the slot of a task that is over its time by itself;
    ``ends_as_a_whole`` that the death of one process ends the pool, so that a new one has to
    be made.
    """

    name: ClassVar[str]
    distribution: ClassVar[str | None] = None
    own_limits: ClassVar[bool] = False
    ends_as_a_whole: ClassVar[bool] = False

    @abc.abstractmethod
    def open(self) -> None:
        """Make the pool."""

    @abc.abstractmethod
    def close(self) -> None:
        """End the pool as it is now. May block for ever: see `close_within`."""

    @abc.abstractmethod
    def submit(
        self, task: Callable[..., Any], *arguments: Any, limit_s: float | None = None
    ) -> Any:
        """Submit a task of `peers.tasks`; gives the pool's own handle. ``limit_s`` only where
        ``own_limits``."""

    @abc.abstractmethod
    def value(self, handle: Any, patience_s: float) -> Any:
        """The task's value. Raises `Lost` when the pool says that there is none, TimeoutError
        when the pool says nothing for ``patience_s`` seconds."""

    @abc.abstractmethod
    def nothing(self) -> Any:
        """Submit the empty task the shortest way; gives the handle."""

    @abc.abstractmethod
    def finish(self, handle: Any) -> None:
        """Wait for the empty task the shortest way."""

    @abc.abstractmethod
    def pids(self) -> list[int]:
        """The processes that run tasks now, or will at once."""

    def reopen(self) -> None:
        """Make a new pool in place of one that has ended or stands still."""
        self.close_within(2.0)
        self.open()

    def close_within(self, patience_s: float) -> None:
        """`close`, left behind if it takes longer."""
        closing = threading.Thread(target=self._close_quietly, daemon=True)
        closing.start()
        closing.join(patience_s)

    def _close_quietly(self) -> None:
        with contextlib.suppress(Exception):
            self.close()
