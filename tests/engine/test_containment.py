"""Worker code that holds the tick up, and what a tick owes its other nodes; scenarios 90, 105,
107 to 111, 115 and 118 to 122, 125, as the decisions have them."""

from __future__ import annotations

from typing import Any

import pytest
from harness import (
    INTERVAL_S,
    Bench,
    Going,
    Look,
    On,
    Plant,
    Pump,
    Quiet,
    SwitchOff,
    SwitchOn,
    child,
    worker_type,
)

from fsmv2.supervisor.core.action import Action
from fsmv2.supervisor.core.events import (
    ActionEnded,
    ChildrenRefused,
    ObservationStale,
    StateChanged,
    WorkerFaulted,
    WorkerRecovered,
    WorkerRemoved,
)
from fsmv2.supervisor.core.fsm import Act, Decision, Go, Snapshot, State, Stay
from fsmv2.supervisor.core.spec import DesiredState, UserSpec
from fsmv2.supervisor.core.workevents import ObservationLost, WorkerSlow


class Clock:
    """The clock worker code is timed by: it goes on only where a test's code spends time."""

    def __init__(self) -> None:
        self.now = 50.0
        self.costs_s = 0.0
        self.calls = 0

    def __call__(self) -> float:
        return self.now

    def spend(self) -> None:
        self.calls += 1
        self.now += self.costs_s


def slow(step: str) -> tuple[type[Any], Clock]:
    """A pump one of whose steps takes as long as the clock says."""
    clock = Clock()

    def constructor(self: Any) -> None:
        clock.spend()

    def derive(self: Any, spec: UserSpec) -> DesiredState:
        clock.spend()
        return DesiredState("running", config=spec.config)

    def observe(self: Any, desired: DesiredState) -> Action | None:
        clock.spend()
        return Look()

    def next_action(self: Any, snap: Snapshot) -> Decision:
        clock.spend()
        return Pump.next_action(self, snap)

    methods = {
        "constructor": {"__init__": constructor},
        "derive_desired_state": {"derive_desired_state": derive},
        "observe": {"observe": observe},
        "next_action": {"next_action": next_action},
    }
    return worker_type("slow", Pump, **methods[step]), clock


STEPS = ["constructor", "derive_desired_state", "observe", "next_action"]


@pytest.mark.parametrize("step", STEPS)
def test_code_that_takes_two_seconds_is_told_once_and_waits(step: str) -> None:
    """With worker, step and time; its siblings' ticks go on; what it returned counts."""
    kind, clock = slow(step)
    clock.costs_s = 2.0
    bench = Bench(child("a"), child("p", "slow"), child("z"), workers=[kind], clock=clock)
    Plant(bench)
    bench.run(0.5)
    assert bench.node("p").fault_until is not None
    assert step == "observe" or "took 2.00 s, next look in" in bench.node("p").reason
    assert bench.tree() == {"a": "running", "p": bench.tree()["p"], "z": "running"}
    bench.run(60)
    assert bench.tree() == {"a": "running", "p": "running", "z": "running"}
    [told] = bench.heard(WorkerSlow)
    assert (told.path, told.step, told.took_s, told.limit_s) == ("root/p", step, 2.0, 0.5)
    assert bench.heard(WorkerFaulted) == []


@pytest.mark.parametrize("step", ["observe", "next_action"])
def test_slow_code_is_called_less_and_less_and_heals(step: str) -> None:
    """A second at first, half a minute in the end; in time again, that is told once."""
    kind, clock = slow(step)
    bench = Bench(child("p", "slow"), workers=[kind], clock=clock)
    Plant(bench)
    bench.settle()
    clock.costs_s, clock.calls = 1.0, 0
    bench.node("p").mark_dirty()
    bench.run(300)
    assert 5 <= clock.calls <= 18
    assert bench.heard(ObservationStale) == bench.heard(ObservationLost) == []
    clock.costs_s = 0.0
    bench.run(60)
    assert len(bench.heard(WorkerSlow)) == len(bench.heard(WorkerRecovered)) == 1
    assert bench.tree() == {"p": "running"}


