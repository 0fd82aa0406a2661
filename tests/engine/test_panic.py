"""Code that raises again and again, and children that contradict each other; 66, 75, 76."""

from __future__ import annotations

from typing import Any

import pytest
from fickle import FICKLE, MOOD, SOON, bench_of
from harness import Bench, Look, child, worker_type
from test_childbreaker import circuits

from fsmv2.supervisor import SanityCheck
from fsmv2.supervisor.core import events as ev
from fsmv2.supervisor.core.breakerevents import (
    ChildRestarted,
    CircuitOpened,
    PanicBreakerClosed,
    PanicBreakerOpened,
)
from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.worker import WorkerFactory

# --- the panic breaker ----------------------------------------------------------------------


def test_the_third_raise_in_five_minutes_is_told_once_with_kind_and_stack() -> None:
    """Scenario 76: the loop survives."""
    bench = bench_of(child("b", "fickle"), restart_failed=False)
    MOOD["b"] = "raise"
    bench.run(250.0)
    [opened] = bench.heard(PanicBreakerOpened)
    assert (opened.path, opened.step, opened.raises) == ("root/b", "next_action", 3)
    assert opened.panic_type == "error"
    assert opened.error == "ValueError: no such valve"
    assert 'raise ValueError("no such valve")' in opened.traceback
    assert circuits(bench) == {"root": "open", "root/b": "panic"}


def test_a_panic_breaker_heals_when_its_window_drains_and_the_parents_circuit_too() -> None:
    """Scenario 75, and Go's V1: nobody is frozen meanwhile, and nothing sticks."""
    bench = bench_of(child("a", "fickle"), child("b", "fickle"), restart_failed=False)
    MOOD.update(a="bad", b="raise")
    bench.run(20.0)
    assert circuits(bench)["root/b"] == "panic"
    MOOD.clear()
    bench.run(1.0)
    assert bench.tree()["a"] == "running"
    bench.run(320.0)
    [closed] = bench.heard(PanicBreakerClosed)
    assert 280.0 < closed.open_s < 310.0
    assert circuits(bench) == {}
    assert bench.tree() == {"a": "running", "b": "running"}


def test_a_panicking_child_is_restarted_with_a_new_worker_and_an_empty_window() -> None:
    bench = bench_of(child("b", "fickle"))
    MOOD["b#1"] = "raise"
    bench.run(20.0)
    [opened] = bench.heard(CircuitOpened)
    assert opened.cause == "panic"
    assert len(bench.heard(ChildRestarted)) == 1
    assert bench.node("b").generation == 2
    assert circuits(bench) == {}


def test_a_panic_that_restarts_do_not_help_escalates_and_still_heals_by_itself() -> None:
    bench = bench_of(child("a", "fickle"), child("b", "fickle"))
    MOOD["b"] = "raise"
    bench.run(400.0)
    assert len(bench.heard(ChildRestarted)) == 5
    assert bench.tree()["a"] == "running"
    MOOD.clear()
    bench.run(340.0)
    assert circuits(bench) == {}
    assert bench.tree() == {"a": "running", "b": "running"}


def test_a_code_that_raises_now_and_then_is_called_ever_more_rarely() -> None:
    """It works between two raises, so that its own backoff begins anew each time."""
    calls: list[float] = []

    def next_action(self: Any, snap: Any) -> Any:
        calls.append(snap.now)
        if len(calls) % 3 == 0:
            raise ValueError("now and then")
        return FICKLE.next_action(self, snap)

    bench = bench_of(
        child("b", "shaky"),
        workers=[worker_type("shaky", FICKLE, next_action=next_action)],
        restart_failed=False,
    )
    bench.run(290.0)
    assert len(bench.node("b").raises) < 20
    assert len(calls) < 70


def test_a_raising_parent_keeps_its_children_and_they_go_on() -> None:
    bench = bench_of(
        child("line", "fickle", config={"children": (child("a", "fickle"),)}),
        restart_failed=False,
    )
    bench.settle()
    MOOD["line"] = "raise"
    bench.run(30.0)
    assert circuits(bench)["root/line"] == "panic"
    MOOD["a"] = "bad"
    bench.run(1.0)
    assert bench.tree()["line/a"] == "degraded"


# --- sanity checks --------------------------------------------------------------------------


def contradiction(children: Any) -> str | None:
    """The spec's example: output that goes nowhere while the broker is active."""
    if children["broker"].status == "on" and children["flow"].status == "lost":
        return f"{children['broker'].name} is active and no output is connected"
    return None


CHECK = SanityCheck("outputs", ("broker", "flow"), contradiction, "flow")


