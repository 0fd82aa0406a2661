"""What the tree may rely on from a pool: shown on the real one and on the simulated one.

The actions are the real pool's (tests/support/pool_actions.py); the simulated pool is told what
they come to. What only a real process can show stands in tests/proc.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pool_actions as acts
import pytest
from driving import driven

from fsmv2.supervisor.core.action import Action, ActionResult
from fsmv2.supervisor.testing import FaultPlan, ManualClock, SimPool

PATIENCE_S = 60.0


class Simulated:
    """A `SimPool` behind the calls that `driving.Driven` has."""

    def __init__(self, lanes: dict[str, int], faults: FaultPlan, **options: Any) -> None:
        self.results: dict[int, ActionResult] = {}
        self.order: list[int] = []
        self.clock = ManualClock()
        self.pool = SimPool(lanes, clock=self.clock, faults=faults, on_result=self._take, **options)
        pool = self.pool
        pool.answer(acts.Echo, lambda action: action.value)
        pool.answer(acts.Raise, lambda action: ValueError(action.text))
        pool.answer(acts.Sleep, "slept", takes_s=lambda action: action.seconds)
        pool.answer(acts.Spin, takes_s=math.inf)
        pool.answer(acts.Segfault, crashes="crashed:SIGSEGV")
        pool.answer(acts.KillMyself, crashes="killed_from_outside")
        pool.answer(acts.Leave, crashes="exited:3")
        pool.answer(acts.Cooperate, "cleaned up", takes_s=0.201)
        pool.answer(acts.Cancellable, takes_s=math.inf, gives_up_s=0.005)
        pool.answer(acts.Heed, "ended", takes_s=math.inf, stops_s=0.005)
        pool.answer(acts.ReturnObject, object())
        pool.answer(acts.WrongAnnotation, "not a number")
        pool.answer(acts.Carry, lambda action: len(action.load))

    def _take(self, attempt_id: int, result: ActionResult) -> None:
        assert attempt_id not in self.results, f"a second result of {attempt_id}: {result}"
        self.results[attempt_id] = result
        self.order.append(attempt_id)

    def submit(self, action: Action, **options: Any) -> int:
        return self.pool.submit(action, **options)

    def run(self, action: Action, **options: Any) -> ActionResult:
        return self.result(self.submit(action, **options))

    def result(self, attempt_id: int) -> ActionResult:
        self.until(lambda: attempt_id in self.results, f"result of {attempt_id}")
        return self.results[attempt_id]

    def until(self, claim: Callable[[], object], what: str) -> None:
        while not claim():
            moment = self.pool.next_moment()
            assert moment is not None, f"never: {what}; {self.pool!r}"
            assert self.clock.elapsed_s < PATIENCE_S, f"never: {what}; {self.pool!r}"
            self.clock.set(max(self.clock.now, moment))
            self.pool.step()

    def wait_ready(self) -> None:
        self.until(lambda: sum(len(lane.idle) for lane in self.pool.lanes.values()) > 1, "procs")


Make = Callable[..., Any]


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.proc)])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes a pool of two procs, or of the ``lanes`` it is given."""
    open_pools: list[Any] = []

    def made(lanes: dict[str, int] | None = None, **options: Any) -> Any:
        if request.param == "simulated":
            return Simulated(lanes or {"actions": 2}, FaultPlan(), **options)
        pool = driven(lanes, **options)
        open_pools.append(pool)
        return pool.__enter__()

    yield made
    for pool in open_pools:
        pool.__exit__(None, None, None)


@pytest.fixture
def pool(make: Make) -> Any:
    return make()


# --- how an attempt ends ---------------------------------------------------------------------


def test_a_value_comes_back_as_succeeded(pool: Any) -> None:
    result = pool.run(acts.Echo(7))
    assert (result.status, result.value, result.certificate) == ("succeeded", 7, None)
    assert result.action_type == "Echo"


def test_what_an_action_raises_comes_back_as_failed(pool: Any) -> None:
    result = pool.run(acts.Raise("no such valve"))
    assert (result.status, result.certificate) == ("failed", None)
    assert (result.error.type, result.error.message) == ("ValueError", "no such valve")


