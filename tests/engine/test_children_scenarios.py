"""Scenarios of children, by the numbers of the behaviour specification (phase 0 and lifecycle).

Held elsewhere, not repeated here: 3, 14, 15 in tests/core/test_spec.py and test_tree.py (bad
children), 4, 5, 7 in tests/core/test_values.py (the factory), 8, 9, 11, 12, 13, 17, 18 to 21, 30,
33, 34 in test_tree.py, 25, 26 in test_acting.py, 117 in tests/proc/test_supervisor.py (the second
signal).
"""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec
import pytest
from harness import Bench, Off, On, Plant, Pump, Quiet, SwitchOff, SwitchOn, child, worker_type

from fsmv2.supervisor.core.events import (
    ChildrenRefused,
    StateChanged,
    WorkerAdded,
    WorkerFaulted,
    WorkerRemoved,
    WorkerUpdated,
)
from fsmv2.supervisor.core.fsm import Decision, Go, Phase, Restart, Snapshot, State, Stay
from fsmv2.supervisor.core.spec import ChildSpec, DesiredState, UserSpec
from fsmv2.supervisor.core.variables import VariableBundle
from fsmv2.supervisor.core.worker import WorkerFactory
from fsmv2.supervisor.tree import reconciling

# --- specs ----------------------------------------------------------------------------------


def test_a_child_spec_is_written_without_what_it_leaves_at_its_default() -> None:
    """1: with a mapping it comes back equal; an empty mapping is not written."""
    spec = child("a", state_mapping={"active": "up", "idle": "down"}, restart="transient")
    text = msgspec.yaml.encode(spec)
    assert msgspec.yaml.decode(text, type=ChildSpec) == spec
    assert b"active: up" in text
    plain = msgspec.yaml.encode(ChildSpec("a", "quiet"))
    assert b"state_mapping" not in plain
    assert msgspec.yaml.decode(plain, type=ChildSpec) == ChildSpec("a", "quiet")


def test_a_desired_state_without_children_is_written_without_and_read_back_empty() -> None:
    """2: absent, not null."""
    text = msgspec.json.encode(DesiredState("running"))
    assert b"children" not in text
    assert msgspec.json.decode(text, type=DesiredState).children == ()


