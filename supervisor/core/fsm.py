"""States, decisions, snapshots: what worker code sees and says.

Theory of operation. A worker's states form a graph that only its own code knows. Each time
the engine looks at a node it builds one immutable `Snapshot`, asks `decide` and gets exactly
one decision back. `decide` asks the worker, with three rules on top:

1. A stop that is asked for (shutdown, disabled, desired state "stopped") is routed here, not
   in worker code: from any state that is neither stopping nor stopped the next decision is
   ``Go(worker.stopping)``; in a stopped state it is ``Stay``.
2. On the way down only states of phase stopping or stopped can be entered.
3. Whatever is not one of the five decisions, or lacks a reason, is a `WorkerFault`.

Knows: phases, decisions, snapshots, those rules.
Does not know: when it is called, what becomes of a decision.
Invariants: I9, a decision is exactly one of its five forms and carries a reason.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import msgspec

from fsmv2.supervisor.core.action import Action, ActionResult, Outcome
from fsmv2.supervisor.core.childrenview import NO_CHILDREN
from fsmv2.supervisor.core.childrenview import ChildInfo as ChildInfo
from fsmv2.supervisor.core.childrenview import ChildrenView as ChildrenView
from fsmv2.supervisor.core.errors import WorkerFault
from fsmv2.supervisor.core.phase import Phase as Phase
from fsmv2.supervisor.core.words import REASON_CHARS_MAX, presentable

if TYPE_CHECKING:
    from fsmv2.supervisor.core.worker import Worker

S = TypeVar("S")


@functools.lru_cache(maxsize=4096)
def snake_case(name: str) -> str:
    """``TryingHard`` as ``trying_hard``."""
    return "".join(
        f"_{c.lower()}" if c.isupper() and i and not name[i - 1].isupper() else c.lower()
        for i, c in enumerate(name)
    )


class State:
    """One state of a worker. Subclass it, set ``phase``, override `next`.

    States hold no data: the engine keeps one instance per class, and two workers share it.
    """

    phase: ClassVar[Phase]

    def next(self, snap: Snapshot) -> Decision:
        """Return one decision. Pure: no I/O, no clock but the snapshot's."""
        raise NotImplementedError(f"{type(self).__qualname__}.next")

    @classmethod
    def state_name(cls) -> str:
        """The class's name in snake_case: ``TryingHard`` shows as ``trying_hard``."""
        return snake_case(cls.__name__)


class _Decision(msgspec.Struct, frozen=True):
    pass


class Stay(_Decision, frozen=True):
    """Nothing to do. The reason should carry live values: it is shown to operators."""

    reason: str


class Go(_Decision, frozen=True):
    """Enter ``state`` (a State class)."""

    state: type[State]
    reason: str


class Act(_Decision, frozen=True):
    """Run ``action`` in a proc and stay in this state."""

    action: Action
    reason: str


class Restart(_Decision, frozen=True):
    """This worker has failed: stop it. Its restart type and its parent's strategy and budget decide
    whether it, and which siblings, start anew; a temporary one does not."""

    reason: str


class Remove(_Decision, frozen=True):
    """This worker is done: stop it. A transient or temporary one stays out of the tree until its
    spec changes; a permanent one (the default) is started anew, as after `Restart`."""

    reason: str


Decision = Stay | Go | Act | Restart | Remove


class Identity(msgspec.Struct, frozen=True):
    """Who a node is. ``path`` is its key everywhere; ``generation`` counts incarnations."""

    name: str
    path: str
    worker_type: str
    generation: int


class Desired(msgspec.Struct, frozen=True):
    """What should be: ``state`` is the derived or mapped word, ``config`` the decoded config."""

    state: str
    config: Any
    shutdown: bool = False
    disabled: bool = False
    parent_stops: bool = False

    @property
    def stop_asked(self) -> bool:
        """True when this worker should walk to stopped, whatever the cause."""
        return self.shutdown or self.disabled or self.parent_stops or self.state == "stopped"

    @property
    def stop_reason(self) -> str:
        """Why, for people."""
        if self.shutdown:
            return "asked to shut down"
        if self.disabled:
            return "disabled"
        if self.parent_stops:
            return "its parent stops"
        return "desired state is stopped"


