"""What a supervisor answers: the parts that the command line reads, with their types.

Knows: which keys are needed, what says that a command was carried out.
Does not know: how an answer comes, how it is shown.
Invariants: more keys than these are no fault, for a supervisor may be newer; a missing one, or one
of another type, means that somebody else has answered.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Action(msgspec.Struct, frozen=True):
    """An action in flight; ``waits_s`` is None when it runs."""

    attempt_id: int
    type: str
    running_s: float
    waits_s: float | None = None


class Absent(msgspec.Struct, frozen=True):
    """A child that is declared and not there."""

    name: str
    worker_type: str
    why: str


class Tree(msgspec.Struct, frozen=True):
    """A worker and those below it. ``last_word_s`` stands at the top, of a root that is silent."""

    path: str
    name: str
    worker_type: str
    state: str
    reason: str
    since_s: float
    circuit: str
    action: Action | None
    children: list[Tree]
    absent: list[Absent]
    last_word_s: float | None = None


class Limit(msgspec.Struct, frozen=True):
    """A limit of the breaker; without a value, ``missing`` says why."""

    reading: str
    value: float | None
    missing: str


class Machine(msgspec.Struct, frozen=True):
    """The infrastructure breaker."""

    state: str
    mode: str
    causes: list[str]
    down_s: float
    waiting: int
    forced: str | None
    forced_for_s: float | None
    limits: list[Limit]


class Proc(msgspec.Struct, frozen=True):
    """A proc, and what it is at."""

    action: str | None


class Quarantined(msgspec.Struct, frozen=True):
    """An action type that is kept apart."""

    verdict: str
    deaths: int
    held: int
    retry_in_s: float


class PoolStatus(msgspec.Struct, frozen=True):
    """The pool."""

    procs: list[Proc]
    queued: int
    deaths: int
    quarantined: dict[str, Quarantined]


class Circuit(msgspec.Struct, frozen=True):
    """A circuit that is open."""

    path: str
    circuit: str
    why: str
    attempts: int | None
    next_attempt_in_s: float | None
    escalated: bool


class Status(msgspec.Struct, frozen=True):
    """How the supervisor does. ``last_word_s`` is there of a root that is silent."""

    name: str
    pid: int
    version: str
    ready: bool
    reason: str
    uptime_s: float
    ticks: int
    tick_p50_ms: float | None
    tick_p99_ms: float | None
    workers: dict[str, int]
    actions: dict[str, int]
    infrastructure: Machine
    pool: PoolStatus
    circuits: list[Circuit]
    store_trouble: str | None = None
    last_word_s: float | None = None


class Killed(msgspec.Struct, frozen=True):
    """The answer to a kill."""

    outcome: Literal["done"]
    attempt_id: int
    action_type: str
    path: str


class Released(msgspec.Struct, frozen=True):
    """The answer to a release."""

    outcome: Literal["done"]
    action_type: str


class Held(msgspec.Struct, frozen=True):
    """The answer to a word on the breaker."""

    outcome: Literal["done"]
    state: str
    for_s: float


class Counts(msgspec.Struct, frozen=True):
    """How many workers become what, as `core.plan.KINDS` has it."""

    added: int
    updated: int
    replaced: int
    removed: int
    untouched: int


class Change(msgspec.Struct, frozen=True):
    """What becomes of one worker."""

    path: str
    change: Literal["added", "updated", "replaced", "removed", "untouched"]
    worker_type: str
    why: tuple[str, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """A `config.plans.PlanDocument` of a supervisor that may be newer."""

    counts: Counts
    settings: tuple[str, ...]
    changes: tuple[Change, ...]
    left_out: int = 0


class Planned(msgspec.Struct, frozen=True):
    """The answer to a reload, and to the question what one would do."""

    outcome: Literal["done"]
    config: str
    plan: Plan
