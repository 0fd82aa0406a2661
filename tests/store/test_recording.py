"""From the tree to the store and back: what is said, what is not, what goes on."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from harness import START, WALL, Bench, Off, child, worker_type
from kept import Kept

from fsmv2.supervisor.core import events
from fsmv2.supervisor.core.action import Action, ActionContext, Limits
from fsmv2.supervisor.core.fsm import Act, Decision, Go, Phase, Restart, Snapshot, State, Stay
from fsmv2.supervisor.core.restartevents import RestartBudgetExceeded
from fsmv2.supervisor.core.secret import Secret
from fsmv2.supervisor.core.spec import DesiredState, UserSpec
from fsmv2.supervisor.core.worker import Worker
from fsmv2.supervisor.store.protocol import Recalled
from fsmv2.supervisor.store.recorder import NODES_MAX


def test_every_worker_is_in_the_store_as_it_is_in_the_tree() -> None:
    kept = Kept(Bench(child("a"), child("p", "parent", config={"children": (child("b"),)})))
    kept.run()
    assert sorted(kept.sink.store.snapshot().workers) == ["root", "root/a", "root/p", "root/p/b"]
    record = kept.record("p/b")
    assert record.identity == {
        "name": "b",
        "path": "root/p/b",
        "worker_type": "quiet",
        "created_at": kept.bench.node("p/b").variables.internal["created_at"],
        "generation": 1,
    }
    assert record.desired is not None
    assert record.observed is not None
    assert (record.desired["state"], record.desired["shutdown"]) == ("running", False)
    assert (record.observed["state"], record.observed["phase"]) == ("on", "running")
    entered = kept.bench.node("p/b").entered_at
    assert record.observed["since"] == pytest.approx(WALL + entered - START, abs=0.002)
    parent = kept.record("p").desired
    assert parent is not None
    assert parent["children"] == {"b": "quiet"}


def test_unchanged_tree_costs_no_document_in_any_kind_of_tick() -> None:
    kept = Kept(Bench(*(child(f"c{number}") for number in range(20))))
    kept.run()
    made = len(kept.writes)
    kept.run(120.0)
    kept.bench.tick(full=True)
    kept.run(1.0)
    assert len(kept.writes) == made


def test_portion_is_bounded_and_the_rest_comes_later() -> None:
    kept = Kept(Bench(*(child(f"c{number}") for number in range(2 * NODES_MAX))))
    kept.bench.run(5.0)
    kept.keeper.tend(kept.bench.now, WALL)
    assert len({write.path for write in kept.writes}) == NODES_MAX
    moment = kept.keeper.next_moment()
    assert moment is not None
    assert moment == pytest.approx(kept.bench.now + 0.05)
    kept.save()
    assert len(kept.sink.store.snapshot().workers) == 2 * NODES_MAX + 1


def test_slow_documents_come_in_short_slices_with_long_pauses() -> None:
    kept = Kept(Bench(*(child(f"c{number}") for number in range(40))))
    kept.bench.run(5.0)
    kept.look_s = 0.001
    kept.keeper.tend(kept.bench.now, WALL)
    assert len({write.path for write in kept.writes}) == 4
    moment = kept.keeper.next_moment()
    assert moment is not None
    assert moment >= kept.bench.now + 0.06


def test_removed_worker_is_removed_with_all_below_it() -> None:
    kept = Kept(Bench(child("p", "parent", config={"children": (child("b"),)}), child("a")))
    kept.run()
    kept.bench.redeclare(child("a"))
    kept.run(20.0)
    assert sorted(kept.sink.store.snapshot().workers) == ["root", "root/a"]
    assert kept.sink.store.resume()["root/p/b"] == Recalled(1)


def test_tree_that_stops_as_a_whole_removes_nobody() -> None:
    kept = Kept(Bench(child("a"), child("b")))
    kept.run()
    kept.bench.engine.stop("the end")
    kept.run(20.0)
    assert kept.bench.engine.stopped
    workers = kept.sink.store.snapshot().workers
    assert [(one.observed or {})["phase"] for one in workers.values()] == ["stopped"] * 3


class Ping(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> Limits: ...


class Login(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> Secret: ...


class Guess(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> Any: ...


class Fall(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> None: ...


class CallerConfig(msgspec.Struct, frozen=True):
    host: str = "h"
    token: Secret | None = None


class Resting(State):
    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Decision:
        return Go(Calling, "asked to run")


class Calling(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Decision:
        for action in (Ping(), Login(), Guess(), Fall()):
            if snap.result(type(action)) is None:
                return Act(action, "not done yet")
        return Stay("all done")


class Caller(Worker):
    type_name, config_type = "caller", CallerConfig
    initial = stopping = Resting

    def derive_desired_state(self, spec: UserSpec) -> DesiredState:
        return DesiredState(state="running", config=spec.decode(CallerConfig))


class OtherCaller(Caller):
    type_name = "other"


ANSWERS: dict[type[Action], Any] = {
    Ping: lambda _action: Limits(cpu_s=7),
    Login: lambda _action: Secret("swordfish"),
    Guess: lambda _action: "swordfish",
    Fall: lambda _action: OSError("fell on swordfish"),
}


def called(config: dict[str, Any] | None = None) -> Kept:
    """A caller that has had one result of each action."""
    bench = Bench(child("c", "caller", config=config or {}), workers=[Caller])
    bench.pool.answers |= ANSWERS
    kept = Kept(bench)
    kept.run()
    assert len(bench.node("c").results) == 4
    return kept


def test_last_results_and_failures_go_on_with_the_next_root() -> None:
    second = called().next_root(child("c", "caller"), workers=(Caller,))
    second.bench.run(0.5)
    node = second.bench.node("c")
    assert node.results[Ping].value == Limits(cpu_s=7)
    assert node.results[Fall].status == "failed"
    assert node.failures == {Fall: 1}
    assert not second.bench.attempts(Ping)


class Pinging(Calling):
    def next(self, snap: Snapshot) -> Decision:
        if snap.since_result_s(Ping) < 3.0:
            return Stay("pinged just now")
        return Act(Ping(), "due")


class PingingRest(Resting):
    def next(self, snap: Snapshot) -> Decision:
        return Go(Pinging, "asked to run")


class Pinger(Caller):
    type_name = "pinger"
    initial = stopping = PingingRest


@pytest.mark.parametrize("status", ["cancelled", "crashed", "failed"])
def test_the_last_result_and_the_last_success_both_go_on_with_the_next_roots(status: Any) -> None:
    """The end of a root cancels what is under way; a kill of it may come after any attempt."""
    bench = Bench(child("c", "pinger"), workers=[Pinger])
    bench.pool.answers[Ping] = lambda _action: Limits(cpu_s=7)
    first = Kept(bench)
    first.run(1.0)
    del bench.pool.answers[Ping]
    first.run(4.0)
    bench.pool.complete(bench.open_attempt(Ping), status=status)
    first.run(0.5)
    node = bench.node("c")
    success, end = node.successes[Ping]
    ends = [node.result_ends[Ping], end]
    assert ends[0] - ends[1] > 2.0
    wall = WALL + bench.now - START
    for _ in range(2):
        second = first.next_root(child("c", "pinger"), workers=(Pinger,))
        for _ in range(2):
            second.bench.now += 0.125
            wall += 0.125
            second.bench.engine.tick(second.bench.now, wall)
        after = second.bench.node("c")
        assert after.results[Ping].status == status
        assert after.failures == node.failures == ({} if status == "cancelled" else {Ping: 1})
        assert after.successes[Ping][0].value == success.value == Limits(cpu_s=7)
        found = [after.result_ends[Ping], after.successes[Ping][1]]
        past_s = (wall - WALL) - (second.bench.now - START)
        assert [one + past_s for one in found] == pytest.approx(ends, abs=0.01)
        second.save()
        first = second


def test_result_that_may_hold_a_secret_does_not_go_on() -> None:
    """One that is a Secret, and one whose type does not say what it is; as a last success too."""
    first = called()
    node = first.bench.node("c")
    for kind in (Login, Guess):
        node.successes[kind] = (node.results[kind], node.result_ends[kind])
        node.results[kind] = msgspec.structs.replace(
            node.results[kind], status="failed", value=None
        )
    node.acted_at = first.bench.now
    node.mark_dirty()
    first.bench.tick()
    first.save()
    second = first.next_root(child("c", "caller"), workers=(Caller,))
    second.bench.run(0.5)
    assert second.bench.node("c").results.keys() == {Ping, Login, Guess, Fall}
    assert second.bench.node("c").successes == {}
    assert all(b"swordfish" not in write.document for write in first.writes)


@pytest.mark.parametrize(
    ("kind", "config", "before"),
    [
        ("other", {}, {}),
        ("caller", {"host": "elsewhere"}, {}),
        ("caller", {"token": "t"}, {"token": "t"}),
    ],
    ids=["another type", "another config", "a config that hides something"],
)
def test_results_of_what_is_not_provably_the_same_do_not_go_on(
    kind: str, config: dict[str, Any], before: dict[str, Any]
) -> None:
    second = called(before).next_root(
        child("c", kind, config=config), workers=(Caller, OtherCaller)
    )
    second.bench.run(0.25)
    assert second.bench.node("c").results == {}
    assert second.bench.node("c").generation == 2


def test_config_that_no_type_was_given_for_is_not_kept() -> None:
    """A parent's config holds those of its children in clear."""
    spec = child("p", "parent", config={"children": (child("b", config={"password": "hunter2"}),)})
    kept = Kept(Bench(spec))
    kept.run()
    assert all(b"hunter2" not in write.document for write in kept.writes)
    desired = kept.record("p").desired
    assert desired is not None
    assert desired["config"] == "<dict>"


