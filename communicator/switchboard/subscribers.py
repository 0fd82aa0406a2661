"""Who wants statuses, for how long, and who has had a full one.

Knows: the time to live of a subscription, what a renewal changes.
Does not know: statuses, messages, threads (but any may call).
Invariants: nobody is served beyond the time to live, culled or not; being served is no renewal;
a full status that is owed stays owed until it is sent, whatever a renewal says: who was not sent
it, has missed an increment, or comes again after the time was over, does not know what is missing.
Bounded: one more than `SUBSCRIBERS_MAX` is refused, and of those whose time is over as many are
known; who is forgotten is taken at their word, like everybody after a restart.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

TTL_S = 300.0
CULL_S = 60.0
SUBSCRIBERS_MAX = 1_000


class Subscriber(NamedTuple):
    """One user. ``bootstrapped``: the full set was sent, or is said to be there already.
    ``generation``: which wish for the full set this is about."""

    email: str
    bootstrapped: bool
    generation: int = 1


class _Entry:
    __slots__ = ("bootstrapped", "ends_at", "generation")

    def __init__(self, bootstrapped: bool) -> None:
        self.bootstrapped = bootstrapped
        self.ends_at = 0.0
        self.generation = 0


class Subscribers:
    """The registry, by email."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        ttl_s: float = TTL_S,
        cull_s: float = CULL_S,
    ) -> None:
        self._clock = clock
        self._ttl_s = ttl_s
        self._cull_s = cull_s
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._ended: dict[str, None] = {}  # oldest first
        self._wishes = itertools.count(1)
        self._culled_at = clock()

    def __len__(self) -> int:
        return len(self.get_subscribers())

    def __repr__(self) -> str:
        return f"<Subscribers {len(self)} alive>"

    def add_or_refresh(self, email: str, bootstrapped: bool = False) -> bool:
        """Serve ``email`` for the next `TTL_S` seconds; False: there are too many.

        ``bootstrapped`` is what the console says of itself: that it has the full set (it has
        ``resubscribed``), or wants it. It is not told of a status that found no room: what we know
        to be owed is sent all the same.
        """
        with self._lock:
            self._cull()
            entry = self._entries.get(email)
            if entry is not None and entry.ends_at <= self._clock():
                self._end(email)
                entry = None
            if entry is None:
                if len(self._entries) >= SUBSCRIBERS_MAX:
                    self._cull(at_once=True)  # those whose time is over hold no place
                if len(self._entries) >= SUBSCRIBERS_MAX:
                    return False
                is_known = email in self._ended
                self._ended.pop(email, None)
                entry = self._entries[email] = _Entry(bootstrapped=not is_known)
                entry.generation = next(self._wishes)
            if not bootstrapped:
                entry.generation = next(self._wishes)
            entry.bootstrapped = entry.bootstrapped and bootstrapped
            entry.ends_at = self._clock() + self._ttl_s
            return True

    def get_subscribers(self) -> list[Subscriber]:
        """All that are to be served now, in the order they came."""
        with self._lock:
            self._cull()
            now = self._clock()
            return [
                Subscriber(email, entry.bootstrapped, entry.generation)
                for email, entry in self._entries.items()
                if entry.ends_at > now
            ]

    def mark(self, served: Subscriber, bootstrapped: bool) -> None:
        """Note that ``served`` was sent a status, or has missed one. It counts for nothing when
        that user has asked for the full set since: that wish is newer."""
        with self._lock:
            entry = self._entries.get(served.email)
            if entry is not None and entry.generation == served.generation:
                entry.bootstrapped = bootstrapped

    def _cull(self, *, at_once: bool = False) -> None:
        now = self._clock()
        if not at_once and now - self._culled_at < self._cull_s:
            return
        self._culled_at = now
        gone = [email for email, entry in self._entries.items() if entry.ends_at <= now]
        for email in gone:
            self._end(email)

    def _end(self, email: str) -> None:
        del self._entries[email]
        self._ended[email] = None
        if len(self._ended) > SUBSCRIBERS_MAX:
            del self._ended[next(iter(self._ended))]
