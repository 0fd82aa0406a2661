"""The infrastructure breaker over a tree: what it holds back, lets through and tells."""

from __future__ import annotations

import datetime
from typing import Any, TypeVar

import msgspec
import pytest

from fsmv2.supervisor import (
    Act,
    Action,
    ActionContext,
    ChildSpec,
    Go,
    Phase,
    Settings,
    Snapshot,
    State,
    Worker,
)
from fsmv2.supervisor.config.settings import BreakerSettings, PoolSettings, WorkerSettings
from fsmv2.supervisor.core import events
from fsmv2.supervisor.core import infrastructureevents as told
from fsmv2.supervisor.core.limits import Limit
from fsmv2.supervisor.testing import Simulation
from fsmv2.supervisor.tree.relief import newest_to_spare

HALF_A_SECOND = datetime.timedelta(seconds=0.5)
E = TypeVar("E", bound=events.Event)


class Press(Action, frozen=True):
    timeout_s = 30.0
    host: str

    def execute(self, ctx: ActionContext) -> None: ...


class Shut(Action, frozen=True):
    host: str

    def execute(self, ctx: ActionContext) -> None: ...


class Look(Action, frozen=True):
    host: str

    def execute(self, ctx: ActionContext) -> bool: ...  # type: ignore[empty-body]


class Down(State):
    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Go:
        return Go(Working, reason="asked to run")


