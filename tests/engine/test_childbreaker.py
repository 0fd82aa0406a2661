"""Failed children: their parent's circuit, restarts, escalation, recovery; scenarios 64 to 74."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from fickle import MOOD, SOON, bench_of
from harness import START, Bench, Look, Plant, SwitchOn, child, worker_type

from fsmv2.supervisor.core.breakerevents import (
    ChildRecovered,
    ChildRestarted,
    CircuitClosed,
    CircuitOpened,
    CircuitStillOpen,
    EscalationNear,
    EscalationRequired,
)
from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.events import Event, WorkerAdded, WorkerFaulted
from fsmv2.supervisor.core.fsm import Restart
from fsmv2.supervisor.core.spec import DesiredState, UserSpec
from fsmv2.supervisor.core.variables import VariableBundle
from fsmv2.supervisor.telemetry.view import circuit_of, open_circuit, tree_pieces
from fsmv2.supervisor.tree import childcare


def at(bench: Bench, kind: type[Event]) -> list[float]:
    """When such events were heard, in seconds of the bench."""
    both = zip(bench.moments, bench.events, strict=True)
    return [moment - START for moment, event in both if isinstance(event, kind)]


def circuits(bench: Bench) -> dict[str, str]:
    """The circuits that are not closed."""
    found = {node.path: circuit_of(node, bench.engine) for node in bench.engine.nodes()}
    return {path: circuit for path, circuit in found.items() if circuit != "closed"}


def go_bad(bench: Bench, name: str, path: str = "") -> None:
    """Have ``name`` degrade until its parent's circuit is open."""
    MOOD[name] = "bad"
    bench.run(10.0, until=lambda: f"root{path}" in circuits(bench))


def line(*children: Any, **fields: Any) -> Any:
    """A parent below the root."""
    return child("line", "fickle", config={"children": children}, **fields)


# --- open -----------------------------------------------------------------------------------


def test_no_circuit_opens_without_children_or_while_all_are_well() -> None:
    """Scenario 64."""
    bench = bench_of(child("a", "soon"), line(child("b", "soon")))
    bench.run(120.0)
    assert circuits(bench) == {}
    assert bench.heard(CircuitOpened) == bench.heard(ChildRestarted) == []


def test_an_open_circuit_names_its_child_and_the_cause() -> None:
    """Scenario 65; and what the API shows of it."""
    bench = bench_of(line(child("a", "soon"), child("b", "soon")))
    bench.settle()
    go_bad(bench, "b", "/line")
    [opened] = bench.heard(CircuitOpened)
    assert (opened.path, opened.child_name, opened.cause) == ("root/line", "b", "healthy")
    assert opened.detail.startswith("degraded for 2 s and more: bad for")
    assert (opened.error_scope, opened.impact) == ("worker", "parent")
    assert opened.next_retry_in_s == pytest.approx(0.9, abs=0.1)
    tree = msgspec.json.decode(b"".join(tree_pieces(bench.engine, bench.pool, bench.now)))
    shown = tree["children"][0]
    assert shown["circuit"] == "open"
    assert shown["circuit_detail"]["failed_child"] == "b"
    assert shown["circuit_detail"]["runbook_url"] == "/runbooks/circuit-open.md"


def test_a_parent_with_an_open_circuit_derives_and_acts_no_more_until_it_closes() -> None:
    """Scenarios 67 and 111; its children and its decisions go on."""
    bench = bench_of(line(child("a", "soon"), child("b", "soon")))
    bench.pool.answers[SwitchOn] = lambda _action: "done"
    bench.settle()
    go_bad(bench, "b", "/line")
    MOOD["line"] = "act"
    node: Any = bench.node("line")
    derived, looked = node.worker.derived, bench.node("line/a").worker
    bench.engine.reload(
        bench.engine.root.declared or (), variables=VariableBundle(global_={"x": 1})
    )
    bench.run(0.5)
    assert node.worker.derived == derived
    assert bench.attempts(SwitchOn, "line") == []
    assert "circuit open: b has failed (healthy" in node.reason
    assert bench.node("line/a").worker is looked
    MOOD["b"] = "good"
    bench.run(5.0, until=lambda: circuits(bench) == {})
    bench.run(0.3)
    assert node.worker.derived == derived + 1
    assert bench.attempts(SwitchOn, "line")


