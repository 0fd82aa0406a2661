"""The tick's order, stopping and churn: spec scenarios 106 to 111, 113, 115 to 122."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from harness import (
    INTERVAL_S,
    Bench,
    Going,
    Look,
    Off,
    On,
    Plant,
    Quiet,
    SwitchOn,
    child,
    worker_type,
)

from fsmv2.supervisor.core import events
from fsmv2.supervisor.core.fsm import Decision, Go, Phase, Snapshot, State, Stay
from fsmv2.supervisor.core.spec import ChildSpec, DesiredState, UserSpec
from fsmv2.supervisor.core.variables import VariableBundle
from fsmv2.supervisor.tree import acting, reconciling, steps, tick
from fsmv2.supervisor.tree.node import Node
from fsmv2.supervisor.tree.reconciling import GENERATIONS_KEPT


def nested(*names: str, kind: str = "quiet", **fields: Any) -> ChildSpec:
    """A chain of children, the last of type ``kind``."""
    spec = child(names[-1], kind, **fields)
    for name in reversed(names[:-1]):
        spec = child(name, "parent", config={"children": (spec,)}, **fields)
    return spec


# --- 106 to 111: the six steps ---------------------------------------------------------------


def test_the_six_steps_of_a_node_run_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenario 106: health, derive, reconcile, map, the children (whole), act."""
    order: list[str] = []

    def probe(module: Any, name: str) -> None:
        real = getattr(module, name)

        def step(node: Node, *rest: Any) -> Any:
            order.append(f"{node.path.removeprefix('root/')}: {name}")
            return real(node, *rest)

        monkeypatch.setattr(module, name, step)

    probe(tick.steps, "check_health")
    probe(tick.steps, "derive")
    probe(tick.reconciling, "reconcile")
    probe(tick.steps, "map_states")
    probe(tick.acting, "act")
    Bench(nested("pc", "leaf")).tick()
    begin = ["check_health", "derive", "reconcile", "map_states"]
    assert order == [
        *(f"{path}: {step}" for path in ("root", "pc", "pc/leaf") for step in begin),
        *(f"{path}: act" for path in ("pc/leaf", "pc", "root")),
    ]
    assert (steps, reconciling, acting) == (tick.steps, tick.reconciling, tick.acting)


def test_an_open_breaker_wins_over_an_action_in_flight_and_lets_it_end() -> None:
    """Scenarios 107 and 108: nothing new begins; what is in flight ends and is not lost."""
    bench = Bench(child("p", "pump"))
    bench.pool.answers[Look] = lambda _action: "off"
    bench.run(2)
    running = bench.open_attempt(SwitchOn)
    bench.engine.set_infrastructure("no proc can be started")
    bench.run(10)
    assert running.cancelled is None
    bench.pool.complete(running, "done")
    bench.run(5)
    assert len(bench.attempts(SwitchOn)) == 1
    assert bench.node("p").reason.startswith("infrastructure: no proc can be started")
    assert bench.node("p").results[SwitchOn].value == "done"
    (ended,) = bench.heard(events.ActionEnded)
    assert ended.circuit_open_s == pytest.approx(10.0, abs=2 * INTERVAL_S)


def test_observations_go_on_while_a_breaker_is_open_and_one_action_follows_its_close() -> None:
    """Scenarios 110 and 111: the first decision after it sees fresh data, and acts once."""
    bench = Bench(child("p", "pump"))
    bench.pool.answers[Look] = lambda _action: "off"
    bench.engine.set_infrastructure("no proc can be started")
    bench.run(2)
    bench.engine.set_infrastructure(None)
    bench.run(1)
    bench.pool.complete(bench.open_attempt(SwitchOn), "done")
    bench.engine.set_infrastructure("no proc can be started")
    before = len(bench.attempts(Look))
    bench.run(30)
    assert len(bench.attempts(Look)) - before >= 29
    bench.engine.set_infrastructure(None)
    bench.run(INTERVAL_S)
    observed_at = bench.node("p").observed_at
    assert observed_at is not None
    assert bench.now - observed_at <= 1.0 + INTERVAL_S
    bench.run(5)
    assert len(bench.attempts(SwitchOn)) == 2
    assert bench.pool.overlaps == []