def test_a_slow_derivation_is_used_and_not_called_again() -> None:
    """Its children exist in the same tick; the wait is for its next decision."""

    clock = Clock()

    def derive(self: Any, spec: UserSpec) -> DesiredState:
        clock.now += 1.0
        clock.calls += 1
        return DesiredState("running", children=(child("c"),))

    kind = worker_type("slow", derive_desired_state=derive)
    bench = Bench(child("p", "slow"), workers=[kind], clock=clock)
    bench.run(0.05)
    assert set(bench.tree()) == {"p", "p/c"}
    bench.settle()
    assert bench.tree() == {"p": "running", "p/c": "running"}
    assert clock.calls == 1


def test_a_slow_decision_is_followed() -> None:
    """It was paid for: the action it asked for is offered, once."""
    kind, clock = slow("next_action")
    bench = Bench(child("p", "slow"), workers=[kind], clock=clock)
    bench.pool.answers[Look] = lambda _action: "off"
    bench.run(0.2)
    clock.costs_s = 0.5
    bench.run(20)
    assert len(bench.attempts(SwitchOn)) == 1
    assert bench.heard(StateChanged, "p")[-1].to_state == "pump_starting"


def test_a_stop_is_not_held_up_by_slow_code() -> None:
    """I4: it gets a moment, not a backoff."""
    kind, clock = slow("next_action")
    clock.costs_s = 0.5
    bench = Bench(child("p", "slow"), workers=[kind], clock=clock)
    Plant(bench)
    bench.run(100)
    bench.engine.stop("asked")
    bench.run(4, until=lambda: bench.engine.stopped)
    assert [event.forced for event in bench.heard(WorkerRemoved, "p")] == [False]


@pytest.mark.parametrize(("took_s", "told"), [(0.05, 0), (0.5, 0), (0.501, 1)])
def test_what_is_slow_is_a_setting(took_s: float, told: int) -> None:
    """Over a tenth of a second by default; the limit itself is in time."""
    kind, clock = slow("next_action")
    clock.now, clock.costs_s = 0.0, took_s
    bench = Bench(child("p", "slow"), workers=[kind], clock=lambda: round(clock.now, 6))
    Plant(bench)
    bench.run(0.2)
    assert (len(bench.heard(WorkerSlow)) > 0) == bool(told)
    patient = Bench(child("p", "slow"), workers=[kind], clock=clock, slow_s=1.0)
    Plant(patient)
    patient.run(5)
    assert patient.heard(WorkerSlow) == []


def test_code_that_raises_late_is_told_as_raising() -> None:
    """One fault, one report."""
    clock = Clock()

    def next_action(self: Any, snap: Snapshot) -> Decision:
        clock.now += 5.0
        raise ValueError("late")

    bench = Bench(child("p", "bad"), workers=[worker_type("bad", next_action=next_action)],
                  clock=clock)  # fmt: skip
    bench.run(60)
    assert len(bench.heard(WorkerFaulted)) == 1
    assert bench.heard(WorkerSlow) == []


# --- scenarios of actions, breaker and lifecycle --------------------------------------------


def test_an_action_of_many_seconds_costs_its_tick_nothing() -> None:
    """Scenario 90: it is offered and left; in the same tick the siblings after it are up."""
    bench = Bench(child("p", "pump"), child("z"))
    bench.pool.answers[Look] = lambda _action: "off"
    bench.run(1)
    assert bench.open_attempt(SwitchOn)
    assert bench.tree()["z"] == "running"
    ticks = bench.engine.ticks
    bench.run(5)
    assert bench.engine.ticks - ticks > 5


def test_a_decision_cannot_be_a_state_and_an_action() -> None:
    """Scenario 105; the decision: the five forms exclude it by type; a pair is a fault."""

    def next_action(self: Any, snap: Snapshot) -> Any:
        return Go(On, "up"), Act(SwitchOn(), "too")

    bench = Bench(child("p", "both"), workers=[worker_type("both", next_action=next_action)])
    bench.run(5)
    [fault] = bench.heard(WorkerFaulted)
    assert "returned tuple, want Stay, Go, Act, Restart or Remove" in fault.error
    assert bench.pool.attempts == []
    assert bench.heard(StateChanged, "p") == []


