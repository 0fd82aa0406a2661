"""A node: the runtime record of one worker, one incarnation.

Knows: its fields and who may write them.
Does not know: when anything happens to them.
Invariants: I1, one writer per field:

| fields | written by |
|---|---|
| spec, variables, location, leaving, ending, successor | the parent's step 3 (root: the engine) |
| mapped_state, held_by, stop_from_parent | the parent's step 4 |
| desired, derive_needed | step 2 |
| children, declared, refused_children, done, generations, later, restarted, together | step 3 |
| ends | the children's step 6; emptied by step 3 |
| fault_* | `contain`, when worker code raises |
| state, entered_at, reason, attempt, stop_*by, forced, gone | step 6 |
| status, results, failures, history, retry_at, acted_at | the inbox |
| observ*, thresholds, stale_reported, probe_*, is_lost | `observing`: steps 2, 6, the inbox |
| outside | `outside` |
| dirty, dirty_below, wake_at | everybody who changes something |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from fsmv2.supervisor.core.action import (
    AS_DECLARED,
    Action,
    ActionPolicy,
    ActionResult,
    Outcome,
    Retry,
    action_name,
)
from fsmv2.supervisor.core.freshness import Thresholds
from fsmv2.supervisor.core.fsm import ChildInfo, Identity, Phase, State
from fsmv2.supervisor.core.location import Location
from fsmv2.supervisor.core.restarts import Counted, End
from fsmv2.supervisor.core.spec import ChildSpec, DesiredState
from fsmv2.supervisor.core.variables import VariableBundle
from fsmv2.supervisor.core.worker import Worker

if TYPE_CHECKING:
    from fsmv2.supervisor.outside import Outside

NEVER = float("inf")


class InFlight:
    """An action offered to the pool and not answered yet. ``since`` is monotonic seconds."""

    __slots__ = (
        "attempt_id", "for_stop", "kind", "name", "restarted", "retry", "since", "timeout_s",
    )  # fmt: skip

    def __init__(
        self,
        attempt_id: int,
        kind: type[Action],
        since: float,
        policy: ActionPolicy = AS_DECLARED,
        for_stop: bool = False,
    ) -> None:
        self.attempt_id = attempt_id
        self.for_stop = for_stop
        self.kind = kind  # results are kept by class: two modules may have one name
        self.name = action_name(kind)
        self.timeout_s = kind.timeout_s if policy.timeout_s is None else policy.timeout_s
        self.retry: Retry = kind.retry if policy.retry is None else policy.retry
        self.since = since
        self.restarted = False  # an observation that was too long overdue


class Ended(NamedTuple):
    """A child that has gone on its own account; its parent's next step 3 sees to it."""

    spec: ChildSpec
    end: End
    reason: str


class Together(NamedTuple):
    """Siblings that are restarted along with ``cause``, in start order: none of ``names`` starts
    before all of them are down and ``moment`` has come."""

    cause: str
    names: tuple[str, ...]
    moment: float


class Generations(dict[str, int]):
    """How many incarnations each child had, by name. Those below a child are kept here too, so
    that they go on counting when the child itself starts anew."""

    __slots__ = ("_below",)

    def __init__(self) -> None:
        super().__init__()
        self._below: dict[str, Generations] = {}

    def below(self, name: str) -> Generations:
        """Those of the children of ``name``."""
        return self._below.setdefault(name, Generations())

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        self._below.pop(name, None)


class Later:
    """A child that is to be made from ``spec``, but not before ``moment``: its constructor raised,
    it is restarted after a wait, or it is given up."""

    __slots__ = ("failures", "given_up", "moment", "since", "spec", "text")

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.given_up = False
        self.moment = 0.0
        self.since = 0.0
        self.failures = 0
        self.text = ""


