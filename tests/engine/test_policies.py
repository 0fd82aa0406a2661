"""What the config says of action types and observations, and the history of what came of them;
scenarios 88, 94, 97, 98, 102."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
from harness import Bench, Look, Plant, Pump, SwitchOff, SwitchOn, child, worker_type

from fsmv2.supervisor.config.configcheck import check_settings
from fsmv2.supervisor.config.configfault import ConfigError
from fsmv2.supervisor.config.policies import resolve_actions
from fsmv2.supervisor.config.settings import (
    ActionSettings,
    ObservationSettings,
    RetrySettings,
    Settings,
    WorkerSettings,
)
from fsmv2.supervisor.core.action import Action, ActionPolicy, Outcome, Retry
from fsmv2.supervisor.core.events import ActionEnded, ActionStarted
from fsmv2.supervisor.core.fsm import Decision, Snapshot
from fsmv2.supervisor.core.variables import VariableBundle
from fsmv2.supervisor.core.worker import WorkerFactory
from fsmv2.supervisor.core.workevents import ActionGivenUp

HERE = "harness"


def resolved(**actions: ActionSettings) -> dict[type[Action], ActionPolicy]:
    told: list[tuple[str, str]] = []
    policies = resolve_actions(actions, (HERE,), lambda *fault: told.append(fault))
    assert told == []
    return policies


def refused(name: str, modules: tuple[str, ...] = (HERE,)) -> str:
    told: list[str] = []
    settings = {name: ActionSettings(timeout_s=1.0)}
    assert resolve_actions(settings, modules, lambda *fault: told.append(": ".join(fault))) == {}
    [fault] = told
    return fault


# --- in the engine --------------------------------------------------------------------------


def test_each_action_type_has_the_timeout_its_policy_says() -> None:
    """Scenario 94: start 30, stop 10; a type without a policy has its class's own."""
    policies = resolved(
        SwitchOn=ActionSettings(timeout_s=31.0), SwitchOff=ActionSettings(timeout_s=10.0)
    )
    bench = Bench(child("p", "pump"), policies=policies)
    Plant(bench)
    bench.settle()
    bench.redeclare()
    bench.settle()
    assert [one.timeout_s for one in bench.attempts(SwitchOn)] == [31.0]
    assert [one.timeout_s for one in bench.attempts(SwitchOff)] == [10.0]
    assert {one.timeout_s for one in bench.attempts(Look)} == {None}
    assert [event.timeout_s for event in bench.heard(ActionStarted)] == [31.0, 10.0]


def test_an_observation_has_its_policys_deadline() -> None:
    """It is an action like any other."""
    bench = Bench(child("p", "pump"), policies=resolved(Look=ActionSettings(timeout_s=0.5)))
    bench.run(1)
    assert bench.open_attempt(Look).timeout_s == 0.5


def waits(bench: Bench, count: int) -> list[float]:
    """The seconds between a failure of SwitchOn and its next attempt."""
    found = []
    for _ in range(count):
        bench.pool.complete(bench.open_attempt(SwitchOn), "no", status="failed")
        ended, before = bench.now, len(bench.attempts(SwitchOn))
        bench.run(200, until=lambda: len(bench.attempts(SwitchOn)) > before)  # noqa: B023
        found.append(bench.now - ended)
    return found


def test_the_wait_after_a_failure_is_the_policys() -> None:
    """What is given replaces the class's own; what is not stays: 10, 30, 40 at most."""
    retry = RetrySettings(base_s=10.0, factor=3.0, max_s=40.0)
    bench = Bench(child("p", "pump"), policies=resolved(SwitchOn=ActionSettings(retry=retry)))
    bench.pool.answers[Look] = lambda _action: "off"
    bench.run(1)
    assert [round(wait) for wait in waits(bench, 4)] == [10, 30, 40, 40]


class Uncomparable:
    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value of an array is ambiguous")

    __hash__ = None  # type: ignore[assignment]


