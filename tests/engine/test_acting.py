"""Step 6 and the inbox: observations, decisions, actions, and what becomes of code that fails."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from harness import (
    INTERVAL_S,
    Bench,
    Look,
    Off,
    On,
    Plant,
    Pump,
    Quiet,
    SwitchOff,
    SwitchOn,
    child,
    worker_type,
)

from fsmv2.supervisor.core.events import (
    ActionEnded,
    ActionStarted,
    ObservationFailed,
    ObservationRecovered,
    ObservationStale,
    ResultDropped,
    StateChanged,
    WorkerAdded,
    WorkerFaulted,
    WorkerRecovered,
    WorkerRemoved,
)
from fsmv2.supervisor.core.fsm import (
    Act,
    Decision,
    Go,
    Phase,
    Remove,
    Restart,
    Snapshot,
    State,
    Stay,
)
from fsmv2.supervisor.core.spec import DesiredState, UserSpec

# --- worker code that fails -----------------------------------------------------------------


class Cancelled(Exception):
    """Any exception of a worker's own."""


def raises(error: BaseException) -> Any:
    def method(*_args: Any) -> Any:
        raise error

    return method


def returns(value: Any) -> Any:
    return lambda *_args: value


BROKEN: dict[str, tuple[str, Any]] = {
    "derive raises": ("derive_desired_state", raises(ValueError("no"))),
    "derive exits": ("derive_desired_state", raises(SystemExit(3))),
    "derive recurses": ("derive_desired_state", raises(RecursionError("deep"))),
    "derive interrupts": ("derive_desired_state", raises(KeyboardInterrupt())),
    "derive returns None": ("derive_desired_state", returns(None)),
    "derive returns a dict": ("derive_desired_state", returns({"state": "running"})),
    "next raises": ("next_action", raises(Cancelled())),
    "next exits": ("next_action", raises(SystemExit())),
    "next interrupts": ("next_action", raises(KeyboardInterrupt())),
    "next recurses": ("next_action", raises(RecursionError("deep"))),
    "next runs out of memory": ("next_action", raises(MemoryError())),
    "next returns None": ("next_action", returns(None)),
    "next returns a class": ("next_action", returns(Stay)),
    "next gives no reason": ("next_action", returns(Stay(""))),
    "next goes nowhere": ("next_action", returns(Go(int, "x"))),  # type: ignore[type-var]
    "next acts with nothing": ("next_action", returns(Act(None, "x"))),  # type: ignore[arg-type]
    "observe raises": ("observe", raises(KeyError("host"))),
    "observe exits": ("observe", raises(SystemExit(1))),
    "observe interrupts": ("observe", raises(KeyboardInterrupt())),
    "observe recurses": ("observe", raises(RecursionError("deep"))),
    "observe returns text": ("observe", returns("look")),
    "observe returns a class": ("observe", returns(Look)),
}


@pytest.mark.parametrize(("step", "method"), BROKEN.values(), ids=BROKEN)
def test_code_that_fails_costs_its_own_node_only(step: str, method: Any) -> None:
    """It waits, longer each time; it is told once; its siblings run; healed, it comes up, and
    that is told once as well."""
    kind = worker_type("broken", **{step: method})
    bench = Bench(child("a"), child("bad", "broken"), child("z"), workers=[kind])
    bench.settle(60)
    assert bench.tree() == {"a": "running", "bad": "stopped", "z": "running"}
    [fault] = bench.heard(WorkerFaulted)
    assert (fault.path, fault.step) == ("root/bad", step)
    assert bench.node("bad").fault_count in range(4, 9)  # 1 + 2 + 4 + … s, not 480 ticks
    assert "failed, next look in" in bench.node("bad").reason
    setattr(kind, step, getattr(Quiet, step))
    bench.settle(60)
    assert bench.tree() == {"a": "running", "bad": "running", "z": "running"}
    [healed] = bench.heard(WorkerRecovered)
    assert healed.path == "root/bad"
    assert healed.failures > fault.failures == 1
    assert healed.downtime_s > 60