@pytest.mark.parametrize("action", [acts.ReturnObject(), acts.WrongAnnotation()])
def test_a_value_that_cannot_travel_as_annotated_is_a_failure(pool: Any, action: Action) -> None:
    assert pool.run(action).status == "failed"


def test_an_attempt_whose_time_is_up_is_killed_with_a_certificate(pool: Any) -> None:
    result = pool.run(acts.Spin())
    assert (result.status, result.verdict, result.value) == ("timed_out", "timed_out", None)
    assert result.certificate.signal == "SIGKILL"
    assert "deadline of 0.2 s" in result.certificate.sent_by
    assert 0.2 <= result.ran_s < PATIENCE_S


def test_a_callers_timeout_replaces_the_types_own(pool: Any) -> None:
    result = pool.run(acts.Sleep(50.0), timeout_s=0.1)
    assert (result.status, result.verdict) == ("timed_out", "timed_out")
    assert "deadline of 0.1 s" in result.certificate.sent_by


def test_an_overdue_attempt_may_end_by_itself_within_its_grace(pool: Any) -> None:
    result = pool.run(acts.Cooperate())
    assert (result.status, result.value) == ("succeeded", "cleaned up")


@pytest.mark.parametrize(
    ("action", "verdict"),
    [
        (acts.Segfault(), "crashed:SIGSEGV"),
        (acts.Leave(3), "exited:3"),
        (acts.KillMyself(), "killed_from_outside"),
    ],
)
def test_a_death_of_its_proc_is_told_as_crashed(pool: Any, action: Action, verdict: str) -> None:
    result = pool.run(action)
    assert (result.status, result.verdict) == ("crashed", verdict)


def test_a_kill_costs_no_other_attempt_anything(pool: Any) -> None:
    bystander = pool.submit(acts.Sleep(0.6))
    victim = pool.submit(acts.Spin())
    queued = [pool.submit(acts.Echo(n)) for n in range(20)]
    assert pool.result(victim).status == "timed_out"
    assert pool.result(bystander).value == "slept"
    assert [pool.result(each).value for each in queued] == list(range(20))


def test_bytes_that_are_no_frame_are_a_lost_channel(make: Make) -> None:
    """The simulated pool's fault of that name says what the real pool says."""
    pool = make()
    if isinstance(pool, Simulated):
        pool.pool.ordered_faults.append("garbled")
        result = pool.run(acts.Echo(1))
    else:
        result = pool.run(acts.WriteGarbage(b"\xff" * 64))
    assert (result.status, result.verdict) == ("crashed", "lost_channel")
    assert result.certificate.sent_by == "the root: its channel was lost"
    assert pool.run(acts.Echo(1)).value == 1


# --- what is not taken -----------------------------------------------------------------------


def refused_as(pool: Any, action: Action, kind: str, **options: Any) -> str:
    result = pool.results[pool.submit(action, **options)]  # at once
    assert (result.status, result.error.type) == ("refused", kind)
    return str(result.error.message)


def test_an_unknown_lane_is_refused_with_the_known_ones(pool: Any) -> None:
    assert "want one of actions" in refused_as(pool, acts.Echo(1), "SpecError", lane="nowhere")


@pytest.mark.parametrize("timeout_s", [0, -1.0, math.nan, math.inf, "soon", True])
def test_a_timeout_that_is_none_is_refused(pool: Any, timeout_s: Any) -> None:
    assert "timeout_s" in refused_as(pool, acts.Echo(1), "SpecError", timeout_s=timeout_s)


def test_a_payload_over_the_cap_is_refused(pool: Any) -> None:
    assert "want at most" in refused_as(pool, acts.Carry(b"x" * (2 << 20)), "PayloadTooLarge")
    assert pool.run(acts.Carry(b"x" * 900_000)).value == 900_000


