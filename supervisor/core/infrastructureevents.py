"""What happens to the infrastructure breaker: a part of the closed set of `events`.

Knows: the events, their fields, how loud each is.
Does not know: readings, limits, what a breaker is for.
Invariants: as in `events`; each change is told once, and while it is not closed a heartbeat is at
most as frequent as the config says. ``mode`` is "report" where the breaker holds nothing back.
Source: fsmv2-behaviour.md §3.3, UX-001 and UX-002.
"""

from __future__ import annotations

from typing import ClassVar

from fsmv2.supervisor.core.eventbase import Event, Level

ATTEMPTS_SHOWN_MAX = 5


def recovery_status(attempts: int, escalates: bool = True) -> str:
    """How it stands with the recovery after so many attempts, in the words of UX-001. What never
    ``escalates``, as the machine's own breaker, says of nothing that it is about to."""
    if attempts < 3:
        return "attempting_recovery"
    is_near = escalates and attempts >= ATTEMPTS_SHOWN_MAX
    return "escalation_imminent" if is_near else "persistent_failure"


class InfrastructureOpened(Event, frozen=True, kw_only=True):
    """The machine is in trouble: no new action starts, but those of a stop."""

    level: ClassVar[Level] = "error"
    cause: str
    mode: str
    error_scope: str = "infrastructure"
    impact: str = "all_workers"


class InfrastructureStillOpen(Event, frozen=True, kw_only=True):
    """The heartbeat of a breaker that is not closed, or held closed though it would not be.
    ``state`` is the one that counts, ``forced`` whether an operator holds it there;
    ``retry_attempt`` counts the times it was half open in this incident; ``next_retry_in_s`` is
    None while something is still wrong."""

    level: ClassVar[Level] = "warning"
    state: str
    cause: str
    mode: str
    retry_attempt: int
    max_attempts: int | None
    elapsed_downtime_s: float
    next_retry_in_s: float | None
    recovery_status: str
    forced: bool = False


class InfrastructureHalfOpened(Event, frozen=True, kw_only=True):
    """Nothing is wrong any more: a few actions may start, more with each that comes through."""

    retry_attempt: int
    elapsed_downtime_s: float
    closes_in_s: float
    mode: str


class InfrastructureReopened(Event, frozen=True, kw_only=True):
    """The trouble was back before the breaker had closed."""

    level: ClassVar[Level] = "warning"
    cause: str
    retry_attempt: int
    elapsed_downtime_s: float
    mode: str


class InfrastructureRecovered(Event, frozen=True, kw_only=True):
    """The breaker is closed. ``total_downtime_s`` counts from the moment it opened."""

    total_downtime_s: float
    retry_attempts: int
    mode: str


class InfrastructureForced(Event, frozen=True, kw_only=True):
    """An operator has forced the breaker open or closed, for a time, or (``auto``) has taken that
    back."""

    level: ClassVar[Level] = "warning"
    state: str
    for_s: float
    client: str


class InfrastructureForceEnded(Event, frozen=True, kw_only=True):
    """The time of an operator's word is over: the breaker goes by what it reads."""

    was: str
    state: str


class ExcessForgotten(Event, frozen=True, kw_only=True):
    """A reading was over its limit when it was last seen, and has been missing for so long that
    this counts no more: the breaker goes by the others."""

    level: ClassVar[Level] = "warning"
    reading: str
    unseen_s: float
    reason: str


class ActionsRecalled(Event, frozen=True, kw_only=True):
    """Actions that waited for a proc when the breaker opened were taken back; each is decided anew
    when it has closed."""

    level: ClassVar[Level] = "warning"
    count: int


class MemoryRelieved(Event, frozen=True, kw_only=True):
    """Memory is short: the newest action that may be tried again was cancelled, and is decided
    anew when the breaker has closed."""

    level: ClassVar[Level] = "warning"
    path: str
    action_type: str
    attempt_id: int
    cause: str
    error_scope: str = "infrastructure"
    impact: str = "single_worker"