def test_an_action_that_runs_when_the_breaker_opens_ends_and_is_seen_after_it() -> None:
    """Scenarios 107, 108: it is not cancelled; while the breaker is open nothing is decided."""
    seen: list[str | None] = []

    def next_action(self: Any, snap: Snapshot) -> Decision:
        result = snap.result(SwitchOn)
        seen.append(result and result.status)
        return Pump.next_action(self, snap)

    bench = Bench(
        child("p", "noted"), workers=[worker_type("noted", Pump, next_action=next_action)]
    )
    bench.pool.answers[Look] = lambda _action: "off"
    bench.run(10)
    action = bench.open_attempt(SwitchOn)
    bench.engine.set_infrastructure("disk full")
    bench.run(20)
    assert action.cancelled is None
    bench.pool.complete(action, "done")
    seen.clear()
    bench.run(30)
    assert len(bench.heard(ActionEnded)) == 1
    assert seen == []
    bench.engine.set_infrastructure(None)
    bench.run(0.2)
    assert seen[0] == "succeeded"


def test_a_child_that_is_replaced_has_its_action_cancelled_and_tried_anew() -> None:
    """Scenario 109: its own only; recovered well within a minute."""
    bench = Bench(child("p", "pump"), child("q", "pump"), child("db"))
    bench.pool.answers[Look] = lambda _action: "off"
    bench.pool.answers[SwitchOff] = lambda _action: "done"
    bench.run(2)
    first, other = bench.open_attempt(SwitchOn, "p"), bench.open_attempt(SwitchOn, "q")
    bench.redeclare(child("p", "pump", "db"), child("q", "pump"), child("db"))
    start = bench.now
    bench.run(60, until=lambda: len(bench.attempts(SwitchOn, "p")) == 2)
    assert bench.now - start < 60
    assert first.cancelled is not None
    assert other.cancelled is None
    assert bench.node("p").generation == 2
    assert bench.pool.overlaps == []


def test_a_breaker_that_closes_lets_one_action_through() -> None:
    """Scenario 111: deriving goes on, and exactly one action is offered."""
    bench = Bench(child("p", "pump", config={"n": 1}))
    bench.pool.answers[Look] = lambda _action: "off"
    bench.engine.set_infrastructure("disk full")
    bench.run(20)
    bench.redeclare(child("p", "pump", config={"n": 2}))
    bench.run(20)
    assert bench.attempts(SwitchOn) == []
    bench.engine.set_infrastructure(None)
    bench.run(20)
    assert len(bench.attempts(SwitchOn)) == 1
    desired = bench.node("p").desired
    assert desired is not None
    assert desired.config == {"n": 2}


def test_a_cooperative_worker_stops_at_once_and_a_stubborn_one_in_its_time() -> None:
    """Scenario 115: within half a second and clean; else by force, told, and bounded."""

    class Stuck(Going):
        def next(self, snap: Snapshot) -> Decision:
            return Stay("not yet")

    for kind, most_s, forced in (("quiet", 0.5, False), ("stuck", 2.3, True)):
        bench = Bench(child("p", kind, shutdown_timeout_s=2.0),
                      workers=[worker_type("stuck", stopping=Stuck)])  # fmt: skip
        bench.settle()
        start = bench.now
        bench.engine.stop("asked")
        bench.run(10, until=lambda: bench.engine.stopped)  # noqa: B023
        assert bench.now - start <= most_s
        assert [event.forced for event in bench.heard(WorkerRemoved, "p")] == [forced]


def test_a_stop_goes_on_ticking_until_all_is_down() -> None:
    """Scenario 118: who asks for the stop need not stay: the engine asks for its ticks itself."""
    bench = Bench(child("p", "pump"))
    Plant(bench)
    bench.settle()
    bench.engine.stop("its caller is gone")
    bench.engine.stop("asked twice")
    while not bench.engine.stopped:
        moment = bench.engine.next_moment()
        assert moment is not None
        bench.now = max(bench.now, moment)
        bench.tick()
    assert len(bench.attempts(SwitchOff)) == 1


