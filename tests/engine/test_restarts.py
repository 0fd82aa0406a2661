"""Restarts: who comes back after which end, with whom, and how often at most."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from harness import INTERVAL_S, Bench, Off, On, SwitchOff, child, worker_type
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core.events import (
    StateChanged,
    WorkerAdded,
    WorkerFaulted,
    WorkerRemoved,
)
from fsmv2.supervisor.core.fsm import (
    Act,
    Decision,
    Go,
    Phase,
    Remove,
    Restart,
    Snapshot,
    State,
    Stay,
)
from fsmv2.supervisor.core.restartevents import RestartBudgetExceeded
from fsmv2.supervisor.core.restarts import RestartBudget
from fsmv2.supervisor.core.rootworker import RootWorker
from fsmv2.supervisor.core.spec import ChildSpec, DesiredState, UserSpec
from fsmv2.supervisor.core.worker import Worker


class Orders:
    """What the workers of a bench are to decide: once by path, or again and again by name."""

    def __init__(self) -> None:
        self.once: dict[str, Decision] = {}
        self.always: dict[str, Decision] = {}

    def of(self, snap: Snapshot) -> Decision:
        path = snap.identity.path.removeprefix("root/")
        assert snap.now  # so that it is asked each interval
        if path in self.once:
            return self.once.pop(path)
        return self.always.get(snap.identity.name, Stay("on"))


def workers(orders: Orders) -> list[type[Worker]]:
    """A leaf and a parent that decide as ordered; the parent's config has its policies."""

    class Running(On):
        def next(self, snap: Snapshot) -> Decision:
            return orders.of(snap)

    class Start(Off):
        def next(self, snap: Snapshot) -> Decision:
            return Go(Running, "asked to run")

    def derive(self: Any, spec: UserSpec) -> DesiredState:
        assert isinstance(spec.config, dict)
        return DesiredState("running", **spec.config)

    class Stuck(State):
        phase = Phase.STOPPING

        def next(self, snap: Snapshot) -> Decision:
            return Act(SwitchOff(), "hangs")

    return [
        worker_type("leaf", initial=Start),
        worker_type("line", initial=Start, derive_desired_state=derive),
        worker_type("stuck", initial=Start, stopping=Stuck),
    ]


def bench_of(*children: ChildSpec, orders: Orders, **root: Any) -> Bench:
    bench = Bench(*children, workers=workers(orders))
    bench.engine.root.worker = RootWorker(children, **root)
    return bench


def line(name: str, *children: ChildSpec, restart: Any = "permanent", **policies: Any) -> ChildSpec:
    return child(name, "line", config={"children": children, **policies}, restart=restart)


def fail(bench: Bench, orders: Orders, path: str, decision: Decision | None = None) -> None:
    """Have one worker end by itself, and let everybody get where they are going."""
    orders.once[path] = decision or Restart("broken")
    bench.settle()


def generations(bench: Bench) -> dict[str, int]:
    return {
        node.path.removeprefix("root/"): node.generation
        for node in bench.engine.nodes()
        if node.parent is not None
    }


# --- restart types --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("restart", "decision", "back"),
    [
        ("permanent", Remove("done"), True),
        ("permanent", Restart("broken"), True),
        ("transient", Remove("done"), False),
        ("transient", Restart("broken"), True),
        ("temporary", Remove("done"), False),
        ("temporary", Restart("broken"), False),
    ],
)
def test_a_child_comes_back_after_the_ends_its_restart_type_names(
    restart: Any, decision: Decision, back: bool
) -> None:
    """Permanent after each, transient after an abnormal one, temporary after none; one that stays
    away does so through resyncs and changes of others, until its own spec changes."""
    orders = Orders()
    spec = child("r", "leaf", restart=restart)
    bench = bench_of(child("a"), spec, orders=orders)
    bench.settle()
    fail(bench, orders, "r", decision)
    assert generations(bench) == ({"a": 1, "r": 2} if back else {"a": 1})
    bench.settle(100)
    bench.redeclare(child("a", config={"n": 1}), spec)
    bench.settle(100)
    assert ("r" in bench.tree()) is back
    bench.redeclare(child("a"), child("r", "leaf", restart=restart, config={"n": 2}))
    bench.settle()
    assert generations(bench) == {"a": 1, "r": 2}