class _SnapshotFields:
    """What a snapshot is while it is filled in: `object.__setattr__` for each field would cost
    more than a worker's decision."""

    __slots__ = (
        "_age_s",
        "_entered_at",
        "_failures",
        "_history",
        "_monotonic",
        "_result_ends",
        "_results",
        "_successes",
        "_time_read",
        "_wall",
        "children",
        "desired",
        "identity",
        "state",
        "status",
    )

    identity: Identity
    state: State
    desired: Desired
    status: Any
    children: ChildrenView
    _age_s: float | None
    _entered_at: float
    _failures: Mapping[type[Action], int]
    _history: Mapping[type[Action], tuple[Outcome, ...]]
    _monotonic: float
    _result_ends: Mapping[type[Action], float]
    _results: Mapping[type[Action], ActionResult]
    _successes: Mapping[type[Action], tuple[ActionResult, float]]
    _time_read: list[bool]
    _wall: float


class Snapshot(_SnapshotFields):
    """Everything a worker may know when it decides; immutable.

    Reading `now`, `age_s`, `time_in_state_s` or `since_result_s` tells the engine that the
    decision depends on time, so that it looks at this node again on the next tick.
    """

    __slots__ = ()

    def __init__(
        self,
        *,
        identity: Identity,
        state: State,
        desired: Desired,
        status: Any = None,
        age_s: float | None = None,
        children: ChildrenView | None = None,
        results: Mapping[type[Action], ActionResult] | None = None,
        result_ends: Mapping[type[Action], float] | None = None,
        failures: Mapping[type[Action], int] | None = None,
        history: Mapping[type[Action], tuple[Outcome, ...]] | None = None,
        successes: Mapping[type[Action], tuple[ActionResult, float]] | None = None,
        entered_at: float = 0.0,
        monotonic: float = 0.0,
        wall: float = 0.0,
    ) -> None:
        kind = type(self)
        object.__setattr__(self, "__class__", _SnapshotFields)
        self.identity = identity
        self.state = state
        self.desired = desired
        self.status = status
        self.children = NO_CHILDREN if children is None else children
        self._age_s = age_s
        self._results = dict(results) if results else {}
        self._result_ends = dict(result_ends) if result_ends else {}
        self._failures = dict(failures) if failures else {}
        self._history = dict(history) if history else {}
        self._successes = dict(successes) if successes else {}
        self._entered_at = entered_at
        self._monotonic = monotonic
        self._wall = wall
        self._time_read = []
        self.__class__ = kind

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"cannot set {name!r}: a Snapshot is immutable")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"cannot delete {name!r}: a Snapshot is immutable")

    def __repr__(self) -> str:
        return f"<Snapshot {self.identity.path} {type(self.state).__name__}>"

    @property
    def config(self) -> Any:
        """The worker's decoded config, of its ``config_type``."""
        return self.desired.config

    @property
    def now(self) -> float:
        """The tick's moment, in seconds since the epoch (compare it with token expiries)."""
        self._time_read.append(True)
        return self._wall

    @property
    def age_s(self) -> float | None:
        """Seconds since the observation behind ``status`` was begun; None before the first."""
        self._time_read.append(True)
        return self._age_s

    @property
    def time_in_state_s(self) -> float:
        """Seconds since this state was entered."""
        self._time_read.append(True)
        return self._monotonic - self._entered_at

    def result(self, kind: type[Action]) -> ActionResult | None:
        """The last result of that action type in this incarnation, whatever its status."""
        return self._results.get(kind)

    def last_success(self, kind: type[Action]) -> ActionResult | None:
        """The last result of that action type in this incarnation that succeeded: `result` itself,
        or what was there before attempts that failed, were killed or cancelled."""
        success = self._success(kind)
        return None if success is None else success[0]

    def failures(self, kind: type[Action]) -> int:
        """How many attempts of that action type have failed in a row with this config."""
        return self._failures.get(kind, 0)

    def history(self, kind: type[Action]) -> tuple[Outcome, ...]:
        """How the last attempts of that action type in this incarnation ended, ten at most, the
        oldest first. One that was refused was no attempt."""
        return self._history.get(kind, ())

    def since_result_s(self, kind: type[Action]) -> float:
        """Seconds since the last attempt of that action type ended; infinite if none has."""
        self._time_read.append(True)
        ended = self._result_ends.get(kind)
        return float("inf") if ended is None else self._monotonic - ended

    def since_success_s(self, kind: type[Action]) -> float:
        """Seconds since the attempt of `last_success` ended; infinite if there is none."""
        self._time_read.append(True)
        success = self._success(kind)
        return float("inf") if success is None else self._monotonic - success[1]

    def _success(self, kind: type[Action]) -> tuple[ActionResult, float] | None:
        """That result and when its attempt ended."""
        result = self._results.get(kind)
        if result is not None and result.succeeded:
            return result, self._result_ends.get(kind, float("-inf"))
        return self._successes.get(kind)

    @property
    def depends_on_time(self) -> bool:
        """True once any clock of this snapshot was read. For the engine."""
        return bool(self._time_read)