@pytest.mark.parametrize("what", ["disable", "remove", "stop"])
def test_a_flag_that_comes_with_a_new_spec_is_never_lost(what: str) -> None:
    """Scenario 119: derived and flagged in one tick, before it and after it."""
    for order in range(3):
        bench = Bench(child("p", "quiet"))
        bench.settle()
        bench.redeclare(child("p", "quiet", config={"n": 1}))
        if order:
            bench.tick()
        if what == "stop":
            bench.engine.stop("asked")
        else:
            specs = [child("p", "quiet", config={"n": order}, enabled=False)]
            bench.redeclare(*(specs if what == "disable" else []))
        if order == 2:
            bench.node("p").derive_needed = True
        bench.settle()
        assert bench.engine.stopped if what == "stop" else "running" not in bench.tree().values()


def test_adding_removing_and_replacing_meets_late_results_without_a_crash() -> None:
    """Scenario 120: between any two ticks, with results on their way."""
    bench = Bench()
    bench.pool.deaf = True
    for n in range(60):
        names = [f"c{i}" for i in range(n % 5)]
        kinds = ["pump", "quiet", "parent"]
        bench.redeclare(*[child(name, kinds[n % 3], shutdown_timeout_s=0.2) for name in names])
        bench.run(INTERVAL_S)
        for attempt in list(bench.pool.open.values())[::2]:
            bench.pool.complete(attempt, "off")
        bench.tick(full=n % 7 == 0)
        assert [node.path for node in bench.engine.nodes()]
    bench.pool.deaf = False
    bench.redeclare(child("last"))
    bench.run(30)
    assert bench.tree() == {"last": "running"}


def test_a_stopping_child_may_go_by_what_its_parent_shows() -> None:
    """Scenario 121; the decision: one thread and no lock, so nothing can wait for itself. A parent
    that looks at its children while they leave sees each step."""
    seen: list[str] = []

    class Watching(On):
        def next(self, snap: Snapshot) -> Decision:
            seen.extend(info.state for info in snap.children.values())
            return Stay(f"{len(snap.children)} children")

    class Start(State):
        phase = Quiet.initial.phase

        def next(self, snap: Snapshot) -> Decision:
            return Go(Watching, "asked to run")

    kind = worker_type("watching", initial=Start)
    bench = Bench(child("w", "watching", config={"children": (child("c"),)}), workers=[kind])
    bench.settle()
    bench.redeclare(child("w", "watching", config={"children": ()}))
    bench.settle()
    assert bench.tree() == {"w": "running"}
    assert bench.node("w").reason == "0 children"
    assert "going" in seen


def test_a_new_reason_is_seen_by_the_parent_without_a_transition() -> None:
    """Scenario 122: in the same tick, by worker code and by whoever reads the tree."""
    says = ["calm"]

    class Talking(On):
        def next(self, snap: Snapshot) -> Decision:
            return Stay(says[0])

    class Start(State):
        phase = Quiet.initial.phase

        def next(self, snap: Snapshot) -> Decision:
            return Go(Talking, "asked to run")

    class Hearing(On):
        def next(self, snap: Snapshot) -> Decision:
            return Stay(f"hears {snap.children['c'].reason}")

    class Begin(State):
        phase = Quiet.initial.phase

        def next(self, snap: Snapshot) -> Decision:
            return Go(Hearing, "asked to run")

    kinds = [worker_type("talking", initial=Start), worker_type("hearing", initial=Begin)]
    spec = child("h", "hearing", config={"children": (child("c", "talking"),)})
    bench = Bench(spec, workers=kinds)
    bench.settle()
    assert bench.node("h").reason == "hears calm"
    changes = len(bench.heard(StateChanged))
    says[0] = "uneasy"
    bench.node("h/c").mark_dirty()
    bench.tick()
    assert bench.node("h").reason == "hears uneasy"
    assert len(bench.heard(StateChanged)) == changes


def test_a_name_given_twice_is_refused_and_all_others_are_ticked() -> None:
    """Scenario 125; the decision: one worker per node, and its key is its path."""
    twins = (child("a"), child("a"))
    bench = Bench(child("p", "parent", config={"children": twins}), child("q"), child("r"))
    bench.settle()
    assert bench.tree() == {"p": "running", "q": "running", "r": "running"}
    [refused] = bench.heard(ChildrenRefused)
    assert "a" in refused.error
