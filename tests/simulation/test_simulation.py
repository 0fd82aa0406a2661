"""`fsmv2.supervisor.testing` as its users know it."""

from __future__ import annotations

import datetime
import doctest
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from worlds import Look, Open, Valve, World

import fsmv2.supervisor.testing
from fsmv2.supervisor.config.settings import (
    ActionSettings,
    ObservationSettings,
    PoolSettings,
    RetrySettings,
    Settings,
    WorkerSettings,
)
from fsmv2.supervisor.core import events
from fsmv2.supervisor.core.action import Action
from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.fsm import Decision, Snapshot
from fsmv2.supervisor.core.restarts import RestartBudget
from fsmv2.supervisor.core.spec import ChildSpec, UserSpec
from fsmv2.supervisor.core.workevents import WorkerSlow
from fsmv2.supervisor.pool.attempts import UNBEGUN_MAX
from fsmv2.supervisor.telemetry.view import tree_pieces
from fsmv2.supervisor.testing import FakeProbe, FaultPlan, ManualClock, SimPool, Simulation

if TYPE_CHECKING:
    from fsmv2.supervisor.pool.pool import Pool

ROOT = Path(__file__).resolve().parents[2]
VALVE = ChildSpec("v", "valve", UserSpec({"host": "v"}))


def simulate(*children: ChildSpec, **options: Any) -> tuple[Simulation, World]:
    world = World()
    answers: dict[type[Action], object] = {**world.answers(), **options.pop("answers", {})}
    return Simulation([Valve], children or (VALVE,), answers=answers, **options), world


def ends(sim: Simulation) -> list[tuple[str, str]]:
    """Type and verdict of all actions that have ended, in order."""
    return [
        (event.action_type, event.verdict)
        for event in sim.events
        if isinstance(event, events.ActionEnded)
    ]


def test_the_documented_example_runs_as_shown() -> None:
    outcome = doctest.testmod(fsmv2.supervisor.testing)
    assert outcome.attempted > 10
    assert outcome.failed == 0


def test_the_readmes_example_passes_as_shown() -> None:
    """A user's test file: both tests of it."""
    text = (ROOT / "README.md").read_text("utf-8").partition("## Test your workers")[2]
    names: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


# --- driving --------------------------------------------------------------------------------


def test_a_worker_comes_up_without_a_process_and_without_waiting() -> None:
    sim, world = simulate()
    sim.run(5.0)
    assert sim.tree() == {"root": "running", "root/v": "running"}
    assert sim.node("root/v").state_name == "opened"
    assert world.open == {"v"}
    assert sim.clock.elapsed_s == 5.0
    assert ends(sim) == [("Open", "succeeded")]


def test_a_step_is_one_tick() -> None:
    sim, _ = simulate()
    assert [sim.step() for _ in range(5)] == [True] * 5
    assert sim.engine.ticks == 5


def test_a_tree_that_is_down_has_no_next_step() -> None:
    sim, world = simulate()
    sim.run(5.0)
    sim.stop("it is late")
    sim.until(lambda: sim.stopped, 10.0)
    assert (sim.step(), sim.tree(), world.open) == (False, {}, set())


def test_what_does_not_come_says_so_with_seed_and_trace() -> None:
    sim, _ = simulate(seed=42)
    sim.run(1.0)
    with pytest.raises(AssertionError, match="within 3 s") as failure:
        sim.until(lambda: sim.node("root/v").state_name == "closed", 3.0)
    assert "seed 42, tick" in str(failure.value)
    assert "to_state='opened'" in str(failure.value)


def test_a_reload_adds_changes_and_removes() -> None:
    sim, world = simulate()
    sim.run(5.0)
    sim.reload([ChildSpec("w", "valve", UserSpec({"host": "w"}))])
    sim.until(sim.is_settled, 10.0)
    assert sim.tree() == {"root": "running", "root/w": "running"}
    assert world.open == {"w"}


def test_settings_give_the_children_and_the_name() -> None:
    """The same that `fsmv2 run` would start."""
    settings = Settings(
        name="plant", workers=(WorkerSettings(name="v", type="valve", config={"host": "v"}),)
    )
    sim, _ = simulate(config=settings)
    sim.run(5.0)
    assert sim.tree() == {"plant": "running", "plant/v": "running"}


