"""The tree: how nodes come, change and go."""

from __future__ import annotations

from typing import Any

import pytest
from harness import Bench, Look, Plant, Quiet, SwitchOff, SwitchOn, child, worker_type

from fsmv2.supervisor.core.events import (
    ChildrenRefused,
    StateChanged,
    SupervisorStopping,
    WorkerAdded,
    WorkerFaulted,
    WorkerRecovered,
    WorkerRemoved,
    WorkerUpdated,
)
from fsmv2.supervisor.core.spec import DEPTH_MAX, DesiredState, UserSpec
from fsmv2.supervisor.core.variables import VariableBundle

# --- coming up ------------------------------------------------------------------------------


def test_a_tree_comes_up() -> None:
    """Each level of it, down to the last."""
    chain = child("c", "parent", config={"children": (child("d"),)})
    bench = Bench(child("a"), child("b", "parent", config={"children": (chain,)}))
    bench.settle()
    assert bench.tree() == dict.fromkeys(["a", "b", "b/c", "b/c/d"], "running")
    assert bench.engine.root.phase == "running"


def test_all_levels_exist_after_one_tick() -> None:
    """A child is ticked in the tick that made it, and so makes its own children."""
    deep = child("d")
    for name in "cba":
        deep = child(name, "parent", config={"children": (deep,)})
    bench = Bench(deep)
    bench.tick()
    assert list(bench.tree()) == ["a", "a/b", "a/b/c", "a/b/c/d"]
    assert bench.order_of(WorkerAdded) == ["a", "a/b", "a/b/c", "a/b/c/d"]


def test_an_empty_tree_runs_and_asks_for_nothing_but_the_resync() -> None:
    """No children, no error, no reason to hurry."""
    bench = Bench()
    bench.settle()
    moment = bench.engine.next_moment()
    assert bench.tree() == {}
    assert moment is not None
    assert moment > bench.now + 10


def test_children_are_added_in_dependency_order() -> None:
    """Whatever order they are declared in; the rest keeps its place."""
    bench = Bench(child("c", "quiet", "b"), child("x"), child("b", "quiet", "a"), child("a"))
    bench.tick()
    assert bench.order_of(WorkerAdded) == ["a", "b", "c", "x"]
    assert list(bench.engine.root.children) == ["a", "b", "c", "x"]


def test_a_child_waits_until_what_it_needs_runs() -> None:
    """Not just until it exists."""
    bench = Bench(child("app", "quiet", "pump"), child("pump", "pump"), child("free"))
    bench.settle()
    assert bench.tree() == {"pump": "stopped", "app": "stopped", "free": "running"}
    assert bench.node("app").reason == "waiting for pump to run"
    Plant(bench)
    bench.settle()
    assert bench.tree() == {"pump": "running", "app": "running", "free": "running"}
    ran = [path for path in bench.order_of(StateChanged, phase="running") if path != "root"]
    assert ran == ["free", "pump", "app"]


def test_a_child_does_not_start_in_the_tick_in_which_what_it_needs_goes_down() -> None:
    """Step 4 saw it running, step 5 has just seen that it is not."""
    bench = Bench(child("app", "quiet", "pump", enabled=False), child("pump", "pump"))
    Plant(bench)
    bench.settle()
    for kind in (Look, SwitchOn):
        del bench.pool.answers[kind]
    bench.run(1.5)
    bench.pool.complete(bench.open_attempt(Look), "off")
    bench.redeclare(child("app", "quiet", "pump"), child("pump", "pump"))
    bench.tick()
    assert bench.tree() == {"pump": "starting", "app": "stopped"}
    assert bench.node("app").reason == "waiting for pump to run"
    bench.settle()
    assert bench.tree() == {"pump": "starting", "app": "stopped"}


def test_a_running_child_goes_on_when_what_it_needs_degrades() -> None:
    """Dependencies hold back starts, they do not pull running workers down."""
    bench = Bench(child("app", "quiet", "pump"), child("pump", "pump"))
    plant = Plant(bench)
    bench.settle()
    bench.pool.answers.pop(SwitchOn)
    plant.on = False
    bench.settle()
    assert bench.tree() == {"pump": "starting", "app": "running"}


def test_nothing_changes_while_nothing_changes() -> None:
    """Ten full ticks over the same specs add, update and remove nothing."""
    bench = Bench(child("a"), child("b", "parent", config={"children": (child("c"),)}))
    bench.settle()
    before = len(bench.events)
    for _ in range(10):
        bench.now += 1
        bench.tick(full=True)
    assert bench.events[before:] == []


