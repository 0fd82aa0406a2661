"""Decisions: a stop is routed by the framework, nonsense is refused, snapshots are immutable."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from fsmv2.supervisor.core.action import Action, ActionContext, ActionResult
from fsmv2.supervisor.core.errors import WorkerFault
from fsmv2.supervisor.core.fsm import (
    Act,
    ChildInfo,
    ChildrenView,
    Desired,
    Go,
    Identity,
    Phase,
    Remove,
    Restart,
    Snapshot,
    State,
    Stay,
    decide,
    snake_case,
)
from fsmv2.supervisor.core.worker import Worker


class Push(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> None: ...


class Off(State):
    phase = Phase.STOPPED


class Coming(State):
    phase = Phase.STARTING


class On(State):
    phase = Phase.RUNNING


class Poor(State):
    phase = Phase.DEGRADED


class Going(State):
    phase = Phase.STOPPING


class NoPhase(State):
    pass


STATES = (Off, Coming, On, Poor, Going)


class Puppet(Worker):
    """Answers what it was told to, and counts how often it was asked."""

    type_name = "puppet"
    initial = Off
    stopping: ClassVar[type[State]] = Going

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.asked = 0

    def next_action(self, snapshot: Snapshot) -> Any:
        self.asked += 1
        return self.answer


class SnapsOff(Puppet):
    """Has no way down: it stops at once."""

    stopping = Off


def snap(state: type[State], word: str = "running", **fields: Any) -> Snapshot:
    flags = {name: fields.pop(name, False) for name in ("shutdown", "disabled", "parent_stops")}
    return Snapshot(
        identity=Identity("a", "root/a", "puppet", 1),
        state=state(),
        desired=Desired(word, None, **flags),
        **fields,
    )


STOPS = [{"shutdown": True}, {"disabled": True}, {"parent_stops": True}, {"word": "stopped"}]


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: next(iter(stop)))
@pytest.mark.parametrize("state", [Coming, On, Poor])
@pytest.mark.parametrize("kind", [Puppet, SnapsOff])
def test_a_stop_is_routed_without_asking_the_worker(
    stop: dict[str, Any], state: type[State], kind: type[Puppet]
) -> None:
    """From any state that is up, the next decision is to go to the worker's stopping state."""
    worker = kind(Stay("busy"))
    decision = decide(worker, snap(state, **stop))
    assert isinstance(decision, Go)
    assert decision.state is kind.stopping
    assert decision.reason
    assert worker.asked == 0


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: next(iter(stop)))
def test_a_stopped_worker_that_should_be_stopped_stays(stop: dict[str, Any]) -> None:
    """Its code is not asked, so it cannot start again by mistake."""
    worker = Puppet(Go(Coming, "eager"))
    decision = decide(worker, snap(Off, **stop))
    assert isinstance(decision, Stay)
    assert worker.asked == 0


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: next(iter(stop)))
def test_the_way_down_is_the_workers_own(stop: dict[str, Any]) -> None:
    """In a stopping state the worker decides how it gets to stopped."""
    for answer in (Act(Push(), "close"), Stay("closing"), Go(Off, "closed"), Go(Going, "again")):
        worker = Puppet(answer)
        assert decide(worker, snap(Going, **stop)) == answer
        assert worker.asked == 1


@pytest.mark.parametrize("target", [Coming, On, Poor])
def test_there_is_no_way_up_while_stopping(target: type[State]) -> None:
    """A stopping worker that turns round is told so by name."""
    with pytest.raises(WorkerFault, match=f"going went to {target.state_name()}.*while stopping"):
        decide(Puppet(Go(target, "no")), snap(Going, shutdown=True))


