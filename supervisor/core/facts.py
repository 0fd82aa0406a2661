"""What is known of a worker that somebody asks about, and what is answered.

Knows: the facts of a worker that is there, and of a declared child that is not; the answer's form.
Does not know: which facts make which cause (`explaining`, `absences`), where they are read.
Invariants: plain data; a moment is seconds from now, an age seconds until now; None: not known, or
it does not apply.
"""

from __future__ import annotations

import msgspec

from fsmv2.supervisor.core.gate import Conditions
from fsmv2.supervisor.core.phase import Phase
from fsmv2.supervisor.core.restarts import RestartBudget, RestartType


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """One reason. ``numbers`` are those in ``text``; ``waits_for`` are paths, or what else has to
    happen; ``next`` says what comes next, after ``next_in_s`` if that is known. ``runbook`` is a
    page, or the address of one."""

    rule: str
    text: str
    next: str
    numbers: dict[str, float] = {}
    since_s: float | None = None
    next_in_s: float | None = None
    waits_for: tuple[str, ...] = ()
    runbook: str = ""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why the worker at ``path`` is as it is: ``why`` counts, ``also`` would be next. ``runbook``
    of each is a page's address, empty where there is no trouble."""

    path: str
    worker_type: str
    runs: bool
    state: str
    phase: str
    desired_state: str
    reason: str
    since_s: float | None
    restarts: int
    why: Cause
    also: tuple[Cause, ...] = ()


class Flight(msgspec.Struct, frozen=True, kw_only=True):
    """An action that was offered to the pool; ``running_s`` is None while it waits for a proc."""

    name: str
    attempt_id: int
    offered_s: float
    running_s: float | None
    timeout_s: float
    progress: str = ""


class Quarantined(msgspec.Struct, frozen=True, kw_only=True):
    """The action type in flight is kept apart."""

    verdict: str
    deaths: int
    since_s: float
    retry_in_s: float


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Worker code that raised (or, ``slow``, took too long); ``retry_in_s`` None: it is tried in
    the next tick."""

    step: str
    text: str
    slow: bool
    failures: int
    since_s: float
    retry_in_s: float | None


class Failing(msgspec.Struct, frozen=True, kw_only=True):
    """An action type of this worker that has failed; ``attempts`` is how often it may, in a row."""

    name: str
    failures: int
    attempts: int | None
    retry_in_s: float
    error: str


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """How the worker is observed. ``age_s`` is that of the last observation, or the time since the
    first was due; ``next_in_s`` is None while one is in flight."""

    age_s: float
    stale_s: float
    dead_s: float
    interval_s: float
    failures: int
    probe_restarts: int
    next_in_s: float | None


class Sibling(msgspec.Struct, frozen=True):
    """A worker somebody waits for."""

    path: str
    state: str


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """The worker counts as failed with its parent. ``unless`` is why it is not restarted, if it is
    not; ``escalated``: nobody restarts it any more."""

    cause: str
    detail: str
    since_s: float
    attempts: int
    attempts_max: int
    retry_in_s: float | None
    unless: str
    escalated: bool


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that is so of one worker now. ``stop`` says why it is to be stopped, empty: it is not;
    ``forced_in_s`` is when it is dropped by force; ``waits_for_lease``: its action waits for
    its turn while the infrastructure breaker is half open. ``children_down`` are the first of the
    children that do not run. ``failed_child`` is the path of the child that keeps the circuit open,
    and ``retry_in_s`` when it is restarted. ``runbook`` is where its type has its own page, empty:
    it has none."""

    path: str
    worker_type: str
    state: str
    phase: Phase
    desired_state: str
    reason: str
    since_s: float
    restarts: int = 0
    now: Conditions = Conditions()
    flight: Flight | None = None
    quarantined: Quarantined | None = None
    fault: Fault | None = None
    failing: tuple[Failing, ...] = ()
    seen: Seen | None = None
    waits_for_lease: bool = False
    failed: Failed | None = None
    stop: str = ""
    forced_in_s: float | None = None
    children_to_stop: tuple[Sibling, ...] = ()
    holders: tuple[Sibling, ...] = ()
    children_down: tuple[Sibling, ...] = ()
    children_down_count: int = 0
    refused_children: str = ""
    outside: str = ""
    failed_child: str = ""
    retry_in_s: float | None = None
    next_look_s: float | None = None
    runbook: str = ""


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """All that is so of a child of ``parent`` that is declared and not there. ``parent_stops`` says
    why its parent leaves, ``refused`` what is wrong with the declaration (empty: nothing);
    ``restarts`` are those that count against ``budget`` now; ``retry_in_s`` None: at no moment
    known; ``along`` are siblings that are restarted with it and not down yet. ``parent_waits`` is
    what holds its parent back."""

    path: str
    worker_type: str
    parent: str
    restart: RestartType = "permanent"
    parent_stops: str = ""
    refused: str = ""
    is_done: bool = False
    given_up: bool = False
    constructor_failures: int = 0
    error: str = ""
    since_s: float | None = None
    retry_in_s: float | None = None
    restarts: int = 0
    budget: RestartBudget = RestartBudget()
    along_with: str = ""
    along: tuple[Sibling, ...] = ()
    parent_waits: Cause | None = None
    generation: int = 0
