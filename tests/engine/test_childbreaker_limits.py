"""What a child's breaker may not charge the child for: the machine, its own rest, a queue."""

from __future__ import annotations

from typing import Any

import pytest
from fickle import MOOD, SOON, bench_of
from harness import SwitchOn, child, worker_type

from fsmv2.supervisor.core.breakerevents import (
    ChildRestarted,
    CircuitOpened,
    EscalationRequired,
    PanicBreakerOpened,
)
from fsmv2.supervisor.core.fsm import Act, Decision, Go, Phase, Snapshot, State, Stay
from fsmv2.supervisor.core.sanity import SanityCheck
from fsmv2.supervisor.core.variables import VariableBundle
from fsmv2.supervisor.telemetry.view import circuit_of
from fsmv2.supervisor.tree import childlooks


def test_a_child_that_degrades_while_the_machine_is_in_trouble_has_its_time_after_it() -> None:
    """And is not restarted for what the trouble did: it could not come up."""
    bench = bench_of(child("a", "soon"), child("b", "soon"))
    bench.settle()
    MOOD["a"] = "bad"
    bench.run(0.5)
    bench.engine.set_infrastructure("no disk")
    bench.run(200.0)
    assert bench.heard(CircuitOpened) == []
    bench.engine.set_infrastructure(None)
    bench.run(childlooks.AFTERMATH_S)
    assert bench.heard(CircuitOpened) == []
    bench.run(10.0, until=lambda: bench.heard(ChildRestarted) != [])
    assert [event.child_name for event in bench.heard(ChildRestarted)] == ["a"]


def test_a_panic_counts_also_while_the_machine_is_in_trouble() -> None:
    """It is the worker's code, whatever the machine does. Its restarts wait all the same."""
    bench = bench_of(child("a", "fickle"))
    MOOD["a"] = "raise"
    bench.run(20.0, until=lambda: bench.heard(PanicBreakerOpened) != [])
    bench.engine.set_infrastructure("no disk")
    bench.run(2.0)
    assert circuit_of(bench.engine.root, bench.engine) == "open"


def test_a_reload_is_taken_over_while_the_machine_is_in_trouble() -> None:
    """To take away what has brought it there, for one."""
    bench = bench_of(child("hog", "soon"), child("b", "soon"))
    bench.settle()
    bench.engine.set_infrastructure("memory")
    bench.run(1.0)
    bench.redeclare(child("b", "soon"))
    bench.run(2.0)
    assert bench.tree() == {"b": "running"}


def test_a_failed_child_that_comes_to_rest_ends_its_incident() -> None:
    """Its parent has mapped it to a word at which it stays stopped: nobody wants it to run."""

    def next_action(self: Any, snap: Snapshot) -> Decision:
        if MOOD.get("rest") == "yes":
            if snap.state.phase is Phase.STOPPED:
                return Stay("idle, as asked")
            return Go(SOON.initial, "to rest")
        return SOON.next_action(self, snap)

    kind = worker_type("restful", SOON, next_action=next_action)
    bench = bench_of(child("a", "restful"), workers=[kind])
    bench.settle()
    MOOD["a"] = "bad"
    bench.run(20.0, until=lambda: len(bench.heard(ChildRestarted)) == 2)
    MOOD["rest"] = "yes"
    bench.run(120.0)
    assert circuit_of(bench.engine.root, bench.engine) == "closed"
    assert len(bench.heard(ChildRestarted)) == 2
    assert bench.heard(EscalationRequired) == []


def test_a_config_that_a_worker_refuses_with_value_error_restarts_nobody() -> None:
    """It is how Python's own code says that a value cannot be used."""

    def derive(self: Any, spec: Any) -> Any:
        if MOOD.get("config") == "bad":
            return int("a hundred")
        return SOON.derive_desired_state(self, spec)

    bench = bench_of(
        child("a", "picky"), workers=[worker_type("picky", SOON, derive_desired_state=derive)]
    )
    bench.settle()
    MOOD["config"] = "bad"
    bench.redeclare(child("a", "picky", config={"speed": "a hundred"}))
    bench.run(400.0)
    assert bench.heard(PanicBreakerOpened) == []
    assert bench.heard(ChildRestarted) == []
    assert "invalid literal" in bench.node("a").reason
    assert bench.tree() == {"a": "running"}