# --- changing -------------------------------------------------------------------------------


def test_a_new_config_reaches_the_living_worker() -> None:
    """In place: the same node, the same worker, the new config, no restart."""
    bench = Bench(child("a", config={"n": 1}))
    bench.settle()
    node, worker = bench.node("a"), bench.node("a").worker
    bench.redeclare(child("a", config={"n": 2}))
    bench.settle()
    assert bench.node("a") is node
    assert node.worker is worker
    assert node.desired is not None
    assert node.desired.config == {"n": 2}
    assert node.generation == 1
    assert bench.order_of(WorkerUpdated) == ["a"]
    assert len(bench.heard(StateChanged, "a")) == 2  # the two of its start


@pytest.mark.parametrize(
    "new", [child("a", "parent"), child("a", "quiet", "b")], ids=["type", "dependencies"]
)
def test_a_new_type_or_new_dependencies_replace_the_child(new: Any) -> None:
    """The old one walks to stopped, then a new incarnation starts; its siblings see nothing."""
    bench = Bench(child("b"), child("a"))
    bench.settle()
    old, sibling = bench.node("a"), bench.node("b")
    bench.redeclare(child("b"), new)
    bench.settle()
    fresh = bench.node("a")
    assert fresh is not old
    assert (fresh.generation, fresh.restarts) == (2, 1)
    assert fresh.spec == new
    assert old.gone
    assert bench.node("b") is sibling
    assert bench.tree() == {"b": "running", "a": "running"}
    assert [event.to_state for event in bench.heard(StateChanged, "a")] == [
        "coming", "on", "going", "off", "coming", "on",
    ]  # fmt: skip
    assert [event.forced for event in bench.heard(WorkerRemoved, "a")] == [False]


def test_a_removed_child_walks_to_stopped_and_is_gone() -> None:
    """Asked once, through its stopping states, within a second; its sibling stays."""
    bench = Bench(child("a"), child("b"))
    bench.settle()
    bench.redeclare(child("b"))
    bench.run(1.0)
    assert bench.tree() == {"b": "running"}
    assert [event.to_state for event in bench.heard(StateChanged, "a")[2:]] == ["going", "off"]
    [removed] = bench.heard(WorkerRemoved)
    assert (removed.path, removed.reason, removed.forced) == (
        "root/a", "no longer declared", False,
    )  # fmt: skip


def test_a_removed_parent_goes_after_its_children() -> None:
    """From the leaves up."""
    inner = child("b", "parent", config={"children": (child("c"),)})
    bench = Bench(child("a", "parent", config={"children": (inner,)}))
    bench.settle()
    bench.redeclare()
    bench.settle()
    assert bench.tree() == {}
    assert bench.order_of(WorkerRemoved) == ["a/b/c", "a/b", "a"]
    assert bench.order_of(StateChanged, to_state="off") == ["a/b/c", "a/b", "a"]


@pytest.mark.parametrize("flips", [2, 3, 4, 5])
def test_declared_again_while_it_leaves_there_is_one_new_incarnation(flips: int) -> None:
    """However often it is taken back: the last word counts, and there is never a second one."""
    bench = Bench(child("a", "pump"))
    plant = Plant(bench)
    bench.settle()
    assert plant.on
    bench.pool.answers.pop(SwitchOff)  # the stop takes as long as the test wants
    wanted = True
    for _ in range(flips):
        wanted = not wanted
        bench.redeclare(*([child("a", "pump")] if wanted else []))
        bench.run(0.5)
    bench.pool.complete(bench.open_attempt(SwitchOff), "done")
    plant.on = False
    bench.settle()
    assert bench.tree() == ({"a": "running"} if wanted else {})
    generations = [event.generation for event in bench.heard(WorkerAdded, "a")]
    assert generations == ([1, 2] if wanted else [1])
    assert len(bench.heard(WorkerRemoved, "a")) == 1
    assert bench.pool.overlaps == []