def test_the_stop_reason_says_why() -> None:
    """The strongest cause is the one that is told."""
    desired = Desired("stopped", None, shutdown=True, disabled=True, parent_stops=True)
    assert desired.stop_reason == "asked to shut down"
    assert Desired("on", None, disabled=True).stop_reason == "disabled"
    assert Desired("on", None, parent_stops=True).stop_reason == "its parent stops"
    assert Desired("stopped", None).stop_reason == "desired state is stopped"


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    "answer",
    [Stay("idle 3 s"), Go(On, "up"), Go(Off, "down"), Act(Push(), "due"), Restart("stuck"),
     Remove("done")],
    ids=lambda answer: type(answer).__name__,
)  # fmt: skip
def test_without_a_stop_each_form_passes_from_each_state(state: type[State], answer: Any) -> None:
    """The five forms are what a worker may say."""
    assert decide(Puppet(answer), snap(state)) == answer


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, "returned NoneType, want Stay, Go, Act, Restart or Remove"),
        ("stay", "returned str"),
        (Stay, "returned StructMeta"),
        (Stay(""), "returned Stay without a reason"),
        (Stay("  \n"), "returned Stay without a reason"),
        (Stay(None), "returned Stay without a reason"),  # type: ignore[arg-type]
        (Restart(""), "returned Restart without a reason"),
        (Remove(5), "returned Remove without a reason"),  # type: ignore[arg-type]
        (Go(On(), "x"), "want a State class"),  # type: ignore[arg-type]
        (Go("on", "x"), "want a State class"),  # type: ignore[arg-type]
        (Go(int, "x"), "want a State class"),  # type: ignore[type-var]
        (Go(NoPhase, "x"), "NoPhase, which has no phase"),
        (Act(Push, "x"), "want an Action"),  # type: ignore[arg-type]
        (Act(None, "x"), "want an Action"),  # type: ignore[arg-type]
        ((Stay("a"), Act(Push(), "b")), "returned tuple"),
    ],
)
def test_nonsense_is_refused_with_type_and_state(answer: Any, told: str) -> None:
    """Whatever is not a decision with a reason is the worker's fault, and the text says where."""
    with pytest.raises(WorkerFault, match="puppet: state coming") as caught:
        decide(Puppet(answer), snap(Coming))
    assert told in str(caught.value)


def test_what_worker_code_raises_passes_through() -> None:
    """`decide` contains nothing: its caller does."""

    class Broken(Puppet):
        def next_action(self, snapshot: Snapshot) -> Any:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        decide(Broken(), snap(Coming))


def test_a_state_without_next_says_so() -> None:
    """A forgotten method is named."""
    with pytest.raises(NotImplementedError, match=r"On\.next"):
        On().next(snap(On))


@pytest.mark.parametrize("name", ["status", "state", "desired", "new", "_wall"])
def test_a_snapshot_cannot_be_changed(name: str) -> None:
    """Worker code that tries to write what it sees gets an error."""
    with pytest.raises(AttributeError, match="immutable"):
        setattr(snap(On, status=1), name, 2)


TIMED = {
    "now": lambda s: s.now,
    "age_s": lambda s: s.age_s,
    "time_in_state_s": lambda s: s.time_in_state_s,
    "since_result_s": lambda s: s.since_result_s(Push),
    "since_success_s": lambda s: s.since_success_s(Push),
}
TIMELESS = {
    "config": lambda s: s.config,
    "status": lambda s: s.status,
    "result": lambda s: s.result(Push),
    "last_success": lambda s: s.last_success(Push),
    "failures": lambda s: s.failures(Push),
    "children": lambda s: s.children.all_healthy,
    "identity": lambda s: s.identity.path,
    "repr": repr,
}


@pytest.mark.parametrize("read", TIMED.values(), ids=TIMED)
def test_reading_a_clock_makes_a_decision_depend_on_time(read: Any) -> None:
    """Each way to read time is noticed, once read and not before."""
    snapshot = snap(On)
    assert not snapshot.depends_on_time
    read(snapshot)
    assert snapshot.depends_on_time


@pytest.mark.parametrize("read", TIMELESS.values(), ids=TIMELESS)
def test_reading_anything_else_does_not(read: Any) -> None:
    """Otherwise every node would be looked at in every tick."""
    snapshot = snap(On)
    read(snapshot)
    assert not snapshot.depends_on_time