def test_a_new_spec_is_derived_though_the_circuit_is_open() -> None:
    """Else no reload could repair a parent whose own config makes its child fail."""
    bench = bench_of(line(child("b", "soon")))
    bench.settle()
    go_bad(bench, "b", "/line")
    bench.redeclare(line())
    bench.run(2.0)
    assert "line/b" not in bench.tree()
    assert circuits(bench) == {}


def test_a_strict_circuit_pauses_all_children_but_the_failed_one() -> None:
    """The ticket's skip-everything, and scenario 74: what is below waits too."""
    bench = bench_of(child("a", "soon"), line(child("c")), strict_circuit=True)
    bench.settle()
    MOOD["line"] = "act"
    go_bad(bench, "a")
    before = len(bench.attempts(SwitchOn))
    for attempt in list(bench.pool.open.values()):
        bench.pool.complete(attempt)
    bench.run(0.5)
    assert len(bench.attempts(SwitchOn)) == before
    MOOD["a"] = "good"
    bench.run(5.0, until=lambda: circuits(bench) == {})
    bench.run(0.5)
    assert len(bench.attempts(SwitchOn)) == before + 1


# --- restart --------------------------------------------------------------------------------


def test_a_failed_child_is_made_anew_with_its_spec_its_variables_and_its_name() -> None:
    """Scenarios 69 and 72: new worker, told with the true downtime, siblings untouched."""
    spec = child("b", "soon", variables=VariableBundle(user={"ip": "10.0.0.1"}))
    bench = bench_of(line(child("a", "soon"), spec))
    bench.settle()
    MOOD["b#1"] = "bad"
    bench.run(10.0, until=lambda: circuits(bench) != {})
    old, [opened_at] = bench.node("line/b"), at(bench, CircuitOpened)
    bench.run(5.0, until=lambda: circuits(bench) == {})
    new = bench.node("line/b")
    assert new.worker is not old.worker
    assert (new.spec, new.generation) == (old.spec, 2)
    assert new.variables.user == {"ip": "10.0.0.1"}
    assert bench.node("line/a").generation == 1
    [recovered] = bench.heard(ChildRecovered)
    [closed_at] = at(bench, CircuitClosed)
    assert recovered.total_downtime_s == pytest.approx(closed_at - opened_at)
    assert (recovered.child_name, recovered.outcome) == ("b", "running")
    assert (recovered.attempts, len(bench.heard(ChildRestarted))) == (1, 1)


def test_no_restart_happens_before_its_wait_is_over() -> None:
    """Scenario 68: 1, 2, 4 … s with up to a fifth taken off."""
    bench = bench_of(child("b", "soon"))
    bench.settle()
    go_bad(bench, "b")
    [opened] = at(bench, CircuitOpened)
    bench.run(0.75)
    assert bench.heard(ChildRestarted) == []
    bench.run(0.35)
    [first] = at(bench, ChildRestarted)
    assert 0.8 <= first - opened <= 1.1
    bench.run(0.5)
    assert bench.node("b").generation == 2


def test_what_a_restarted_child_has_in_flight_is_killed_and_decided_again() -> None:
    """Scenario 109; other workers' actions go on."""
    bench = bench_of(child("p", "pump"), child("other", "fickle"))
    plant = Plant(bench)
    plant.on = True
    del bench.pool.answers[SwitchOn]
    MOOD["other"] = "act"
    bench.settle()
    others = bench.open_attempt(SwitchOn, "other")
    plant.on = False
    bench.run(3.0, until=lambda: bench.attempts(SwitchOn, "p") != [])
    mine = bench.open_attempt(SwitchOn, "p")
    del bench.pool.answers[Look]
    bench.run(60.0, until=lambda: bench.heard(ChildRestarted) != [])
    bench.run(0.5)
    assert mine.cancelled == "restarted"
    assert others.id in bench.pool.open
    plant = Plant(bench)
    bench.run(60.0, until=lambda: bench.tree().get("p") == "running")
    assert bench.node("p").generation >= 2


def test_five_attempts_then_one_escalation_and_the_circuit_stays_open() -> None:
    """Scenarios 70 and 128; the worker type says what a person should do."""
    bench = bench_of(
        child("b", "odd"),
        workers=[worker_type("odd", SOON, runbook_url="https://x/", manual_steps=("look",))],
    )
    bench.settle()
    go_bad(bench, "b")
    bench.run(600.0)
    assert [event.attempt for event in bench.heard(ChildRestarted)] == [1, 2, 3, 4, 5]
    [near] = bench.heard(EscalationNear)
    assert (near.child_name, near.attempts_remaining) == ("b", 1)
    assert near.total_downtime_s > 7
    [escalated] = bench.heard(EscalationRequired)
    assert (escalated.child_name, escalated.max_attempts) == ("b", 5)
    assert (escalated.runbook_url, escalated.manual_steps) == ("https://x/", ("look",))
    assert escalated.total_downtime_s > near.total_downtime_s
    assert circuits(bench) == {"root": "open"}
    MOOD["b"] = "good"
    bench.run(1.0)
    assert circuits(bench) == {}
    [recovered] = bench.heard(ChildRecovered)
    assert recovered.attempts == 5
    assert recovered.total_downtime_s > 600


