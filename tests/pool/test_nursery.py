"""Where a new proc goes, and one whose lane needs none any more."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from fsmv2.ipc.codec import encode
from fsmv2.ipc.frames import pack_frame
from fsmv2.ipc.messages import Done
from fsmv2.supervisor import Action, ActionContext
from fsmv2.supervisor.core.procfsm import ProcEvent, ProcState
from fsmv2.supervisor.core.quarantine import Record
from fsmv2.supervisor.pool.attempts import Attempt
from fsmv2.supervisor.pool.lanes import QUARANTINE
from fsmv2.supervisor.pool.pool import Pool
from fsmv2.supervisor.pool.pooloptions import PoolOptions
from fsmv2.supervisor.pool.poolstatistics import pool_statistics
from fsmv2.supervisor.pool.procs import ProcHandle

NOW = 1_000.0


class Nothing(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        """Never run."""


class Plain(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        """Never run; not kept apart."""


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


# --- those that are overdue -----------------------------------------------------------------


def overdue(pool: Pool, proc: ProcHandle, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    """``proc`` is busy, and its deadline passes; nothing is asked of a process that is not."""
    monkeypatch.setattr(pool.witness, "ask", lambda *_: None)
    pool.submit(Plain())
    attempt = proc.attempt
    assert attempt is not None
    pool.happen(proc, ProcEvent.DEADLINE_PASSED)
    assert proc.state is ProcState.WITNESSING
    return attempt


def test_a_spare_stands_in_for_an_overdue_proc_while_its_stack_is_taken(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits need not wait for the evidence."""
    *_, worker, _solo, spare = [join(pool) for _ in range(5)]
    attempt = overdue(pool, worker, monkeypatch)
    assert (worker.lane, spare.lane) == (None, "actions")
    assert worker.replaced_at is not None
    assert worker.attempt is attempt
    told = {proc["slot"]: proc["lane"] for proc in pool_statistics(pool)["procs"]}
    assert told[worker.slot] == "actions", "where it works, not where it waits"

    waiting = pool.submit(Plain())
    assert spare.attempt is not None
    assert spare.attempt.id == waiting
    assert not pool.spares


def test_an_overdue_proc_keeps_its_place_while_there_is_no_spare(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, worker, _solo = [join(pool) for _ in range(4)]
    overdue(pool, worker, monkeypatch)
    assert worker.lane == "actions"
    assert worker.replaced_at is None


def test_an_overdue_proc_that_answers_after_all_is_a_spare_then(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its place is taken; there are as many procs as there should be."""
    *_, worker, _solo, spare = [join(pool) for _ in range(5)]
    attempt = overdue(pool, worker, monkeypatch)
    answer(pool, worker, attempt)
    assert worker.state is ProcState.IDLE
    assert pool.spares == [worker]
    assert worker.replaced_at is None
    assert pool.lanes["actions"].idle == [spare]


def test_a_proc_that_was_overdue_once_is_not_so_for_its_next_attempt(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the certificate of a later death would say that the slot was back after so long."""
    *_, worker, _solo, _spare = [join(pool) for _ in range(5)]
    attempt = overdue(pool, worker, monkeypatch)
    worker.overdue_at = NOW
    answer(pool, worker, attempt)
    assert worker.overdue_at is None


def test_an_overdue_proc_that_answers_after_all_and_is_worn_out_leaves(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, worker, _solo, _spare = [join(pool) for _ in range(5)]
    attempt = overdue(pool, worker, monkeypatch)
    worker.worn = "a limit could not be lifted"
    answer(pool, worker, attempt)
    assert worker.state is ProcState.LEAVING
    assert not pool.spares


def test_an_overdue_proc_that_is_killed_makes_room_for_one_new_spare(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, worker, _solo, _spare = [join(pool) for _ in range(5)]
    overdue(pool, worker, monkeypatch)
    assert pool.nursery.starts_waiting == 0
    monkeypatch.setattr(pool.witness, "make_do", lambda _: None)
    monkeypatch.setattr(ProcHandle, "kill", lambda *_: True)
    worker.pid = 1
    pool.happen(worker, ProcEvent.STACK_CAME)
    worker.pid = 0
    assert worker.state is ProcState.KILLED
    assert pool.nursery.starts_waiting == 1
    assert not pool.spares


def answer(pool: Pool, proc: ProcHandle, attempt: Attempt) -> None:
    """The proc's answer comes."""
    done = Done(attempt.id, encode(None), NOW, 0.0)
    os.write(proc.theirs[1], pack_frame(encode(done)))
    pool.answers.readable(proc, 1)


# --- a machine that has run out -------------------------------------------------------------


@pytest.mark.parametrize("free", range(11))
def test_a_proc_for_which_descriptors_are_missing_leaves_none_open(free: int) -> None:
    """Eleven of them would be needed."""
    before = set(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + free, hard))
        with pytest.raises(OSError, match="Too many open files"):
            ProcHandle("p1", 1, NOW)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_descriptor_is_kept_for_the_one_that_tells_a_procs_death() -> None:
    """The machine may run out of them while the proc is being forked."""
    proc = ProcHandle("p1", 1, NOW)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    try:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard)
        )
        others = []
        with contextlib.suppress(OSError):
            while True:
                others.append(os.dup(0))
        assert proc.set_pid(pid)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in others:
            os.close(fd)
        os.waitpid(pid, 0)
    assert proc.pidfd >= 0
    proc.close()
