"""A node: the runtime record of one worker, one incarnation.

Knows: its fields and who may write them.
Does not know: when anything happens to them.
Invariants: I1, one writer per field:

| fields | written by |
|---|---|
| spec, variables, location, leaving, ending, successor | the parent's step 3 (root: the engine) |
| mapped_state, held_by, stop_from_parent | the parent's step 4 |
| desired, hide, derive_needed | step 2 |
| children, position, declared, refused_children, done, generations, later | step 3 |
| restarted, together, settled | step 3; mapped: step 4; `children_changed` resets |
| ends | the children's step 6; emptied by step 3 |
| fault_*, config_fault, raises, panic_since | `containment`, when worker code raises |
| care, suspects | `childcare`; respecified: the parent's step 3, ended by step 2 |
| state, entered_at, reason, attempt, stop_*by, forced, gone | step 6 |
| status, results, successes, history, acted_at | the inbox |
| failures, retry_at | `retrying`: steps 2, 6, the inbox |
| observ*, thresholds, stale_reported, probe_*, is_lost | `observing`: steps 2, 6, the inbox |
| outside | `outside` |
| dirty, dirty_below, wake_at, observe_due, observe_wake_at | everybody who changes something |
"""

from __future__ import annotations

import zlib
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
from fsmv2.supervisor.core.childrenview import NO_CHILDREN, ChildInfo, ChildrenView
from fsmv2.supervisor.core.freshness import Thresholds
from fsmv2.supervisor.core.fsm import Identity, Phase, State
from fsmv2.supervisor.core.location import Location
from fsmv2.supervisor.core.restarts import Counted, End
from fsmv2.supervisor.core.spec import ChildSpec, DesiredState
from fsmv2.supervisor.core.variables import VariableBundle
from fsmv2.supervisor.core.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from fsmv2.supervisor.tree.care import Care
    from fsmv2.supervisor.tree.outside import Outside

NEVER = float("inf")
_NO_VARIABLES = VariableBundle()
_NOWHERE = Location()