def test_a_new_spec_ends_the_incident_and_its_attempts() -> None:
    bench = bench_of(child("b", "soon"))
    bench.settle()
    go_bad(bench, "b")
    bench.run(20.0)
    assert len(bench.heard(ChildRestarted)) >= 2
    MOOD["b"] = "good"
    bench.redeclare(child("b", "soon", config={"x": 1}))
    bench.run(3.0)
    assert bench.heard(ChildRecovered)[-1].outcome == "respecified"
    go_bad(bench, "b")
    bench.run(2.0)
    assert bench.heard(ChildRestarted)[-1].attempt == 1


# --- who has not failed ---------------------------------------------------------------------


def test_a_degraded_grandchild_opens_its_parents_circuit_only() -> None:
    """Scenario 74: the cause is deeper, and handled there."""
    bench = bench_of(child("line", "soon", config={"children": (child("b", "soon"),)}))
    bench.settle()
    MOOD.update(b="bad", line="bad")
    bench.run(60.0)
    assert {event.path for event in bench.heard(CircuitOpened)} == {"root/line"}
    assert bench.node("line").generation == 1
    MOOD.clear()
    bench.run(60.0)
    assert {event.path for event in bench.heard(CircuitOpened)} == {"root/line"}
    assert circuits(bench) == {}


def test_a_child_that_was_stopped_or_disabled_is_not_restarted() -> None:
    """Nothing an operator or a mapping has stopped is."""
    for changed in (
        child("b", "soon", enabled=False),
        child("b", "soon", state_mapping={"running": "stopped"}),
        child("b", "soon", config={"state": "stopped"}),
    ):
        bench = bench_of(child("b", "soon"))
        bench.settle()
        go_bad(bench, "b")
        bench.redeclare(changed)
        bench.run(120.0)
        assert bench.heard(ChildRestarted) == []
        assert circuits(bench) == {}
        assert bench.tree() == {"b": "stopped"}


def test_a_child_whose_config_is_refused_is_not_restarted_and_the_error_names_it() -> None:
    """Scenario 73."""

    def derive(self: Any, spec: UserSpec) -> DesiredState:
        raise SpecError("config: port: want a number")

    bench = bench_of(
        child("b", "picky"), workers=[worker_type("picky", SOON, derive_desired_state=derive)]
    )
    bench.run(120.0)
    [fault] = bench.heard(WorkerFaulted)
    assert "config: port" in fault.error
    assert bench.heard(ChildRestarted) == bench.heard(CircuitOpened) == []
    assert bench.node("b").panic_since is None


def test_a_temporary_child_is_told_as_failed_and_not_restarted() -> None:
    bench = bench_of(child("b", "soon", restart="temporary"))
    bench.settle()
    go_bad(bench, "b")
    bench.run(120.0)
    [opened] = bench.heard(CircuitOpened)
    assert "temporary" in opened.unless
    assert bench.heard(ChildRestarted) == []
    MOOD["b"] = "good"
    bench.run(1.0)
    assert circuits(bench) == {}


def test_one_that_works_degraded_by_design_has_not_failed() -> None:
    bench = bench_of(
        child("b", "calm"), workers=[worker_type("calm", SOON, unhealthy_after_s=None)]
    )
    MOOD["b"] = "bad"
    bench.run(300.0)
    assert bench.heard(CircuitOpened) == []


def test_a_short_degradation_is_no_failure() -> None:
    bench = bench_of(child("b", "soon"))
    for _ in range(20):
        MOOD["b"] = "bad"
        bench.run(1.5)
        MOOD["b"] = "good"
        bench.run(0.5)
    assert bench.heard(CircuitOpened) == []


def test_a_clean_restart_of_its_own_is_no_failure() -> None:
    calls = []

    def next_action(self: Any, snap: Any) -> Any:
        calls.append(snap.now)
        if len(calls) % 40 == 0:
            return Restart("recycled")
        return SOON.next_action(self, snap)

    bench = bench_of(child("b", "own"), workers=[worker_type("own", SOON, next_action=next_action)])
    bench.run(30.0)
    assert len(bench.heard(WorkerAdded)) > 2
    assert bench.heard(CircuitOpened) == []