def test_an_action_no_proc_could_run_is_refused_as_a_fault() -> None:
    """Its timeout, or the place it is defined in: told as the worker's mistake, not submitted."""

    class Local(Look, frozen=True):
        pass

    kind = worker_type("broken", next_action=returns(Act(Local(), "x")))
    bench = Bench(child("bad", "broken"), workers=[kind])
    bench.settle()
    [fault] = bench.heard(WorkerFaulted)
    assert "defined inside a function" in fault.error
    assert bench.pool.attempts == []


def test_a_new_error_in_the_same_incident_is_told_too() -> None:
    """Once per distinct error: a different one is news."""
    errors = ["first", "first", "second", "second"]

    def next_action(self: Any, snap: Snapshot) -> Decision:
        raise ValueError(errors.pop(0) if len(errors) > 1 else errors[0])

    bench = Bench(child("bad", "broken"), workers=[worker_type("broken", next_action=next_action)])
    bench.settle(60)
    told = [event.error for event in bench.heard(WorkerFaulted)]
    assert told == ["ValueError: first", "ValueError: second"]


def test_a_parent_whose_derivation_fails_keeps_its_children() -> None:
    """Its last good desired state stands, and its children run on their last specs."""

    class Line(Quiet):
        type_name = "line"

        def derive_desired_state(self, spec: UserSpec) -> DesiredState:
            if spec.config["bad"]:  # type: ignore[index]
                raise ValueError("bad config")
            return DesiredState("running", config="good", children=(child("a"),))

    bench = Bench(child("line", "line", config={"bad": False}), workers=[Line])
    bench.settle()
    node = bench.node("line/a")
    bench.redeclare(child("line", "line", config={"bad": True}))
    bench.settle(60)
    assert bench.tree() == {"line": "running", "line/a": "running"}
    assert bench.node("line/a") is node
    desired = bench.node("line").desired
    assert desired is not None
    assert desired.config == "good"


# --- observations ---------------------------------------------------------------------------


def looks(bench: Bench) -> list[float]:
    return [attempt.at - bench.pool.attempts[0].at for attempt in bench.attempts(Look)]


def test_nothing_is_decided_before_the_first_observation() -> None:
    """A worker that can see must have seen."""
    bench = Bench(child("p", "pump"))
    bench.settle()
    assert len(bench.attempts(Look)) == 1
    assert bench.node("p").reason == "waiting for the first observation"
    bench.pool.complete(bench.open_attempt(Look), "off")
    bench.settle()
    assert bench.open_attempt(SwitchOn)


def test_observations_come_at_their_interval_in_their_own_lane() -> None:
    """Each second at the latest, counted from the last one's beginning; never two at once."""
    bench = Bench(child("p", "pump"))
    plant = Plant(bench)
    plant.on = True
    bench.settle(20)
    times = looks(bench)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert 18 <= len(gaps) <= 23
    assert all(0.9 <= gap < 1.1 for gap in gaps[1:])
    assert {(one.lane, one.key) for one in bench.attempts(Look)} == {("observations", "root/p?")}
    assert bench.pool.overlaps == []


def test_an_observation_that_was_killed_is_told_with_its_certificate() -> None:
    bench = Bench(child("p", "pump"))
    bench.settle(1)
    attempt = bench.open_attempt(Look)
    bench.pool.complete(attempt, status="timed_out")
    bench.run(1)
    [failed] = bench.heard(ObservationFailed)
    assert failed.attempt_id == attempt.id
    assert failed.certificate is attempt.result.certificate is not None  # type: ignore[union-attr]


def test_a_slow_observation_is_not_begun_a_second_time() -> None:
    """Until it counts as dead, see test_observing.py."""
    bench = Bench(child("p", "pump"))
    bench.settle(19)
    assert len(bench.attempts(Look)) == 1


