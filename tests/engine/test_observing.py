"""Observations that do not come, fail, are old or heal; scenarios 78 to 89, 101, 103, 110.

The decision on top of the scenarios: a worker is never removed for what cannot be observed.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from harness import Bench, Look, Plant, Pump, SwitchOff, SwitchOn, child, worker_type
from test_histories import replay, told

from fsmv2.supervisor.core.action import Action
from fsmv2.supervisor.core.breakerevents import CircuitStillOpen
from fsmv2.supervisor.core.events import (
    Event,
    ObservationFailed,
    ObservationRecovered,
    ObservationStale,
    StateChanged,
    WorkerRemoved,
)
from fsmv2.supervisor.core.freshness import ObservationRules
from fsmv2.supervisor.core.fsm import Decision, Phase, Snapshot
from fsmv2.supervisor.core.spec import DesiredState
from fsmv2.supervisor.core.workevents import ObservationLost, ProbeRestarted


class Noted(Pump):
    """A pump that notes when it was asked, and for how old an observation."""

    type_name = "noted"
    asked: list[float] = []

    def next_action(self, snapshot: Snapshot) -> Decision:
        assert snapshot._age_s is not None
        self.asked.append(snapshot._age_s)
        return super().next_action(snapshot)


def running(*more: Any, **options: Any) -> tuple[Bench, float]:
    """A bench whose pump "p" runs and is not answered any more; when its last look was begun."""
    Noted.asked = []
    bench = Bench(child("p", "noted"), *more, workers=[Noted, *options.pop("workers", ())],
                  **options)  # fmt: skip
    Plant(bench).on = True
    bench.settle()
    assert bench.tree()["p"] == "running"
    del bench.pool.answers[Look]
    bench.run(1.1)
    return bench, bench.attempts(Look, "p")[-2].at


def moments(bench: Bench, kind: type[Event], since: float) -> list[float]:
    """When such events were heard, in seconds after ``since``."""
    return [
        round(at - since, 1)
        for at, event in zip(bench.moments, bench.events, strict=True)
        if isinstance(event, kind)
    ]


def test_up_to_ten_seconds_old_is_fresh_and_older_is_paused() -> None:
    """Scenario 78: at 9.9 s it is asked, over 10 s it is not, and nothing is restarted yet."""
    bench, last = running()
    bench.run(last + 9.9 - bench.now)
    Noted.asked.clear()
    bench.node("p").mark_dirty()
    bench.tick()
    assert [round(age, 1) for age in Noted.asked] == [9.9]
    bench.run(last + 19.9 - bench.now)
    bench.node("p").mark_dirty()
    bench.tick()
    assert all(age <= 10.0 for age in Noted.asked)
    assert bench.node("p").reason.startswith("paused: last observed 19.9 s ago")
    assert bench.heard(ProbeRestarted) == []
    assert bench.tree() == {"p": "running"}


def test_a_dead_probe_is_restarted_after_2_4_and_6_seconds_then_the_worker_is_degraded() -> None:
    """Scenario 79; the decision: degraded where the scenario has it removed. No tick waits: all
    of this is asked for by moments."""
    bench, last = running()
    bench.run(100)
    assert moments(bench, ObservationStale, last) == [10.0]
    assert moments(bench, ProbeRestarted, last) == [20.0, 22.0, 26.0, 32.0]
    assert moments(bench, ObservationLost, last) == [32.0]
    assert [event.restart for event in bench.heard(ProbeRestarted)] == [1, 2, 3, 4]
    assert bench.tree() == {"p": "degraded"}
    assert bench.node("p").state_name == "pump_on"  # its state is kept
    assert bench.node("p").reason.startswith("degraded: last observed")
    assert bench.heard(WorkerRemoved) == []


def test_a_hung_probe_is_killed_and_a_new_one_brings_the_news() -> None:
    """Scenario 86, V6: the stuck one is replaced, no tick waits for it, siblings go on."""
    bench, last = running(child("q", "pump"))
    stuck = bench.open_attempt(Look, "p")
    bench.run(last + 20.1 - bench.now)
    assert stuck.cancelled == "restarted"
    fresh = bench.open_attempt(Look, "p")
    assert fresh.at - last < 20.2
    bench.pool.complete(fresh, "on")
    bench.tick()
    assert bench.tree()["p"] == "running"
    [recovered] = bench.heard(ObservationRecovered, "p")
    assert (recovered.failures, recovered.restarts) == (0, 1)


def test_a_probe_that_cannot_be_killed_holds_up_nothing_and_is_not_doubled() -> None:
    """Scenario 86: a proc in an uninterruptible sleep; the pool has its key, and one look."""
    bench, _last = running(child("q"))
    bench.pool.deaf = True
    begun = len(bench.attempts(Look, "p"))
    bench.run(60)
    assert len(bench.attempts(Look, "p")) == begun
    assert bench.tree() == {"p": "degraded", "q": "running"}
    bench.pool.complete(bench.open_attempt(Look, "p"), status="cancelled")
    bench.tick()
    bench.pool.complete(bench.open_attempt(Look, "p"), "on")
    bench.tick()
    assert bench.tree() == {"p": "running", "q": "running"}


def test_fresh_data_ends_the_incident_and_its_counters() -> None:
    """Scenario 80: the next incident is counted from 1 again, and told again."""
    bench, _ = running()
    for incident in range(1, 4):
        bench.run(60)
        assert len(bench.heard(ObservationLost)) == incident
        bench.pool.answers[Look] = lambda _action: "on"
        bench.run(60)
        assert bench.tree() == {"p": "running"}
        assert len(bench.heard(ObservationRecovered)) == incident
        del bench.pool.answers[Look]
    assert [event.restart for event in bench.heard(ProbeRestarted)] == [1, 2, 3, 4] * 3
    node = bench.node("p")
    assert (node.probe_restarts, node.observe_failures, node.is_lost) == (0, 0, False)


@pytest.mark.parametrize("status", ["failed", "timed_out", "crashed"])
def test_one_look_that_fails_is_no_incident_for_the_next(status: Any) -> None:
    """Scenario 81: the next one is begun and counts."""
    bench, _ = running()
    bench.pool.complete(bench.open_attempt(Look), "boom", status=status)
    bench.pool.answers[Look] = lambda _action: "on"
    bench.run(3)
    assert len(bench.heard(ObservationFailed)) == len(bench.heard(ObservationRecovered)) == 1
    assert bench.tree() == {"p": "running"}


def test_many_reasons_to_look_are_one_look() -> None:
    """Scenario 82: asked for five times while one is under way, one more follows."""
    bench, _ = running()
    begun = len(bench.attempts(Look))
    for _ in range(5):
        bench.node("p").observe_at = bench.now
        bench.node("p").mark_dirty()
        bench.run(0.1)
    assert len(bench.attempts(Look)) == begun
    bench.pool.complete(bench.open_attempt(Look), "on")
    bench.run(0.5)
    assert len(bench.attempts(Look)) == begun + 1


def test_nothing_is_observed_before_there_is_a_desired_state() -> None:
    """Scenario 83: the look is skipped, not failed; it comes with the first good derivation."""
    broken = [True]

    def derive(self: Any, spec: Any) -> DesiredState:
        if broken:
            raise ValueError("not yet")
        return DesiredState("running")

    kind = worker_type("late", Pump, derive_desired_state=derive)
    bench = Bench(child("p", "late"), workers=[kind])
    Plant(bench).on = True
    bench.run(60)
    assert bench.attempts(Look) == []
    assert bench.heard(ProbeRestarted) == []
    broken.clear()
    bench.run(60)
    assert bench.tree() == {"p": "running"}


def test_the_framework_stamps_an_observation_with_its_beginning() -> None:
    """Scenario 84: a worker's status needs no time of its own; age counts from the begin."""
    bench, _ = running()
    attempt = bench.open_attempt(Look)
    bench.run(3)
    bench.pool.complete(attempt, "on")
    bench.tick()
    assert bench.node("p").observed_at == attempt.at