def plant(**options: Any) -> Settings:
    """A config with one valve, and whatever is given."""
    valve = WorkerSettings(name="v", type="valve", config={"host": "v"})
    return Settings(name="plant", workers=(valve,), **options)


def test_a_config_says_in_a_simulation_what_it_says_in_a_root() -> None:
    """Each key that the engine has a word for; a reload of the children leaves the others."""
    settings = plant(
        strategy="one_for_all",
        restart_budget=RestartBudget(2, 60.0),
        observation=ObservationSettings(stale_s=3.0, dead_s=6.0, intervals={"valve": 2.0}),
        actions={"Open": ActionSettings(timeout_s=7.0, grace_s=3.0, retry=RetrySettings(0.5))},
        slow_worker_s=0.25,
        outside_queue=3,
        location_gaps="unknown_all",
        pool=PoolSettings(procs=3, observers=2, lanes={"disk": 4}, spares=0, queue=7),
    )
    sim, _ = simulate(config=settings)
    context, root = sim.engine.context, sim.engine.root
    sim.run(1.0)

    assert root.desired is not None
    assert (root.desired.strategy, root.desired.restart_budget) == (
        "one_for_all",
        RestartBudget(2, 60.0),
    )
    policy = context.policies[Open]
    assert (policy.timeout_s, policy.grace_s) == (7.0, 3.0)
    assert policy.retry == msgspec.structs.replace(Open.retry, base_s=0.5)
    assert (context.slow_s, context.outside_max, context.gaps) == (0.25, 3, "unknown_all")
    assert (context.observation.stale_s, context.observation.dead_s) == (3.0, 6.0)
    assert context.observation.intervals == {"valve": 2.0}
    assert {name: lane.size for name, lane in sim.pool.lanes.items()} == {
        "actions": 3,
        "disk": 4,
        "observations": 2,
    }

    sim.reload([VALVE])
    sim.run(1.0)
    assert root.desired.strategy == "one_for_all"
    assert (context.gaps, root.desired.restart_budget.restarts) == ("unknown_all", 2)


def test_the_figures_of_a_config_count_in_a_simulation() -> None:
    """Its timeout and its grace, not the class's: a hung action ends when the config says so."""
    settings = plant(actions={"Open": ActionSettings(timeout_s=2.0, grace_s=3.0)})
    sim, _ = simulate(config=settings, answers={Open: datetime.timedelta(days=1)})
    sim.until(lambda: ("Open", "timed_out") in ends(sim), 20.0)

    ended = next(
        event
        for event in sim.events
        if isinstance(event, events.ActionEnded) and event.status == "timed_out"
    )
    assert ended.ran_s == pytest.approx(5.0, abs=0.1)


def test_a_config_that_names_no_action_is_refused_by_a_simulation() -> None:
    with pytest.raises(SpecError, match=r"actions\.Opne: unknown action type 'Opne'"):
        simulate(config=plant(actions={"Opne": ActionSettings(timeout_s=7.0)}))


def test_a_config_that_contradicts_itself_is_refused_by_a_simulation() -> None:
    with pytest.raises(SpecError, match=r"observation\.dead_s: got 2 s"):
        simulate(config=plant(observation=ObservationSettings(stale_s=3.0, dead_s=2.0)))


def test_worker_code_that_moves_the_clock_is_slow() -> None:
    """No real time passes in a simulation; what takes some says so on its clock."""
    sims: list[Simulation] = []

    class Slow(Valve):
        def next_action(self, snapshot: Snapshot) -> Decision:
            sims[0].clock.advance(0.3)
            return super().next_action(snapshot)

    sims.append(Simulation([Slow], config=plant(slow_worker_s=0.25), answers=World().answers()))
    sims[0].run(1.0)

    told = [event for event in sims[0].events if isinstance(event, WorkerSlow)]
    assert [(slow.path, slow.step, slow.limit_s) for slow in told] == [
        ("plant/v", "next_action", 0.25)
    ]
    assert told[0].took_s == pytest.approx(0.3)


def test_an_unknown_path_names_the_known_ones() -> None:
    sim, _ = simulate()
    sim.run(1.0)
    with pytest.raises(SpecError, match="got path 'v', want one of root, root/v"):
        sim.node("v")