@pytest.mark.parametrize(("restart", "back"), [("transient", True), ("temporary", False)])
def test_a_child_that_has_to_be_dropped_on_its_own_way_out_has_ended_abnormally(
    restart: Any, back: bool
) -> None:
    """It meant to be done, but it did not get there."""
    orders = Orders()
    spec = child("r", "stuck", restart=restart, shutdown_timeout_s=2.0)
    bench = bench_of(spec, orders=orders)
    bench.settle()
    fail(bench, orders, "r", Remove("done"))
    assert [event.forced for event in bench.heard(WorkerRemoved, "r")] == [True]
    assert generations(bench) == ({"r": 2} if back else {})


@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
def test_a_stop_that_was_asked_for_is_no_end_of_its_own(restart: Any) -> None:
    """A reload that takes a child out, or its parent that goes: dropped by force or not, it costs
    no budget, and it does not come back."""
    orders = Orders()
    spec = child("r", "stuck", restart=restart, shutdown_timeout_s=2.0)
    bench = bench_of(child("a"), spec, orders=orders, restart_budget=RestartBudget(0))
    bench.settle()
    bench.redeclare(child("a"))
    bench.settle()
    assert [event.forced for event in bench.heard(WorkerRemoved, "r")] == [True]
    assert bench.tree() == {"a": "running"}
    assert bench.heard(RestartBudgetExceeded) == []


def test_taken_out_while_it_ends_by_itself_a_child_does_not_come_back() -> None:
    """The last word is its parent's; declared again in time, it is one new incarnation."""
    orders = Orders()
    spec = child("r", "stuck", shutdown_timeout_s=2.0)
    bench = bench_of(spec, orders=orders)
    bench.settle()
    orders.once["r"] = Restart("broken")
    bench.run(1.0)
    bench.redeclare()
    bench.settle()
    assert bench.tree() == {}
    bench.redeclare(spec)
    bench.settle()
    orders.once["r"] = Restart("broken")
    bench.run(1.0)
    bench.redeclare()
    bench.run(0.5)
    bench.redeclare(spec)
    bench.settle()
    assert len(bench.heard(WorkerAdded, "r")) == 3
    assert bench.tree() == {"r": "running"}
    assert bench.engine.root.restarted == ()


def test_a_stop_of_the_tree_ends_a_child_that_waits_for_its_restart() -> None:
    """I4: neither backoff nor siblings that go down hold up a stop."""
    orders = Orders()
    bench = bench_of(child("a", "leaf"), child("b", "leaf"), orders=orders, strategy="one_for_all")
    bench.settle()
    orders.always["b"] = Restart("again")
    bench.run(3.0)
    bench.engine.stop("asked")
    bench.run(3.0, until=lambda: bench.engine.stopped)
    assert not any(event.forced for event in bench.heard(WorkerRemoved))


# --- strategies -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "after"),
    [
        ("one_for_one", {"a": 1, "b": 2, "c": 1, "d": 1}),
        ("one_for_all", {"a": 2, "b": 2, "c": 2, "d": 2}),
        ("rest_for_one", {"a": 1, "b": 2, "c": 2, "d": 2}),
    ],
)
def test_siblings_restart_along_as_the_strategy_says(strategy: Any, after: dict[str, int]) -> None:
    """They stop in reverse start order, each when the one after it has stopped, start in start
    order when all are down, and cost the budget nothing."""
    orders = Orders()
    kids = tuple(child(name, "leaf") for name in "abcd")
    budget = RestartBudget(restarts=1)
    bench = bench_of(line("l", *kids, strategy=strategy, restart_budget=budget), orders=orders)
    bench.settle()
    before = len(bench.events)
    fail(bench, orders, "l/b")
    assert generations(bench) == {"l": 1} | {f"l/{name}": count for name, count in after.items()}
    assert set(bench.tree().values()) == {"running"}
    along = [f"l/{name}" for name, count in after.items() if count == 2 and name != "b"]
    news = bench.events[before:]
    downs = [
        one.path[5:] for one in news if isinstance(one, StateChanged) and one.to_state == "off"
    ]
    gone = [one.path[5:] for one in news if isinstance(one, WorkerRemoved)]
    added = [one.path[5:] for one in news if isinstance(one, WorkerAdded)]
    assert downs == gone == ["l/b", *reversed(along)]
    assert added == sorted(["l/b", *along])
    order = [type(one) for one in news if isinstance(one, WorkerAdded | WorkerRemoved)]
    assert order == [WorkerRemoved] * len(gone) + [WorkerAdded] * len(added)