def test_failing_observations_back_off_and_are_told_once_per_incident() -> None:
    """The worker waits; the first success ends the incident and is told once."""
    bench = Bench(child("p", "pump"))
    plant = Plant(bench)
    bench.settle()
    answer = bench.pool.answers[Look]
    begun = len(bench.attempts(Look))
    bench.pool.answers[Look] = lambda _action: OSError("no route")
    bench.settle(120)
    assert 6 <= len(bench.attempts(Look)) - begun <= 14
    [failed] = bench.heard(ObservationFailed)
    assert (failed.path, failed.status, failed.error) == ("root/p", "failed", "OSError: no route")
    assert bench.tree() == {"p": "degraded"}  # not removed
    bench.pool.answers[Look] = answer
    bench.settle(60)
    assert len(bench.heard(ObservationRecovered)) == 1
    bench.pool.answers[Look] = lambda _action: OSError("again")
    bench.settle(10)
    assert len(bench.heard(ObservationFailed)) == 2
    assert plant.on


def test_a_worker_that_sees_nothing_new_is_paused_and_heals() -> None:
    """Older than 10 s: not asked, told once; the first fresh observation goes on."""
    asked: list[float] = []

    class Watched(Pump):
        type_name = "watched"

        def next_action(self, snapshot: Snapshot) -> Decision:
            asked.append(bench.now)
            return super().next_action(snapshot)

    bench = Bench(child("p", "watched"), workers=[Watched])
    plant = Plant(bench)
    bench.settle()
    answer = bench.pool.answers.pop(Look)
    last = bench.attempts(Look)[-1].at
    bench.settle(15)
    late = [moment for moment in asked if moment > last + 10.01]
    assert late == []
    [stale] = bench.heard(ObservationStale)
    assert 10 < stale.age_s < 11
    assert bench.node("p").reason.startswith("paused: last observed")
    plant.on = False
    bench.pool.complete(bench.open_attempt(Look), "hung", status="timed_out")
    bench.pool.answers[Look] = answer
    bench.settle(5)
    assert bench.tree() == {"p": "running"}
    assert plant.on
    assert len(bench.heard(ObservationStale)) == 1


def test_a_fresh_observation_of_an_old_state_is_not_stale() -> None:
    """Age is the observation's, not the state's: nothing has changed for five minutes."""
    bench = Bench(child("p", "pump"))
    Plant(bench).on = True
    bench.settle(300)
    assert bench.heard(ObservationStale) == []


def test_after_an_action_only_a_newer_observation_counts() -> None:
    """One begun before the action's end cannot show what it did: no second action on old news."""
    bench = Bench(child("p", "pump"))
    bench.settle(1)
    bench.pool.complete(bench.open_attempt(Look), "off")
    bench.settle(1.5)
    action, early = bench.open_attempt(SwitchOn), bench.open_attempt(Look)
    bench.pool.complete(action, "done")
    bench.settle(0.5)
    bench.pool.complete(early, "off")  # begun before the action ended
    bench.run(0.5)
    assert len(bench.attempts(SwitchOn)) == 1
    assert bench.node("p").reason == "waiting for an observation newer than the last action"
    later = bench.open_attempt(Look)
    assert later.at >= early.at
    bench.pool.complete(later, "on")
    bench.settle(1)
    assert bench.tree() == {"p": "running"}
    assert len(bench.attempts(SwitchOn)) == 1


def test_after_an_action_the_observation_comes_at_once() -> None:
    """Not at the next interval: the world is known to have changed."""
    bench = Bench(child("p", "pump"))
    bench.run(0.3)
    bench.pool.complete(bench.open_attempt(Look), "off")
    bench.run(0.3)
    bench.pool.complete(bench.open_attempt(SwitchOn), "done")
    end = bench.now
    bench.run(0.3)
    assert bench.open_attempt(Look).at - end < 0.02


def test_a_worker_without_observation_goes_on_its_actions_results() -> None:
    """It is not held up by observations it does not have."""

    class Once(State):
        phase = Phase.STARTING

        def next(self, snap: Snapshot) -> Decision:
            done = snap.result(SwitchOn)
            if done is not None and done.succeeded:
                return Go(On, f"it said {done.value}")
            return Act(SwitchOn(), "not done")

    class Start(Off):
        def next(self, snap: Snapshot) -> Decision:
            return Go(Once, "asked to run")

    bench = Bench(child("a", "once"), workers=[worker_type("once", initial=Start)])
    bench.pool.answers[SwitchOn] = lambda _action: "fine"
    bench.settle()
    assert bench.tree() == {"a": "running"}
    assert bench.heard(StateChanged, "a")[-1].reason == "it said fine"
    assert len(bench.attempts(SwitchOn)) == 1


