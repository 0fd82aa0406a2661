"""What happened: the closed set of things the engine and the pool report.

Knows: the events, their fields, how loud each is.
Does not know: logs, metrics, pages; one sink turns events into all of them.
Invariants: past tense; one event is one log line; the event's name is static and only its
fields vary; no event holds a value of an action or a config, so no secret can be in one.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from fsmv2.supervisor.core.action import DeathCertificate
from fsmv2.supervisor.core.fsm import snake_case

Level = Literal["debug", "info", "warning", "error"]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Base. ``level`` is how loud the event is in the log."""

    level: ClassVar[Level] = "info"

    @classmethod
    def name(cls) -> str:
        """The static name: ``StateChanged`` is logged as ``state_changed``."""
        return snake_case(cls.__name__)

    def loudness(self) -> Level:
        """``level``, where this event's fields do not say otherwise."""
        return self.level


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
    """An action's one result arrived. Its level depends on the status, see `level_of`."""

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


# --- processes ------------------------------------------------------------------------------


class ProcStarted(Event, frozen=True, kw_only=True):
    """A proc said hello."""

    level: ClassVar[Level] = "debug"
    slot: str
    pid: int
    startup_s: float


class ProcEnded(Event, frozen=True, kw_only=True):
    """A proc is dead and reaped. ``expected`` when the root meant it to end; ``attempt_id`` is the
    attempt that was lost with it, None when there was none."""

    slot: str
    pid: int
    verdict: str
    expected: bool
    exit_code: int | None = None
    signal: str | None = None
    attempt_id: int | None = None
    reason: str | None = None


class ProcOutput(Event, frozen=True, kw_only=True):
    """A line a proc wrote to its standard output or error."""

    level: ClassVar[Level] = "debug"
    slot: str
    line: str
    attempt_id: int | None = None


class TemplateStarted(Event, frozen=True, kw_only=True):
    """The process that forks procs is ready."""

    level: ClassVar[Level] = "debug"
    pid: int
    startup_s: float


class TemplateEnded(Event, frozen=True, kw_only=True):
    """The process that forks procs died; running procs are untouched."""

    level: ClassVar[Level] = "warning"
    pid: int
    verdict: str
    retry_in_s: float


class OpsStarted(Event, frozen=True, kw_only=True):
    """The HTTP process serves."""

    pid: int
    address: str
    startup_s: float


class OpsEnded(Event, frozen=True, kw_only=True):
    """The HTTP process died; the tree is untouched."""

    level: ClassVar[Level] = "warning"
    pid: int
    verdict: str
    retry_in_s: float


class PoolStuck(Event, frozen=True, kw_only=True):
    """No proc could be started for a while: no new actions are offered."""

    level: ClassVar[Level] = "error"
    reason: str
    error_scope: str = "infrastructure"
    impact: str = "all_workers"


class PoolRecovered(Event, frozen=True, kw_only=True):
    """Procs start again."""

    downtime_s: float


class StartsThrottled(Event, frozen=True, kw_only=True):
    """More procs are missing than may be started at once: ``waiting`` of them wait their turn.
    Told once per storm."""

    level: ClassVar[Level] = "warning"
    waiting: int
    per_s: float


class PreloadExcluded(Event, frozen=True, kw_only=True):
    """A plug-in harms the process that forks procs: each proc imports it by itself, and slower."""

    level: ClassVar[Level] = "warning"
    module: str
    reason: str


class StartMethodChanged(Event, frozen=True, kw_only=True):
    """Procs are started in another way from now on."""

    level: ClassVar[Level] = "warning"
    method: str
    reason: str


class ActionTypeQuarantined(Event, frozen=True, kw_only=True):
    """An action type has died the same way ``deaths`` times in a row: it runs on a proc of its
    own from now on, one attempt at a time, with a growing wait before each."""

    level: ClassVar[Level] = "error"
    action_type: str
    verdict: str
    deaths: int
    retry_in_s: float
    error_scope: str = "action_type"
    impact: str = "single_action_type"


class ActionTypeReleased(Event, frozen=True, kw_only=True):
    """An action type runs like any other again."""

    action_type: str
    reason: str
    quarantined_s: float


class OperatorCommanded(Event, frozen=True, kw_only=True):
    """Somebody with the token gave a command over HTTP from ``client``; ``outcome`` is what
    became of it. A killed attempt's end is told by itself."""

    command: str
    target: str
    outcome: str
    client: str
    action_type: str = ""
    path: str = ""


class ResultDropped(Event, frozen=True, kw_only=True):
    """A result came for an attempt that is over, or for an older incarnation."""

    level: ClassVar[Level] = "debug"
    attempt_id: int
    reason: str


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
        case ProcEnded(expected=True) | ProcEnded(attempt_id=int()):
            return "debug"  # the attempt it had is told of by itself
        case ProcEnded():
            return "warning"
        case WorkerUpdated(inherited=True):
            return "debug"  # one change above is told once, not for each node below it
        case SupervisorStopped(clean=False) | WorkerRemoved(forced=True):
            return "warning"
        case StateChanged(phase="degraded"):
            return "warning"
    return event.loudness()