def test_start_order_is_the_order_of_dependencies() -> None:
    """Rest for one: those after it are those that start after it, wherever they are declared."""
    orders = Orders()
    kids = (child("app", "leaf", "db"), child("z", "leaf"), child("db", "leaf"))
    bench = bench_of(*kids, orders=orders, strategy="rest_for_one")
    bench.settle()
    fail(bench, orders, "z")
    assert generations(bench) == {"db": 1, "app": 1, "z": 2}
    fail(bench, orders, "db")
    assert generations(bench) == {"db": 2, "app": 2, "z": 3}


def test_siblings_wait_for_the_one_that_failed() -> None:
    """It is put off after its second failure; they start with it, not before."""
    orders = Orders()
    bench = bench_of(*(child(name, "leaf") for name in "ab"), orders=orders, strategy="one_for_all")
    bench.settle()
    for _ in range(3):
        fail(bench, orders, "b")
    starts = [bench.moments[bench.events.index(event)] for event in bench.heard(WorkerAdded, "a")]
    assert starts == [
        bench.moments[bench.events.index(event)] for event in bench.heard(WorkerAdded, "b")
    ]
    assert generations(bench) == {"a": 4, "b": 4}


def test_a_temporary_sibling_is_stopped_along_and_stays_away() -> None:
    """Never started again means never; a transient one comes back."""
    orders = Orders()
    kids = (
        child("a", "leaf", restart="temporary"),
        child("b", "leaf"),
        child("c", "leaf", restart="transient"),
    )
    bench = bench_of(*kids, orders=orders, strategy="one_for_all")
    bench.settle()
    fail(bench, orders, "b")
    bench.settle(100)
    assert generations(bench) == {"b": 2, "c": 2}


def test_a_sibling_that_is_done_is_not_woken_by_a_restart_of_others() -> None:
    """It has ended as it should."""
    orders = Orders()
    kids = (child("a", "leaf", restart="transient"), child("b", "leaf"))
    bench = bench_of(*kids, orders=orders, strategy="one_for_all")
    bench.settle()
    fail(bench, orders, "a", Remove("done"))
    fail(bench, orders, "b")
    assert generations(bench) == {"b": 2}


def test_two_that_fail_together_cost_two_and_their_siblings_restart_once() -> None:
    """A second failure while the group goes down joins it."""
    orders = Orders()
    kids = tuple(child(name, "leaf") for name in "abc")
    bench = bench_of(*kids, orders=orders, strategy="one_for_all")
    bench.settle()
    orders.once["b"] = orders.once["c"] = Restart("broken")
    bench.settle()
    assert generations(bench) == {"a": 2, "b": 2, "c": 2}
    assert [one.name for one in bench.engine.root.restarted] == ["b", "c"]


def test_a_sibling_that_hangs_on_its_way_down_is_dropped_and_the_group_comes_up() -> None:
    """Bounded by its time to stop; forced by others, it costs nothing."""
    orders = Orders()
    kids = (child("a", "leaf"), child("b", "stuck", shutdown_timeout_s=3.0))
    bench = bench_of(*kids, orders=orders, strategy="one_for_all")
    bench.settle()
    fail(bench, orders, "a")
    assert generations(bench) == {"a": 2, "b": 2}
    assert [event.forced for event in bench.heard(WorkerRemoved, "b")] == [True]
    assert [one.name for one in bench.engine.root.restarted] == ["a"]


def test_a_reload_counts_while_siblings_go_down() -> None:
    """What is taken out meanwhile stays out, what is changed comes with its new spec."""
    orders = Orders()
    kids = tuple(child(name, "leaf") for name in "abc")
    bench = bench_of(*kids, orders=orders, strategy="one_for_all")
    bench.settle()
    orders.once["a"] = Restart("broken")
    bench.run(2, until=lambda: bench.engine.root.together is not None)
    bench.engine.root.worker = RootWorker(
        (kids[0], child("c", "leaf", config={"n": 2})), "one_for_all"
    )
    bench.engine.root.derive_needed = True
    bench.engine.root.mark_dirty()
    bench.settle()
    assert generations(bench) == {"a": 2, "c": 2}
    assert bench.node("c").spec.user_spec.config == {"n": 2}


