"""What happens to the store: a part of the closed set of `events`.

Knows: the events, their fields, how loud each is.
Does not know: what is kept and how.
Invariants: as in `events`; trouble is told once per incident.
"""

from __future__ import annotations

from typing import ClassVar

from fsmv2.supervisor.core.events import Event, Level


class StoreOpened(Event, frozen=True, kw_only=True):
    """The store's writer is ready; ``recalled`` workers go on with what they had."""

    pid: int
    file: str
    recalled: int
    startup_s: float


class StoreEnded(Event, frozen=True, kw_only=True):
    """The store's writer ended by itself; what it has not saved is sent to the next one."""

    level: ClassVar[Level] = "warning"
    pid: int
    verdict: str
    retry_in_s: float


class StoreDamaged(Event, frozen=True, kw_only=True):
    """The store's file was not what had been written to it: it is kept under another name, and
    a new one begins with what the root knows."""

    level: ClassVar[Level] = "error"
    file: str
    reason: str
    moved_to: str
    error_scope: str = "store"
    impact: str = "resume_after_restart"


class StoreDegraded(Event, frozen=True, kw_only=True):
    """Nothing is saved for now, and tried again with a growing wait; the tree goes on. Told once
    per incident; ``waiting`` documents are kept in memory, the newest of each."""

    level: ClassVar[Level] = "error"
    file: str
    error: str
    waiting: int
    error_scope: str = "store"
    impact: str = "resume_after_restart"


class StoreRecovered(Event, frozen=True, kw_only=True):
    """What waited is saved."""

    file: str
    downtime_s: float


class StoreRefused(Event, frozen=True, kw_only=True):
    """The store has refused one document, which contradicts what it has or is too large."""

    level: ClassVar[Level] = "warning"
    error: str