def plant_of(**options: Any) -> tuple[Bench, dict[str, Any]]:
    """Two observed children below a parent with a check; what each is seen as."""
    seen: dict[str, Any] = {"broker": "on", "flow": "on"}
    kind = worker_type("checked", FICKLE, sanity_checks=(CHECK,))
    eyed = [
        worker_type(name, SOON, observe=lambda self, desired, name=name: Look(host=name))
        for name in seen
    ]
    config = {"children": tuple(child(name, name) for name in seen)}
    bench = bench_of(child("line", "checked", config=config), workers=[kind, *eyed], **options)
    bench.pool.answers[Look] = lambda action: seen[action.host]
    bench.settle()
    return bench, seen


def test_a_sanity_check_that_fails_blames_its_child_which_is_restarted() -> None:
    """Scenario 66."""
    bench, seen = plant_of()
    assert circuits(bench) == {}
    seen["flow"] = "lost"
    bench.run(3.0, until=lambda: bench.heard(CircuitOpened) != [])
    [opened] = bench.heard(CircuitOpened)
    assert (opened.path, opened.child_name, opened.cause) == ("root/line", "flow", "sanity")
    assert opened.detail == "outputs: broker is active and no output is connected"
    bench.run(1.1, until=lambda: bench.heard(ChildRestarted) != [])
    seen["flow"] = "on"
    bench.run(10.0)
    assert circuits(bench) == {}
    assert bench.node("line/flow").generation == 2
    assert bench.node("line/broker").generation == 1


def test_a_sanity_check_with_a_participant_missing_or_stopped_is_not_asked() -> None:
    bench, seen = plant_of()
    seen["flow"] = "lost"
    MOOD["broker"] = "coming"
    bench.run(1.0)
    bench.run(20.0)
    assert "root/line" not in circuits(bench)


def test_a_sanity_check_that_raises_is_a_fault_of_its_own_worker() -> None:
    """Not of the tick, nor of a child; asked again, and well, it is over."""
    broken = [True]

    def check(children: Any) -> str | None:
        if broken[0]:
            raise KeyError("status")
        return None

    kind = worker_type("checked", FICKLE, sanity_checks=(SanityCheck("odd", ("a",), check, "a"),))
    bench = bench_of(
        child("line", "checked", config={"children": (child("a", "fickle"),)}),
        child("z", "fickle"),
        workers=[kind],
        restart_failed=False,
    )
    bench.settle()
    [fault] = bench.heard(ev.WorkerFaulted)
    assert (fault.path, fault.step) == ("root/line", "sanity_checks")
    assert bench.tree() == {"line": "running", "line/a": "running", "z": "running"}
    broken[0] = False
    bench.run(40.0)
    assert [event.path for event in bench.heard(ev.WorkerRecovered)] == ["root/line"]


@pytest.mark.parametrize(
    ("checks", "said"),
    [
        ([CHECK], "want a tuple"),
        (("outputs",), "holds str"),
        ((CHECK, CHECK), "twice"),
        ((SanityCheck("x", ("a",), contradiction, "b"),), "blames 'b', want one of"),
        ((SanityCheck("x", ("a",), None, "a"),), "want a function"),  # type: ignore[arg-type]
    ],
)
def test_sanity_checks_that_cannot_be_are_refused_with_the_worker_type(
    checks: Any, said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        WorkerFactory([worker_type("odd", sanity_checks=checks)])


@pytest.mark.parametrize("limit", [0, -1.0, 1e9])
def test_a_limit_of_degradation_that_cannot_be_is_refused(limit: float) -> None:
    with pytest.raises(SpecError, match="unhealthy_after_s"):
        WorkerFactory([worker_type("odd", unhealthy_after_s=limit)])


# --- what frees a child in trouble ----------------------------------------------------------


@pytest.mark.parametrize("full", [False, True])
def test_a_panicking_child_counts_as_failed_as_soon_as_it_should_run(full: bool) -> None:
    """Nothing of the child changes then, only what is wanted of it: both ticks see it at once."""

    def derive(self: Any, spec: Any) -> Any:
        raise OSError("nothing can be derived")

    kind = worker_type("numb", SOON, derive_desired_state=derive)
    bench = bench_of(
        child("a", "fickle"), child("b", "numb", enabled=False), workers=[kind], full=full
    )
    bench.run(8.0)
    assert bench.node("b").panic_since is not None
    assert bench.heard(CircuitOpened) == []
    bench.redeclare(child("a", "fickle"), child("b", "numb"))
    bench.run(0.4)
    [opened] = bench.heard(CircuitOpened)
    assert (opened.child_name, opened.cause) == ("b", "panic")
