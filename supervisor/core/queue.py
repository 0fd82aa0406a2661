"""The order of waiting actions: first in, first out per key; fair across keys; bounded.

Knows: keys, which of them are busy, urgency, how many taken items are held back elsewhere.
Does not know: procs, time, what the items are.
Invariants: at most one item of a key is out at a time; a key with urgent items goes before the
others; the queue refuses instead of growing over its capacity. The key "" is no key: its items
are unrelated to each other, and each counts as a key of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import repeat
from typing import Generic, TypeVar

from fsmv2.supervisor.core.errors import check

T = TypeVar("T")


class KeyedQueue(Generic[T]):
    """`offer` an item under a key, `take` the next one whose key is free, `release` the key.

    All operations but `discard` take constant time.
    """

    __slots__ = (
        "_busy", "_ready", "_returned", "_urgency", "_urgent", "_waiting", "capacity", "held",
        "size",
    )  # fmt: skip

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        self.held = 0
        self._waiting: dict[str, deque[tuple[T, bool]]] = {}
        # What can go now, in order: an item without a key, or (None) a key whose first item may.
        # The urgent before what was put back, that before the rest.
        self._urgent: deque[tuple[T | None, str]] = deque()
        self._returned: deque[tuple[T | None, str]] = deque()
        self._ready: deque[tuple[T | None, str]] = deque()
        self._urgency: dict[str, int] = {}
        self._busy: set[str] = set()

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        held = f", {self.held} held back" if self.held else ""
        return (
            f"<KeyedQueue {self.size}/{self.capacity} waiting{held}, {len(self._busy)} keys busy>"
        )

    def offer(self, item: T, key: str, urgent: bool = False) -> bool:
        """Queue ``item`` behind the others of its key. False: the queue is full.

        An urgent item may exceed the capacity: a stop must not be refused because of starts.
        """
        if self.size + self.held >= self.capacity and not urgent:
            return False
        self.size += 1
        if not key:
            (self._urgent if urgent else self._ready).append((item, ""))
            return True
        if urgent:
            self._urgency[key] = self._urgency.get(key, 0) + 1
        items = self._waiting.get(key)
        if items is None:
            items = self._waiting[key] = deque()
            if key not in self._busy:
                self._make_ready(key)
        elif urgent:
            for calm in (self._returned, self._ready):
                if (None, key) in calm:
                    calm.remove((None, key))
                    self._urgent.append((None, key))
        items.append((item, urgent))
        return True

    def offer_all(self, items: Sequence[T]) -> bool:
        """`offer` for several items without a key, none of them urgent: all or none."""
        if self.size + self.held + len(items) > self.capacity:
            return False
        self.size += len(items)
        self._ready.extend(zip(items, repeat("")))
        return True

    def take_at_once(self, key: str) -> bool:
        """`offer` and `take` in one, for an item that need not wait: True, and the key is busy
        from now on. False: something waits already, or the key is busy."""
        if self.size or key in self._busy:
            return False
        if key:
            self._busy.add(key)
        return True

    def put_back(self, item: T, key: str, urgent: bool = False) -> None:
        """Return an item that was taken and never begun: it is the next of its key, and has
        waited its turn already, so it goes before all that are not urgent."""
        self.size += 1
        if not key:
            (self._urgent if urgent else self._returned).appendleft((item, ""))
            return
        check(key in self._busy, f"{key!r} was not taken")
        self._busy.discard(key)
        # The key is not in a ready list while busy, whatever is waiting under it.
        self._waiting.setdefault(key, deque()).appendleft((item, urgent))
        if urgent:
            self._urgency[key] = self._urgency.get(key, 0) + 1
        (self._urgent if key in self._urgency else self._returned).appendleft((None, key))

    def take(self) -> tuple[T, str] | None:
        """The next item and its key, which is busy from now on; None if nothing can go."""
        ready = self._urgent or self._returned or self._ready
        if not ready:
            return None
        self.size -= 1
        item, key = ready.popleft()
        return (item if item is not None else self._take_first(key)), key

    def take_several(self, most: int) -> list[T]:
        """What so many calls of `take` would give one after the other."""
        taken: list[T] = []
        for ready in (self._urgent, self._returned, self._ready):
            for _ in range(min(most - len(taken), len(ready))):
                item, key = ready.popleft()
                taken.append(item if item is not None else self._take_first(key))
        self.size -= len(taken)
        return taken

    def _take_first(self, key: str) -> T:
        """The first that waits under ``key``, which is busy from now on."""
        items = self._waiting[key]
        item, urgent = items.popleft()
        if not items:
            del self._waiting[key]
        if urgent:
            self._calm(key)
        self._busy.add(key)
        return item

    def release(self, key: str) -> None:
        """The item that was out under ``key`` is over: its next one may go."""
        if not key:
            return
        check(key in self._busy, f"{key!r} is not busy")
        self._busy.discard(key)
        if key in self._waiting:
            self._make_ready(key)

    def discard(self, item: T, key: str) -> bool:
        """Take a waiting item out of the queue. False: it is not waiting."""
        if not key:
            for ready in (self._ready, self._returned, self._urgent):
                if (item, "") in ready:
                    ready.remove((item, ""))
                    self.size -= 1
                    return True
            return False
        items = self._waiting.get(key, deque())
        found = next((pair for pair in items if pair[0] == item), None)
        if found is None:
            return False
        items.remove(found)
        self.size -= 1
        if found[1]:
            self._calm(key)
        if not items:
            del self._waiting[key]
            for ready in (self._ready, self._returned, self._urgent):
                if (None, key) in ready:
                    ready.remove((None, key))
        return True

    def is_busy(self, key: str) -> bool:
        """Whether an item of ``key`` is out."""
        return key in self._busy

    def _make_ready(self, key: str) -> None:
        (self._urgent if key in self._urgency else self._ready).append((None, key))

    def _calm(self, key: str) -> None:
        """One urgent item of ``key`` less."""
        self._urgency[key] -= 1
        if not self._urgency[key]:
            del self._urgency[key]