def test_a_change_below_visits_only_the_way_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenario 113 in counts: 1 + 10 + 100 + 1,000 nodes, one leaf observed something new."""
    leaves = [child(f"l{n}") for n in range(10)]
    middle = [child(f"m{n}", "parent", config={"children": tuple(leaves)}) for n in range(10)]
    tops = [child(f"t{n}", "parent", config={"children": tuple(middle)}) for n in range(10)]
    bench = Bench(*tops)
    bench.run(2)
    looked: list[str] = []
    real = tick.acting.act
    monkeypatch.setattr(
        tick.acting, "act", lambda node, ctx: (looked.append(node.path), real(node, ctx))
    )
    bench.node("t3/m4/l5").mark_dirty()
    bench.tick()
    assert looked == ["root/t3/m4/l5"]
    looked.clear()
    bench.tick(full=True)
    assert len(looked) == 1 + 10 + 100 + 1000


# --- 115 and 116: stopping -------------------------------------------------------------------


class Stuck(State):
    phase = Phase.STOPPING

    def next(self, snap: Snapshot) -> Decision:
        return Stay("will not stop")


STUCK = worker_type("stuck", stopping=Stuck)


def _stop(bench: Bench) -> float:
    began = bench.now
    bench.engine.stop("test")
    bench.run(600, until=lambda: bench.engine.stopped)
    return bench.now - began


@pytest.mark.parametrize("depth", [1, 3, 6])
def test_cooperative_workers_are_down_within_half_a_second(depth: int) -> None:
    """Scenario 115, at any usual depth; nobody was dropped by force."""
    bench = Bench(nested(*(f"n{level}" for level in range(depth))))
    bench.settle()
    assert _stop(bench) < 0.5 * max(1, depth / 2)
    assert not any(event.forced for event in bench.heard(events.WorkerRemoved))


def test_an_uncooperative_worker_is_dropped_in_time_and_told() -> None:
    """Scenario 115: bounded, and the outcome says that it was not clean."""
    bench = Bench(child("s", "stuck", shutdown_timeout_s=3.0), child("q"), workers=[STUCK])
    bench.settle()
    assert 3.0 <= _stop(bench) < 3.5
    forced = {event.path: event.forced for event in bench.heard(events.WorkerRemoved)}
    assert forced == {"root/s": True, "root/q": False, "root": False}


@pytest.mark.parametrize("width", [1, 5])
def test_a_stuck_level_takes_its_own_share_and_siblings_take_it_together(width: int) -> None:
    """Scenario 116: three levels that are all stuck cost the sum of their levels, whatever
    their width."""
    base_s = 2.0

    def level(depth: int) -> tuple[ChildSpec, ...]:
        if not depth:
            return ()
        return tuple(
            child(f"n{number}", "stuck", config={"children": level(depth - 1)},
                  shutdown_timeout_s=base_s)
            for number in range(width)
        )  # fmt: skip

    bench = Bench(*level(3), workers=[STUCK])
    bench.settle()
    assert 3 * base_s <= _stop(bench) < 3 * base_s + 0.5


# --- 119, 121, 122 ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["disabled", "removed", "stopped"])
def test_a_stop_asked_for_while_its_derivation_changes_is_not_lost(how: str) -> None:
    """Scenario 119: flag and derivation arrive in one tick; the flag holds."""
    bench = Bench(child("a", config={"state": "running", "n": 1}))
    bench.settle()
    again = child("a", config={"state": "running", "n": 2}, enabled=how != "disabled")
    bench.redeclare(*(() if how == "removed" else (again,)))
    if how == "stopped":
        bench.engine.stop("test")
    bench.settle()
    assert bench.tree() == ({"a": "stopped"} if how == "disabled" else {})
    bench.settle(100)
    assert bench.tree() == ({"a": "stopped"} if how == "disabled" else {})


def test_a_parent_sees_its_children_while_they_stop() -> None:
    """Scenario 121: no lock is held by anybody; each phase a child goes through is seen."""
    seen: list[tuple[int, int]] = []

    class Watching(On):
        def next(self, snap: Snapshot) -> Decision:
            seen.append((len(snap.children), snap.children.count(Phase.STOPPED)))
            return Stay(f"{len(snap.children)} children")

    class Slow(Going):
        def next(self, snap: Snapshot) -> Decision:
            return super().next(snap) if snap.time_in_state_s > 1 else Stay("slowly")

    class Begin(Off):
        def next(self, snap: Snapshot) -> Decision:
            return Go(Watching, "watch")

    kinds = [worker_type("watcher", initial=Begin), worker_type("slow", stopping=Slow)]
    kids = (child("a", "slow"), child("b"))
    bench = Bench(child("w", "watcher", config={"children": kids}), workers=kinds)
    bench.settle()
    bench.redeclare(child("w", "watcher", config={"children": ()}))
    bench.settle()
    assert seen[-1] == (0, 0)
    assert (1, 0) in seen  # a still stops, b is gone
    assert bench.tree() == {"w": "running"}


def test_a_new_reason_is_seen_at_once_and_is_no_transition() -> None:
    """Scenario 122: the parent reads it in the same tick; no state change is told."""
    told: list[str] = []

    class Counting(On):
        def next(self, snap: Snapshot) -> Decision:
            return Stay(f"running for {snap.time_in_state_s:.0f} s")

    class Coming(Off):
        def next(self, snap: Snapshot) -> Decision:
            return Go(Counting, "count")

    class Reading(On):
        def next(self, snap: Snapshot) -> Decision:
            told.extend(info.reason for info in snap.children.values())
            return Stay(f"{snap.time_in_state_s:.0f}")

    class Starting(Off):
        def next(self, snap: Snapshot) -> Decision:
            return Go(Reading, "read")

    kinds = [worker_type("counter", initial=Coming), worker_type("reader", initial=Starting)]
    config = {"children": (child("c", "counter"),)}
    bench = Bench(child("r", "reader", config=config), workers=kinds)
    bench.run(3)
    changes = len(bench.heard(events.StateChanged))
    bench.run(10)
    assert len(bench.heard(events.StateChanged)) == changes
    assert bench.node("r/c").reason == "running for 13 s"
    assert {"running for 5 s", "running for 12 s"} <= set(told)


# --- churn -----------------------------------------------------------------------------------

# Moments that two nodes have asked for and that turned out not to matter: they go when they come,
# half a minute later at the most. How many there are depends on the spread of observations.
WAKES_MAX = 40


def _sizes(bench: Bench) -> dict[str, int]:
    engine, root = bench.engine, bench.engine.root
    return {
        "nodes": sum(1 for _ in engine.nodes()),
        "owners": len(engine._inbox._owners),
        "wakes": len(engine._wakes),
        "inbox": len(engine._inbox),
        "later": len(root.later),
        "done": len(root.done),
        "objects": sum(1 for found in gc.get_objects() if type(found) is Node),
    }


def test_ten_thousand_children_come_and_go_and_nothing_grows() -> None:
    """Half of them under the same names again and again, half under new ones. Each comes up, stops
    and is gone, some observe and act; what is kept of them is bounded."""
    bench = Bench(child("stays", "pump"))
    Plant(bench)
    sizes: list[dict[str, int]] = []
    for turn in range(10_000 // 50):
        names = [f"c{n}" if n % 2 else f"c{turn}-{n}" for n in range(50)]
        bench.redeclare(
            child("stays", "pump"),
            *(child(name, "quiet" if n % 10 else "pump") for n, name in enumerate(names)),
        )
        bench.run(0.5)
        bench.redeclare(child("stays", "pump"))
        bench.run(0.5)
        bench.events.clear()
        bench.moments.clear()
        if turn in (100, 199):
            bench.settle(60)
            gc.collect()
            sizes.append(_sizes(bench))
    assert bench.tree() == {"stays": "running"}
    wakes = [size.pop("wakes") for size in sizes]
    assert max(wakes) < WAKES_MAX
    assert sizes[1] == sizes[0]
    assert len(bench.engine.root.generations) <= GENERATIONS_KEPT + 51


def test_a_name_that_comes_back_goes_on_counting() -> None:
    """Also after some hundred others; its number tells its incarnations apart in the log."""
    bench = Bench(child("a"))
    bench.settle()
    for turn in range(3):
        bench.redeclare(*(child(f"c{turn}-{n}") for n in range(100)))
        bench.settle()
    bench.redeclare(child("a"))
    bench.settle()
    assert bench.node("a").generation == 2


def test_ten_thousand_reloads_of_the_same_keep_everything_as_it_is() -> None:
    """Declared anew with equal specs: no event, no derivation, no new object."""
    derived: list[int] = []

    class Once(Quiet):
        type_name = "once"

        def derive_desired_state(self, spec: UserSpec) -> DesiredState:
            derived.append(1)
            return DesiredState("running")

    def specs() -> list[ChildSpec]:
        return [child(f"c{n}", "once", variables=VariableBundle({"n": n})) for n in range(2)]

    bench = Bench(*specs(), workers=[Once])
    bench.settle()
    before, told = _sizes(bench), len(bench.events)
    for _ in range(10_000):
        bench.redeclare(*specs())
        bench.tick()
    assert _sizes(bench) == before
    assert len(bench.events) == told
    assert len(derived) == 2