# --- the budget -----------------------------------------------------------------------------


def test_over_its_budget_a_parent_ends_too_and_its_own_parent_decides() -> None:
    """Its children stop first; its restart is one of its parent's, the failing child's are none.
    Told once, at error level; its siblings see nothing."""
    orders = Orders()
    orders.always["bad"] = Restart("again")
    budget = RestartBudget(restarts=2, window_s=60.0)
    bench = bench_of(
        line("l", child("bad", "leaf"), child("good", "leaf"), restart_budget=budget),
        child("z", "leaf"),
        orders=orders,
    )  # fmt: skip
    bench.run(30, until=lambda: bool(bench.heard(RestartBudgetExceeded)))
    del orders.always["bad"]
    bench.settle()
    [exceeded] = bench.heard(RestartBudgetExceeded)
    assert (exceeded.path, exceeded.child, exceeded.outcome) == ("root/l", "bad", "escalated")
    assert (exceeded.restarts, exceeded.level) == (2, "error")
    gone = bench.order_of(WorkerRemoved)
    assert gone == ["l/bad", "l/bad", "l/bad", "l/good", "l"]
    [removed] = bench.heard(WorkerRemoved, "l")
    assert removed.reason == "2 restarts in 60 s are spent, bad ended: restart: again"
    assert bench.node("l").restarted == ()
    assert [one.name for one in bench.engine.root.restarted] == ["l"]
    assert generations(bench) == {"l": 2, "l/bad": 4, "l/good": 2, "z": 1}
    assert set(bench.tree().values()) == {"running"}


@pytest.mark.parametrize(
    ("restart", "back"), [("permanent", True), ("transient", True), ("temporary", False)]
)
def test_an_escalated_parent_ends_abnormally(restart: Any, back: bool) -> None:
    """So its own restart type decides as after a failure."""
    orders = Orders()
    inner = child("bad", "leaf")
    spec = line("l", inner, restart=restart, restart_budget=RestartBudget(restarts=0))
    bench = bench_of(spec, orders=orders)
    bench.settle()
    fail(bench, orders, "l/bad")
    assert generations(bench) == ({"l": 2, "l/bad": 2} if back else {})


def test_a_failure_goes_up_level_by_level_until_a_budget_holds_it() -> None:
    """A leaf that never runs well takes its parent, then its grandparent along, and is given up at
    the top: each level's restarts stay in its budget."""
    orders = Orders()
    orders.always["bad"] = Restart("again")
    budget = RestartBudget(restarts=1, window_s=600.0)
    cell = line("cell", child("bad", "leaf"), restart_budget=budget)
    site = line("site", cell, restart_budget=budget)
    bench = bench_of(site, child("z", "leaf"), orders=orders, restart_budget=budget)
    bench.run(60)
    told = [(event.path, event.outcome) for event in bench.heard(RestartBudgetExceeded)]
    assert told == [
        ("root/site/cell", "escalated"), ("root/site/cell", "escalated"),
        ("root/site", "escalated"),
        ("root/site/cell", "escalated"), ("root/site/cell", "escalated"),
        ("root/site", "escalated"),
        ("root", "given_up"),
    ]  # fmt: skip
    assert bench.tree() == {"z": "running"}
    assert len(bench.heard(WorkerAdded, "site")) == 2
    assert len(bench.heard(WorkerAdded, "site/cell/bad")) == 8