def limited(attempts: int) -> Bench:
    """A bench whose SwitchOn fails, and may so often."""
    retry = RetrySettings(attempts=attempts)
    bench = Bench(child("p", "pump"), policies=resolved(SwitchOn=ActionSettings(retry=retry)))
    bench.pool.answers |= {Look: lambda _a: "off", SwitchOn: lambda _a: OSError("no")}
    return bench


def test_after_its_last_attempt_an_action_is_not_offered_and_that_is_told_once() -> None:
    """Not even at a resync; the worker goes on deciding and being observed."""
    bench = limited(3)
    bench.run(300)
    assert len(bench.attempts(SwitchOn)) == 3
    [told] = bench.heard(ActionGivenUp)
    assert (told.path, told.action_type, told.failures) == ("root/p", "SwitchOn", 3)
    assert bench.node("p").reason == "seen off; SwitchOn given up after 3 failures"
    assert len(bench.attempts(Look)) > 250


@pytest.mark.parametrize("what", ["spec", "state"])
def test_a_new_spec_or_state_begins_a_new_series(what: str) -> None:
    """What was given up is given as many attempts again."""
    bench = limited(2)
    bench.run(60)
    assert len(bench.attempts(SwitchOn)) == 2
    if what == "spec":
        bench.redeclare(child("p", "pump", config={"n": 1}))
    else:
        bench.pool.answers[Look] = lambda _action: "on"
        bench.run(5)
        bench.pool.answers[Look] = lambda _action: "off"
    bench.run(60)
    assert len(bench.attempts(SwitchOn)) == 4
    assert len(bench.heard(ActionGivenUp)) == 2


def backing_off() -> Bench:
    """A bench whose pump waits 40 s after its third failure."""
    retry = RetrySettings(base_s=10.0, factor=2.0, max_s=40.0, jitter=0.0)
    bench = Bench(child("p", "pump"), policies=resolved(SwitchOn=ActionSettings(retry=retry)))
    bench.pool.answers |= {Look: lambda _a: "off", SwitchOn: lambda _a: OSError("no")}
    bench.run(60, until=lambda: len(bench.attempts(SwitchOn)) == 3)
    bench.run(2)
    return bench


@pytest.mark.parametrize("fields", [{"config": {"n": 1}}, {"config": Uncomparable()}])
def test_a_new_config_is_tried_at_once_and_begins_a_new_series(fields: dict[str, Any]) -> None:
    """What failed, failed on the old one; the wait that had grown is none of the new one's."""
    bench = backing_off()
    bench.redeclare(child("p", "pump", **fields))
    bench.run(1)
    assert len(bench.attempts(SwitchOn)) == 4
    assert bench.node("p").failures == {SwitchOn: 1}
    bench.run(7)
    assert len(bench.attempts(SwitchOn)) == 4
    bench.run(5)
    assert len(bench.attempts(SwitchOn)) == 5


def test_a_new_spec_with_the_same_config_waits_on() -> None:
    """Neither a spec's other parts nor a variable nobody reads mends an action."""
    bench = backing_off()
    for fields in ({"shutdown_timeout_s": 7.0}, {"variables": VariableBundle({"n": 1})}):
        bench.redeclare(child("p", "pump", **fields))
        bench.run(5)
        assert len(bench.attempts(SwitchOn)) == 3
    assert bench.node("p").failures == {SwitchOn: 3}


def test_a_stops_action_is_never_given_up() -> None:
    """I4: it is offered until the stop's time is up."""
    retry = RetrySettings(attempts=1)
    bench = Bench(child("p", "pump"), policies=resolved(SwitchOff=ActionSettings(retry=retry)))
    Plant(bench)
    bench.settle()
    bench.pool.answers[SwitchOff] = lambda _action: OSError("no")
    bench.redeclare(child("p", "pump", enabled=False))
    bench.run(10)
    assert len(bench.attempts(SwitchOff)) > 5


def test_a_success_ends_the_count_of_attempts() -> None:
    """They are failures in a row."""
    bench = limited(3)
    bench.pool.answers.pop(SwitchOn)
    bench.run(1)
    for status in ("failed", "failed", "succeeded", "failed", "failed"):
        bench.pool.complete(bench.open_attempt(SwitchOn), "x", status=status)  # type: ignore[arg-type]
        bench.run(10)
    assert bench.heard(ActionGivenUp) == []


