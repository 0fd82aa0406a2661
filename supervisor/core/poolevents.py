"""What happened to processes: procs, their template, the ops process, the pool as a whole.

Knows: these events; `events` has the others, and gives these out too.
Does not know: logs, metrics, pages.
Invariants: those of `eventbase`.
"""

from __future__ import annotations

from typing import ClassVar

from fsmv2.supervisor.core.eventbase import Event, Level


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

    def loudness(self) -> Level:
        """An attempt that was lost with it is told of by itself."""
        return "debug" if self.expected or self.attempt_id is not None else "warning"


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
