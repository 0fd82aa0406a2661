"""What a switchboard counts, and how seldom it tells of the same trouble.

Knows: the names of all counts, with what each means.
Does not know: who exports them, when anything happens.
Invariants: no count has a label from a message; one kind of trouble is one log line a minute.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

COUNTED: Mapping[str, str] = MappingProxyType(
    {
        "received": "messages read from the inbox",
        "unreadable": "messages that are no message, or whose content is none",
        "unexpected": "messages of a type that nobody routes",
        "postponed": "times a message was put off for want of memory",
        "set_aside": "messages that could not be routed, and are kept for people as .unreadable",
        "subscribes": "subscriptions and renewals",
        "orders": "actions that were asked for",
        "duplicates": "actions that were delivered again, and not run again",
        "not_begun": "actions whose class, or whose pool, raised; answered with failure",
        "interrupted": "actions begun before a kill or stop; answered with failure, not run again",
        "started": "actions given to the pool",
        "succeeded": "actions answered with success",
        "failed": "actions answered with failure, whatever the reason",
        "replies": "replies of all states given to the outbox",
        "statuses": "statuses given to the outbox",
        "statuses_dropped": "statuses that found no room, made good by a full one",
        "status_failures": "rounds without a status because it could not be read",
        "late_rounds": "rounds of statuses that took longer than they may",
        "refused": "messages that found the outbox full; replies among them wait for room",
        "spooled": "messages written to disk",
        "spool_groups": "groups they were written in, each with one sync",
        "spool_failures": "groups that could not be written, and are tried again",
        "faults": "errors of ours; an order that met one is answered with failure",
    }
)
TELL_EVERY_S = 60.0
_log = logging.getLogger("fsmv2.communicator")


class Counts:
    """The counts of one switchboard; any thread may add."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._values = dict.fromkeys(COUNTED, 0)
        self._clock = clock
        self._told_at: dict[tuple[str, str], float] = {}

    def __getitem__(self, name: str) -> int:
        return self._values[name]

    def __repr__(self) -> str:
        return f"<Counts { ({name: value for name, value in self.as_dict().items() if value}) }>"

    def add(self, name: str, amount: int = 1) -> None:
        """Raises `KeyError` for a name that is not in `COUNTED`."""
        with self._lock:
            self._values[name] += amount

    def as_dict(self) -> dict[str, int]:
        """All counts, as plain data."""
        with self._lock:
            return dict(self._values)

    def tell(self, name: str, why: str, kind: str = "") -> None:
        """Count it, and warn of it unless that was done within the last minute for this ``kind``
        (of which there must not be many). ``why`` must not quote a message."""
        with self._lock:
            self._values[name] += 1
            now = self._clock()
            if now - self._told_at.get((name, kind), float("-inf")) < TELL_EVERY_S:
                return
            self._told_at[name, kind] = now
            count = self._values[name]
        _log.warning("%s (%d so far: %s)", why, count, COUNTED[name])