# --- the history ----------------------------------------------------------------------------


class Reading(Pump):
    type_name = "reading"
    seen: list[tuple[Outcome, ...]] = []

    def next_action(self, snapshot: Snapshot) -> Decision:
        self.seen.append(snapshot.history(SwitchOn))
        return super().next_action(snapshot)


def test_each_end_is_in_the_history_once_and_in_order() -> None:
    """Scenario 102, 97: success, failure, timeout, a dead proc; a refusal was no attempt."""
    bench = Bench(child("p", "reading"), workers=[Reading])
    bench.pool.answers[Look] = lambda _action: "off"
    bench.run(1)
    ends = ("succeeded", "failed", "timed_out", "refused", "crashed")
    for status in ends:
        bench.pool.complete(bench.open_attempt(SwitchOn), "boom", status=status)  # type: ignore[arg-type]
        bench.run(10)
    last = Reading.seen[-1]
    assert [(one.status, one.error) for one in last] == [
        ("succeeded", None), ("failed", "Error"), ("timed_out", None), ("crashed", None),
    ]  # fmt: skip
    assert len(bench.heard(ActionEnded)) == 4
    assert bench.node("p").history.keys() == {SwitchOn}


def test_the_history_holds_the_last_ten() -> None:
    """It never grows beyond, and what a worker was shown does not change in its hands."""
    bench = Bench(child("p", "reading"), workers=[Reading])
    bench.pool.answers |= {Look: lambda _a: "off", SwitchOn: lambda _a: OSError("no")}
    bench.run(5)
    early = Reading.seen[-1]
    before = tuple(early)
    bench.run(200)
    assert len(Reading.seen[-1]) == 10
    assert early == before


def test_a_new_incarnation_has_no_history() -> None:
    """It is another worker's."""
    bench = Bench(child("p", "reading"), workers=[Reading])
    Plant(bench)
    bench.settle()
    assert bench.node("p").history
    bench.redeclare()
    bench.settle()
    Plant(bench).on = True
    bench.redeclare(child("p", "reading"))
    bench.settle()
    assert Reading.seen[-1] == ()


def test_an_action_done_three_times_leaves_the_world_as_done_once() -> None:
    """Scenario 98: pumps are switched by idempotent actions, and lost results are no harm."""
    bench = Bench(child("p", "pump"))
    plant = Plant(bench)
    lost = [2]

    def switch(_action: Any) -> Any:
        plant.on = True
        if lost[0]:
            lost[0] -= 1
            return OSError("the answer was lost")
        return "done"

    bench.pool.answers |= {SwitchOn: switch, Look: lambda _action: "off" if lost[0] else "on"}
    bench.run(30)
    assert plant.on
    assert bench.tree() == {"p": "running"}


# --- names in the config --------------------------------------------------------------------


def test_a_policy_is_found_by_short_name_and_by_reference() -> None:
    """Both mean the same class."""
    settings = ActionSettings(timeout_s=2.0, grace_s=0.5)
    wanted = {SwitchOn: ActionPolicy(timeout_s=2.0, grace_s=0.5)}
    assert resolved(SwitchOn=settings) == wanted
    assert resolved(**{"harness:SwitchOn": settings}) == wanted


def test_what_a_retry_leaves_out_is_the_classs_own() -> None:
    """SwitchOn says base 1, factor 2, at most 4, no jitter."""
    policies = resolved(SwitchOn=ActionSettings(retry=RetrySettings(max_s=9.0, attempts=2)))
    assert policies[SwitchOn].retry == Retry(1.0, 2.0, 9.0, 0.0, 2)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("SwichOn", "actions.SwichOn: unknown action type 'SwichOn', did you mean 'SwitchOn'?"),
        ("harness:Switch", "did you mean 'harness:SwitchOn'?"),
        ("harness:Pump", "unknown action type 'harness:Pump'"),
        ("no_such_module:SwitchOn", "unknown action type 'no_such_module:SwitchOn'"),
        ("harness:", "unknown action type 'harness:'"),
    ],
)
def test_a_name_that_means_no_action_is_refused_with_what_is_near(name: str, fault: str) -> None:
    """I11: a policy that is silently skipped would be a timeout nobody has."""
    assert fault in refused(name)


