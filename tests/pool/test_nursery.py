"""Where a new proc goes, and one whose lane needs none any more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fsmv2.supervisor import Action, ActionContext
from fsmv2.supervisor.core.procfsm import ProcState
from fsmv2.supervisor.core.quarantine import Record
from fsmv2.supervisor.lanes import QUARANTINE
from fsmv2.supervisor.pool import Pool, PoolOptions
from fsmv2.supervisor.procs import ProcHandle

NOW = 1_000.0


class Nothing(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        """Never run."""


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    """Never started: procs come when the test says so. One type is kept apart."""
    lanes = {"actions": 1, "uploads": 1, "observations": 1}
    made = Pool(lanes, PoolOptions(), run_folder=str(tmp_path), on_result=lambda *_: None)
    kind = made.kinds[Nothing]
    kind.record = Record(since=0.0)
    made.endings.enter_quarantine(kind)
    yield made
    for proc in list(made.nursery.procs):
        made.deadlines.forget(proc)
        proc.close()
    made.nursery.oom.close()
    made.poller.close()


def join(pool: Pool) -> ProcHandle:
    """A proc says hello."""
    nursery = pool.nursery
    proc = ProcHandle(f"p{len(nursery.procs)}", len(nursery.procs), NOW)
    proc.state = ProcState.IDLE
    nursery.procs.append(proc)
    nursery._alive += 1
    nursery.joined(proc, NOW)
    return proc


def release(pool: Pool) -> None:
    pool.endings.leave_quarantine(pool.kinds[Nothing], "the test says so")


def test_observations_come_first_and_what_is_kept_apart_comes_last(pool: Pool) -> None:
    """After all that others wait for; a spare is a luxury."""
    procs = [join(pool) for _ in range(5)]
    assert [proc.lane for proc in procs] == [
        "observations", "uploads", "actions", QUARANTINE, None,
    ]  # fmt: skip
    assert pool.spares == procs[4:]


def test_the_proc_kept_for_quarantine_fills_a_gap_when_it_is_needed_no_more(pool: Pool) -> None:
    """Nothing has to be started."""
    *_, first, solo = [join(pool) for _ in range(4)]
    lane = pool.lanes["actions"]
    assert (first.lane, solo.lane) == ("actions", QUARANTINE)
    lane.drop(first)

    release(pool)
    assert solo.lane == "actions"
    assert lane.idle == [solo]
    assert not pool.lanes[QUARANTINE].members


def test_the_proc_kept_for_quarantine_is_a_spare_when_one_is_missing_and_leaves_else(
    pool: Pool,
) -> None:
    """As many procs as before the quarantine, and none that nobody can use."""
    for _ in range(5):
        join(pool)
    spare, solo = pool.spares[0], next(iter(pool.lanes[QUARANTINE].members))
    assert pool.nursery.wanted == 5
    release(pool)
    assert pool.nursery.wanted == 4
    assert pool.lanes[QUARANTINE].size == 0
    assert pool.spares == [spare]
    assert (solo.state, solo.cause) == (ProcState.LEAVING, "retired")

    pool.endings.enter_quarantine(pool.kinds[Nothing])
    pool.retire(spare, "retired")
    solo = join(pool)
    assert solo.lane == QUARANTINE
    release(pool)
    assert pool.spares == [solo]


def test_the_proc_kept_for_quarantine_stays_while_another_type_is_kept_apart(pool: Pool) -> None:
    class Other(Nothing, frozen=True):
        pass

    for _ in range(5):
        join(pool)
    pool.kinds[Nothing].record, record = Record(), pool.kinds[Nothing].record
    other = pool.kinds.setdefault(Other, pool.kinds[Nothing].__class__(Nothing))
    other.record = record
    release(pool)
    assert pool.lanes[QUARANTINE].size == 1
    assert len(pool.lanes[QUARANTINE].idle) == 1