class Node:
    """See the module. Moments are monotonic seconds."""

    __slots__ = (
        "acted_at", "attempt", "children", "declared", "derive_needed", "desired", "dirty",
        "dirty_below", "done", "ending", "ends", "entered_at", "failures", "fault_at",
        "fault_count", "fault_since", "fault_step", "fault_text", "fault_until", "forced",
        "generation", "generations", "gone", "held_by", "history", "identity", "is_lost", "later",
        "leaving", "location", "mapped_state", "observation", "observe_at", "observe_failures",
        "observe_since", "observed_at", "outside", "parent", "path", "probe_restart_at",
        "probe_restarts", "reason", "refused_children", "restarted", "result_ends", "results",
        "retry_at", "spec", "stale_reported", "state", "status", "stop_action_by", "stop_by",
        "stop_from_parent", "successor", "thresholds", "together", "variables", "wake_at",
        "worker",
    )  # fmt: skip

    def __init__(
        self,
        spec: ChildSpec,
        worker: Worker,
        parent: Node | None,
        generation: int,
        state: State,
        now: float,
        generations: Generations | None = None,
    ) -> None:
        self.spec = spec
        self.worker = worker
        self.parent = parent
        self.path: str = spec.name if parent is None else f"{parent.path}/{spec.name}"
        self.generation = generation
        self.identity = Identity(spec.name, self.path, spec.worker_type, generation)
        self.variables = VariableBundle()
        self.location = Location()
        self.children: dict[str, Node] = {}
        # step 2
        self.desired: DesiredState | None = None
        self.derive_needed = True
        # step 3
        self.declared: tuple[ChildSpec, ...] | None = None
        self.refused_children: str | None = None
        self.done: dict[str, ChildSpec] = {}
        self.generations = Generations() if generations is None else generations
        self.later: dict[str, Later] = {}
        self.ends: list[Ended] = []
        self.restarted: tuple[Counted, ...] = ()
        self.together: Together | None = None
        # the parent's steps
        self.leaving: str | None = None
        self.ending: End | None = None
        self.successor: ChildSpec | None = None
        self.stop_by: float | None = None
        self.stop_action_by: float | None = None
        self.stop_from_parent = False
        self.mapped_state: str | None = None
        self.held_by: tuple[str, ...] = ()
        self.forced = self.gone = False
        # faults of worker code
        self.fault_count = 0
        self.fault_since = self.fault_at = 0.0
        self.fault_until: float | None = None
        self.fault_step = self.fault_text = ""
        # step 6
        self.state = state
        self.entered_at = now
        self.reason = "just added"
        self.attempt: InFlight | None = None
        # the inbox
        self._set_unobserved(now)
        self.results: dict[type[Action], ActionResult] = {}
        self.result_ends: dict[type[Action], float] = {}
        self.failures: dict[type[Action], int] = {}
        self.history: dict[type[Action], tuple[Outcome, ...]] = {}
        self.retry_at: dict[type[Action], float] = {}
        self.acted_at: float | None = None
        self.outside: Outside | None = None
        # looking again
        self.dirty = True
        self.dirty_below = False
        self.wake_at: float | None = None

    def _set_unobserved(self, now: float) -> None:
        self.status: Any = None
        self.observed_at: float | None = None
        self.observation: InFlight | None = None
        self.observe_at = now
        self.observe_since = now
        self.observe_failures = 0
        self.thresholds = Thresholds()
        self.stale_reported = False
        self.probe_restarts = 0
        self.probe_restart_at = 0.0
        self.is_lost = False

    def __repr__(self) -> str:
        return f"<node {self.path}#{self.generation} {self.state_name}: {self.reason}>"

    @property
    def state_name(self) -> str:
        """The state's name in snake_case."""
        return type(self.state).state_name()

    @property
    def restarts(self) -> int:
        """How many incarnations there were before this one."""
        return self.generation - 1

    @property
    def phase(self) -> Phase:
        """The state's phase; of one that should run and cannot be observed: degraded."""
        phase = self.state.phase
        if self.is_lost and phase is Phase.RUNNING and not self.leaving:
            return Phase.DEGRADED
        return phase

    @property
    def desired_word(self) -> str:
        """The desired state that counts: the parent's mapping before the worker's own."""
        if self.mapped_state is not None:
            return self.mapped_state
        return self.desired.state if self.desired is not None else "stopped"

    @property
    def stop_asked(self) -> bool:
        """Whether this worker should walk to stopped, whatever the cause."""
        return bool(
            self.leaving
            or self.stop_from_parent
            or not self.spec.enabled
            or (self.desired is not None and self.desired_word == "stopped")
        )

    @property
    def info(self) -> ChildInfo:
        """What the parent's worker sees of this node."""
        return ChildInfo(
            self.spec.name,
            self.path,
            self.spec.worker_type,
            self.state_name,
            self.phase,
            self.reason,
        )

    def mark_dirty(self) -> None:
        """Look at this node in the next tick; its ancestors lead there."""
        self.dirty = True
        above = self.parent
        while above is not None and not above.dirty_below:
            above.dirty_below = True
            above = above.parent