def test_a_full_queue_refuses_all_but_the_urgent(make: Make) -> None:
    pool = make({"actions": 1}, queue=2)
    blocker = pool.submit(acts.Sleep(0.3), key="a")
    waiting = [pool.submit(acts.Echo(n), key="a") for n in range(2)]
    if not isinstance(pool, Simulated):
        pool.until(lambda: pool.pool.lanes["actions"].queue.size <= 2, "queued")
    while True:  # before a proc is there, the first waits as well
        last = pool.submit(acts.Echo(9), key="a")
        if last in pool.results:
            break
        waiting.append(last)
    assert pool.results[last].error.type == "QueueFull"
    assert "want at most 2" in pool.results[last].error.message
    urgent = pool.submit(acts.Echo(5), key="a", urgent=True)
    assert pool.result(urgent).value == 5
    assert {pool.result(each).status for each in (blocker, *waiting)} <= {"succeeded", "refused"}


# --- order -----------------------------------------------------------------------------------


def test_attempts_of_one_key_run_in_order_and_one_at_a_time(pool: Any) -> None:
    pool.wait_ready()
    chance = random.Random(3)
    ids = [pool.submit(acts.Sleep(chance.uniform(0, 0.02)), key="k") for _ in range(10)]
    for each in ids:
        pool.result(each)
    assert pool.order == ids
    # All were there before the second could begin.
    ran_s = [pool.results[each].ran_s for each in ids]
    for number, each in enumerate(ids):
        assert pool.results[each].queued_s > sum(ran_s[1:number]) - 0.001


def test_a_killed_attempt_never_overlaps_with_the_next_of_its_key(pool: Any) -> None:
    first = pool.submit(acts.Sleep(50.0), key="k", timeout_s=0.2)
    second = pool.submit(acts.Echo(2), key="k")
    pool.result(second)
    assert pool.order == [first, second]
    assert pool.results[first].status == "timed_out"


def test_keys_share_the_procs_fairly(make: Make) -> None:
    """One with much to do does not keep another waiting behind all of it."""
    pool = make({"actions": 1})
    busy = [pool.submit(acts.Sleep(0.01), key="busy") for _ in range(10)]
    other = pool.submit(acts.Sleep(0.01), key="other")
    for each in (*busy, other):
        pool.result(each)
    assert pool.order.index(other) <= 2


def test_the_urgent_goes_before_what_waits(make: Make) -> None:
    """A stop's action is not behind the starts of everybody else."""
    pool = make({"actions": 1})
    starts = [pool.submit(acts.Sleep(0.02), key=f"k{n}") for n in range(5)]
    stop = pool.submit(acts.Echo(0), key="stop", urgent=True)
    for each in (*starts, stop):
        pool.result(each)
    assert pool.order.index(stop) <= 1


def test_lanes_do_not_wait_for_each_other(make: Make) -> None:
    pool = make({"actions": 1, "observations": 1})
    hung = pool.submit(acts.Sleep(50.0), lane="actions", timeout_s=50.0)
    look = pool.submit(acts.Echo(4), lane="observations")
    assert pool.result(look).value == 4
    assert hung not in pool.results
    pool.pool.cancel(hung, "operator")
    assert pool.result(hung).status == "cancelled"


# --- cancelling ------------------------------------------------------------------------------


def test_cancelled_while_waiting_it_never_runs(pool: Any) -> None:
    blocker = pool.submit(acts.Sleep(0.2), key="k")
    waiting = pool.submit(acts.Echo(1), key="k")
    assert pool.pool.cancel(waiting)
    result = pool.results[waiting]  # at once
    assert (result.status, result.certificate, result.ran_s) == ("cancelled", None, 0.0)
    assert not pool.pool.cancel(waiting)
    assert pool.result(blocker).status == "succeeded"
    assert pool.run(acts.Echo(2), key="k").value == 2


@pytest.mark.parametrize("cause", ["cancelled", "operator", "stop"])
def test_cancelled_while_running_without_grace_it_is_killed(pool: Any, cause: str) -> None:
    pool.wait_ready()
    running = pool.submit(acts.Sleep(50.0))
    assert pool.pool.cancel(running, cause)
    result = pool.result(running)
    assert (result.status, result.verdict) == ("cancelled", "cancelled")
    assert not pool.pool.cancel(running, cause)