def test_config_is_kept_with_its_secret_hidden() -> None:
    desired = called({"token": "swordfish"}).record("c").desired
    assert desired is not None
    assert desired["config"] == {"host": "h", "token": "Secret(…)"}


class Weary(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Decision:
        return Restart("tired") if snap.time_in_state_s > 1.0 else Stay("fresh")


class WearyOff(State):
    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Decision:
        return Go(Weary, "asked to run")


Tired = worker_type("tired", initial=WearyOff, stopping=WearyOff)


def test_incarnations_are_counted_on_and_none_is_a_restart_of_this_run() -> None:
    first = Kept(Bench(child("t", "tired"), child("q"), workers=[Tired]))
    first.run(8.0)
    before = first.bench.node("t").generation
    assert before > 2
    assert first.record("t").identity["generation"] == before
    second = first.next_root(child("t", "tired"), child("q"), workers=(Tired,))
    second.bench.run(0.5)
    assert second.bench.node("q").generation == 2
    (added,) = second.bench.heard(events.WorkerAdded, "q")
    assert added.resumed


def at_the_same_moment(first: Kept, *children: Any) -> Kept:
    """The next root, after its first tick at the moment of the wall clock where ``first`` is."""
    second = first.next_root(*children, workers=(Tired,))
    wall = WALL + first.bench.now - START
    for _ in range(2):
        second.bench.now += 0.125
        second.bench.engine.tick(second.bench.now, wall)
    return second


def test_restarts_of_the_last_minutes_count_on_and_the_wait_is_waited_out() -> None:
    """Else killing the root would be a way around the growing waits."""
    first = Kept(Bench(child("t", "tired"), workers=[Tired]))
    root = first.bench.engine.root
    first.bench.run(40.0, until=lambda: len(root.restarted) > 2 and not root.restarted[-1].started)
    first.save()
    wait_s = root.later["t"].moment - first.bench.now
    assert wait_s > 0.5
    second = at_the_same_moment(first, child("t", "tired"))
    assert second.bench.find("t") is None
    next_root = second.bench.engine.root
    assert next_root.later["t"].moment - START == pytest.approx(wait_s + 0.125, abs=0.01)
    ages = [first.bench.now - one.at for one in root.restarted]
    assert [START + 0.125 - one.at for one in next_root.restarted] == pytest.approx(ages, abs=0.01)
    assert [one.started for one in next_root.restarted] == [one.started for one in root.restarted]


def test_spent_budget_stays_spent_for_the_next_root() -> None:
    first = Kept(Bench(child("t", "tired"), child("q"), workers=[Tired]))
    first.bench.run(120.0, until=lambda: bool(first.bench.heard(RestartBudgetExceeded)))
    first.run(1.0)
    second = at_the_same_moment(first, child("t", "tired"), child("q"))
    assert second.bench.find("t") is None
    assert second.bench.find("q") is not None
    # The wait that goes on is bounded, but the window's budget is asked again then.
    second.bench.run(100.0)
    assert second.bench.find("t") is None
    second.bench.run(400.0, until=lambda: second.bench.find("t") is not None)


def test_worker_that_ends_by_itself_is_not_a_removed_one_until_it_is_undeclared() -> None:
    kept = Kept(Bench(child("t", "tired"), child("q"), workers=[Tired]))
    kept.bench.run(120.0, until=lambda: bool(kept.bench.heard(RestartBudgetExceeded)))
    kept.run(1.0)
    assert (kept.record("t").observed or {})["phase"] == "stopped"
    kept.bench.redeclare(child("q"))
    kept.run(1.0)
    assert sorted(kept.sink.store.snapshot().workers) == ["root", "root/q"]


def test_resume_document_of_another_version_stops_nobody() -> None:
    """Unknown fields are passed over, missing ones have defaults, nonsense counts as nothing."""
    kinds = {"new": {"from_the_future": 1}, "old": {}, "odd": {"failures": "many"}}
    recalled = {
        f"root/{name}": Recalled(3, "caller", {"config": {"host": "h", "token": None}}, resume)
        for name, resume in kinds.items()
    }
    bench = Bench(*(child(name, "caller") for name in kinds), workers=[Caller])
    Kept(bench, recalled)
    bench.run(0.5)
    assert [bench.node(name).generation for name in kinds] == [4, 4, 4]


@pytest.mark.parametrize("raised", [RuntimeError, SystemExit])
def test_value_that_cannot_be_kept_costs_its_worker_nothing(raised: type[BaseException]) -> None:
    class Sly:
        def __repr__(self) -> str:
            raise raised("no")

    kept = Kept(Bench(child("a")))
    kept.run()
    node = kept.bench.node("a")
    node.status = Sly()
    node.reason = "sly now"
    node.mark_dirty()
    kept.bench.tick()
    kept.save()
    observed = kept.record("a").observed
    assert observed is not None
    assert observed["status"].endswith(".Sly>")


def test_config_that_cannot_be_compared_costs_the_root_nothing() -> None:
    """What its comparison raised (as that of two arrays does) ended the root at the next reload."""

    class Odd:
        def __eq__(self, other: object) -> bool:
            raise ValueError("the truth value of an array is ambiguous")

        __hash__ = None  # type: ignore[assignment]

    class Owner(Worker):
        type_name = "owner"
        initial = stopping = Off

        def derive_desired_state(self, spec: UserSpec) -> DesiredState:
            return DesiredState("running", config=Odd())

    kept = Kept(Bench(child("a", "owner"), workers=[Owner]))
    kept.run()
    kept.bench.redeclare(child("a", "owner", config={"n": 1}))
    kept.run()
    desired = kept.record("a").desired
    assert desired is not None
    assert desired["state"] == "running"


def test_store_that_was_lost_is_told_everything_again() -> None:
    kept = Kept(Bench(child("a"), child("b")))
    kept.run()
    before = len(kept.writes)
    kept.keeper.say_all()
    kept.bench.now += 1.0
    kept.save()
    again = kept.writes[before:]
    assert {write.path for write in again} == {"root", "root/a", "root/b"}
    assert len(again) == 12


def test_equal_names_under_two_parents_stay_apart_in_the_store() -> None:
    """In the Go original they share documents, and stopping one stopped the other (V5)."""
    twin = child("twin")
    kept = Kept(
        Bench(
            child("p", "parent", config={"children": (twin,)}),
            child("r", "parent", config={"children": (twin,)}),
        )
    )
    kept.run()
    kept.bench.redeclare(child("r", "parent", config={"children": (twin,)}))
    kept.run(20.0)
    assert list(kept.sink.store.snapshot().workers) == ["root", "root/r", "root/r/twin"]
    assert (kept.record("r/twin").observed or {})["phase"] == "running"