def test_at_the_top_a_child_is_given_up_and_the_root_says_so() -> None:
    """It is not started, the root is degraded and names it, dependents are held, others run; when
    the window has drained it is tried again by itself, and told anew if it fails again."""
    orders = Orders()
    orders.always["bad"] = Restart("again")
    bench = bench_of(
        child("bad", "leaf"), child("app", "leaf", "bad"), child("z", "leaf"), orders=orders
    )
    bench.run(100)
    root = bench.engine.root
    [told] = bench.heard(RestartBudgetExceeded)
    assert (told.path, told.child, told.outcome, told.restarts) == ("root", "bad", "given_up", 5)
    assert len(bench.heard(WorkerAdded, "bad")) == 6
    assert bench.tree() == {"app": "running", "z": "running"}
    assert root.phase is Phase.DEGRADED
    assert root.reason == "2 running; given up, their restarts are spent: bad"
    assert told.retry_in_s is not None
    bench.run(330)
    assert len(bench.heard(RestartBudgetExceeded)) == 2
    assert len(bench.heard(WorkerAdded, "bad")) == 11  # coming back was the first of five
    del orders.always["bad"]
    bench.run(400)
    assert root.phase is Phase.RUNNING
    assert bench.tree()["bad"] == "running"
    assert bench.node("bad").restarts == 11


def test_a_given_up_child_comes_back_at_once_when_its_spec_changes() -> None:
    """And its count begins anew; a change of another's spec does not help it."""
    orders = Orders()
    orders.always["bad"] = Restart("again")
    bench = bench_of(child("bad", "leaf"), child("z", "leaf"), orders=orders)
    bench.run(100)
    assert "bad" not in bench.tree()
    bench.redeclare(child("bad", "leaf"), child("z", "leaf", config={"n": 2}))
    bench.run(10)
    assert "bad" not in bench.tree()
    del orders.always["bad"]
    bench.redeclare(child("bad", "leaf", config={"n": 2}), child("z", "leaf", config={"n": 2}))
    bench.run(1)
    assert bench.tree() == {"bad": "running", "z": "running"}
    assert bench.engine.root.phase is Phase.RUNNING
    assert bench.engine.root.restarted == ()


def test_a_given_up_child_that_is_taken_out_is_forgotten() -> None:
    """The root is well again."""
    orders = Orders()
    orders.always["bad"] = Restart("again")
    bench = bench_of(child("bad", "leaf"), child("z", "leaf"), orders=orders)
    bench.run(100)
    bench.redeclare(child("z", "leaf"))
    bench.settle()
    assert bench.engine.root.phase is Phase.RUNNING
    assert bench.engine.root.restarted == ()
    assert bench.engine.root.later == {}


def test_a_changed_spec_resets_the_count_of_a_living_child_too() -> None:
    """Two restarts on the old spec, two on the new one: none is over a budget of two."""
    orders = Orders()
    budget = RestartBudget(restarts=2)

    def tree(n: int) -> ChildSpec:
        return line("l", child("r", "leaf", config={"n": n}), restart_budget=budget)

    bench = bench_of(tree(1), orders=orders)
    bench.settle()
    for n in (1, 2):
        bench.redeclare(tree(n))
        bench.settle()
        fail(bench, orders, "l/r")
        fail(bench, orders, "l/r")
    assert bench.heard(RestartBudgetExceeded) == []
    fail(bench, orders, "l/r")
    assert len(bench.heard(RestartBudgetExceeded)) == 1


def test_a_budget_of_none_at_the_top_waits_for_a_new_spec() -> None:
    """There is no window in which a restart would be allowed."""
    orders = Orders()
    bench = bench_of(child("r", "leaf"), orders=orders, restart_budget=RestartBudget(restarts=0))
    bench.settle()
    fail(bench, orders, "r")
    bench.run(100_000 * INTERVAL_S)
    assert bench.tree() == {}
    assert [event.retry_in_s for event in bench.heard(RestartBudgetExceeded)] == [None]


def test_a_constructor_that_raises_costs_no_budget() -> None:
    """It has a backoff of its own, and never was a child."""

    def init(self: Any) -> None:
        raise OSError("no licence")

    bench = Bench(child("bad", "fragile"), workers=[worker_type("fragile", __init__=init)])
    bench.run(400)
    assert bench.heard(RestartBudgetExceeded) == []
    assert len(bench.heard(WorkerFaulted)) == 1