def test_a_machine_in_trouble_costs_a_failed_child_none_of_its_restarts() -> None:
    """It could not come up. They go on when the machine is well again."""
    bench = bench_of(child("a", "soon"))
    go_bad(bench, "a")
    bench.engine.set_infrastructure("no disk")
    bench.run(120.0)
    assert bench.heard(ChildRestarted) == []
    assert bench.heard(CircuitStillOpen)[-1].next_retry_in_s is None
    care = bench.engine.root.care
    assert care is not None
    assert care.tracks["a"].unless == "the machine is in trouble, or was until just now"
    bench.engine.set_infrastructure(None)
    bench.run(20.0, until=lambda: bench.heard(ChildRestarted) != [])
    assert len(bench.heard(ChildRestarted)) == 1


# --- other causes ---------------------------------------------------------------------------


def test_a_child_that_cannot_be_made_opens_the_circuit_until_it_can() -> None:
    """Its constructor is called again by `reconciling`; the breaker orders nothing of its own."""
    broken = [True]

    def init(self: Any) -> None:
        if broken[0]:
            raise OSError("no licence")

    bench = bench_of(child("b", "dear"), workers=[worker_type("dear", SOON, __init__=init)])
    bench.run(10.0)
    [opened] = bench.heard(CircuitOpened)
    assert (opened.cause, opened.detail) == ("exists", "OSError: no licence")
    assert bench.heard(ChildRestarted) == []
    assert bench.heard(CircuitStillOpen)[-1].retry_attempt >= 3
    broken[0] = False
    bench.run(20.0)
    assert circuits(bench) == {}
    assert bench.tree() == {"b": "running"}


def test_a_child_that_can_never_be_made_warns_and_has_a_person_called() -> None:
    """Who is called, is sent to the runbook of its type, at the address of the config."""

    def init(self: Any) -> None:
        raise OSError("no licence")

    bench = bench_of(
        child("b", "dear"),
        workers=[worker_type("dear", SOON, __init__=init)],
        runbooks="https://wiki.example/",
    )
    bench.run(600.0)
    assert [event.attempts_remaining for event in bench.heard(EscalationNear)] == [1]
    [called] = bench.heard(EscalationRequired)
    assert called.runbook_url == "https://wiki.example/circuit-open.md"
    assert called.manual_steps
    assert bench.heard(ChildRestarted) == []
    line_of = open_circuit(bench.engine.root, bench.engine, "open", bench.now)
    assert line_of["escalated"]
    assert line_of["attempts"] > 5
    assert bench.heard(CircuitStillOpen)[-1].recovery_status == "escalation_imminent"


def test_another_fault_does_not_end_that_a_config_is_refused() -> None:
    """Or the child would be restarted for a config that no restart makes better."""
    configs = {"ok": True}

    def derive(self: Any, spec: UserSpec) -> DesiredState:
        if not configs["ok"]:
            raise SpecError("no such port")
        return DesiredState(state="running")

    def next_action(self: Any, snapshot: Any) -> Any:
        if not configs["ok"]:
            raise OSError("no network")
        return snapshot.state.next(snapshot)

    bad = worker_type("odd", SOON, derive_desired_state=derive, next_action=next_action)
    bench = bench_of(child("b", "odd"), workers=[bad])
    bench.run(5.0)
    configs["ok"] = False
    node = bench.node("b")
    node.derive_needed = True
    node.mark_dirty()
    bench.run(1.0)
    assert node.config_fault
    node.derive_needed = False  # what it has is kept, and its decisions raise from here on
    bench.run(120.0)
    assert node.config_fault
    assert bench.heard(ChildRestarted) == []
    configs["ok"], node.derive_needed = True, True
    bench.run(70.0)
    assert not node.config_fault


def test_a_child_that_cannot_be_observed_is_restarted_and_its_circuit_closes_when_it_is() -> None:
    bench = bench_of(child("p", "pump"))
    Plant(bench).on = True
    bench.settle()
    del bench.pool.answers[Look]
    bench.run(60.0, until=lambda: bench.heard(ChildRestarted) != [])
    assert bench.heard(CircuitOpened)[0].cause == "fresh"
    Plant(bench).on = True
    bench.run(30.0)
    assert bench.tree() == {"p": "running"}
    assert circuits(bench) == {}
    assert bench.node("p").generation == 2