def test_a_disturbed_world_is_put_right() -> None:
    """Level-triggered: whatever switched the pump off, it is switched on again."""
    bench = Bench(child("p", "pump"))
    plant = Plant(bench)
    bench.settle()
    for _ in range(3):
        plant.on = False
        bench.settle()
        assert plant.on
        assert bench.tree() == {"p": "running"}


# --- actions --------------------------------------------------------------------------------


def starting(*more: Any, **fields: Any) -> Bench:
    """A bench whose pump "p" has its first SwitchOn in flight."""
    bench = Bench(child("p", "pump", **fields), *more)
    bench.pool.answers[Look] = lambda _action: "off"
    bench.settle(1)
    assert bench.open_attempt(SwitchOn, "p")
    return bench


def test_one_action_of_a_worker_is_in_flight_at_a_time() -> None:
    """However often it is looked at meanwhile."""
    bench = starting()
    for _ in range(50):
        bench.run(0.5)
        bench.tick(full=True)
    assert len(bench.attempts(SwitchOn)) == 1
    assert bench.pool.overlaps == []


def test_an_action_in_flight_holds_up_no_sibling() -> None:
    """A tick waits for nothing."""
    bench = starting(child("a"), child("q", "pump"))
    assert bench.tree() == {"p": "starting", "a": "running", "q": "starting"}
    assert bench.open_attempt(SwitchOn, "q")


@pytest.mark.parametrize("status", ["failed", "timed_out", "crashed"])
def test_a_failed_action_is_tried_again_after_a_growing_wait(status: Any) -> None:
    """1, 2, 4, 4 … seconds as its type says; a success ends the series."""
    bench = starting()
    gaps = []
    for _ in range(5):
        bench.pool.complete(bench.open_attempt(SwitchOn), "no", status=status)
        ended = bench.now
        count = len(bench.attempts(SwitchOn))
        bench.run(20, until=lambda: len(bench.attempts(SwitchOn)) > count)  # noqa: B023
        gaps.append(bench.now - ended)
    assert [round(gap) for gap in gaps] == [1, 2, 4, 4, 4]
    assert all(gap >= wait for gap, wait in zip(gaps, (1, 2, 4, 4, 4), strict=True))
    bench.pool.complete(bench.open_attempt(SwitchOn), "done")
    bench.settle(1)
    bench.pool.complete(bench.open_attempt(SwitchOn), "no", status=status)
    ended = bench.now
    count = len(bench.attempts(SwitchOn))
    bench.run(20, until=lambda: len(bench.attempts(SwitchOn)) > count)
    assert round(bench.now - ended) == 1


def test_the_worker_sees_failures_and_the_last_result() -> None:
    """So that it can give up, or go another way."""
    seen: list[tuple[int, str | None]] = []

    class Counting(Pump):
        type_name = "counting"

        def next_action(self, snapshot: Snapshot) -> Decision:
            result = snapshot.result(SwitchOn)
            seen.append((snapshot.failures(SwitchOn), result and result.status))
            return super().next_action(snapshot)

    bench = Bench(child("p", "counting"), workers=[Counting])
    bench.pool.answers |= {Look: lambda _a: "off", SwitchOn: lambda _a: OSError("no")}
    bench.settle(10)
    bench.pool.answers[SwitchOn] = lambda _a: "done"
    bench.settle(10)
    different = list(dict.fromkeys(seen))
    failures = len(different) - 2
    assert failures >= 3
    assert different == [
        (0, None), *((n, "failed") for n in range(1, failures + 1)), (0, "succeeded"),
    ]  # fmt: skip