def test_the_clocks_of_a_snapshot() -> None:
    """Each counts from its own moment, in seconds."""
    snapshot = snap(
        On, age_s=1.5, entered_at=10.0, monotonic=12.5, wall=1_700_000_000.0,
        result_ends={Push: 12.0},
    )  # fmt: skip
    assert snapshot.time_in_state_s == 2.5
    assert snapshot.age_s == 1.5
    assert snapshot.now == 1_700_000_000.0
    assert snapshot.since_result_s(Push) == 0.5
    assert snap(On).since_result_s(Push) == float("inf")


def test_results_and_failures_are_asked_by_action_type() -> None:
    """None and 0 before the first."""
    result = ActionResult(status="succeeded", action_type="Push", attempt_id=1, value="token")
    snapshot = snap(On, results={Push: result}, failures={Push: 2})
    assert snapshot.result(Push) is result
    assert snapshot.failures(Push) == 2
    assert snap(On).result(Push) is None
    assert snap(On).failures(Push) == 0


def test_the_last_success_outlives_what_came_after_it() -> None:
    """With its own moment: a token is not lost with the attempt to renew it."""
    done = ActionResult(status="succeeded", action_type="Push", attempt_id=1, value="token")
    crashed = ActionResult(status="crashed", action_type="Push", attempt_id=2)
    both = snap(
        On, results={Push: crashed}, result_ends={Push: 12.0}, monotonic=12.5,
        successes={Push: (done, 10.0)},
    )  # fmt: skip
    assert (both.result(Push), both.since_result_s(Push)) == (crashed, 0.5)
    assert (both.last_success(Push), both.since_success_s(Push)) == (done, 2.5)
    for only, found, since_s in ((done, done, 0.5), (crashed, None, float("inf"))):
        alone = snap(On, results={Push: only}, result_ends={Push: 12.0}, monotonic=12.5)
        assert (alone.last_success(Push), alone.since_success_s(Push)) == (found, since_s)
    assert snap(On).last_success(Push) is None
    assert snap(On).since_success_s(Push) == float("inf")


def view(*phases: Phase) -> ChildrenView:
    return ChildrenView(
        tuple(ChildInfo(f"c{i}", f"root/c{i}", "t", "s", p, "r") for i, p in enumerate(phases))
    )


S, T, R, D, P = Phase.STOPPED, Phase.STARTING, Phase.RUNNING, Phase.DEGRADED, Phase.STOPPING


@pytest.mark.parametrize(
    ("phases", "healthy", "unhealthy", "all_healthy", "all_operational", "all_stopped"),
    [
        ((), 0, 0, True, True, True),
        ((R, R), 2, 0, True, True, False),
        ((R, D), 1, 1, False, True, False),
        ((R, S), 1, 0, False, False, False),
        ((T, P), 0, 2, False, False, False),
        ((S, S), 0, 0, False, False, True),
    ],
)
def test_a_parent_sees_its_children_counted(
    phases: tuple[Phase, ...],
    healthy: int,
    unhealthy: int,
    all_healthy: bool,
    all_operational: bool,
    all_stopped: bool,
) -> None:
    """Healthy is running only; stopped is neither; with no children every "all" is true."""
    children = view(*phases)
    assert (children.healthy_count, children.unhealthy_count) == (healthy, unhealthy)
    assert (children.all_healthy, children.all_operational, children.all_stopped) == (
        all_healthy,
        all_operational,
        all_stopped,
    )
    assert list(children) == [f"c{i}" for i in range(len(phases))]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("Lit", "lit"), ("TryingHard", "trying_hard"), ("HTTPUp", "httpup"), ("A", "a")],
)
def test_class_names_show_in_snake_case(name: str, shown: str) -> None:
    """States and events are named by their classes."""
    assert snake_case(name) == shown
