"""Actions that overlap, outlast their time or never end; spec scenarios 93, 95, 96, 99 and 100."""

from __future__ import annotations

import math
from typing import Any

from harness import Bench, Look, SwitchOn, child

from fsmv2.supervisor.core.action import Action, ActionContext, Retry
from fsmv2.supervisor.core.events import ActionEnded, ActionStarted, Event, ResultDropped
from fsmv2.supervisor.core.fsm import Act, Decision, Go, Phase, Snapshot, State, Stay
from fsmv2.supervisor.core.spec import ChildSpec, DesiredState, UserSpec
from fsmv2.supervisor.core.worker import Worker
from fsmv2.supervisor.testing import Simulation


class Work(Action, frozen=True):
    timeout_s = 30.0
    retry = Retry(base_s=1.0, factor=2.0, max_s=4.0, jitter=0.0)

    def execute(self, ctx: ActionContext) -> str: ...


class Hang(Action, frozen=True):
    """Hears nothing of being cancelled."""

    timeout_s = 4.0
    retry = Retry(base_s=1.0, factor=2.0, max_s=4.0, jitter=0.0)

    def execute(self, ctx: ActionContext) -> str: ...


class HangForAnHour(Action, frozen=True):
    timeout_s = 3600.0

    def execute(self, ctx: ActionContext) -> str: ...


class Idle(State):
    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Decision:
        return Go(Busy, "asked to run")


class Busy(State):
    phase = Phase.STARTING

    def next(self, snap: Snapshot) -> Decision:
        kind = KINDS[snap.config["does"]]
        result = snap.result(kind)
        if result is not None and result.succeeded:
            return Go(Done, "done")
        return Act(kind(), "not done")


class Done(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Decision:
        return Stay("done")


KINDS: dict[str, type[Action]] = {"work": Work, "hang": Hang, "hang for an hour": HangForAnHour}


class Worky(Worker):
    """Comes up by one action."""

    type_name = "worky"
    initial = stopping = Idle

    def derive_desired_state(self, spec: UserSpec) -> DesiredState:
        return DesiredState("running", config=spec.config)


def does(name: str, what: str = "work") -> ChildSpec:
    return ChildSpec(name, "worky", UserSpec({"does": what}), shutdown_timeout_s=5.0)


def simulate(*children: ChildSpec, work_s: float = 1.0, procs: int = 2) -> Simulation:
    sim = Simulation([Worky], children, procs=procs)
    sim.pool.answer(Work, "done", takes_s=work_s)
    for kind in (Hang, HangForAnHour):
        sim.pool.answer(kind, takes_s=math.inf)
    return sim


def heard(sim: Simulation, kind: type[Event], **fields: Any) -> list[Any]:
    return [
        event
        for event in sim.events
        if isinstance(event, kind) and all(getattr(event, k) == v for k, v in fields.items())
    ]


def all_run(sim: Simulation) -> bool:
    return set(sim.tree().values()) == {"running"}


def test_an_action_over_its_time_is_ended_and_its_slot_is_free() -> None:
    """Scenario 93: told once as timed out; the next in line has its place, and it is offered
    again after its wait."""
    sim = simulate(does("a", "hang"), does("b"), procs=1)
    sim.until(lambda: heard(sim, ActionEnded, path="root/a"), 6.0)
    assert 4.0 <= sim.clock.elapsed_s < 5.0
    assert [event.status for event in heard(sim, ActionEnded)] == ["timed_out"]
    sim.until(lambda: sim.node("root/b").phase is Phase.RUNNING, 2.0)
    assert len(heard(sim, ActionStarted, path="root/a")) == 1
    sim.until(lambda: len(heard(sim, ActionStarted, path="root/a")) == 2, 2.0)


def test_slow_actions_of_three_workers_overlap() -> None:
    """Scenario 95: all three in less than one and a half times the time of one."""
    sim = simulate(does("a"), does("b"), does("c"), work_s=10.0, procs=3)
    sim.until(lambda: len(heard(sim, ActionEnded)) == 3, 15.0)
    sim.run(1.0)
    assert all_run(sim)


def test_three_times_as_many_actions_as_slots_all_complete() -> None:
    """Scenario 96: 150 on 50 slots, in three rounds, each tried once."""
    sim = simulate(*(does(f"w{n}") for n in range(150)), procs=50)
    sim.until(lambda: all_run(sim), 5.0)
    ended = heard(sim, ActionEnded, status="succeeded")
    assert len({event.path for event in ended}) == len(ended) == 150
    assert len(heard(sim, ActionStarted)) == 150


def test_an_action_deaf_to_its_cancel_is_told_at_its_deadline_and_never_again() -> None:
    """Scenario 99; the decision: killed at its deadline, not warned of at twice and given up at
    three times of it. What comes of it later is dropped; the attempt after it stays in flight."""
    bench = Bench(child("p", "pump"))
    bench.pool.answers[Look] = lambda _action: "off"
    bench.run(2)
    first = bench.open_attempt(SwitchOn)
    bench.pool.complete(first, status="timed_out")
    bench.run(10, until=lambda: len(bench.attempts(SwitchOn)) == 2)
    second = bench.open_attempt(SwitchOn)
    assert first.result is not None
    bench.engine.deliver(first.id, first.result)
    bench.run(1)
    assert [event.attempt_id for event in bench.heard(ActionEnded)] == [first.id]
    [dropped] = bench.heard(ResultDropped)
    assert dropped.attempt_id == first.id
    in_flight = bench.node("p").attempt
    assert in_flight is not None
    assert in_flight.attempt_id == second.id


def test_as_many_hung_actions_as_slots_stop_nobody_else() -> None:
    """Scenario 100, V8: their slots are back at their deadline, time after time."""
    sim = simulate(does("a", "hang"), does("b", "hang"), *(does(f"w{n}") for n in range(6)))
    sim.until(lambda: len(heard(sim, ActionEnded, status="succeeded")) == 6, 20.0)
    sim.run(60.0)
    assert len(heard(sim, ActionEnded, status="timed_out")) > 10


def test_a_stop_ends_in_its_time_though_every_slot_hangs() -> None:
    """Scenario 100, V8: the hung ones are killed when the stop has waited, not in an hour."""
    sim = simulate(does("a", "hang for an hour"), does("b", "hang for an hour"), does("c"))
    sim.run(10.0)
    assert len(sim.pool.open) == 3
    sim.stop()
    sim.until(lambda: sim.stopped, 6.0)
    assert [event.status for event in heard(sim, ActionEnded, path="root/a")] == ["cancelled"]