def test_the_worker_sees_the_last_success_whatever_came_after_it() -> None:
    """What was cancelled is no failure besides, and causes no backoff."""
    seen: list[tuple[Any, ...]] = []

    class Telling(Pump):
        type_name = "telling"

        def next_action(self, snapshot: Snapshot) -> Decision:
            last, success = snapshot.result(SwitchOn), snapshot.last_success(SwitchOn)
            told = (last and last.status, success and success.value, snapshot.failures(SwitchOn))
            seen.append(told)
            return super().next_action(snapshot)

    bench = Bench(child("p", "telling"), workers=[Telling])
    bench.pool.answers[Look] = lambda _a: "off"

    def is_open() -> bool:
        return any(one.id in bench.pool.open for one in bench.attempts(SwitchOn))

    for end in ("cancelled", "first", "cancelled", "failed", "cancelled", "second", "cancelled"):
        bench.run(20, until=is_open)
        is_value = end in ("first", "second")
        answer = end if is_value else None
        status: Any = "succeeded" if is_value else end
        bench.pool.complete(bench.open_attempt(SwitchOn), answer, status=status)
        ended = bench.now
        bench.run(20, until=is_open)
        assert (bench.now - ended < 1) is (end != "failed")
    assert list(dict.fromkeys(seen)) == [
        (None, None, 0),
        ("cancelled", None, 0),
        ("succeeded", "first", 0),
        ("cancelled", "first", 0),
        ("failed", "first", 1),
        ("cancelled", "first", 1),
        ("succeeded", "second", 0),
        ("cancelled", "second", 0),
    ]


def test_a_refused_action_is_decided_again() -> None:
    """A full queue is no failure: no backoff grows, no result is kept."""
    bench = starting()
    for _ in range(5):
        bench.pool.complete(bench.open_attempt(SwitchOn), "queue full", status="refused")
        bench.run(1)
        assert bench.open_attempt(SwitchOn)
    node = bench.node("p")
    assert node.failures == {}
    assert node.results == {}


def test_each_action_is_told_when_it_starts_and_when_it_ends() -> None:
    """With its attempt's number, so that the two can be joined."""
    bench = starting()
    bench.pool.complete(bench.open_attempt(SwitchOn), "done")
    bench.tick()
    [started], [ended] = bench.heard(ActionStarted), bench.heard(ActionEnded)
    assert started.attempt_id == ended.attempt_id
    assert (started.action_type, started.timeout_s, started.reason) == ("SwitchOn", 20, "seen off")
    assert (ended.path, ended.status) == ("root/p", "succeeded")


def test_an_action_in_flight_is_cancelled_when_its_stop_has_waited() -> None:
    """It may end by itself for half the stop's time, five seconds at most."""
    bench = starting(shutdown_timeout_s=6.0)
    action, start = bench.open_attempt(SwitchOn), bench.now
    bench.engine.stop("asked")
    bench.run(10, until=lambda: action.cancelled is not None)
    assert 3.0 <= bench.now - start <= 3.3
    bench.pool.answers[SwitchOff] = lambda _action: "done"
    bench.run(10, until=lambda: bench.engine.stopped)
    assert [event.forced for event in bench.heard(WorkerRemoved, "p")] == [False]
    assert len(bench.attempts(SwitchOff)) == 1


def test_an_action_that_ends_in_time_is_not_cancelled_by_a_stop() -> None:
    """Its result counts, then the worker goes down its own way."""
    bench = starting()
    action = bench.open_attempt(SwitchOn)
    bench.engine.stop("asked")
    bench.run(1)
    bench.pool.complete(action, "done")
    bench.pool.answers[SwitchOff] = lambda _action: "done"
    bench.run(2, until=lambda: bench.engine.stopped)
    assert action.cancelled is None
    assert len(bench.attempts(SwitchOff)) == 1


@pytest.mark.parametrize("how", ["stop", "disable"])
def test_an_action_in_flight_is_told_of_a_stop_at_once_and_a_stops_own_never(how: str) -> None:
    """Long before it is cancelled: so it can begin nothing more."""
    bench = starting()
    action = bench.open_attempt(SwitchOn)
    bench.run(1)
    assert action.told_of_stop == 0
    if how == "stop":
        bench.engine.stop("asked")
    else:
        bench.redeclare(child("p", "pump", enabled=False))
    bench.tick()
    assert (action.told_of_stop, action.cancelled) == (1, None)
    bench.run(1)
    assert action.told_of_stop == 1
    bench.pool.complete(action, "done")
    bench.run(2, until=lambda: bool(bench.attempts(SwitchOff)))
    bench.run(1)
    assert bench.open_attempt(SwitchOff).told_of_stop == 0