# --- heartbeat ------------------------------------------------------------------------------


def test_n_ticks_of_an_open_circuit_give_n_heartbeats_with_the_six_fields() -> None:
    """Scenario 127, at the ticket's interval of 0; its status goes with the attempts."""
    bench = bench_of(child("b", "soon"), heartbeat_s=0.0)
    bench.settle()
    go_bad(bench, "b")
    bench.run(0.3)
    before, ticks = len(bench.heard(CircuitStillOpen)), bench.engine.ticks
    bench.run(0.5)
    assert len(bench.heard(CircuitStillOpen)) - before == bench.engine.ticks - ticks == 4
    bench.run(300.0)
    beats = bench.heard(CircuitStillOpen)
    statuses = {beat.retry_attempt: beat.recovery_status for beat in beats}
    assert statuses == {
        0: "attempting_recovery", 1: "attempting_recovery", 2: "attempting_recovery",
        3: "persistent_failure", 4: "persistent_failure", 5: "escalation_imminent",
    }  # fmt: skip
    assert all(beat.max_attempts == 5 for beat in beats)
    assert beats[0].next_retry_in_s is not None
    assert beats[-1].elapsed_downtime_s > 250


def test_heartbeats_are_a_second_apart_by_default() -> None:
    bench = bench_of(child("b", "soon", restart="temporary"))
    bench.settle()
    go_bad(bench, "b")
    bench.run(60.0)
    assert 59 <= len(bench.heard(CircuitStillOpen)) <= 61


# --- stop, cost -----------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [False, True])
def test_an_open_circuit_holds_up_no_stop(strict: bool) -> None:
    """Scenario 77."""
    bench = bench_of(child("a", "soon"), line(child("b", "soon")), strict_circuit=strict)
    bench.settle()
    MOOD.update(a="bad", b="bad")
    bench.run(5.0)
    assert set(circuits(bench)) == ({"root"} if strict else {"root", "root/line"})
    bench.engine.stop("asked")
    bench.run(3.0)
    assert bench.engine.stopped


def test_a_look_at_a_thousand_children_costs_those_that_have_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The health step's work is counted: one child has changed, the others are not looked at."""
    bench = bench_of(child("c7", "soon"), *(child(f"d{number}") for number in range(999)))
    bench.run(60.0)
    looked: list[str] = []
    whole = childcare.sight_of

    def counted(node: Any, care: Any, ctx: Any, name: str) -> Any:
        looked.append(name)
        return whole(node, care, ctx, name)

    monkeypatch.setattr(childcare, "sight_of", counted)
    MOOD["c7"] = "bad"
    bench.node("c7").mark_dirty()
    bench.run(0.25)
    assert "c7" in looked
    assert len(looked) < 50


def test_of_several_failed_children_the_one_a_person_was_called_for_is_named() -> None:
    """Not the first: it may only wait for the other."""
    bench = bench_of(child("a", "soon"), child("b", "soon"))
    MOOD["a"] = MOOD["b"] = "bad"
    bench.run(10.0, until=lambda: circuits(bench))
    MOOD["a"] = "coming"
    bench.run(200.0, until=lambda: bench.heard(EscalationRequired))
    care = bench.engine.root.care
    assert care is not None
    escalated = [name for name in care.failed() if care.tracks[name].escalated]
    assert care.failed()[0] == escalated[0]


def test_an_open_circuit_is_a_line_of_the_status_with_what_comes_next() -> None:
    bench = bench_of(child("a", "soon"))
    go_bad(bench, "a")
    line_of = open_circuit(bench.engine.root, bench.engine, "open", bench.now)
    assert (line_of["path"], line_of["attempts"], line_of["escalated"]) == ("root", 0, False)
    assert line_of["why"].startswith("a has failed (healthy: degraded for 2 s")
    assert 0 < line_of["next_attempt_in_s"] <= 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"unhealthy_after_s": "soon"},
        {"unhealthy_after_s": float("nan")},
        {"manual_steps": "look at it"},
        {"manual_steps": (1, 2)},
        {"runbook_url": None},
        {"sanity_checks": (1,)},
    ],
    ids=str,
)
def test_what_a_type_says_of_its_failures_is_checked_when_it_is_registered(
    wrong: dict[str, Any],
) -> None:
    """Not when a person is to be called for it."""
    with pytest.raises(SpecError, match=r"cannot register worker .* want"):
        bench_of(child("a", "odd"), workers=[worker_type("odd", SOON, **wrong)])