def test_a_simulated_tree_can_be_shown_with_what_runs() -> None:
    """As the API shows a real one: the view reads procs and attempts, here simulated ones."""
    sim, _ = simulate(answers={Open: datetime.timedelta(seconds=9)})
    sim.run(2.5)

    pieces = tree_pieces(sim.engine, cast("Pool", sim.pool), sim.clock.now)
    action = json.loads(b"".join(pieces))["children"][0]["action"]

    assert (action["type"], action["queued"]) == ("Open", False)
    assert action["running_s"] == pytest.approx(2.3, abs=0.1)
    assert action["waits_s"] is None


def test_what_is_not_settled_is_told_in_words() -> None:
    sim, world = simulate()
    world.broken.add("open")
    sim.run(5.0)
    [why] = sim.unsettled()
    assert why.startswith("root/v: it should run and is opening")


def test_the_full_tick_comes_to_the_same() -> None:
    trees = []
    for full in (False, True):
        sim, _ = simulate(full=full)
        sim.run(30.0)
        trees.append((sim.tree(), ends(sim)))
    assert trees[0] == trees[1]


# --- answers --------------------------------------------------------------------------------


def test_an_action_without_an_answer_is_an_error_that_names_it() -> None:
    sim = Simulation([Valve], [VALVE], answers={Look: False})
    with pytest.raises(SpecError, match=r"cannot simulate Open of root/v: it has no answer"):
        sim.run(5.0)


def test_an_exception_as_answer_is_a_failure_that_is_tried_again() -> None:
    sim, _ = simulate(answers={Open: OSError("no air")})
    sim.run(10.0)
    assert set(ends(sim)) == {("Open", "failed")}
    assert 3 <= len(ends(sim)) <= 6
    assert "no air" in str(sim.node("root/v").results[Open].error)


def test_a_duration_as_answer_takes_so_long() -> None:
    sim, _ = simulate(answers={Open: datetime.timedelta(seconds=3)})
    sim.run(3.0)
    assert sim.node("root/v").attempt is not None
    sim.run(1.0)
    assert ends(sim) == [("Open", "succeeded")]
    assert sim.node("root/v").results[Open].ran_s == pytest.approx(3.0)


def test_an_answer_may_change_on_the_way() -> None:
    sim, world = simulate(answers={Open: OSError("no air")})
    sim.run(5.0)
    sim.pool.answer(Open, lambda action: world.open.add(action.host), takes_s=0.5)
    sim.until(sim.is_settled, 20.0)
    assert world.open == {"v"}


def test_an_answer_of_another_type_than_annotated_is_a_failure() -> None:
    sim, _ = simulate(answers={Look: "wide open"})
    sim.run(5.0)
    failed = [event for event in sim.events if isinstance(event, events.ObservationFailed)]
    assert len(failed) == 1
    assert "annotation" in str(failed[0].error)


# --- faults ---------------------------------------------------------------------------------

VERDICTS = {
    "dies_before": ["succeeded"],
    "dies_during": ["killed_from_outside", "succeeded"],
    "dies_after": ["succeeded"],
    "result_lost": ["killed_from_outside"],
    "garbled": ["lost_channel"],
    "hangs": ["timed_out", "succeeded"],
    "late": ["succeeded"],
}


@pytest.mark.parametrize("fault", VERDICTS)
def test_a_fault_at_a_given_moment_meets_the_next_attempt(fault: str) -> None:
    """And the worker gets over it: what was done though its result was lost, it sees."""
    sim, world = simulate(answers={Look: datetime.timedelta(days=1)})
    sim.pool.answer(Look, lambda action: action.host in world.open, takes_s=0.0)
    sim.until(lambda: any(isinstance(each, events.StateChanged) and each.path == "root/v"
                          for each in sim.events), 5.0)  # fmt: skip
    sim.pool.ordered_faults.append(fault)
    sim.until(sim.is_settled, 30.0)
    assert [verdict for _, verdict in ends(sim)] == VERDICTS[fault]


