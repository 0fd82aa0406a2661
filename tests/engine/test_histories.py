"""Random small histories: the incremental tick decides what the full tick decides, and whatever
happened, the tree ends up as declared."""

from __future__ import annotations

from typing import Any

import pytest
from harness import (
    INTERVAL_S,
    Bench,
    Coming,
    Look,
    Off,
    Plant,
    SwitchOff,
    SwitchOn,
    child,
    worker_type,
)
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core.events import WorkerFaulted, WorkerRecovered
from fsmv2.supervisor.core.fsm import Decision, Go, Phase, Snapshot, State, Stay
from fsmv2.supervisor.core.spec import ChildSpec
from fsmv2.supervisor.core.variables import VariableBundle


class Calm(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Decision:
        if snap.time_in_state_s > 2:
            return Go(Uneasy, f"calm for {snap.time_in_state_s:.3f} s")
        return Stay("calm")


class Uneasy(State):
    phase = Phase.DEGRADED

    def next(self, snap: Snapshot) -> Decision:
        if snap.now % 3 < 1:
            return Go(Calm, "its time has come")
        return Stay(f"uneasy at {snap.now:.3f}")


class Arriving(Off):
    def next(self, snap: Snapshot) -> Decision:
        return Go(Calm, "asked to run")


class Counting(Coming):
    """Waits for its children, and says how many are up."""

    def next(self, snap: Snapshot) -> Decision:
        if snap.children.all_operational:
            return Go(Up, f"{len(snap.children)} up")
        return Stay(f"{snap.children.healthy_count} of {len(snap.children)}")


class Up(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Decision:
        if not snap.children.all_operational:
            return Go(Counting, "lost one")
        return Stay(f"{snap.children.healthy_count} healthy")


class Begin(Off):
    def next(self, snap: Snapshot) -> Decision:
        return Go(Counting, "asked to run")


MOODY = worker_type("moody", initial=Arriving)
LINE = worker_type("line", initial=Begin)

CONFIGS = st.sampled_from([{"n": 1}, {"n": 2}, {"state": "stopped"}])
MAPPINGS = st.sampled_from([{}, {"running": "running"}, {"running": "stopped"}])


@st.composite
def specs(draw: st.DrawFn, name: str, deep: bool = True, needs: tuple[str, ...] = ()) -> ChildSpec:
    kind = draw(st.sampled_from(["quiet", "pump", "moody", "line"] if deep else ["quiet", "pump"]))
    config: Any = draw(CONFIGS) if kind != "pump" else {}
    if kind == "line":
        names = draw(st.lists(st.sampled_from("xy"), unique=True))
        config = {**config, "children": tuple(draw(specs(one, deep=False)) for one in names)}
    return child(
        name, kind, *needs,
        config=config,
        enabled=draw(st.integers(0, 5)) > 0,
        state_mapping=draw(MAPPINGS) if not deep else {},
        variables=VariableBundle(user={"V": draw(st.integers(0, 1))}),
        shutdown_timeout_s=draw(st.sampled_from([1.0, 4.0])),
    )  # fmt: skip


@st.composite
def declarations(draw: st.DrawFn, with_needs: bool = False) -> tuple[str, Any]:
    names = draw(st.lists(st.sampled_from("abc"), unique=True))
    return "declare", tuple(
        draw(
            specs(
                name,
                needs=tuple(
                    draw(st.lists(st.sampled_from(names[:i]), unique=True, max_size=1))
                    if with_needs and i
                    else ()
                ),
            )
        )
        for i, name in enumerate(names)
    )


STEPS = (
    st.tuples(st.just("wait"), st.integers(1, 60))
    | st.tuples(st.just("break"), st.sampled_from([Look, SwitchOn, SwitchOff]))
    | st.tuples(st.just("hang"), st.sampled_from([Look, SwitchOn, SwitchOff]))
    | st.tuples(st.just("heal"), st.none())
    | st.tuples(st.just("upset"), st.none())
    | st.tuples(st.just("machine"), st.sampled_from([None, "no procs"]))
)


@st.composite
def histories(draw: st.DrawFn, with_needs: bool = False) -> list[tuple[str, Any]]:
    """A few declarations, and some troubles after each."""
    history: list[tuple[str, Any]] = []
    for _ in range(draw(st.integers(1, 4))):
        history += draw(st.lists(STEPS, max_size=3))
        history.append(draw(declarations(with_needs)))
    return history + draw(st.lists(STEPS, max_size=3))


def replay(history: list[tuple[str, Any]], *, full: bool, restart_failed: bool = True) -> Bench:
    """Tick on one grid of moments, whatever the engine asks for."""
    bench = Bench(
        child("a", "pump"),
        child("b"),
        workers=[MOODY, LINE],
        full=full,
        restart_failed=restart_failed,
    )
    plant = Plant(bench)
    healthy = dict(bench.pool.answers)
    for what, detail in [*history, ("wait", 16)]:
        match what:
            case "declare":
                bench.redeclare(*detail)
            case "break":
                bench.pool.answers[detail] = lambda _action: OSError("broken")
            case "hang":
                bench.pool.answers.pop(detail, None)
            case "heal":
                bench.pool.answers |= healthy
            case "upset":
                plant.on = not plant.on
            case "machine":
                bench.engine.set_infrastructure(detail)
        for _ in range(detail if what == "wait" else 4):
            bench.now += INTERVAL_S
            bench.tick()
    return bench


def told(bench: Bench) -> list[tuple[float, str]]:
    return [(at, repr(event)) for at, event in zip(bench.moments, bench.events, strict=True)]


@given(histories())
def test_the_full_tick_gives_the_same_decisions(history: list[tuple[str, Any]]) -> None:
    """Same events at the same moments, same actions, same reasons: looking at a node too often
    changes nothing, and the incremental tick misses nothing."""
    incremental, full = replay(history, full=False), replay(history, full=True)
    assert told(incremental) == told(full)
    assert [(one.at, repr(one)) for one in incremental.pool.attempts] == [
        (one.at, repr(one)) for one in full.pool.attempts
    ]
    assert incremental.tree() == full.tree()


@given(histories())
def test_a_history_replayed_gives_the_same_trace(history: list[tuple[str, Any]]) -> None:
    """I10: same seed, same trace."""
    assert told(replay(history, full=False)) == told(replay(history, full=False))


@given(histories())
def test_whatever_happened_the_tree_ends_up_as_declared(history: list[tuple[str, Any]]) -> None:
    """Once the world is healed, each declared child is there once, running if it should be, and
    no worker ever had two actions in flight."""
    bench = replay(history, full=False)
    Plant(bench)
    bench.engine.set_infrastructure(None)
    for attempt in list(bench.pool.open.values()):
        bench.pool.complete(attempt, "hung", status="timed_out")
    bench.run(100)
    declared = (child("a", "pump"), child("b"))
    for what, detail in history:
        declared = detail if what == "declare" else declared
    phases = {node.spec.name: node.phase for node in bench.engine.root.children.values()}
    assert set(phases) == {spec.name for spec in declared}
    for spec in declared:
        config = bench.node(spec.name).spec.user_spec.config
        assert config == spec.user_spec.config
        stopped = not spec.enabled or config.get("state") == "stopped"  # type: ignore[union-attr]
        if stopped:
            assert phases[spec.name] is Phase.STOPPED
        elif spec.worker_type in ("quiet", "pump"):
            assert phases[spec.name] is Phase.RUNNING
        else:
            assert phases[spec.name] is not Phase.STOPPED
    assert bench.pool.overlaps == []


@pytest.mark.parametrize("step", ["derive_desired_state", "observe"])
def test_a_fault_of_a_disabled_worker_waits_longer_each_time_and_is_told_once(step: str) -> None:
    """A stop does not wait for that code, but neither does it show that it works again: the
    worker was said to have recovered twice a second, and was then not looked at any more."""

    def method(self: Any, *_args: Any) -> Any:
        raise ValueError("no such host")

    bench = Bench(
        child("bad", "broken", enabled=False), workers=[worker_type("broken", **{step: method})]
    )
    bench.run(60)
    assert len(bench.heard(WorkerFaulted)) == 1
    assert bench.heard(WorkerRecovered) == []
    assert 5 <= bench.node("bad").fault_count <= 10
