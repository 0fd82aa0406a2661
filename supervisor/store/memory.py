"""The store in memory: the ticket's TriangularStore.

Knows: dictionaries of documents, the log as a deque.
Does not know: files.
Invariants: those of `protocol`; documents are kept as bytes, so what goes in and comes out is a
copy.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable

from fsmv2.ipc.messages import Write
from fsmv2.supervisor.store.protocol import (
    PAGE,
    REMOVED,
    Changes,
    Entry,
    Everything,
    News,
    Recalled,
    Record,
    StoreConflict,
    content_of,
    difference,
    generation_of,
    misfit,
    recalled_of,
    record_of,
)


class MemoryStore:
    """A `Store` that ends with its process. ``origin`` is where its counter begins: above what
    any earlier store of the same tree has reached, so that no reader takes it for that one.
    ``changes_max`` is how many changes its log holds at any time; None: `compact` bounds it."""

    def __init__(self, origin: int = 0, changes_max: int | None = None) -> None:
        self._sync = origin
        self._low_water = origin
        self._documents: dict[str, dict[str, tuple[int, bytes]]] = {}
        self._tombstones: dict[str, tuple[int, float]] = {}
        self._log: deque[Entry] = deque()
        self._changes_max = changes_max

    def __repr__(self) -> str:
        return f"<MemoryStore {len(self._documents)} workers, {len(self._log)} changes>"

    def save(self, writes: Iterable[Write]) -> None:
        """See `Store.save`."""
        refused = [why for write in writes if (why := self._take(write)) is not None]
        if refused:
            raise StoreConflict(refused)

    def _take(self, write: Write) -> str | None:
        path, role = write.path, write.role
        present = self._documents.get(path, {})
        _revision, identity = present.get("identity", (0, None))
        why = misfit(write, identity)
        if why is not None:
            return why
        if role == REMOVED:
            if identity is not None:
                self._documents.pop(path)
                self._tombstones[path] = (generation_of(identity), write.at)
                self._note(write, Changes(removed=content_of(identity)))
            return None
        _revision, old = present.get(role, (0, None))
        changes = difference(old, write.document)
        if changes is None:
            return None
        self._note(write, changes)
        self._tombstones.pop(path, None)
        self._documents.setdefault(path, {})[role] = (self._sync, write.document)
        return None

    def _note(self, write: Write, changes: Changes) -> None:
        self._sync += 1
        if write.role != "resume":
            self._log.append(Entry(self._sync, write.path, write.role, write.at, changes))
            if self._changes_max is not None and len(self._log) > self._changes_max:
                self._low_water = self._log.popleft().sync

    def load(self, path: str) -> Record | None:
        """See `Store.load`."""
        present = self._documents.get(path)
        return None if present is None else record_of(path, present)

    def snapshot(self) -> Everything:
        """See `Store.snapshot`."""
        paths = sorted(self._documents)
        return Everything(
            self._sync, {path: record_of(path, self._documents[path]) for path in paths}
        )

    def changes(self, since: int, limit: int = PAGE) -> News:
        """See `Store.changes`."""
        if not self._low_water <= since <= self._sync:
            everything = self.snapshot()
            return News(everything.sync, snapshot=everything)
        newer = [entry for entry in self._log if entry.sync > since]
        entries = tuple(copy.deepcopy(newer[:limit]))
        has_more = len(newer) > limit
        return News(entries[-1].sync if has_more else self._sync, entries, has_more)

    def compact(self, keep: int, before: float) -> int:
        """See `Store.compact`."""
        gone = 0
        while self._log and (len(self._log) > keep or self._log[0].at < before):
            self._low_water = self._log.popleft().sync
            gone += 1
        self._tombstones = {
            path: (generation, at)
            for path, (generation, at) in self._tombstones.items()
            if at >= before
        }
        return gone

    def resume(self) -> dict[str, Recalled]:
        """See `Store.resume`."""
        found = {}
        for path in sorted(self._documents.keys() | self._tombstones.keys()):
            present = self._documents.get(path, {})
            buried, _at = self._tombstones.get(path, (0, 0.0))
            found[path] = recalled_of({role: raw for role, (_, raw) in present.items()}, buried)
        return found

    def close(self) -> None:
        """Nothing to let go of."""