@pytest.mark.parametrize(
    "bad", [child("b", "unheard-of"), child("a/b"), child("b", "quiet", "nobody")]
)
def test_bad_children_are_refused_and_the_present_ones_stay(bad: Any) -> None:
    """All or nothing: none of the new ones is made, nothing present is touched, told once."""
    bench = Bench(child("a"))
    bench.settle()
    node = bench.node("a")
    bench.redeclare(child("fine"), bad)
    bench.settle()
    for _ in range(5):
        bench.now += 1
        bench.tick(full=True)
    assert bench.tree() == {"a": "running"}
    assert bench.node("a") is node
    [refused] = bench.heard(ChildrenRefused)
    assert refused.path == "root"
    bench.redeclare(child("fine"))
    bench.settle()
    assert bench.tree() == {"fine": "running"}


def test_a_tree_that_grows_at_each_level_ends_at_a_depth() -> None:
    """Each child differs from its ancestors, so it is no circle; the depth has a limit."""

    def derive(self: Any, spec: UserSpec) -> DesiredState:
        level = spec.config.get("level", 0)  # type: ignore[union-attr]
        return DesiredState("running", children=(child("b", "tower", config={"level": level + 1}),))

    bench = Bench(child("a", "tower"), workers=[worker_type("tower", derive_desired_state=derive)])
    bench.settle()
    assert len(bench.tree()) == DEPTH_MAX - 1  # the root is a level too
    [refused] = bench.heard(ChildrenRefused)
    assert f"got children at depth {DEPTH_MAX}" in refused.error


def test_a_constructor_that_raises_is_tried_again_and_its_siblings_live() -> None:
    """The others are made in the same tick; the broken one comes when it can."""
    broken = [True]

    def init(self: Any) -> None:
        if broken:
            raise OSError("no licence")

    bench = Bench(
        child("a"), child("bad", "fragile"), child("z"),
        workers=[worker_type("fragile", __init__=init)],
    )  # fmt: skip
    bench.settle()
    assert bench.tree() == {"a": "running", "z": "running"}
    [fault] = bench.heard(WorkerFaulted)
    assert (fault.path, fault.step) == ("root/bad", "constructor")
    assert "no licence" in fault.error
    broken.clear()
    bench.settle(40)
    assert bench.tree() == {"a": "running", "bad": "running", "z": "running"}
    assert len(bench.heard(WorkerRecovered)) == 1


# --- what flows down ------------------------------------------------------------------------


def test_a_mapped_state_is_the_childs_in_the_same_tick() -> None:
    """Each child has its own mapping; a word that is not in it changes nothing."""
    up = {"active": "up", "idle": "stopped"}
    children = (
        child("mapped", state_mapping=up),
        child("other", state_mapping={"active": "go"}),
        child("plain"),
    )

    def line(state: str) -> Any:
        return child("line", "parent", config={"state": state, "children": children})

    bench = Bench(line("active"))
    bench.tick()
    words = {name: node.desired_word for name, node in bench.node("line").children.items()}
    assert words == {"mapped": "up", "other": "go", "plain": "running"}
    bench.settle()
    bench.redeclare(line("idle"))
    bench.tick()
    words = {name: node.desired_word for name, node in bench.node("line").children.items()}
    assert words == {"mapped": "stopped", "other": "go", "plain": "running"}
    bench.settle()
    assert bench.tree() == {
        "line": "running", "line/mapped": "stopped", "line/other": "running",
        "line/plain": "running",
    }  # fmt: skip
    bench.redeclare(line("unheard-of"))
    bench.settle()
    assert bench.node("line/mapped").desired_word == "stopped"
    bench.redeclare(line("active"))
    bench.settle()
    assert set(bench.tree().values()) == {"running"}


def test_a_disabled_child_is_resident_and_stopped_until_it_is_enabled() -> None:
    """The same node all along, with the same generation."""
    bench = Bench(child("a"), child("b"))
    bench.settle()
    node = bench.node("a")
    bench.redeclare(child("a", enabled=False), child("b"))
    bench.settle(100)
    assert bench.tree() == {"a": "stopped", "b": "running"}
    assert bench.heard(WorkerRemoved) == []
    bench.redeclare(child("a"), child("b"))
    bench.settle()
    assert bench.tree() == {"a": "running", "b": "running"}
    assert bench.node("a") is node
    assert node.generation == 1


def test_a_child_that_is_disabled_from_the_start_never_starts() -> None:
    """And takes its own children with it."""
    bench = Bench(
        child("a", "parent", enabled=False, config={"children": (child("b"),)}), child("c")
    )
    bench.settle(60)
    assert bench.tree() == {"a": "stopped", "a/b": "stopped", "c": "running"}
    assert set(bench.order_of(StateChanged)) == {"root", "c"}


