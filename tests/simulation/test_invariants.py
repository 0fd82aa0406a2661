"""Each promise that is checked is seen to be broken when it is: one planted bug each."""

from __future__ import annotations

import random
from typing import Any

import pytest
from twins import play_twins
from worlds import History

from fsmv2.supervisor.core import events
from fsmv2.supervisor.core.action import ActionResult
from fsmv2.supervisor.core.childbreaker import Policy
from fsmv2.supervisor.core.errors import BugError
from fsmv2.supervisor.core.fsm import Decision, Go, Phase, Snapshot, State, Stay
from fsmv2.supervisor.core.gate import Conditions, Gate, gate
from fsmv2.supervisor.core.restarts import RestartBudget
from fsmv2.supervisor.core.spec import ChildSpec, UserSpec
from fsmv2.supervisor.core.worker import Worker
from fsmv2.supervisor.testing import FaultPlan, Simulation
from fsmv2.supervisor.testing.simlife import SimLife
from fsmv2.supervisor.testing.simprocs import SimProc
from fsmv2.supervisor.tree import acting, childcare, leaving, restarting, steps
from fsmv2.supervisor.tree.engine import Engine
from fsmv2.supervisor.tree.node import Node

SEEDS = range(40)


class Off(State):
    """Raises whenever it is asked."""

    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Decision:
        if snap.desired.stop_asked:
            return Stay("off")
        raise ValueError("always")


class On(State):
    """Comes up, and stays."""

    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Decision:
        return Stay("on")


class Once(Worker):
    """One whose first incarnation raises."""

    type_name, initial, stopping = "once", Off, Off

    def next_action(self, snapshot: Snapshot) -> Decision:
        if snapshot.identity.generation == 1 or isinstance(snapshot.state, On):
            return super().next_action(snapshot)
        return Go(On, "tried again")


class Raiser(Worker):
    """A worker whose state raises."""

    type_name, initial, stopping = "raiser", Off, Off


def find_it(faults: FaultPlan | None = None) -> str:
    """Play seeds until one runs into the planted bug."""
    for seed in SEEDS:
        try:
            History(seed, faults).begin().play()
        except BugError as error:
            return str(error)
    raise AssertionError(f"none of {len(SEEDS)} seeds has found the planted bug")


def test_a_second_action_in_flight_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(now: Conditions) -> Gate:
        found = gate(now)
        return Gate(found.derive, True, True, "") if now.in_flight else found

    monkeypatch.setattr(steps, "gate", careless)
    assert find_it().startswith("I2 broken: ")


def test_a_result_that_reaches_another_worker_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that come one after the other are given to each other's owners."""
    deliver = Engine.deliver
    held: list[tuple[int, ActionResult]] = []

    def confused(self: Engine, attempt_id: int, result: ActionResult) -> None:
        if not held:
            held.append((attempt_id, result))
            return
        other_id, other = held.pop()
        deliver(self, attempt_id, other)
        deliver(self, other_id, result)

    monkeypatch.setattr(Engine, "deliver", confused)
    assert find_it(FaultPlan()).startswith("I3 broken: ")


def test_a_stop_that_is_held_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def strict(now: Conditions) -> Gate:
        if now.stopping and now.infrastructure_open:
            return Gate(False, False, False, "not now")
        return gate(now)

    monkeypatch.setattr(steps, "gate", strict)
    assert find_it(FaultPlan(spike=0.5, respec=0.5, vanish=0.5)).startswith("I4 broken: ")