class InFlight:
    """An action offered to the pool and not answered yet. ``since`` is monotonic seconds."""

    __slots__ = (
        "attempt_id", "for_stop", "is_told", "kind", "name", "recalled", "restarted", "retry",
        "since", "timeout_s",
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
        self.is_told = False  # that its worker is to stop
        self.recalled = False  # taken back from the queue: the machine is in trouble

    def never_began(self, result: ActionResult) -> bool:
        """Whether it was taken back in time, so that ``result`` says nothing of the action."""
        return self.recalled and result.status == "cancelled" and result.certificate is None


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
        "_is_lost", "_leaving", "_reason", "_state", "_view", "acted_at", "attempt", "care",
        "changed_in_view", "children", "config_fault", "declared", "derive_needed", "desired",
        "dirty", "dirty_below", "done", "ending", "ends", "entered_at", "failures", "fault_at",
        "fault_count", "fault_since", "fault_step", "fault_text", "fault_until", "forced",
        "generation", "generations", "gone", "held_by", "hide", "history", "identity", "later",
        "location", "mapped", "mapped_state", "observation", "observe_at", "observe_due",
        "observe_failures", "observe_since", "observe_wake_at", "observed_at", "outside",
        "panic_since", "parent", "path", "position", "probe_restart_at", "probe_restarts",
        "raises", "refused_children", "respecified", "restarted", "result_ends", "results",
        "retry_at", "settled", "share", "spec", "stale_reported", "status", "stop_action_by",
        "stop_by", "stop_from_parent", "successes", "successor", "suspects", "thresholds",
        "together", "variables", "wake_at", "worker",
    )  # fmt: skip

    mapped: tuple[bool, str] | None
    _view: ChildrenView | None
    changed_in_view: dict[Node, None]

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
        self.share = zlib.crc32(self.path.encode()) / 2**32  # 0 to 1, another for each path
        self.identity = Identity(spec.name, self.path, spec.worker_type, generation)
        self.variables = _NO_VARIABLES
        self.location = _NOWHERE
        self.children: dict[str, Node] = {}
        self.children_changed()
        # step 2
        self.desired: DesiredState | None = None
        self.hide: Callable[[str], str] | None = None
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
        self._leaving: str | None = None
        self.ending: End | None = None
        self.successor: ChildSpec | None = None
        self.stop_by: float | None = None
        self.stop_action_by: float | None = None
        self.stop_from_parent = False
        self.mapped_state: str | None = None
        self.held_by: tuple[str, ...] = ()
        self.forced = self.gone = False
        self._set_faultless()
        # step 6
        self._state = state
        self.entered_at = now
        self._reason = "just added"
        self.attempt: InFlight | None = None
        # the inbox
        self._set_unobserved(now)
        self.results: dict[type[Action], ActionResult] = {}
        self.result_ends: dict[type[Action], float] = {}
        # The last successes, and their ends, of types whose last result is none.
        self.successes: dict[type[Action], tuple[ActionResult, float]] = {}
        self.failures: dict[type[Action], int] = {}
        self.history: dict[type[Action], tuple[Outcome, ...]] = {}
        self.retry_at: dict[type[Action], float] = {}
        self.acted_at: float | None = None
        self.outside: Outside | None = None
        # looking again
        self.dirty = True
        self.position = 0  # among its siblings, in start order
        self.dirty_below: dict[Node, None] = {}  # the children that lead to a dirty node
        self.wake_at: float | None = None
        self.observe_wake_at: float | None = None
        self.observe_due = False

    def _set_faultless(self) -> None:
        # faults of worker code
        self.fault_count = 0
        self.fault_since = self.fault_at = 0.0
        self.fault_until: float | None = None
        self.fault_step = self.fault_text = ""
        self.config_fault = False
        self.raises: tuple[float, ...] = ()  # of the panic breaker's window
        self.panic_since: float | None = None
        # its children's breakers
        self.care: Care | None = None
        self.suspects: dict[str, None] = {}  # children that step 1 has to look at
        self.respecified = False

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
        self._is_lost = False

    def __repr__(self) -> str:
        return f"<node {self.path}#{self.generation} {self.state_name}: {self.reason}>"

    # What `info` shows is set through properties, so that the parent's view knows what to renew.

    @property
    def state(self) -> State:
        """The state it is in."""
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        self._state = state
        self._show_parent()

    @property
    def reason(self) -> str:
        """Why it is as it is, for people."""
        return self._reason

    @reason.setter
    def reason(self, reason: str) -> None:
        if reason != self._reason:
            self._reason = reason
            self._show_parent()

    @property
    def leaving(self) -> str | None:
        """Why it was asked to stop and go, if it was."""
        return self._leaving

    @leaving.setter
    def leaving(self, leaving: str | None) -> None:
        self._leaving = leaving
        self._show_parent()

    @property
    def is_lost(self) -> bool:
        """Whether it cannot be observed."""
        return self._is_lost

    @is_lost.setter
    def is_lost(self, is_lost: bool) -> None:
        if is_lost != self._is_lost:
            self._is_lost = is_lost
            self._show_parent()

    def _show_parent(self) -> None:
        parent = self.parent
        if parent is not None and not self.gone:
            parent.changed_in_view[self] = None
            parent.suspects[self.spec.name] = None

    @property
    def state_name(self) -> str:
        """The state's name in snake_case."""
        return type(self._state).state_name()

    @property
    def restarts(self) -> int:
        """How many incarnations there were before this one."""
        return self.generation - 1

    @property
    def phase(self) -> Phase:
        """The state's phase; of one that should run and cannot be observed: degraded."""
        phase = self._state.phase
        if self._is_lost and phase is Phase.RUNNING and not self._leaving:
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
            self._leaving
            or self.stop_from_parent
            or not self.spec.enabled
            or (self.desired is not None and self.desired_word == "stopped")
        )

    def children_view(self) -> ChildrenView:
        """What this node's worker sees of its children. Of many only the changed are built."""
        if not self.children and not self.later:
            return NO_CHILDREN
        given_up = tuple([name for name, later in self.later.items() if later.given_up])
        if not self.children and not given_up:
            return NO_CHILDREN
        changed, self.changed_in_view = self.changed_in_view, {}
        if self._view is None:
            self._view = ChildrenView([child.info for child in self.children.values()], given_up)
        elif changed or given_up != self._view.given_up:
            self._view = self._view.updated([child.info for child in changed], given_up)
        return self._view

    def children_changed(self) -> None:
        """A child came, went, moved or has another spec: forget what was worked out of them."""
        self.settled = False  # step 3: they are the declared ones
        self.mapped = None  # step 4: what was mapped last
        self._view = None
        self.changed_in_view = {}

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
        """Look at this node in the next tick."""
        self.dirty = True
        self.lead_here()

    def lead_here(self) -> None:
        """Have the next tick come by this node."""
        below, above = self, self.parent
        while above is not None and below not in above.dirty_below:
            above.dirty_below[below] = None
            below, above = above, above.parent


def by_position(node: Node) -> int:
    """For sorting siblings into their start order."""
    return node.position
