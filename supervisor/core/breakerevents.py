"""What happened to child breakers and panic breakers: a part of the closed set of `events`.

Knows: these events, their fields, how loud each is.
Does not know: nodes, why a child counts as failed.
Invariants: those of `events`. An incident is told once when it opens, escalates and ends; while
it lasts, a heartbeat per parent is at most as frequent as the engine's interval for it. ``path`` is
the parent's. Source: fsmv2-behaviour.md §3.3, UX-001 to UX-004.
"""

from __future__ import annotations

from typing import ClassVar

from fsmv2.supervisor.core.eventbase import Event, Level


class CircuitOpened(Event, frozen=True, kw_only=True):
    """``child_name`` has failed: its parent's circuit is open for it. ``next_retry_in_s`` is None
    where nobody restarts it; ``unless`` says why."""

    level: ClassVar[Level] = "error"
    path: str
    child_name: str
    cause: str
    detail: str
    next_retry_in_s: float | None
    unless: str = ""
    error_scope: str = "worker"
    impact: str = "parent"


class CircuitStillOpen(Event, frozen=True, kw_only=True):
    """The heartbeat of an open circuit, of the child that failed first; ``failed_children`` are how
    many have."""

    level: ClassVar[Level] = "warning"
    path: str
    child_name: str
    cause: str
    failed_children: int
    retry_attempt: int
    max_attempts: int
    elapsed_downtime_s: float
    next_retry_in_s: float | None
    recovery_status: str


class ChildRestarted(Event, frozen=True, kw_only=True):
    """A failed child was asked to leave and will be made anew."""

    level: ClassVar[Level] = "warning"
    path: str
    child_name: str
    attempt: int
    max_attempts: int
    cause: str
    detail: str


class EscalationNear(Event, frozen=True, kw_only=True):
    """One restart is left before a person is called."""

    level: ClassVar[Level] = "warning"
    path: str
    child_name: str
    attempts_remaining: int
    total_downtime_s: float


class EscalationRequired(Event, frozen=True, kw_only=True):
    """The restarts of a failed child are used up: a person is needed. Its circuit still closes by
    itself should the child run."""

    level: ClassVar[Level] = "error"
    path: str
    child_name: str
    cause: str
    max_attempts: int
    total_downtime_s: float
    runbook_url: str
    manual_steps: tuple[str, ...]
    error_scope: str = "worker"
    impact: str = "parent"


class ChildRecovered(Event, frozen=True, kw_only=True):
    """The incident of a failed child is over: it runs (``outcome`` "running"), or is not wanted to
    any more ("gone"), or has another spec ("respecified")."""

    path: str
    child_name: str
    outcome: str
    attempts: int
    total_downtime_s: float


class CircuitClosed(Event, frozen=True, kw_only=True):
    """No child of ``path`` is failed any more."""

    path: str
    open_s: float


class PanicBreakerOpened(Event, frozen=True, kw_only=True):
    """The pure half of the worker at ``path`` has raised too often: its code is only tried now and
    then. ``panic_type`` is what kind of thing was raised last."""

    level: ClassVar[Level] = "error"
    path: str
    step: str
    panic_type: str
    error: str
    raises: int
    window_s: float
    traceback: str = ""
    error_scope: str = "worker"
    impact: str = "single_worker"


class PanicBreakerClosed(Event, frozen=True, kw_only=True):
    """Its raises have left the window."""

    path: str
    open_s: float