def test_a_parents_action_is_told_of_a_stop_while_its_children_are_in_the_way() -> None:
    """Its time has not begun, and yet it need begin nothing more."""

    def derive(_self: Any, spec: UserSpec) -> DesiredState:
        return DesiredState(state="running", config=spec.config, children=(child("c", "pump"),))

    station = worker_type("station", Pump, derive_desired_state=derive)
    bench = Bench(child("p", "station"), workers=[station])
    bench.pool.answers[Look] = lambda _action: "off"
    bench.settle(1)
    bench.engine.stop("asked")
    bench.tick()
    bench.run(1)
    assert list(bench.node("p").children) == ["c"]
    for path in ("p", "p/c"):
        assert bench.open_attempt(SwitchOn, path).told_of_stop == 1


def test_the_actions_of_a_stop_are_urgent() -> None:
    """They may pass a queue full of starts."""
    bench = Bench(child("p", "pump"))
    Plant(bench)
    bench.settle()
    bench.engine.stop("asked")
    bench.run(5, until=lambda: bench.engine.stopped)
    assert [one.urgent for one in bench.attempts(SwitchOff)] == [True]
    assert [one.urgent for one in bench.attempts(SwitchOn)] == [False]


def test_the_result_of_an_old_incarnation_is_dropped() -> None:
    """I3: a killed attempt that answers late changes nothing in the node that came after."""
    bench = starting(shutdown_timeout_s=2.0)
    bench.pool.deaf = True
    action = bench.open_attempt(SwitchOn)
    bench.redeclare()
    bench.run(10, until=lambda: bench.find("p") is None)
    bench.redeclare(child("p", "pump"))
    bench.run(10, until=lambda: bench.find("p") is not None)
    bench.pool.complete(action, "too late")
    bench.tick()
    node = bench.node("p")
    assert node.generation == 2
    assert node.results == {}
    assert [event.attempt_id for event in bench.heard(ResultDropped)] == [action.id]


def test_a_second_result_of_one_attempt_is_dropped() -> None:
    """Exactly one counts."""
    bench = starting()
    action = bench.open_attempt(SwitchOn)
    bench.pool.complete(action, "first")
    assert action.result is not None
    bench.engine.deliver(action.id, action.result)
    bench.engine.deliver(999_999, action.result)
    bench.tick()
    assert [event.attempt_id for event in bench.heard(ResultDropped)] == [action.id, 999_999]
    assert len(bench.heard(ActionEnded)) == 1


# --- restart and remove ---------------------------------------------------------------------


def deciding(decision: Decision) -> type[Pump]:
    """A worker that takes ``decision`` once, as soon as it runs."""
    taken: list[bool] = []

    class Running(On):
        def next(self, snap: Snapshot) -> Decision:
            if taken:
                return Stay("on")
            taken.append(True)
            return decision

    class Start(Off):
        def next(self, snap: Snapshot) -> Decision:
            return Go(Running, "asked to run")

    return worker_type("deciding", initial=Start)  # type: ignore[return-value]


def test_a_worker_can_have_itself_restarted() -> None:
    """It walks to stopped, and a new worker with the same spec starts under a new generation."""
    bench = Bench(child("a"), child("r", "deciding", config={"n": 1}),
                  workers=[deciding(Restart("leaking"))])  # fmt: skip
    bench.tick()
    first = bench.node("r")
    bench.settle()
    second = bench.node("r")
    assert second is not first
    assert second.worker is not first.worker
    assert (second.generation, second.spec) == (2, first.spec)
    assert bench.tree() == {"a": "running", "r": "running"}
    [removed] = bench.heard(WorkerRemoved)
    assert (removed.reason, removed.forced) == ("restart: leaking", False)


