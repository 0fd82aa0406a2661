"""Child breakers go on after a restart of the root: killing it is no way around them."""

from __future__ import annotations

from fickle import MOOD, SOON, bench_of
from harness import START, Bench, child
from kept import Kept

from fsmv2.supervisor.core.breakerevents import (
    ChildRecovered,
    ChildRestarted,
    CircuitOpened,
    EscalationRequired,
)


def next_root(first: Kept) -> Kept:
    """The next one, which begins where the wall clock of ``first`` is."""
    bench = Bench(child("b", "soon"), workers=[SOON], restart_failed=True)
    second = Kept(bench, first.sink.store.resume())
    bench.now += first.bench.now - START
    return second


def failing(until_attempts: int) -> Kept:
    first = Kept(bench_of(child("b", "soon")))
    first.run()
    MOOD["b"] = "bad"
    heard = first.bench.heard
    first.bench.run(300.0, until=lambda: len(heard(ChildRestarted)) >= until_attempts)
    first.run(0.5)
    return first


def test_attempts_and_the_incident_count_on_for_the_next_root() -> None:
    first = failing(3)
    second = next_root(first)
    second.bench.run(200.0)
    assert [event.attempt for event in second.bench.heard(ChildRestarted)] == [4, 5]
    assert second.bench.heard(CircuitOpened) == []
    [escalated] = second.bench.heard(EscalationRequired)
    assert escalated.total_downtime_s > 30


def test_an_escalated_incident_is_not_told_again_and_ends_when_the_child_runs() -> None:
    first = failing(5)
    second = next_root(first)
    second.bench.run(20.0)
    assert second.bench.heard(EscalationRequired) == second.bench.heard(ChildRestarted) == []
    assert second.bench.engine.root.care is not None
    assert second.bench.engine.root.care.is_open
    MOOD["b"] = "good"
    second.bench.run(3.0)
    [recovered] = second.bench.heard(ChildRecovered)
    assert recovered.attempts == 5