def test_a_parent_that_is_disabled_stops_its_children_first() -> None:
    """And they come back with it."""

    def line(enabled: bool) -> Any:
        return child("line", "parent", enabled=enabled, config={"children": (child("a"),)})

    bench = Bench(line(True))
    bench.settle()
    bench.redeclare(line(False))
    bench.settle()
    assert bench.tree() == {"line": "stopped", "line/a": "stopped"}
    assert bench.order_of(StateChanged, to_state="off") == ["line/a", "line"]
    bench.redeclare(line(True))
    bench.settle()
    assert bench.tree() == {"line": "running", "line/a": "running"}


def test_a_disabled_parent_stops_children_whose_mapping_knows_its_word() -> None:
    """Its own word is what it would want if it were enabled; what counts is that it stops."""

    def line(enabled: bool) -> Any:
        inner = child("a", state_mapping={"running": "up"})
        return child("line", "parent", enabled=enabled, config={"children": (inner,)})

    bench = Bench(line(True))
    bench.settle()
    bench.redeclare(line(False))
    bench.settle()
    assert bench.tree() == {"line": "stopped", "line/a": "stopped"}


def test_a_grandchild_stops_with_its_disabled_grandparent() -> None:
    """The same, two levels down, from the leaves up."""

    def site(enabled: bool) -> Any:
        inner = child("a", state_mapping={"running": "up"})
        line = child("line", "parent", config={"children": (inner,)})
        return child("site", "parent", enabled=enabled, config={"children": (line,)})

    bench = Bench(site(True))
    bench.settle()
    bench.redeclare(site(False))
    bench.settle()
    assert set(bench.tree().values()) == {"stopped"}
    assert bench.order_of(StateChanged, to_state="off") == ["site/line/a", "site/line", "site"]


def names_seen(bench: Bench, path: str) -> dict[str, Any]:
    return bench.node(path).variables.flatten()


def test_variables_flow_from_parent_to_child_and_follow_a_change() -> None:
    """The child's own win; a change reaches every level, in place."""

    def line(ip: str) -> Any:
        leaf = child("leaf", variables=VariableBundle(user={"name": "leaf"}))
        cell = child("cell", "parent", config={"children": (leaf,)},
                     variables=VariableBundle(user={"PORT": 2}))  # fmt: skip
        return child("line", "parent", config={"children": (cell,)},
                     variables=VariableBundle(user={"IP": ip, "PORT": 1}))  # fmt: skip

    bench = Bench(line("10.0.0.1"))
    bench.settle()
    nodes = list(bench.engine.nodes())
    seen = names_seen(bench, "line/cell/leaf")
    assert (seen["IP"], seen["PORT"], seen["name"]) == ("10.0.0.1", 2, "leaf")
    assert "name" not in names_seen(bench, "line")
    bench.redeclare(line("10.0.0.2"))
    bench.settle()
    assert names_seen(bench, "line/cell/leaf")["IP"] == "10.0.0.2"
    assert names_seen(bench, "line/cell")["PORT"] == 2
    assert list(bench.engine.nodes()) == nodes


def test_a_changed_variable_is_derived_anew_and_an_unchanged_one_is_not() -> None:
    """Derivation runs once per change of its input, whatever else happens."""
    derived: list[tuple[str, Any]] = []

    class Reader(Quiet):
        type_name = "reader"

        def derive_desired_state(self, spec: UserSpec) -> DesiredState:
            names = spec.variables.flatten()
            derived.append((names["internal"]["id"], names["IP"]))
            return DesiredState("running", config=names["IP"])

    def line(ip: str) -> Any:
        return child("line", "parent", config={"children": (child("r", "reader"),)},
                     variables=VariableBundle(user={"IP": ip}))  # fmt: skip

    bench = Bench(line("a"), workers=[Reader])
    bench.settle(100)
    assert derived == [("root/line/r", "a")]
    bench.redeclare(line("b"))
    bench.settle(100)
    assert derived == [("root/line/r", "a"), ("root/line/r", "b")]