def test_five_minutes_in_one_state_are_not_stale() -> None:
    """Scenario 85: age is the observation's, not the state's."""
    bench = Bench(child("p", "pump"))
    Plant(bench).on = True
    bench.settle(300)
    assert bench.heard(ObservationStale) == bench.heard(ProbeRestarted) == []
    assert len(bench.heard(StateChanged, "p")) == 2


def test_a_minute_of_failures_pauses_and_heals() -> None:
    """Scenario 87, V9: paused, then degraded, never removed; a healed world is seen."""
    bench, _ = running()
    bench.pool.answers[Look] = lambda _action: OSError("no route")
    bench.run(60)
    assert bench.tree() == {"p": "degraded"}
    bench.pool.answers[Look] = lambda _action: "on"
    bench.run(31)
    assert bench.tree() == {"p": "running"}
    assert bench.heard(WorkerRemoved) == []
    assert [event.to_state for event in bench.heard(StateChanged, "p")] == [
        "pump_starting",
        "pump_on",
    ]


def test_an_hour_of_failures_is_a_handful_of_reports_and_grows_slower() -> None:
    """Scenario 89: one report per step of the incident; looks at the longest backoff."""
    bench, _ = running()
    before, begun = len(bench.events), len(bench.attempts(Look))
    bench.pool.answers[Look] = lambda _action: OSError("no route")
    bench.run(3600)
    steady = (StateChanged, CircuitStillOpen)  # the second is the heartbeat of UX-001
    told = [event for event in bench.events[before:] if not isinstance(event, steady)]
    assert len(told) == 8  # failed, stale, four restarts, lost, the parent's circuit
    looks = [one.at for one in bench.attempts(Look)[begun:]]
    assert 120 <= len(looks) <= 170
    assert all(24.0 <= b - a <= 30.2 for a, b in itertools.pairwise(looks[20:]))


