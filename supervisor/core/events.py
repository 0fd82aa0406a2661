"""What happened: the closed set of things the engine and the pool report.

Knows: the events of the tree and of its actions, their fields, how loud each is; those of
processes, from `poolevents`.
Does not know: logs, metrics, pages; one sink turns events into all of them.
Invariants: those of `eventbase`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from fsmv2.supervisor.core.action import DeathCertificate
from fsmv2.supervisor.core.eventbase import Event as Event
from fsmv2.supervisor.core.eventbase import Level as Level
from fsmv2.supervisor.core.poolevents import ActionTypeQuarantined as ActionTypeQuarantined
from fsmv2.supervisor.core.poolevents import ActionTypeReleased as ActionTypeReleased
from fsmv2.supervisor.core.poolevents import OperatorCommanded as OperatorCommanded
from fsmv2.supervisor.core.poolevents import OpsEnded as OpsEnded
from fsmv2.supervisor.core.poolevents import OpsStarted as OpsStarted
from fsmv2.supervisor.core.poolevents import PoolRecovered as PoolRecovered
from fsmv2.supervisor.core.poolevents import PoolStuck as PoolStuck
from fsmv2.supervisor.core.poolevents import PreloadExcluded as PreloadExcluded
from fsmv2.supervisor.core.poolevents import ProcEnded as ProcEnded
from fsmv2.supervisor.core.poolevents import ProcOutput as ProcOutput
from fsmv2.supervisor.core.poolevents import ProcStarted as ProcStarted
from fsmv2.supervisor.core.poolevents import ResultDropped as ResultDropped
from fsmv2.supervisor.core.poolevents import StartMethodChanged as StartMethodChanged
from fsmv2.supervisor.core.poolevents import StartsThrottled as StartsThrottled
from fsmv2.supervisor.core.poolevents import TemplateEnded as TemplateEnded
from fsmv2.supervisor.core.poolevents import TemplateStarted as TemplateStarted

# --- the root -------------------------------------------------------------------------------


class SupervisorStarted(Event, frozen=True, kw_only=True):
    """The root is up: plug-ins loaded, pool starting, address bound."""

    supervisor: str
    pid: int
    workers: int
    procs: int
    observers: int
    http: str


class SupervisorStopping(Event, frozen=True, kw_only=True):
    """A stop was asked for; workers walk to stopped."""

    reason: str


class SupervisorStopped(Event, frozen=True, kw_only=True):
    """All is down. ``clean`` is false when a worker had to be dropped or the stop was forced."""

    clean: bool
    stop_s: float


class TickSlow(Event, frozen=True, kw_only=True):
    """A tick took longer than its interval."""

    level: ClassVar[Level] = "warning"
    duration_s: float
    interval_s: float


# --- nodes ----------------------------------------------------------------------------------


class WorkerAdded(Event, frozen=True, kw_only=True):
    """A node exists."""

    path: str
    worker_type: str
    generation: int
    resumed: bool = False


class WorkerUpdated(Event, frozen=True, kw_only=True):
    """A node got a new spec in place, or (``inherited``) new variables from above."""

    path: str
    inherited: bool = False


class WorkerRemoved(Event, frozen=True, kw_only=True):
    """A node is gone; ``forced`` when it did not reach stopped in its time."""

    path: str
    reason: str
    forced: bool = False


class StateChanged(Event, frozen=True, kw_only=True):
    """A worker entered a state."""

    path: str
    from_state: str
    to_state: str
    phase: str
    reason: str
    generation: int


class WorkerFaulted(Event, frozen=True, kw_only=True):
    """Worker code raised or returned nonsense; the node waits ``retry_in_s``, its siblings
    go on. Reported once per distinct error until the worker recovers."""

    level: ClassVar[Level] = "error"
    path: str
    step: str
    error: str
    failures: int
    retry_in_s: float
    traceback: str = ""
    error_scope: str = "worker"
    impact: str = "single_worker"


class WorkerRecovered(Event, frozen=True, kw_only=True):
    """Worker code works again after ``failures`` faults."""

    path: str
    failures: int
    downtime_s: float


class ChildrenRefused(Event, frozen=True, kw_only=True):
    """A parent declared unusable children; the present ones are left as they are."""

    level: ClassVar[Level] = "error"
    path: str
    error: str
    error_scope: str = "worker"
    impact: str = "single_worker"


# --- actions and observations ---------------------------------------------------------------


class ActionStarted(Event, frozen=True, kw_only=True):
    """An action was offered to the pool."""

    level: ClassVar[Level] = "debug"
    path: str
    action_type: str
    attempt_id: int
    timeout_s: float
    reason: str


class ActionEnded(Event, frozen=True, kw_only=True):
    """An action's one result arrived. Its level depends on the status, see `level_of`.
    ``circuit_open_s`` is how long the infrastructure breaker had been open, None where it was
    not."""

    path: str
    action_type: str
    attempt_id: int
    status: str
    verdict: str
    queued_s: float
    ran_s: float
    error: str | None = None
    traceback: str = ""
    certificate: DeathCertificate | None = None
    circuit_open_s: float | None = None


class ActionRefused(Event, frozen=True, kw_only=True):
    """The pool did not take an action; it is decided again next tick."""

    level: ClassVar[Level] = "warning"
    path: str
    action_type: str
    reason: str


class ActionProgressed(Event, frozen=True, kw_only=True):
    """A running action said how far it is."""

    level: ClassVar[Level] = "debug"
    path: str
    action_type: str
    attempt_id: int
    text: str


class ActionLogged(Event, frozen=True, kw_only=True):
    """A running action wrote a log record; ``record_level`` is what it asked for."""

    path: str
    action_type: str
    attempt_id: int
    record_level: str
    record: str
    fields: dict[str, Any]


class ObservationFailed(Event, frozen=True, kw_only=True):
    """An observation failed or was killed; reported once per incident."""

    level: ClassVar[Level] = "warning"
    path: str
    action_type: str
    status: str
    verdict: str
    error: str | None
    retry_in_s: float
    attempt_id: int | None = None
    certificate: DeathCertificate | None = None


class ObservationStale(Event, frozen=True, kw_only=True):
    """A worker is paused: what it last saw is too old to decide on."""

    level: ClassVar[Level] = "warning"
    path: str
    age_s: float


class ObservationRecovered(Event, frozen=True, kw_only=True):
    """Observations work again, after ``failures`` in a row and ``restarts`` of the probe."""

    path: str
    failures: int
    restarts: int = 0


def level_of(event: Event) -> Level:
    """How loud ``event`` is, its fields considered."""
    match event:
        case ActionEnded(status="succeeded"):
            return "debug"
        case ActionEnded(status="cancelled"):
            return "info"
        case ActionEnded():
            return "warning"
        case ActionLogged(record_level=("debug" | "info" | "warning" | "error") as level):
            return level
        case WorkerUpdated(inherited=True):
            return "debug"  # one change above is told once, not for each node below it
        case SupervisorStopped(clean=False) | WorkerRemoved(forced=True):
            return "warning"
        case StateChanged(phase="degraded"):
            return "warning"
    return event.loudness()