@pytest.mark.parametrize("early_s", [INTERVAL_S * i for i in range(1, 10)])
def test_a_given_up_child_and_a_sibling_that_fails_share_the_room(early_s: float) -> None:
    """Whichever comes first when the window has drained, the other waits for the next one."""
    orders = Orders()
    budget = RestartBudget(restarts=1, window_s=60.0)
    kids = (child("bad", "leaf"), child("other", "leaf"))
    bench = bench_of(*kids, orders=orders, restart_budget=budget)
    bench.settle()
    fail(bench, orders, "bad")
    fail(bench, orders, "bad")
    assert generations(bench) == {"other": 1}
    root = bench.engine.root
    bench.run(root.restarted[0].at + 60 - bench.now - early_s)
    orders.once["other"] = Restart("broken")
    bench.run(180)
    assert generations(bench) == {"bad": 3, "other": 2}
    starts = [
        at
        for event, at in zip(bench.events, bench.moments, strict=True)
        if isinstance(event, WorkerAdded) and event.generation > 1
    ]
    assert len(starts) == 3
    assert all(b - a >= 60 for a, b in itertools.pairwise(starts))


def test_a_reload_takes_over_strategy_and_budget() -> None:
    """From the next end on; no child is touched for it."""
    orders = Orders()
    kids = (child("a", "leaf"), child("b", "leaf"))
    bench = bench_of(*kids, orders=orders)
    bench.settle()
    bench.engine.reload(kids, strategy="one_for_all", restart_budget=RestartBudget(restarts=1))
    bench.settle()
    assert generations(bench) == {"a": 1, "b": 1}
    fail(bench, orders, "a")
    assert generations(bench) == {"a": 2, "b": 2}
    fail(bench, orders, "b")
    assert bench.tree() == {"a": "running"}
    assert bench.engine.root.reason == "1 running; given up, their restarts are spent: b"


# --- any history ----------------------------------------------------------------------------

STEPS = st.tuples(
    st.sampled_from(["l/a", "l/b", "l/c", "z", "l"]),
    st.sampled_from([Restart("broken"), Remove("done")]),
    st.integers(1, 200),
)


@given(
    st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"]),
    st.integers(0, 3),
    st.sampled_from([5.0, 60.0]),
    st.lists(st.sampled_from(["permanent", "transient", "temporary"]), min_size=3, max_size=3),
    st.lists(STEPS, max_size=12),
)
def test_no_history_restarts_more_often_than_the_budget(
    strategy: Any, restarts: int, window_s: float, types: list[Any], history: list[Any]
) -> None:
    """I7, of one incarnation of the parent and of the root; and the full tick decides the same."""

    def replay(full: bool) -> tuple[Bench, list[tuple[str, str, float]]]:
        orders = Orders()
        kids = tuple(child(n, "leaf", restart=t) for n, t in zip("abc", types, strict=True))
        budget = RestartBudget(restarts=restarts, window_s=window_s)
        spec = line("l", *kids, strategy=strategy, restart_budget=budget)
        bench = bench_of(spec, child("z", "leaf"), orders=orders, restart_budget=budget)
        bench.full = full
        charged: list[tuple[str, str, float]] = []

        def wait(ticks: int) -> None:
            for _ in range(ticks):
                bench.now += INTERVAL_S
                bench.tick()
                for node in filter(None, (bench.engine.root, bench.find("l"))):
                    for one in node.restarted:
                        entry = (f"{node.path}#{node.generation}", one.name, one.at)
                        if one.started and entry not in charged:
                            charged.append(entry)

        wait(8)
        for path, decision, ticks in history:
            orders.once = {path: decision}
            wait(ticks)
        return bench, charged

    bench, charged = replay(False)
    for parent, _name, end in charged:
        inside = [at for who, _, at in charged if who == parent and end - window_s < at <= end]
        assert len(inside) <= restarts
    starts: dict[str, int] = {}
    for event in bench.heard(WorkerAdded):
        starts[event.path] = starts.get(event.path, 0) + 1
        assert event.generation == starts[event.path]
    again, _charged = replay(True)
    assert [repr(event) for event in again.events] == [repr(event) for event in bench.events]


def test_what_is_given_to_the_root_by_the_config_reaches_its_children() -> None:
    """The engine hands strategy and budget on."""
    desired = RootWorker((), "rest_for_one", RestartBudget(1, 2.0)).derive_desired_state(UserSpec())
    assert (desired.strategy, desired.restart_budget) == ("rest_for_one", RestartBudget(1, 2.0))