def test_cancelled_while_running_it_may_clean_up_within_its_grace(
    pool: Any, tmp_path: Path
) -> None:
    path = tmp_path / "mark"
    pool.wait_ready()
    running = pool.submit(acts.Cancellable(str(path)))
    if not isinstance(pool, Simulated):
        pool.until(path.exists, "it runs")
    pool.pool.cancel(running)
    result = pool.result(running)
    assert (result.status, result.certificate) == ("cancelled", None)
    assert result.error.type == "InterruptedError"


@pytest.mark.parametrize("cause", ["operator", "stop"])
def test_an_operator_or_a_stop_waits_for_no_grace(pool: Any, tmp_path: Path, cause: str) -> None:
    """Also when it was cancelled softly before; the attempt has 20 s of grace."""
    pool.wait_ready()
    running = pool.submit(acts.Cooperate(), timeout_s=50.0)
    pool.pool.cancel(running, cause)
    result = pool.result(running)
    assert result.status in ("cancelled", "succeeded")  # it may see the word before the kill
    assert result.ran_s < 10.0


# --- told of a stop --------------------------------------------------------------------------


def test_told_of_a_stop_it_ends_by_itself_and_is_not_cancelled(pool: Any, tmp_path: Path) -> None:
    path = tmp_path / "mark"
    pool.wait_ready()
    running = pool.submit(acts.Heed(str(path)))
    bystander = pool.submit(acts.Heed(str(path)), timeout_s=0.3)
    if not isinstance(pool, Simulated):
        pool.until(path.exists, "it runs")
    pool.pool.tell_of_stop(running)
    result = pool.result(running)
    assert (result.status, result.value, result.certificate) == ("succeeded", "ended", None)
    assert pool.result(bystander).status == "timed_out"
    pool.pool.tell_of_stop(running)  # it is over: harmless


def test_told_of_a_stop_while_it_waits_it_knows_when_it_begins(make: Make, tmp_path: Path) -> None:
    pool = make({"actions": 1})
    blocker = pool.submit(acts.Sleep(0.1), key="k")
    waiting = pool.submit(acts.Heed(str(tmp_path / "mark")), key="k")
    pool.pool.tell_of_stop(waiting)
    assert pool.result(blocker).status == "succeeded"
    assert pool.result(waiting).value == "ended"


def test_told_of_a_stop_it_may_be_cancelled_all_the_same(pool: Any) -> None:
    pool.wait_ready()
    running = pool.submit(acts.Sleep(50.0))
    pool.pool.tell_of_stop(running)
    assert pool.pool.cancel(running)
    assert pool.result(running).status == "cancelled"


# --- the books -------------------------------------------------------------------------------


def test_each_attempt_has_exactly_one_result(pool: Any) -> None:
    """Whatever mixture of ends; `in_flight` knows those without one."""
    chance = random.Random(5)
    kinds = (acts.Echo(1), acts.Raise(), acts.Leave(3), acts.Spin(), acts.Sleep(0.01))
    ids = []
    for n in range(60):
        ids.append(pool.submit(chance.choice(kinds), key=chance.choice(("", "a", "b"))))
        if n % 7 == 0:
            pool.pool.cancel(chance.choice(ids))
    assert len(set(ids)) == len(ids)
    for each in ids:
        assert (each in pool.results) != (pool.pool.in_flight(each) is not None)
    for each in ids:
        pool.result(each)
    assert sorted(pool.order) == sorted(ids)
    assert all(pool.pool.in_flight(each) is None for each in ids)


def test_closing_gives_every_result_and_refuses_what_comes_after(pool: Any) -> None:
    pool.wait_ready()
    ids = [pool.submit(acts.Sleep(50.0), key=key) for key in ("a", "a", "b")]
    pool.pool.close()
    assert [pool.results[each].status for each in ids] == ["cancelled"] * 3
    assert refused_as(pool, acts.Echo(1), "PoolClosed")