def test_a_hundred_threads_register_and_create_without_losing_a_type() -> None:
    """6: the factory is an instance; whoever shares one loses nothing."""
    factory = WorkerFactory()
    start = threading.Barrier(100)
    made: list[Any] = []

    def use(number: int) -> None:
        start.wait()
        factory.register(worker_type(f"kind-{number}"))
        made.append(factory.create(f"kind-{number}"))

    threads = [threading.Thread(target=use, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert factory.type_names == {f"kind-{number}" for number in range(100)}
    assert {one.type_name for one in made} == factory.type_names


# --- adding, updating, removing -------------------------------------------------------------


def test_three_new_specs_are_three_children_after_one_tick() -> None:
    """10: all of them, in the order declared."""
    bench = Bench()
    bench.settle()
    bench.redeclare(child("c"), child("a"), child("b"))
    bench.tick()
    assert bench.order_of(WorkerAdded) == ["c", "a", "b"]


def test_specs_that_did_not_change_are_not_checked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """16: one check per declaration, whatever number of ticks looks at it. A new one is checked as
    a whole, for names and dependencies reach across; only what changed in it is touched."""
    checked: list[int] = []
    check = reconciling.check_children

    def counted(specs: Any, *args: Any) -> None:
        checked.append(len(specs))
        check(specs, *args)

    monkeypatch.setattr(reconciling, "check_children", counted)
    kids = [child(name) for name in "abcde"]
    bench = Bench(*kids)
    bench.settle()
    own = checked.count(5)
    for _ in range(10):
        bench.now += 1
        bench.tick(full=True)
    assert (own, checked.count(5)) == (1, 1)
    bench.redeclare(*kids[:4], child("e", config={"n": 2}))
    bench.settle()
    assert checked.count(5) == 2
    assert bench.order_of(WorkerUpdated) == ["e"]
    bench.redeclare(*kids[:4])
    bench.settle()
    assert checked.count(4) == 1


class Wary(Off):
    def next(self, snap: Snapshot) -> Decision:
        if snap.config["pressure"] > 5:
            return Stay(f"asked for {snap.desired.state}, pressure {snap.config['pressure']}")
        return Go(On, "safe")


def test_a_child_may_judge_its_mapped_state_unsafe_and_say_why() -> None:
    """22: the mapping asks, the child decides."""

    def line(pressure: int) -> ChildSpec:
        valve = child("v", "wary", config={"pressure": pressure}, state_mapping={"running": "up"})
        return child("line", "parent", config={"children": (valve,)})

    bench = Bench(line(9), workers=[worker_type("wary", initial=Wary)])
    bench.settle()
    assert bench.node("line/v").desired_word == "up"
    assert bench.node("line/v").reason == "asked for up, pressure 9"
    assert bench.tree() == {"line": "running", "line/v": "stopped"}
    bench.redeclare(line(3))
    bench.settle()
    assert bench.tree() == {"line": "running", "line/v": "running"}


def test_each_level_is_ticked_once_and_parents_derive_before_their_children() -> None:
    """23: one tick of the root derives each level once, from the top down."""
    derived: list[str] = []

    class Noted(Quiet):
        type_name = "noted"

        def derive_desired_state(self, spec: UserSpec) -> DesiredState:
            derived.append(spec.variables.flatten()["internal"]["id"])
            return super().derive_desired_state(spec)

    inner = child("b", "noted", config={"children": (child("c", "noted"),)})
    bench = Bench(child("a", "noted", config={"children": (inner,)}), workers=[Noted])
    bench.tick()
    assert derived == ["root/a", "root/a/b", "root/a/b/c"]


def test_a_chain_of_five_levels_runs_after_five_ticks() -> None:
    """24: down to the deepest."""
    deep = child("e")
    for name in "dcba":
        deep = child(name, "parent", config={"children": (deep,)})
    bench = Bench(deep)
    for _ in range(5):
        bench.tick()
    assert bench.tree()["a/b/c/d/e"] == "running"


def test_after_a_stop_a_tick_decides_and_offers_nothing() -> None:
    """27, decided otherwise: a stop is no cancellation, the tree ticks on until it is down; then
    a tick does nothing more."""
    bench = Bench(child("a"), child("p", "pump"))
    Plant(bench)
    bench.settle()
    bench.engine.stop("asked")
    bench.run(10, until=lambda: bench.engine.stopped)
    events, attempts = len(bench.events), len(bench.pool.attempts)
    bench.now += 60
    bench.tick(full=True)
    assert (len(bench.events), len(bench.pool.attempts)) == (events, attempts)


def test_a_tick_over_a_hundred_children_and_adding_ten_stay_below_their_limits() -> None:
    """28: less than 100 ms and less than 10 ms, in CPU time, the best of three."""
    full, adding = [], []
    for _ in range(3):
        bench = Bench(*(child(f"c{i}") for i in range(100)))
        bench.settle()
        begun = time.process_time()
        bench.tick(full=True)
        full.append(time.process_time() - begun)
        small = Bench()
        small.settle()
        small.redeclare(*(child(f"c{i}") for i in range(10)))
        begun = time.process_time()
        small.tick()
        adding.append(time.process_time() - begun)
    assert min(full) < 0.1
    assert min(adding) < 0.01


# --- circles --------------------------------------------------------------------------------


def declaring(name: str, other: str, **more: Any) -> Any:
    """A worker type that declares a child of type ``other``, whatever its spec says."""

    def derive(self: Any, spec: UserSpec) -> DesiredState:
        return DesiredState("running", children=(child(f"its-{other}", other, **more),))

    return worker_type(name, derive_desired_state=derive)


@pytest.mark.parametrize(
    ("types", "chain"),
    [
        ("a", "top (a) -> its-a (a)"),
        ("ab", "top (a) -> its-b (b) -> its-a (a)"),
        ("abc", "top (a) -> its-b (b) -> its-c (c) -> its-a (a)"),
    ],
)
def test_a_circle_of_declarations_is_refused_by_its_chain_before_it_grows(
    types: str, chain: str
) -> None:
    """29: direct or indirect; its siblings run, and it is told once."""
    kinds = [declaring(one, types[(i + 1) % len(types)]) for i, one in enumerate(types)]
    bench = Bench(child("top", "a"), child("z"), workers=kinds)
    bench.settle(100)
    assert len(bench.tree()) == len(types) + 1
    assert set(bench.tree().values()) == {"running"}
    [refused] = bench.heard(ChildrenRefused)
    assert f"children[0]: declared in a circle: {chain}, want" in refused.error


def test_one_type_at_two_levels_is_no_circle_when_config_or_variables_differ() -> None:
    """29, the other side: what differs derives something else."""
    inner = child("b", "parent", config={"children": (child("c"),)})
    bench = Bench(child("a", "parent", config={"children": (inner,)}))
    bench.settle()
    assert set(bench.tree()) == {"a", "a/b", "a/b/c"}

    def derive(self: Any, spec: UserSpec) -> DesiredState:
        left = spec.variables.user["LEFT"]
        below = child("b", "counted", variables=VariableBundle(user={"LEFT": left - 1}))
        return DesiredState("running", children=(below,) if left else ())

    top = child("a", "counted", variables=VariableBundle(user={"LEFT": 2}))
    bench = Bench(top, workers=[worker_type("counted", derive_desired_state=derive)])
    bench.settle()
    assert set(bench.tree()) == {"a", "a/b", "a/b/b"}
    assert bench.heard(ChildrenRefused) == []


def test_a_circle_that_a_variable_closes_is_refused_when_it_closes() -> None:
    """29: the same declaration was fine as long as its variable differed; present children stay."""

    def tree(same: bool) -> ChildSpec:
        return child("a", "loop", variables=VariableBundle(user={"V": 2 if same else 1}))

    def derive(self: Any, spec: UserSpec) -> DesiredState:
        if spec.variables.user["V"] == 2 and "/b" in spec.variables.internal["id"]:
            return DesiredState("running")
        below = child("b", "loop", variables=VariableBundle(user={"V": 2}))
        return DesiredState("running", children=(below,))

    bench = Bench(tree(False), workers=[worker_type("loop", derive_desired_state=derive)])
    bench.settle()
    assert bench.tree() == {"a": "running", "a/b": "running"}
    bench.redeclare(tree(True))
    bench.settle()
    assert bench.tree() == {"a": "running", "a/b": "running"}
    assert len(bench.heard(ChildrenRefused)) == 1


# --- enabled, and who declares --------------------------------------------------------------


def test_disabling_a_child_that_leaves_does_not_keep_it() -> None:
    """31: leaving and enabled are two things; toggling one does not alter the other."""
    bench = Bench(child("a", "pump"), child("b"))
    Plant(bench)
    bench.settle()
    bench.pool.answers.pop(SwitchOff)
    bench.redeclare(child("b"))
    bench.run(1.0)
    leaving = bench.node("a").leaving
    bench.redeclare(child("b", enabled=False))
    bench.run(1.0)
    bench.redeclare(child("b"))
    bench.run(1.0)
    assert bench.node("a").leaving == leaving == "no longer declared"
    bench.pool.complete(bench.open_attempt(SwitchOff), "done")
    bench.settle()
    assert bench.tree() == {"b": "running"}


def test_only_a_good_declaration_takes_children_away() -> None:
    """32, decided otherwise: children come from derive_desired_state only. One that fails, also by
    a template that does not render, keeps all; an empty one takes all away."""

    class Rendering(Quiet):
        type_name = "rendering"

        def derive_desired_state(self, spec: UserSpec) -> DesiredState:
            names = spec.decode(dict[str, list[str]])["names"]
            return DesiredState("running", children=tuple(child(name) for name in names))

    def line(text: str) -> ChildSpec:
        return child("line", "rendering", config=text)

    bench = Bench(line("names: [a, b]"), workers=[Rendering])
    bench.settle()
    kids = list(bench.node("line").children.values())
    bench.redeclare(line("names: {{ MISSING }}"))
    bench.settle(60)
    assert len(bench.heard(WorkerFaulted)) == 1
    assert list(bench.node("line").children.values()) == kids
    bench.redeclare(line("names: []"))
    bench.settle()
    assert bench.tree() == {"line": "running"}


def test_children_of_one_name_under_two_parents_are_two_children() -> None:
    """35: everything is keyed by the full path; stopping one leaves the other running."""

    def line(name: str, n: int, *kids: ChildSpec) -> ChildSpec:
        return child(name, "parent", config={"n": n, "children": kids})

    bench = Bench(line("l1", 1, child("p", "pump")), line("l2", 2, child("p", "pump")))
    Plant(bench)
    bench.settle()
    other = bench.node("l2/p")
    bench.redeclare(line("l1", 1), line("l2", 2, child("p", "pump")))
    bench.settle()
    assert bench.order_of(WorkerRemoved) == ["l1/p"]
    assert bench.node("l2/p") is other
    assert {one.key for one in bench.attempts(SwitchOn)} == {"root/l1/p", "root/l2/p"}
    assert {one.key for one in bench.attempts(SwitchOff)} == {"root/l1/p"}


def test_a_dependent_is_held_while_what_it_needs_is_away_and_is_not_stopped() -> None:
    """A running one runs on when the other goes; one that has to start waits until it is back."""
    bench = Bench(child("db", "pump"), child("app", "quiet", "db"))
    plant = Plant(bench)
    bench.settle()
    app = bench.node("app")
    bench.redeclare(child("db", "pump", enabled=False), child("app", "quiet", "db"))
    bench.settle()
    assert bench.tree() == {"db": "stopped", "app": "running"}
    disabled = child("app", "quiet", "db", enabled=False)
    bench.redeclare(child("db", "pump", enabled=False), disabled)
    bench.settle()
    bench.redeclare(child("db", "pump", enabled=False), child("app", "quiet", "db"))
    bench.settle()
    assert bench.tree() == {"db": "stopped", "app": "stopped"}
    assert bench.node("app").reason == "waiting for db to run"
    bench.redeclare(child("db", "pump"), child("app", "quiet", "db"))
    bench.settle()
    assert plant.on
    assert bench.tree() == {"db": "running", "app": "running"}
    assert bench.node("app") is app


# --- restart and stop -----------------------------------------------------------------------


def failing_after(failures: int) -> Any:
    """A pump that asks for its restart when SwitchOn has failed that often."""

    class Trying(State):
        phase = Phase.STARTING

        def next(self, snap: Snapshot) -> Decision:
            if snap.failures(SwitchOn) >= failures:
                return Restart(f"{failures} failures")
            return Pump.initial().next(snap).state().next(snap)  # type: ignore[union-attr]

    class Start(Off):
        def next(self, snap: Snapshot) -> Decision:
            return Go(Trying, "asked to run")

    return worker_type("trying", Pump, initial=Start)


def test_a_restart_is_a_stop_and_a_new_worker_with_counters_at_zero() -> None:
    """114: gracefully, then another object with nothing remembered, then running again."""
    bench = Bench(child("p", "trying"), workers=[failing_after(2)])
    plant = Plant(bench)
    switch = bench.pool.answers[SwitchOn]
    bench.pool.answers[SwitchOn] = lambda _action: OSError("broken")
    bench.run(60, until=lambda: bool(bench.heard(WorkerRemoved, "p")))
    first = bench.heard(WorkerAdded, "p")
    assert len(bench.attempts(SwitchOn)) == 2
    bench.run(1, until=lambda: bench.find("p") is not None)
    second = bench.node("p")
    assert (second.failures, second.results, second.generation) == ({}, {}, 2)
    assert [event.forced for event in bench.heard(WorkerRemoved, "p")] == [False]
    bench.pool.answers[SwitchOn] = switch
    bench.run(20, until=lambda: plant.on)
    assert len(first) == 1


def test_a_restart_whose_stop_hangs_is_forced_after_its_time_and_starts_anew() -> None:
    """114: the time is the child's shutdown_timeout_s."""
    bench = Bench(child("p", "trying", shutdown_timeout_s=4.0), workers=[failing_after(1)])
    Plant(bench)
    bench.pool.answers[SwitchOn] = lambda _action: OSError("broken")
    bench.pool.answers.pop(SwitchOff)
    bench.run(60, until=lambda: bench.find("p") is not None and bool(bench.node("p").leaving))
    begun = bench.now
    bench.run(10, until=lambda: bool(bench.heard(WorkerRemoved, "p")))
    assert 3.5 <= bench.now - begun <= 4.5
    assert [event.forced for event in bench.heard(WorkerRemoved, "p")] == [True]
    bench.run(1, until=lambda: bench.find("p") is not None)
    assert bench.node("p").generation == 2


def test_a_restart_during_the_stop_of_the_tree_is_a_plain_removal() -> None:
    """114: nobody comes back while everybody goes."""
    bench = Bench(child("p", "trying"), child("a"), workers=[failing_after(1)])
    Plant(bench)
    bench.pool.answers[SwitchOn] = lambda _action: OSError("broken")
    bench.pool.answers.pop(SwitchOff)
    bench.run(60, until=lambda: bench.find("p") is not None and bool(bench.node("p").leaving))
    bench.engine.stop("asked")
    bench.run(60, until=lambda: bench.engine.stopped)
    assert len(bench.heard(WorkerAdded, "p")) == 1


def test_a_stop_three_levels_deep_takes_three_times_its_base_at_most() -> None:
    """116: each level has its own time, siblings share it, and a stuck leaf takes no more than its
    level's share."""
    base_s = 4.0

    class Stuck(Pump):
        type_name = "stuck"

        def derive_desired_state(self, spec: UserSpec) -> DesiredState:
            assert isinstance(spec.config, dict)
            return DesiredState("running", children=spec.config.get("children", ()))

    def stuck(name: str, *kids: ChildSpec) -> ChildSpec:
        return child(name, "stuck", config={"children": kids}, shutdown_timeout_s=base_s)

    kids = [stuck(f"m{i}", *(stuck(f"l{j}") for j in range(4))) for i in range(4)]
    bench = Bench(stuck("top", *kids), child("free"), workers=[Stuck])
    Plant(bench)
    bench.settle()
    assert set(bench.tree().values()) == {"running"}
    bench.pool.answers.pop(SwitchOff)
    bench.pool.deaf = True
    begun = bench.now
    bench.engine.stop("asked")
    at: dict[str, float] = {}
    bench.run(60, until=lambda: bench.engine.stopped)
    for event, moment in zip(bench.events, bench.moments, strict=True):
        if isinstance(event, WorkerRemoved):
            at[event.path] = moment - begun
    assert at["root/free"] < 1.0
    leaves = [moment for path, moment in at.items() if path.count("/") == 3]
    assert base_s <= min(leaves) <= max(leaves) <= base_s + 0.5
    assert at["root/top/m0"] <= 2 * base_s + 0.5
    assert at["root/top"] <= 3 * base_s + 0.75
    downs = bench.order_of(StateChanged, to_state="off")
    assert downs == ["free"]