def test_an_action_that_no_proc_lives_to_begin_is_offered_again() -> None:
    """It was refused, not failed: no wait grows, no row of deaths begins."""
    sim, _ = simulate()
    sim.until(lambda: any(isinstance(each, events.StateChanged) and each.path == "root/v"
                          for each in sim.events), 5.0)  # fmt: skip
    sim.pool.ordered_faults += ["dies_before"] * UNBEGUN_MAX
    sim.until(sim.is_settled, 30.0)
    [refused] = [each for each in sim.events if isinstance(each, events.ActionRefused)]
    assert refused.reason.startswith("NeverBegan: 20 procs died before they began it")
    assert [verdict for _, verdict in ends(sim)] == ["succeeded"]


def test_results_that_come_again_reach_nobody() -> None:
    sim, _ = simulate(faults=FaultPlan(twice=1.0, at=((5.0, "stale"),)))
    sim.run(10.0)
    assert ends(sim) == [("Open", "succeeded")]
    dropped = [event for event in sim.events if isinstance(event, events.ResultDropped)]
    assert len(dropped) >= 10


def test_without_procs_nothing_is_decided_until_they_are_back() -> None:
    sim, _ = simulate(faults=FaultPlan(dies_after=1.0, outage_s=30.0, at=((1.0, "spawn_fails"),)))
    heard = sim.events
    sim.until(lambda: any(isinstance(each, events.PoolStuck) for each in heard), 40.0)
    assert sim.engine.context.infrastructure == "no proc can be started"
    sim.heal()
    sim.run(10.0)
    assert sim.is_settled()
    assert any(isinstance(each, events.PoolRecovered) for each in heard)


def test_bad_readings_hold_up_new_actions_and_pass() -> None:
    sim, world = simulate()
    sim.run(5.0)
    sim.probe.trip("cpu at 99 %", for_s=10.0)
    world.open.clear()
    sim.run(9.0)
    assert ends(sim) == [("Open", "succeeded")]
    assert "cpu at 99 %" in sim.node("root/v").reason
    sim.until(lambda: world.open, 5.0)


def test_a_child_vanishes_and_appears_again() -> None:
    """And what depends on it goes and comes with it."""
    dependent = ChildSpec("w", "valve", UserSpec({"host": "w"}), depends_on=("v",))
    plan = FaultPlan(at=((5.0, "vanish"), (5.0, "respec")), outage_s=3.0)
    sim, _ = simulate(VALVE, dependent, faults=plan)
    sim.run(25.0)
    assert sim.tree() == {"root": "running", "root/v": "running", "root/w": "running"}
    added = [event.path for event in sim.events if isinstance(event, events.WorkerAdded)]
    assert len(added) > 2


def test_a_shutdown_comes_at_the_moment_it_was_ordered_for() -> None:
    sim, _ = simulate(faults=FaultPlan(at=((2.0, "shutdown"),)))
    sim.run(1.9)
    assert sim.engine.stopping is None
    sim.run(10.0)
    assert sim.stopped


@pytest.mark.parametrize(
    "wrong",
    [{"hangs": 1.5}, {"hangs": "often"}, {"at": ((1.0, "flood"),)}, {"at": ((-1.0, "hangs"),)}],
)
def test_an_unusable_plan_is_refused_with_the_allowed(wrong: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="want"):
        FaultPlan(**wrong)


# --- the parts ------------------------------------------------------------------------------


def test_the_clock_never_goes_back() -> None:
    clock = ManualClock()
    wall = clock.wall
    clock.advance(2.5)
    assert (clock.elapsed_s, clock.wall - wall) == (2.5, 2.5)
    for moment in (clock.now - 1, math.nan):
        with pytest.raises(ValueError, match="cannot set the clock"):
            clock.set(moment)


def test_the_probe_is_well_without_a_word() -> None:
    clock = ManualClock()
    probe = FakeProbe(clock)
    assert (probe.trouble, probe.next_moment()) == (None, None)
    probe.trip("disk full", for_s=2.0)
    assert (probe.trouble, probe.next_moment()) == ("disk full", clock.now + 2.0)
    clock.advance(2.0)
    assert probe.trouble is None
    probe.trip("disk full")
    probe.clear()
    assert probe.trouble is None


def test_a_pool_stands_alone_too() -> None:
    clock = ManualClock()
    results = []
    pool = SimPool(clock=clock, answers={Look: True},
                   on_result=lambda _id, result: results.append(result))  # fmt: skip
    pool.submit(Look("v"))
    while not results and (moment := pool.next_moment()) is not None:
        clock.set(moment)
        pool.step()
    assert results[0].value is True