def decide(worker: Worker, snap: Snapshot, hide: Callable[[str], str] | None = None) -> Decision:
    """Return the one decision for ``snap``; raises `WorkerFault` for nonsense. ``hide`` takes the
    worker's secrets out of the reason.

    What the worker's own code raises passes through: the caller contains it.
    """
    phase = snap.state.phase
    if snap.desired.stop_asked:
        if phase is Phase.STOPPED:
            return Stay(reason=snap.desired.stop_reason)
        if phase is not Phase.STOPPING:
            return Go(worker.stopping, reason=snap.desired.stop_reason)
    decision = worker.next_action(snap)
    _check_decision(worker, snap, decision)
    # A subclass compares by code of its own, and msgspec does not write it.
    plain = str.__str__(decision.reason)
    # Before it is cut: of half a secret nobody could tell that it is one.
    reason = presentable(plain if hide is None else hide(plain), REASON_CHARS_MAX)
    if type(decision.reason) is not str or reason != plain:
        decision = msgspec.structs.replace(decision, reason=reason)
    if snap.desired.stop_asked and isinstance(decision, Go):
        target = decision.state.phase
        if target is not Phase.STOPPED and target is not Phase.STOPPING:
            raise WorkerFault(
                f"{worker.type_name}: state {snap.state.state_name()} went to "
                f"{decision.state.state_name()} (phase {target}) while stopping, "
                "want a state of phase stopping or stopped"
            )
    return decision


def check_state(kind: object) -> None:
    """Raise `WorkerFault` unless ``kind`` is a State class with a phase and a name."""
    if not (isinstance(kind, type) and issubclass(kind, State)):
        raise WorkerFault(f"cannot enter {kind!r}: want a State class")
    if not isinstance(getattr(kind, "phase", None), Phase):
        raise WorkerFault(f"cannot enter {kind.__name__}: it has no phase, want a Phase")
    name: object = kind.state_name()
    if type(name) is not str or not name:
        raise WorkerFault(f"cannot enter {kind.__name__}: its name is {name!r}, want a str")


def _check_decision(worker: Worker, snap: Snapshot, decision: object) -> None:
    if type(decision) is Stay:  # nearly all are
        reason: object = decision.reason
        if type(reason) is str and reason and not reason.isspace():
            return
    fault = _fault_of(decision)
    if fault is not None:
        raise WorkerFault(f"{worker.type_name}: state {snap.state.state_name()} {fault}")


def _fault_of(decision: object) -> str | None:
    if not isinstance(decision, _Decision):
        return f"returned {type(decision).__name__}, want Stay, Go, Act, Restart or Remove"
    reason = getattr(decision, "reason", None)
    if not isinstance(reason, str) or not reason.strip():
        return f"returned {type(decision).__name__} without a reason"
    if isinstance(decision, Go):
        target: object = decision.state
        if not (isinstance(target, type) and issubclass(target, State)):
            return f"returned Go({target!r}), want a State class"
        if not isinstance(getattr(target, "phase", None), Phase):
            return f"went to {target.__name__}, which has no phase"
    if isinstance(decision, Act):
        action: object = decision.action
        if not isinstance(action, Action):
            return f"returned Act({action!r}), want an Action"
    return None
