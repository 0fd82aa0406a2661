"""What happened to observations, to actions from outside, and to worker code that is slow.

Knows: these events; `events` has the others, and the base of all.
Does not know: logs, metrics, pages.
Invariants: those of `events`.
"""

from __future__ import annotations

from typing import ClassVar

from fsmv2.supervisor.core.action import DeathCertificate
from fsmv2.supervisor.core.events import Event, Level


class ProbeRestarted(Event, frozen=True, kw_only=True):
    """A worker's observation is too long overdue: the one in flight is killed and begun anew.
    ``restart`` counts from 1 in each incident; ``age_s`` is that of the last observation, or the
    time since the first was due."""

    level: ClassVar[Level] = "warning"
    path: str
    restart: int
    age_s: float


class ObservationLost(Event, frozen=True, kw_only=True):
    """Restarts of its probe did not help: the worker counts as degraded until it is observed."""

    level: ClassVar[Level] = "error"
    path: str
    restarts: int
    age_s: float
    error_scope: str = "worker"
    impact: str = "single_worker"


class ActionGivenUp(Event, frozen=True, kw_only=True):
    """An action failed as often in a row as its policy allows: it is not offered again until its
    worker's state or spec changes."""

    level: ClassVar[Level] = "warning"
    path: str
    action_type: str
    failures: int


class OutsideActionEnded(Event, frozen=True, kw_only=True):
    """An action that did not come from its worker's state machine has its one result; refused,
    when it was not even begun."""

    path: str
    action_type: str
    ticket: int
    attempt_id: int | None
    status: str
    verdict: str
    waited_s: float
    ran_s: float
    error: str | None = None
    certificate: DeathCertificate | None = None

    def loudness(self) -> Level:
        """A router's may be many: quiet while all is well."""
        return "debug" if self.status == "succeeded" else "warning"


class WorkerSlow(Event, frozen=True, kw_only=True):
    """A call of worker code held the tick up for ``took_s``; the node waits ``retry_in_s`` before
    its code is called again. Told once per incident."""

    level: ClassVar[Level] = "error"
    path: str
    step: str
    took_s: float
    limit_s: float
    retry_in_s: float
    error_scope: str = "worker"
    impact: str = "single_worker"