class Slow(State):
    phase = Phase.STARTING


class Up(State):
    phase = Phase.RUNNING


class Ill(State):
    phase = Phase.DEGRADED


def test_a_start_whose_action_takes_its_time_is_not_cut_off() -> None:
    """It waits for a proc, or works; its own deadline ends it. A restart would lose its place."""

    def next_action(self: Any, snap: Snapshot) -> Decision:
        assert snap.time_in_state_s >= 0  # so that it is asked again as time passes
        if MOOD.get("a") == "ill" and snap.identity.generation == 1:
            return Stay("ill") if type(snap.state) is Ill else Go(Ill, "ill")
        if snap.result(SwitchOn) is not None:
            return Stay("up") if type(snap.state) is Up else Go(Up, "up")
        if type(snap.state) is not Slow:
            return Go(Slow, "start")
        return Act(SwitchOn(), "starts")

    kind = worker_type("slow", SOON, next_action=next_action)
    bench = bench_of(child("a", "slow"), workers=[kind])
    bench.run(1.0)
    bench.pool.complete(bench.open_attempt(SwitchOn))
    bench.run(1.0)
    MOOD["a"] = "ill"
    bench.run(20.0, until=lambda: bench.heard(ChildRestarted) != [])
    bench.run(100.0)
    assert len(bench.heard(ChildRestarted)) == 1
    bench.pool.complete(bench.open_attempt(SwitchOn))
    bench.run(2.0)
    assert bench.tree() == {"a": "running"}
    assert circuit_of(bench.engine.root, bench.engine) == "closed"


def test_a_strict_circuit_looks_at_whom_the_failed_child_waits_for() -> None:
    """Or neither would ever run: the one is held back, the other not looked at."""
    bench = bench_of(child("b", "soon"), child("a", "soon", "b"), strict_circuit=True)
    bench.settle()
    MOOD["b"] = "coming"
    bench.run(1.0)
    MOOD["a#1"] = "bad"
    bench.run(20.0, until=lambda: bench.heard(CircuitOpened) != [])
    bench.run(30.0, until=lambda: bool(bench.heard(ChildRestarted)))
    MOOD["b"] = "good"
    bench.run(60.0)
    assert bench.tree() == {"a": "running", "b": "running"}
    assert circuit_of(bench.engine.root, bench.engine) == "closed"


def test_a_sanity_check_that_raises_tells_no_secret_of_those_it_was_shown_and_restarts_nobody() -> (
    None
):
    """A new instance of the parent would ask the very same; its children are well."""

    def check(children: Any) -> str | None:
        raise KeyError("hunter2")

    kind = worker_type("checked", SOON, sanity_checks=(SanityCheck("odd", ("a",), check, "a"),))
    secret = VariableBundle(user={"password": "hunter2"})
    kid = child("a", "fickle", variables=secret)
    bench = bench_of(child("line", "checked", config={"children": (kid,)}), workers=[kind])
    bench.settle()
    bench.run(60.0)
    told = [str(event) for event in bench.events] + [bench.node("line").reason]
    assert any("odd" in text or "KeyError" in text for text in told)
    assert not [text for text in told if "hunter2" in text]
    assert bench.heard(PanicBreakerOpened) == []
    assert bench.heard(ChildRestarted) == []


@pytest.mark.parametrize("failing", [3, 40])
def test_each_of_many_failed_children_is_restarted_in_its_time(failing: int) -> None:
    """Few are looked at each time, many when something is due of them: no difference."""
    bench = bench_of(*(child(f"c{n}", "soon") for n in range(failing)), child("z", "soon"))
    bench.settle()
    for n in range(failing):
        MOOD[f"c{n}"] = "bad"
    bench.run(60.0)
    made = [event.child_name for event in bench.heard(ChildRestarted)]
    assert {name: made.count(name) for name in made} == {f"c{n}": 5 for n in range(failing)}
    assert len(bench.heard(EscalationRequired)) == failing
    for n in range(failing):
        MOOD[f"c{n}"] = "good"
    bench.run(15.0)
    assert circuit_of(bench.engine.root, bench.engine) == "closed"
