"""The store as the root uses it: nodes in, nothing out but what to go on with at the start.

Knows: which store the settings ask for, the pace.
Does not know: documents, files, processes.
Invariants: a tick hands over its nodes and nothing else; documents take `SHARE_MAX` of the root's
time at most, in slices of a few milliseconds; a store in memory forgets by the same rules as one
in a file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from fsmv2.ipc.messages import Write
from fsmv2.supervisor.config.settings import StoreSettings
from fsmv2.supervisor.core import storeevents
from fsmv2.supervisor.core.events import Event
from fsmv2.supervisor.store.memory import MemoryStore
from fsmv2.supervisor.store.process import WriterProcess
from fsmv2.supervisor.store.protocol import Recalled, StoreConflict
from fsmv2.supervisor.store.recorder import Recorder
from fsmv2.supervisor.system.poller import Poller
from fsmv2.supervisor.tree.node import Node

PACE_S = 0.05
SHARE_MAX = 0.1
COMPACT_S = 60.0


class Sink(Protocol):
    """Where documents go."""

    @property
    def pid(self) -> int:
        """Of the process that keeps them; 0: this one."""

    @property
    def trouble(self) -> str:
        """Why nothing is kept for now; empty: it is."""

    @property
    def recalled(self) -> dict[str, Recalled]:
        """What was kept before, by path."""

    def take(self, write: Write) -> None:
        """Keep ``write``."""

    def tend(self, now: float) -> None:
        """Do what is due."""

    def next_moment(self) -> float | None:
        """When `tend` has something to do at the latest (monotonic seconds)."""

    def close(self) -> None:
        """The end: nothing comes any more."""


class MemorySink:
    """Keeps documents here, with the last ``keep`` changes."""

    pid = 0
    trouble = ""

    def __init__(
        self,
        keep: int,
        keep_s: float,
        emit: Callable[[Event], None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.store = MemoryStore(int(wall() * 1e6), keep)
        self.recalled: dict[str, Recalled] = {}
        self._keep = keep
        self._keep_s = keep_s
        self._emit = emit
        self._wall = wall
        self._compact_at = 0.0

    def take(self, write: Write) -> None:
        """See `Sink.take`."""
        try:
            self.store.save([write])
        except StoreConflict as conflict:
            self._emit(storeevents.StoreRefused(error=str(conflict)))

    def tend(self, now: float) -> None:
        """See `Sink.tend`."""
        if now >= self._compact_at:
            self._compact_at = now + COMPACT_S
            self.store.compact(self._keep, self._wall() - self._keep_s)

    def next_moment(self) -> float | None:
        """See `Sink.next_moment`."""
        return self._compact_at

    def close(self) -> None:
        """See `Sink.close`."""


class Keeper:
    """Call `looked_at` after each tick, `tend` in each turn of the loop."""

    def __init__(self, sink: Sink, clock: Callable[[], float] = time.monotonic) -> None:
        self._sink = sink
        self._clock = clock
        self._recorder = Recorder(sink.take, sink.recalled)
        # Whoever has the tree puts its nodes here.
        self.everyone: Callable[[], Iterable[Node]] = tuple
        self._record_at = float("-inf")

    def __repr__(self) -> str:
        return f"<Keeper {self._recorder!r}>"

    @property
    def pid(self) -> int:
        """Of the writer; 0: there is none."""
        return self._sink.pid

    @property
    def trouble(self) -> str:
        """Why nothing is kept for now; empty: it is."""
        return self._sink.trouble

    @property
    def recalled(self) -> dict[str, Recalled]:
        """What workers go on with, by path."""
        return self._sink.recalled

    def looked_at(self, nodes: Iterable[Node], stopping: bool) -> None:
        """A tick has looked at these nodes. ``stopping``: the whole tree is on its way down, and
        a worker that goes now is there again at the next start."""
        self._recorder.stopping = stopping
        self._recorder.looked_at(nodes)

    def say_all(self) -> None:
        """The store holds nothing any more: say everything again."""
        self._recorder.forget()
        self._recorder.looked_at(self.everyone())

    def next_moment(self) -> float | None:
        """When `tend` has something to do at the latest (monotonic seconds)."""
        record_at = self._record_at if len(self._recorder) else None
        moments = [at for at in (record_at, self._sink.next_moment()) if at is not None]
        return min(moments, default=None)

    def tend(self, now: float, wall: float) -> None:
        """Do what is due."""
        if len(self._recorder) and now >= self._record_at:
            began = self._clock()
            self._recorder.record(now, wall, self._clock)
            self._record_at = now + max(PACE_S, (self._clock() - began) / SHARE_MAX)
        self._sink.tend(now)

    def close(self, now: float, wall: float) -> None:
        """Keep what the last ticks left, then end. Waits for a writer, within bounds."""
        while len(self._recorder):
            self._recorder.record(now, wall, self._clock)
        self._sink.close()


def file_of(settings: StoreSettings) -> str:
    """The store's file; empty: it is in none."""
    return os.path.abspath(settings.path) if settings.path else ""


def open_keeper(settings: StoreSettings, emit: Callable[[Event], None], poller: Poller) -> Keeper:
    """The store that ``settings`` ask for, open. Raises `StartError`."""
    if settings.kind == "memory":
        # Changes are read from a file, by the ops process; in here nobody could, and the log of a
        # busy tree is tens of megabytes.
        return Keeper(MemorySink(0, settings.keep_s, emit))
    arguments = (file_of(settings), settings.keep_changes, settings.keep_s)
    writer = WriterProcess(arguments, emit, poller)
    writer.open()
    keeper = Keeper(writer)
    writer.on_fresh = keeper.say_all
    return keeper