def test_a_parent_sees_a_child_that_cannot_be_observed_as_degraded() -> None:
    """And sees it run again in the very tick its news came in."""
    bench, _ = running()
    bench.run(60)
    assert bench.engine.root.phase is Phase.DEGRADED
    assert bench.engine.phases()["degraded"] == 2
    bench.pool.answers[Look] = lambda _action: "on"
    bench.run(60)
    assert bench.engine.root.phase is Phase.RUNNING


def test_a_running_dependent_goes_on_and_a_stopped_one_waits() -> None:
    """Degraded is not running: nobody starts on it, nobody stops for it."""
    bench, _ = running(child("q", "quiet", "p"))
    assert bench.tree()["q"] == "running"
    bench.run(60)
    assert bench.tree() == {"p": "degraded", "q": "running"}
    bench.redeclare(child("p", "noted"), child("q", "quiet", "p"), child("r", "quiet", "p"))
    bench.run(5)
    assert bench.tree() == {"p": "degraded", "q": "running", "r": "stopped"}
    bench.pool.answers[Look] = lambda _action: "on"
    bench.run(60)
    assert set(bench.tree().values()) == {"running"}


def test_a_worker_that_stops_is_not_degraded() -> None:
    """A stop goes through unseen, and what is stopped is stopped."""
    bench, _ = running()
    bench.run(60)
    bench.redeclare(child("p", "noted", enabled=False))
    bench.run(5)
    assert bench.tree() == {"p": "stopped"}
    bench.run(100)
    assert bench.tree() == {"p": "stopped"}
    bench.redeclare()
    bench.run(5)
    assert bench.tree() == {}
    assert [event.forced for event in bench.heard(WorkerRemoved)] == [False]


def test_a_worker_that_is_never_observed_is_told_and_its_probe_restarted() -> None:
    """Counted from the moment the first look was due."""
    bench = Bench(child("p", "pump"))
    bench.run(40)
    assert [event.restart for event in bench.heard(ProbeRestarted)] == [1, 2, 3, 4]
    assert bench.tree() == {"p": "stopped"}
    Plant(bench).on = True
    bench.run(5)
    assert bench.tree() == {"p": "running"}


def test_a_worker_that_needs_no_observation_any_more_is_not_degraded() -> None:
    """Its new desired state ends the incident."""

    def observe(self: Any, desired: DesiredState) -> Action | None:
        return Look() if desired.config.get("look") else None

    kind = worker_type("sometimes", observe=observe)
    bench = Bench(child("p", "sometimes", config={"look": True}), workers=[kind])
    bench.pool.answers[Look] = lambda _action: "on"
    bench.run(5)
    del bench.pool.answers[Look]
    bench.run(60)
    assert bench.tree() == {"p": "degraded"}
    bench.redeclare(child("p", "sometimes", config={}))
    bench.run(1)
    assert bench.tree() == {"p": "running"}
    bench.run(300)
    bench.redeclare(child("p", "sometimes", config={"look": True}))
    bench.run(19)
    assert bench.tree() == {"p": "running"}  # what was seen once says nothing of now


def test_a_worker_whose_decisions_fail_is_observed_all_the_same() -> None:
    """Its code is not what looks; healed, it decides on fresh news at once."""
    broken: list[bool] = []

    def next_action(self: Any, snap: Snapshot) -> Decision:
        if broken:
            raise ValueError("no idea")
        return Pump.next_action(self, snap)

    kind = worker_type("confused", Pump, next_action=next_action)
    bench = Bench(child("p", "confused"), workers=[kind])
    Plant(bench).on = True
    bench.run(5)
    broken.append(True)
    bench.pool.answers[Look] = lambda _action: "off"
    begun = len(bench.attempts(Look))
    bench.run(60)
    assert len(bench.attempts(Look)) - begun >= 58
    assert bench.heard(ObservationStale) == []


