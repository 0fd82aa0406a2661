"""What happened to the restarts of a parent's children.

Knows: these events; `events` has the others, and the base of all.
Does not know: logs, metrics, pages.
Invariants: those of `events`.
"""

from __future__ import annotations

from typing import ClassVar

from fsmv2.supervisor.core.events import Event, Level


class RestartBudgetExceeded(Event, frozen=True, kw_only=True):
    """The children of ``path`` have used up their restarts, and ``child`` would need one more.
    ``outcome`` is what follows: ``escalated``, its parent ends too; ``given_up``, at the top, where
    ``child`` stays away until its spec changes or, if not None, ``retry_in_s`` have passed."""

    level: ClassVar[Level] = "error"
    path: str
    child: str
    restarts: int
    window_s: float
    outcome: str
    retry_in_s: float | None = None
    error_scope: str = "worker"
    impact: str = "siblings"
