"""Procs and attempts of a simulated pool.

Knows: what each is doing.
Does not know: time, when anything happens to them.
Invariants: I2 and I6, checked where an attempt is put on a proc; a number is used once.
"""

from __future__ import annotations

import enum
from typing import Any

from fsmv2.supervisor.core.action import (
    Action,
    ActionError,
    ActionResult,
    DeathCertificate,
    Status,
    action_name,
)
from fsmv2.supervisor.core.errors import check
from fsmv2.supervisor.core.queue import KeyedQueue
from fsmv2.supervisor.testing.answers import Answer


class SimState(enum.Enum):
    """A proc's state: the real table's, without what only real processes need."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    KILLED = "killed"
    DEAD = "dead"


class SimAttempt:
    """One submitted action without a result. Monotonic seconds in ``*_at``."""

    __slots__ = (
        "action", "answer", "begins", "cancel_cause", "dispatched_at", "grace_s", "id",
        "is_told_of_stop", "key", "lane", "name", "proc", "progress", "submitted_at", "timeout_s",
        "urgent",
    )  # fmt: skip

    def __init__(
        self,
        attempt_id: int,
        action: Action,
        answer: Answer,
        key: str,
        lane: SimLane,
        timeout_s: float,
        urgent: bool,
        now: float,
        grace_s: float,
    ) -> None:
        self.id = attempt_id
        self.action = action
        self.answer = answer
        self.name = action_name(type(action))
        self.key = key
        self.lane = lane
        self.timeout_s = timeout_s
        self.grace_s = grace_s
        self.urgent = urgent
        self.submitted_at = now
        self.dispatched_at = 0.0
        self.begins = 0
        self.proc: SimProc | None = None
        self.progress: str | None = None
        self.cancel_cause: str | None = None
        self.is_told_of_stop = False

    def __repr__(self) -> str:
        return f"<attempt {self.id} {self.name} key={self.key!r} lane={self.lane.name}>"

    def result(
        self,
        status: Status,
        now: float,
        wall: float,
        *,
        value: Any = None,
        error: ActionError | None = None,
        certificate: DeathCertificate | None = None,
    ) -> ActionResult:
        """Its one result, at ``now``."""
        began = self.dispatched_at if self.proc is not None else now
        return ActionResult(
            status=status,
            action_type=self.name,
            attempt_id=self.id,
            value=value,
            error=error,
            certificate=certificate,
            queued_s=began - self.submitted_at,
            ran_s=now - began,
            ended_at=wall,
        )


class SimProc:
    """One proc; ``cause`` and ``verdict`` say how it ended."""

    __slots__ = ("attempt", "cause", "detail", "lane", "late", "number", "state", "verdict")

    def __init__(self, number: int) -> None:
        self.number = number
        self.state = SimState.STARTING
        self.lane: SimLane | None = None
        self.attempt: SimAttempt | None = None
        self.cause: str | None = None
        self.detail: str | None = None
        self.verdict = ""
        self.late: ActionResult | None = None

    def __repr__(self) -> str:
        return f"<proc {self.number} {self.state.value} {self.attempt}>"

    @property
    def attempt_at(self) -> float:
        """When its attempt was given to it, for whoever shows how long that has run."""
        return self.attempt.dispatched_at if self.attempt is not None else 0.0

    def take(self, attempt: SimAttempt) -> None:
        """Begin ``attempt``."""
        check(self.attempt is None, f"I2: proc {self.number} has two attempts")
        check(
            self.state is SimState.IDLE,
            f"I6: proc {self.number} was given work while {self.state.value}",
        )
        self.state = SimState.BUSY
        self.attempt, attempt.proc = attempt, self


class SimLane:
    """A lane: its queue, the procs that work for it."""

    __slots__ = ("idle", "members", "name", "queue", "running_keys", "size")

    def __init__(self, name: str, size: int, capacity: int) -> None:
        self.name = name
        self.size = size
        self.queue: KeyedQueue[SimAttempt] = KeyedQueue(capacity)
        self.members: list[SimProc] = []
        self.idle: list[SimProc] = []
        self.running_keys: set[str] = set()

    def began(self, key: str) -> None:
        """An attempt of ``key`` runs from now on."""
        if key:
            check(key not in self.running_keys, f"I2: two attempts of {key!r} run at a time")
            self.running_keys.add(key)

    def ended(self, key: str) -> None:
        """It does no more."""
        self.running_keys.discard(key)