def test_looks_of_many_workers_spread_over_the_interval() -> None:
    """No herd: after a minute no tenth of a second has more than a third of them, and two runs
    with one seed look at the same moments."""

    def looks() -> list[float]:
        bench = Bench(*[child(f"p{i}", "pump") for i in range(40)])
        Plant(bench).on = True
        bench.run(60)
        return [one.at for one in bench.attempts(Look)][-40:]

    first = looks()
    tenths = [round(at, 1) for at in first]
    assert max(tenths.count(tenth) for tenth in set(tenths)) <= 13
    assert first == looks()


def test_looks_that_a_full_queue_refuses_come_back_apart() -> None:
    """Nothing was tried, so nothing has failed, and they do not come back together."""
    bench = Bench(*[child(f"p{i}", "pump") for i in range(20)])
    bench.run(0.2)
    full = len(bench.attempts(Look))
    assert full == 20
    for attempt in list(bench.pool.open.values()):
        bench.pool.refuse(attempt, "QueueFull")
    bench.run(2)
    again = [one.at for one in bench.attempts(Look)[20:]]
    assert len(again) == 20
    assert len(set(again)) > 10
    assert bench.heard(ObservationFailed) == []


def test_the_configs_interval_is_the_one_that_counts() -> None:
    """By worker type, instead of the class's own."""
    bench = Bench(child("p", "pump"), observation=ObservationRules(intervals={"pump": 5.0}))
    Plant(bench).on = True
    bench.run(60)
    assert 12 <= len(bench.attempts(Look)) <= 15


def test_thresholds_are_the_configs() -> None:
    """Paused after 3 s, its probe restarted after 4 s."""
    bench, last = running(observation=ObservationRules(stale_s=3.0, dead_s=4.0))
    bench.run(20)
    assert moments(bench, ObservationStale, last) == [3.0]
    assert moments(bench, ProbeRestarted, last)[:2] == [4.0, 6.0]


def test_a_stop_is_not_held_up_by_the_gate_after_an_action() -> None:
    """Scenario 101: an action waits for an observation newer than the last one's end; a stop
    goes past that gate."""
    bench = Bench(child("p", "pump"))
    bench.pool.answers[Look] = lambda _action: "off"
    bench.run(1)
    del bench.pool.answers[Look]
    bench.run(1.5)
    bench.pool.complete(bench.open_attempt(SwitchOn), "done")
    bench.run(3)
    assert bench.node("p").reason == "waiting for an observation newer than the last action"
    assert len(bench.attempts(SwitchOn)) == 1
    bench.redeclare(child("p", "pump", enabled=False))
    bench.run(2)
    assert len(bench.attempts(SwitchOff)) == 1


def test_observations_go_on_while_the_infrastructure_breaker_is_open() -> None:
    """Scenario 110: when it closes, the first decision sees what is at most one interval old."""
    bench, _ = running()
    bench.pool.answers[Look] = lambda _action: "on"
    bench.engine.set_infrastructure("disk full")
    bench.run(60)
    Noted.asked.clear()
    bench.engine.set_infrastructure(None)
    bench.run(0.2)
    assert Noted.asked[0] <= 1.1


def test_quiet_workers_have_no_part_in_this() -> None:
    """No observation, no age, no restart."""
    bench = Bench(child("a", "quiet"))
    bench.run(200)
    assert bench.node("a").observed_at is None
    assert bench.heard(ProbeRestarted) == []


@pytest.mark.parametrize("trouble", ["hang", "break"])
def test_both_ticks_restart_and_give_up_at_the_same_moments(trouble: str) -> None:
    """The full tick and the incremental one tell the same, through a whole incident."""
    history = [("wait", 40), (trouble, Look), ("wait", 500), ("heal", None), ("wait", 300)]
    incremental, full = (replay(history, full=full, restart_failed=False) for full in (False, True))
    assert len(incremental.heard(ObservationLost)) == 1
    assert told(incremental) == told(full)
    assert [one.at for one in incremental.pool.attempts] == [one.at for one in full.pool.attempts]


def test_observations_that_were_killed_or_died_are_counted_each() -> None:
    """Only the first of an incident is an event; the summary of a run has them all."""
    bench, _ = running()
    for status in ("timed_out", "crashed", "timed_out"):
        bench.run(60)
        bench.pool.complete(bench.open_attempt(Look, "p"), status=status)
    assert bench.engine.observation_deaths == {"timed_out": 1, "crashed": 1}
    bench.engine.settle(bench.now, 0.0)  # no tick more
    assert bench.engine.observation_deaths == {"timed_out": 2, "crashed": 1}