def test_a_stop_without_a_bound_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be closed, and nobody is dropped for it."""
    monkeypatch.setattr(acting, "bound_stop", lambda node, ctx: None)
    history = History(11, FaultPlan(at=((9.0, "shutdown"),)))
    history.length_s = 120.0
    history.steps = [(8.0, "close breaks", lambda _sim, world: world.broken.add("close"))]
    with pytest.raises(BugError, match="I4 broken: the tree should be down"):
        history.begin().play()


def test_a_killed_proc_that_is_used_again_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    leave = SimLife._leave

    def forgetful(self: SimLife, proc: SimProc) -> None:
        lane = proc.lane
        leave(self, proc)
        if lane is not None:
            lane.idle.append(proc)

    monkeypatch.setattr(SimLife, "_leave", forgetful)
    assert "I6: proc " in find_it(FaultPlan(dies_after=0.5))


def test_more_restarts_than_the_budget_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = restarting.plan

    def generous(past: Any, budget: Any, *args: Any) -> Any:
        return plan(past, RestartBudget(1_000, budget.window_s), *args)

    monkeypatch.setattr(restarting, "plan", generous)
    restless = ChildSpec("b", "plain", UserSpec({"ends": "restart"}))
    parent = UserSpec({"children": (restless,), "budget": (2, 20.0)})
    history = History(1, FaultPlan())
    history.children, history.steps, history.length_s = (ChildSpec("a", "plain", parent),), [], 20.0
    with pytest.raises(BugError, match="I7 broken: root/a had 3 restarts in 20 s, want at most 2"):
        history.begin().play()


def test_a_start_before_its_dependency_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_runs", lambda node, name: True)
    assert find_it().startswith("I8 broken: ")


def test_a_stop_before_a_dependent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "still_needed", lambda node: set())
    assert find_it().startswith("I8 broken: ")


def test_a_decision_without_a_reason_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def mute(worker: Any, snap: Snapshot, hide: Any) -> Stay:
        return Stay(" ")

    monkeypatch.setattr(acting.fsm, "decide", mute)
    assert find_it().startswith("I9 broken: ")


def test_chance_that_is_not_the_seeds_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """I10: two runs of a seed differ."""

    def traces() -> list[list[str]]:
        found = []
        for seed in range(10):
            run = History(seed).begin()
            run.sim.engine.context.random = random.Random(len(found) + salt)
            run.play()
            found.append(run.sim.trace.lines)
        return found

    salt = 0
    first = traces()
    salt = 100
    assert traces() != first


def test_a_failure_says_seed_tick_and_how_to_see_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steps, "_runs", lambda node, name: True)
    first, second, *rest = find_it().splitlines()
    assert "starts before" in first
    assert second.startswith("seed ")
    assert "tick " in second
    assert "again: ops/replay " in second
    assert rest[0] == "the last lines of the trace:"
    assert 1 <= len(rest) - 1 <= 30


def test_an_event_of_a_worker_in_no_tree_is_found() -> None:
    sim = Simulation()
    with pytest.raises(BugError, match="I3 broken: root/ghost"):
        sim.engine.context.emit(
            events.StateChanged(
                path="root/ghost", from_state="a", to_state="b", phase="running", reason="why",
                generation=1,
            )
        )  # fmt: skip


def test_a_node_that_is_missed_is_found_by_the_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle sees it when the incremental tick does not look where it should."""
    enter = acting.enter

    def quiet(node: Node, *args: Any) -> None:
        parent = node.parent
        before = parent.dirty if parent is not None else False
        enter(node, *args)
        if parent is not None:
            parent.dirty = before

    monkeypatch.setattr(acting, "enter", quiet)
    with pytest.raises(AssertionError, match="differ"):
        _play_twins_of_all_seeds()


def _play_twins_of_all_seeds() -> None:
    for seed in SEEDS:
        play_twins(History(seed))


def test_a_circuit_that_stays_open_though_its_child_runs_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look = childcare.look

    def sticky(track: Any, sight: Any, *args: Any) -> Any:
        if track.is_open and sight.kind == "runs":
            return track, ()
        return look(track, sight, *args)

    monkeypatch.setattr(childcare, "look", sticky)
    sim = Simulation([Once], [ChildSpec("bad", "once")])
    with pytest.raises(BugError, match="root/bad is healthy, and the circuit of root is open"):
        sim.run(60.0)


def test_more_restarts_of_a_failed_child_than_its_attempts_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look = childcare.look

    def tireless(track: Any, *args: Any) -> Any:
        return look(track, *args, Policy(attempts=1_000))

    monkeypatch.setattr(childcare, "look", tireless)
    sim = Simulation([Raiser], [ChildSpec("bad", "raiser")])
    with pytest.raises(BugError, match="I7 broken: root/bad was restarted 6 times in 300 s"):
        sim.run(400.0)
