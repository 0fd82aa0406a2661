"""A bench for the engine whose tree is kept.

Knows: the bench, the store in memory.
Does not know: files, processes.
Invariants: all that waits is in the store after `run` and `save`.
"""

from __future__ import annotations

from typing import Any

from harness import START, WALL, Bench

from fsmv2.ipc.messages import Write
from fsmv2.supervisor.core.worker import Worker
from fsmv2.supervisor.store.keeper import Keeper, MemorySink
from fsmv2.supervisor.store.protocol import Recalled, Record


class Kept:
    """A bench whose tree is kept in memory, and a count of the documents that were made."""

    def __init__(self, bench: Bench, recalled: dict[str, Recalled] | None = None) -> None:
        self.bench = bench
        self.sink = MemorySink(1_000, 3_600.0, bench.events.append, lambda: WALL)
        self.sink.recalled = dict(recalled or {})
        self.writes: list[Write] = []
        save, self.sink.take = self.sink.take, self._take  # type: ignore[method-assign]
        self._save = save
        # A machine on which everything takes no time, unless a test says how long a look takes.
        self.look_s = self._clock_s = 0.0
        self.keeper = Keeper(self.sink, self._clock)
        self.keeper.everyone = bench.engine.nodes
        bench.engine._store = self.keeper
        bench.engine.context.recalled = self.sink.recalled

    def _clock(self) -> float:
        self._clock_s += self.look_s
        return self._clock_s

    def _take(self, write: Write) -> None:
        self.writes.append(write)
        self._save(write)

    def run(self, seconds: float = 5.0) -> None:
        """Let the tree go on; all of it is in the store then."""
        self.bench.run(seconds)
        self.save()

    def save(self) -> None:
        """All that waits is in the store then."""
        now = self.bench.now
        while len(self.keeper._recorder):
            now += 1.0
            self.keeper.tend(now, WALL + now - START)

    def record(self, path: str) -> Record:
        found = self.sink.store.load(f"root/{path}")
        assert found is not None, f"{path} is not in the store"
        return found

    def next_root(self, *children: Any, workers: tuple[type[Worker], ...] = ()) -> Kept:
        """A root that starts with what this one's store holds."""
        return Kept(Bench(*children, workers=workers), self.sink.store.resume())