def test_globals_reach_grandchildren_and_internal_is_each_nodes_own() -> None:
    """The root's globals are seen everywhere; ids and parents are real ones."""
    inner = child("b", "parent", config={"children": (child("c"),)})
    bench = Bench(
        child("a", "parent", config={"children": (inner,)}),
        variables=VariableBundle(global_={"broker": "mqtt"}),
    )
    bench.settle()
    for path in ("a", "a/b", "a/b/c"):
        seen = names_seen(bench, path)
        assert seen["global"] == {"broker": "mqtt"}
        assert seen["internal"]["id"] == f"root/{path}"
        assert seen["internal"]["parent_id"] == f"root/{path}".rpartition("/")[0]
        assert seen["internal"]["created_at"] == "2023-11-14T22:13:20+00:00"


# --- going down -----------------------------------------------------------------------------


def test_a_stop_takes_children_before_parents_and_dependents_before_dependencies() -> None:
    """I8, through the whole tree; the root goes last."""
    cells = (child("db"), child("app", "quiet", "db"), child("web", "quiet", "app"))
    bench = Bench(child("line", "parent", config={"children": cells}))
    bench.settle()
    bench.engine.stop("asked")
    bench.run(10, until=lambda: bench.engine.stopped)
    gone = [event.path for event in bench.heard(WorkerRemoved)]
    assert gone == ["root/line/web", "root/line/app", "root/line/db", "root/line", "root"]
    assert not any(event.forced for event in bench.heard(WorkerRemoved))
    assert len(bench.heard(SupervisorStopping)) == 1


def test_a_stop_before_anything_has_started_ends() -> None:
    """Even before the first tick."""
    bench = Bench(child("a"), child("b", "pump"))
    bench.engine.stop("at once")
    bench.run(1, until=lambda: bench.engine.stopped)


def test_a_stop_that_hangs_is_ended_by_force_after_its_time() -> None:
    """The node goes, its action is cancelled, and its parent does not wait any longer."""
    bench = Bench(child("a", "pump", shutdown_timeout_s=4.0), child("b"))
    Plant(bench)
    bench.settle()
    bench.pool.answers.pop(SwitchOff)
    bench.pool.deaf = True
    start = bench.now
    bench.redeclare(child("b"))
    bench.run(10, until=lambda: bench.find("a") is None)
    assert 4.0 <= bench.now - start <= 4.5
    assert [event.forced for event in bench.heard(WorkerRemoved, "a")] == [True]
    assert bench.open_attempt(SwitchOff).cancelled == "stop"
    assert bench.tree() == {"b": "running"}


def test_stops_side_by_side_cost_the_longest_not_the_sum() -> None:
    """Ten workers that hang are gone after the time of one."""
    kids = [child(f"p{i}", "pump", shutdown_timeout_s=4.0) for i in range(10)]
    bench = Bench(*kids)
    Plant(bench)
    bench.settle()
    bench.pool.answers.pop(SwitchOff)
    bench.pool.deaf = True
    start = bench.now
    bench.engine.stop("asked")
    bench.run(60, until=lambda: bench.engine.stopped)
    assert bench.now - start < 5.0


def test_a_stopping_state_that_raises_is_ended_by_force() -> None:
    """A worker that cannot stop does not keep the tree up."""

    class Stuck(Quiet):
        type_name = "stuck"

        def next_action(self, snapshot: Any) -> Any:
            if snapshot.desired.stop_asked:
                raise RuntimeError("cannot stop")
            return super().next_action(snapshot)

    bench = Bench(child("a", "stuck", shutdown_timeout_s=3.0), workers=[Stuck])
    bench.settle()
    bench.engine.stop("asked")
    bench.run(10, until=lambda: bench.engine.stopped)
    assert [event.forced for event in bench.heard(WorkerRemoved, "a")] == [True]


def test_children_stand_in_declared_order_however_they_came() -> None:
    """One that had been replaced or declared first later on stood, and was ticked, last."""
    bench = Bench(child("a"), child("b"), child("c"))
    bench.settle()
    bench.redeclare(child("a"), child("b", "parent"), child("c"))
    bench.settle()
    assert list(bench.tree()) == ["a", "b", "c"]
    bench.redeclare(child("x"), child("a"), child("b", "parent"), child("c"))
    bench.settle()
    assert list(bench.tree()) == ["x", "a", "b", "c"]
    bench.redeclare(child("c"), child("b", "parent"), child("a"))
    bench.settle()
    assert list(bench.tree()) == ["c", "b", "a"]
    assert [node.position for node in bench.engine.root.children.values()] == [0, 1, 2]