def test_a_short_name_that_means_two_actions_is_refused_with_both() -> None:
    """By reference each of them can be meant."""
    module = ModuleType("namesakes")
    sys.modules["namesakes"] = module
    try:
        twin = type("SwitchOn", (Action,), {"__module__": "namesakes"}, frozen=True)
        module.SwitchOn = twin  # type: ignore[attr-defined]
        fault = refused("SwitchOn", (HERE, "namesakes"))
        assert "means 2 action types, want one of harness:SwitchOn, namesakes:SwitchOn" in fault
        settings = {"namesakes:SwitchOn": ActionSettings(timeout_s=1.0)}
        assert list(resolve_actions(settings, (HERE,), lambda *_: None)) == [twin]
    finally:
        del sys.modules["namesakes"]


def test_one_action_named_twice_is_refused() -> None:
    """Which of the two policies holds is nobody's guess."""
    told: list[str] = []
    settings = {name: ActionSettings(timeout_s=1.0) for name in ("SwitchOn", "harness:SwitchOn")}
    resolve_actions(settings, (HERE,), lambda _place, why: told.append(why))
    assert told == ["harness:SwitchOn is named twice, want one policy"]


# --- checked at load ------------------------------------------------------------------------


def faults(factory: WorkerFactory, **settings: Any) -> list[str]:
    """What `fsmv2 check` says of a config with these settings."""
    try:
        check_settings(Settings(name="site", **settings), factory)
    except ConfigError as error:
        return [f"{fault.path}: {fault.message}" for fault in error.faults]
    return []


PUMPS = (WorkerSettings(name="p", type="pump"),)


def test_an_interval_that_is_not_below_the_dead_threshold_is_refused() -> None:
    """Scenario 88: both figures are named; for the config's intervals and for the class's own."""
    rare = worker_type("rare", Pump, observe_interval_s=25.0)
    factory = WorkerFactory([Pump, rare])
    both = "observed each {} s, want less than observation.dead_s (20 s)"
    observation = ObservationSettings(intervals={"pump": 20.0})
    assert faults(factory, workers=PUMPS, observation=observation) == [
        f"observation.intervals.pump: {both.format(20)}"
    ]
    workers = (WorkerSettings(name="r", type="rare"),)
    assert faults(factory, workers=workers) == [
        f"workers[0]: worker type 'rare' is {both.format(25)}"
    ]
    assert faults(factory, workers=PUMPS) == []  # nobody uses the rare one
    patient = ObservationSettings(dead_s=60.0, intervals={"pump": 20.0})
    assert faults(factory, workers=(*PUMPS, *workers), observation=patient) == []


def test_thresholds_and_intervals_that_do_not_fit_are_told_together() -> None:
    """The order of the thresholds, and a worker type that there is not."""
    observation = ObservationSettings(stale_s=9.0, dead_s=9.0, intervals={"pmp": 1.0})
    assert faults(WorkerFactory([Pump]), observation=observation) == [
        "observation.dead_s: got 9 s, want more than stale_s (9 s)",
        "observation.intervals.pmp: unknown worker type 'pmp', did you mean 'pump'?",
    ]


def test_a_bad_policy_is_a_fault_of_the_config() -> None:
    """`fsmv2 check` finds it before anything is started."""
    retry = RetrySettings(base_s=5.0, max_s=2.0)
    actions = {"SwitchOf": ActionSettings(), "SwitchOn": ActionSettings(retry=retry)}
    assert faults(WorkerFactory([Pump]), workers=PUMPS, actions=actions) == [
        "actions.SwitchOf: unknown action type 'SwitchOf', did you mean 'SwitchOff'?",
        "actions.SwitchOn.retry.max_s: got 2 s, want at least base_s (5 s)",
    ]