def test_a_worker_can_have_itself_removed_until_its_spec_changes() -> None:
    """It stays away through resyncs and changes of others; a new spec brings it back."""
    bench = Bench(
        child("a"),
        child("r", "deciding", restart="transient"),
        workers=[deciding(Remove("job done"))],
    )
    bench.settle(100)
    assert bench.tree() == {"a": "running"}
    bench.redeclare(child("a", config={"n": 1}), child("r", "deciding", restart="transient"))
    bench.settle(100)
    assert bench.tree() == {"a": "running"}
    assert [event.reason for event in bench.heard(WorkerRemoved)] == ["done: job done"]
    bench.redeclare(child("a"), child("r", "deciding", config={"n": 2}))
    bench.settle()
    assert bench.tree() == {"a": "running", "r": "running"}
    assert [event.generation for event in bench.heard(WorkerAdded, "r")] == [1, 2]


# --- when a node is looked at ---------------------------------------------------------------


def counting(reads_time: bool) -> tuple[type[Pump], list[float]]:
    """A worker that notes each evaluation in its running state."""
    asked: list[float] = []

    class Running(On):
        def next(self, snap: Snapshot) -> Decision:
            asked.append(bench_now(snap))
            return Stay(f"for {snap.time_in_state_s:.0f} s" if reads_time else "on")

    class Start(Off):
        def next(self, snap: Snapshot) -> Decision:
            return Go(Running, "asked to run")

    return worker_type("counting", initial=Start), asked  # type: ignore[return-value]


def bench_now(snap: Snapshot) -> float:
    """The tick's moment, read without the engine noticing."""
    return snap._monotonic


def test_a_decision_that_reads_time_is_taken_again_each_interval() -> None:
    """Nothing else tells the engine when it may change."""
    kind, asked = counting(reads_time=True)
    bench = Bench(child("a", "counting"), workers=[kind])
    bench.settle(10)
    gaps = {b - a for a, b in itertools.pairwise(asked)}
    assert gaps == {INTERVAL_S}
    assert bench.node("a").reason == "for 10 s"


def test_a_decision_that_does_not_read_time_waits_for_the_resync() -> None:
    """Twice in a minute, not five hundred times."""
    kind, asked = counting(reads_time=False)
    bench = Bench(child("a", "counting"), workers=[kind])
    bench.settle(5)
    before = len(asked)
    bench.run(60)
    assert len(asked) - before == 2


def test_a_tick_over_an_unchanged_tree_evaluates_no_node() -> None:
    """A thousand nodes at rest cost nothing; one that changes costs itself and its ancestors."""
    asked: list[str] = []

    class Noted(Quiet):
        type_name = "noted"

        def next_action(self, snapshot: Snapshot) -> Decision:
            asked.append(snapshot.identity.path)
            return super().next_action(snapshot)

    def line(i: int, changed: bool = False) -> Any:
        cells = tuple(
            child(f"c{j}", "noted", config={"n": int(changed and j == 3)}) for j in range(99)
        )
        return child(f"l{i}", "noted", config={"children": cells})

    bench = Bench(*[line(i) for i in range(10)], workers=[Noted])
    bench.settle(3)
    assert len(bench.tree()) == 1000
    assert set(bench.tree().values()) == {"running"}
    asked.clear()
    for _ in range(100):
        bench.now += 0.01
        bench.tick()
    assert asked == []
    bench.redeclare(*[line(i, changed=i == 4) for i in range(10)])
    bench.run(1)
    assert set(asked) == {"root/l4", "root/l4/c3"}


def test_an_open_infrastructure_breaker_pauses_decisions_and_stops_nothing() -> None:
    """No new actions while no proc can be started; a stop goes through all the same."""
    bench = Bench(child("a"), child("p", "pump"))
    bench.pool.answers[Look] = lambda _action: "off"
    bench.engine.set_infrastructure("no proc can be started")
    bench.settle()
    assert bench.attempts(SwitchOn) == []
    assert "no proc can be started" in bench.engine.root.reason
    bench.engine.set_infrastructure(None)
    bench.settle()
    assert bench.open_attempt(SwitchOn)
    bench.engine.set_infrastructure("again")
    bench.engine.stop("asked")
    bench.pool.answers[SwitchOff] = lambda _action: "done"
    bench.run(10, until=lambda: bench.engine.stopped)