class Working(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Act:
        return Act(Press(snap.identity.name), reason="there is more to press")


class Shutting(State):
    phase = Phase.STOPPING

    def next(self, snap: Snapshot) -> Act | Go:
        result = snap.result(Shut)
        if result is not None and result.status == "succeeded":
            return Go(Down, reason="shut")
        return Act(Shut(snap.identity.name), reason="shutting")


class Presser(Worker):
    """Presses without end; a stop of it is an action too."""

    type_name, initial, stopping = "presser", Down, Shutting

    def observe(self, desired: Any) -> Look:
        return Look("x")


def simulate(pressers: int = 3, procs: int = 8, **breaker: Any) -> Simulation:
    config = Settings(
        name="root",
        workers=tuple(WorkerSettings(f"p{n}", "presser") for n in range(pressers)),
        pool=PoolSettings(procs=procs),
        breaker=BreakerSettings(**breaker),
    )
    return Simulation(
        [Presser], config=config, answers={Press: HALF_A_SECOND, Shut: None, Look: True}
    )


def heard(sim: Simulation, kind: type[E]) -> list[E]:
    return [event for event in sim.events if isinstance(event, kind)]


def pressing(sim: Simulation) -> int:
    return sum(node.attempt is not None for node in sim.engine.nodes())


def started(sim: Simulation) -> int:
    return len(heard(sim, events.ActionStarted))


def test_no_new_action_starts_while_a_limit_is_exceeded_and_what_runs_goes_on() -> None:
    """Workers are observed all along, and say what they wait for."""
    sim = simulate()
    sim.run(5.0)
    sim.probe.set("memory", 0.97)
    sim.until(lambda: heard(sim, told.InfrastructureOpened), 8.0)
    assert heard(sim, told.InfrastructureOpened)[0].cause == "memory at 97%, limit 95%"
    # One was cancelled to give memory back; the others ended by themselves.
    sim.run(1.0)
    before, looked = started(sim), sim.node("root/p1").observed_at
    sim.run(10.0)
    assert started(sim) == before
    statuses = {event.status for event in heard(sim, events.ActionEnded)}
    assert statuses == {"succeeded", "cancelled"}
    assert sim.node("root/p1").observed_at != looked
    assert sim.node("root/p1").reason == "infrastructure: memory at 97%, limit 95%"
    assert sim.node("root/p1").phase is Phase.RUNNING


def test_short_of_memory_the_newest_action_that_may_be_tried_again_is_cancelled_first() -> None:
    """One in a probe period, and no other for another cause."""
    sim = simulate()
    sim.run(5.0)
    sim.probe.set("pids", 0.99)
    sim.until(lambda: heard(sim, told.InfrastructureOpened), 8.0)
    assert heard(sim, told.MemoryRelieved) == []
    sim = simulate()
    sim.run(5.0)
    sim.probe.set("memory", 0.99)
    sim.until(lambda: heard(sim, told.InfrastructureOpened), 8.0)
    relieved = heard(sim, told.MemoryRelieved)
    newest = max(event.attempt_id for event in heard(sim, events.ActionStarted))
    assert [event.attempt_id for event in relieved] == [newest]


def test_what_waits_for_a_proc_when_it_opens_is_taken_back_and_decided_anew() -> None:
    """It has not begun: for the worker it is as if it had never been decided."""
    sim = simulate(pressers=6, procs=2)
    sim.run(5.0)
    waiting = [node for node in sim.engine.nodes() if node.attempt is not None]
    assert len(waiting) == 6
    before = {node: dict(node.results) for node in waiting}
    sim.probe.trip("no disk")
    sim.run(0.2)
    assert [event.count for event in heard(sim, told.ActionsRecalled)] == [4]
    still = [node for node in waiting if node.attempt is not None]
    assert len(still) == 2
    for node in waiting:
        if node not in still:
            assert dict(node.results) == before[node]
            assert not node.failures
    sim.run(5.0)
    assert pressing(sim) == 0
    sim.probe.clear()
    sim.run(12.0)
    assert pressing(sim) == 6


def test_an_action_from_outside_that_is_taken_back_waits_for_the_end_of_the_trouble() -> None:
    """Who has asked for it gets its result, later."""
    sim = simulate(pressers=3, procs=2)
    sim.run(5.0)
    ticket = sim.engine.submit_outside("root/p0", Press("me"))
    sim.until(lambda: sim.node("root/p0").outside is not None, 2.0)
    for _ in range(40):
        outside = sim.node("root/p0").outside
        running = None if outside is None else outside.in_flight
        if running is not None and sim.pool.in_flight(running.attempt_id).proc is None:  # type: ignore[union-attr]
            break
        sim.step()
    else:
        raise AssertionError("it has never waited for a proc")
    sim.probe.trip("no disk")
    sim.run(5.0)
    assert ticket.result is None
    sim.probe.clear()
    sim.run(12.0)
    assert ticket.result is not None
    assert ticket.result.succeeded


def test_what_a_stop_has_asked_for_is_not_taken_back() -> None:
    """Only what the workers wanted before it."""
    sim = simulate(pressers=6, procs=2)
    sim.run(5.0)
    sim.engine.stop("test")
    sim.run(0.3)
    sim.probe.trip("no disk")
    sim.run(5.0)
    assert sim.engine.root.phase is Phase.STOPPED
    ended = [event for event in heard(sim, events.ActionEnded) if event.action_type == "Shut"]
    assert [event.status for event in ended] == ["succeeded"] * 6


def test_what_waits_for_a_proc_holds_no_memory_and_is_not_cancelled_for_it() -> None:
    sim = simulate(pressers=6, procs=2)
    sim.run(5.0)
    running = {
        node.attempt.attempt_id
        for node in sim.engine.nodes()
        if node.attempt is not None and sim.pool.in_flight(node.attempt.attempt_id).proc is not None  # type: ignore[union-attr]
    }
    assert len(running) == 2
    spare = newest_to_spare(sim.engine.nodes(), sim.pool)
    assert spare is not None
    assert spare.attempt is not None
    assert spare.attempt.attempt_id == max(running)


def test_half_open_lets_one_then_two_then_four_actions_run_at_a_time() -> None:
    sim = simulate(pressers=8)
    sim.run(5.0)
    sim.probe.trip("no disk")
    sim.run(3.0)
    sim.probe.clear()
    sim.until(lambda: heard(sim, told.InfrastructureHalfOpened), 3.0)
    most: list[int] = []
    while sim.infrastructure.state(sim.clock.now) == "half_open":
        sim.step()
        most.append(pressing(sim))
    ramp = sorted(set(most[:-1]))
    assert ramp[:3] == [0, 1, 2] or ramp[:2] == [1, 2]
    assert 4 in most
    first_of = {count: most.index(count) for count in (1, 2, 4)}
    assert first_of[1] < first_of[2] < first_of[4]
    sim.run(2.0)
    assert pressing(sim) == 8


def test_a_stop_is_carried_out_while_it_is_open() -> None:
    """Its actions start; so the tree is down in bounds."""
    sim = simulate()
    sim.run(5.0)
    sim.probe.trip("no disk")
    sim.run(3.0)
    sim.stop()
    sim.until(lambda: sim.stopped, 10.0)
    assert [event.forced for event in heard(sim, events.WorkerRemoved)] == [False] * 4


def test_in_report_mode_it_tells_and_holds_nothing_back() -> None:
    sim = simulate(mode="report")
    sim.run(5.0)
    sim.probe.set("memory", 0.99)
    sim.run(10.0)
    (opened,) = heard(sim, told.InfrastructureOpened)
    assert opened.mode == "report"
    before = started(sim)
    sim.run(5.0)
    assert started(sim) > before
    assert heard(sim, told.MemoryRelieved) == []


def test_switched_off_it_does_nothing() -> None:
    sim = simulate(mode="off")
    sim.probe.set("memory", 0.99)
    sim.run(20.0)
    assert heard(sim, told.InfrastructureOpened) == []
    assert not sim.infrastructure.force("open", 60.0, "me", sim.clock.now)


def test_while_it_is_open_there_is_a_heartbeat_and_at_its_end_the_true_downtime() -> None:
    """UX-001."""
    sim = simulate()
    sim.run(5.0)
    sim.probe.trip("no disk", for_s=10.0)
    sim.until(lambda: heard(sim, told.InfrastructureRecovered), 20.0)
    (recovered,) = heard(sim, told.InfrastructureRecovered)
    assert recovered.total_downtime_s == pytest.approx(15.0, abs=0.2)
    beats = heard(sim, told.InfrastructureStillOpen)
    assert len(beats) == 14
    assert beats[3].elapsed_downtime_s == pytest.approx(4.0, abs=0.2)
    assert (beats[3].retry_attempt, beats[3].recovery_status) == (0, "attempting_recovery")
    assert beats[-1].state == "half_open"


def test_a_heartbeat_of_no_interval_comes_with_each_tick() -> None:
    sim = simulate(heartbeat_s=0.0)
    sim.probe.trip("no disk")
    sim.run(3.05)
    assert len(heard(sim, told.InfrastructureStillOpen)) == 30


def test_a_reading_that_goes_missing_neither_opens_nor_closes_it() -> None:
    sim = simulate()
    sim.probe.set("memory", 0.99)
    sim.run(10.0)
    sim.probe.fail("memory", "cannot read memory.current")
    sim.run(20.0)
    assert sim.infrastructure.state(sim.clock.now) == "open"
    (limit,) = sim.infrastructure.document(sim.clock.now)["limits"]
    assert limit["value"] is None
    assert limit["missing"] == "cannot read memory.current"
    sim.run(30.0)  # nobody has seen the excess for half a minute
    assert sim.infrastructure.state(sim.clock.now) == "closed"
    (forgotten,) = heard(sim, told.ExcessForgotten)
    assert forgotten.reading == limit["reading"]
    assert forgotten.reason == "cannot read memory.current"
    assert forgotten.unseen_s >= 30.0


def test_an_operator_holds_it_open_or_closed_for_a_time() -> None:
    sim = simulate()
    sim.run(5.0)
    sim.infrastructure.force("open", 10.0, "me", sim.clock.now)
    sim.run(2.0)
    before = started(sim)
    assert sim.node("root/p0").reason == "infrastructure: held open by an operator"
    assert sim.infrastructure.document(sim.clock.now)["causes"] == ["held open by an operator"]
    sim.run(7.0)
    assert started(sim) == before
    beats = heard(sim, told.InfrastructureStillOpen)
    assert [(beat.state, beat.cause, beat.forced) for beat in beats] == [
        ("open", "held open by an operator", True)
    ] * len(beats)
    assert [round(beat.elapsed_downtime_s) for beat in beats] == [*range(1, len(beats) + 1)]
    assert len(beats) >= 8
    sim.run(3.0)
    assert started(sim) > before
    sim.events.clear()
    sim.run(5.0)
    assert heard(sim, told.InfrastructureStillOpen) == []
    sim.probe.trip("no disk")
    sim.infrastructure.force("closed", 10.0, "me", sim.clock.now)
    before = started(sim)
    sim.run(8.0)
    assert started(sim) > before
    beat = heard(sim, told.InfrastructureStillOpen)[-1]
    assert (beat.state, beat.forced) == ("closed", True)
    assert beat.cause == "held closed by an operator; no disk"
    sim.run(3.0)
    assert [event.was for event in heard(sim, told.InfrastructureForceEnded)] == ["closed"]
    assert sim.engine.context.infrastructure == "no disk"
    sim.infrastructure.force("closed", 10.0, "me", sim.clock.now)
    sim.infrastructure.force(None, 10.0, "me", sim.clock.now)
    assert sim.engine.context.infrastructure == "no disk"


def test_the_limits_are_those_of_the_config() -> None:
    """And "off" takes a default away."""
    sim = simulate(limits={"memory": "off", "cpu": Limit(open=0.5, close=0.4, for_s=0.0)})
    sim.probe.set("memory", 1.0)
    sim.run(10.0)
    assert heard(sim, told.InfrastructureOpened) == []
    sim.probe.set("cpu", 0.6)
    sim.run(1.5)
    assert heard(sim, told.InfrastructureOpened)[0].cause == "cpu at 60%, limit 50%"


def test_an_action_from_outside_waits_until_it_is_closed() -> None:
    sim = simulate(pressers=1)
    sim.run(5.0)
    sim.probe.trip("no disk")
    sim.run(2.0)
    ticket = sim.engine.submit_outside("root/p0", Shut("p0"))
    sim.run(5.0)
    assert ticket.result is None
    sim.probe.clear()
    sim.until(lambda: ticket.result is not None, 15.0)


@pytest.mark.parametrize("seed", range(20))
def test_full_and_incremental_ticks_give_the_same_actions_under_leases(seed: int) -> None:
    traces = []
    for full in (False, True):
        children = [ChildSpec(f"p{n}", "presser") for n in range(6)]
        sim = Simulation(
            [Presser], children, answers={Press: HALF_A_SECOND, Shut: None, Look: True}, seed=seed,
            full=full, procs=8,
        )  # fmt: skip
        sim.run(3.0 + seed / 7)
        sim.probe.trip("no disk", for_s=3.0)
        sim.run(15.0)
        traces.append([(e.path, e.action_type) for e in heard(sim, events.ActionStarted)])
    assert traces[0] == traces[1]


def test_a_wall_clock_that_is_set_forward_and_back_changes_nothing() -> None:
    """Neither when the breaker opens and closes, nor who acts when."""
    traces = []
    for steps in (False, True):
        sim = simulate()
        for second in range(40):
            if steps:
                sim.clock.step_wall((86_400.0, -172_800.0, 3.7)[second % 3])
            if second in (5, 15):
                sim.probe.set("memory", 0.99 if second == 5 else 0.1)
            sim.run(1.0)
        assert heard(sim, told.InfrastructureRecovered)
        traces.append(sim.trace.lines)
    assert traces[0] == traces[1]


def test_a_limit_of_an_unknown_reading_is_refused_with_those_there_are() -> None:
    with pytest.raises(msgspec.ValidationError, match="cannot limit 'memroy'"):
        msgspec.convert({"limits": {"memroy": "off"}}, BreakerSettings)
    with pytest.raises(msgspec.ValidationError, match="want an absolute path"):
        msgspec.convert({"disks": ["data"]}, BreakerSettings)
