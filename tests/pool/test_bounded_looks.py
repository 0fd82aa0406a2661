"""However many processes an action has started, no look at them holds up the root for long."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Container, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from fsmv2.ipc import linux
from fsmv2.ipc.linux import Orphan
from fsmv2.supervisor import Limits
from fsmv2.supervisor.core.procfsm import ProcEvent, ProcState
from fsmv2.supervisor.pool import guard as guards
from fsmv2.supervisor.pool import orphans, procs
from fsmv2.supervisor.pool.guard import LOOK_MAX, Guard
from fsmv2.supervisor.pool.orphans import Orphans
from fsmv2.supervisor.pool.procs import BELOW_MAX, ProcHandle

MANY = 10_000


def test_a_look_below_a_process_ends_with_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is to be skipped takes nobody's place."""
    looked: list[int] = []

    def children_of(pid: int) -> list[int]:
        looked.append(pid)
        return list(range(2, MANY)) if pid == 1 else []

    monkeypatch.setattr(linux, "children_of", children_of)
    assert linux.descendants_of(1, 10, skip=range(2, 100)) == list(range(100, 110))
    assert len(looked) <= 11
    assert len(linux.descendants_of(1)) == linux.DESCENDANTS_MAX


# --- the kill --------------------------------------------------------------------------------


class FakeGroup:
    """A kernel group as a kill sees it."""

    is_made = True

    def __init__(self, members: list[int], can_kill: bool = True) -> None:
        self.members = members
        self.can_kill = can_kill
        self.is_killed = False

    def pids(self) -> list[int]:
        return self.members

    def kill(self) -> bool:
        self.is_killed = True
        return True


@pytest.fixture
def handle() -> Iterator[ProcHandle]:
    """The handle of a process that sleeps."""
    made = ProcHandle("p1", 1, 0.0)
    with subprocess.Popen(["sleep", "1000"]) as process:
        made.set_pid(process.pid)
        yield made
        process.kill()
    made.close()


def test_a_kill_by_the_group_looks_at_few_and_knows_all(
    handle: ProcHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One who has moved himself out of the group is killed by hand."""
    members = list(range(1 << 22, (1 << 22) + MANY))
    limits, killed = [], []

    def descendants_of(pid: int, limit: int = MANY, skip: Container[int] = ()) -> list[int]:
        limits.append(limit)
        return [5, *members][:limit]

    monkeypatch.setattr(procs, "descendants_of", descendants_of)
    monkeypatch.setattr(procs.os, "kill", lambda pid, number: killed.append((pid, number)))
    group: Any = FakeGroup([handle.pid, *members])
    handle.group = group
    assert handle.kill(1.0, ())
    assert limits == [BELOW_MAX]
    assert group.is_killed
    assert killed == [(5, signal.SIGKILL)]
    assert handle.descendants_killed == len(handle.below) == MANY + 1


def test_a_kill_that_went_on_counts_nobody_twice(
    handle: ProcHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was killed and is not dead yet is found again."""
    found = iter([((7, 8), False), ((8, 9, handle.pid), True)])

    def kill_tree(pid: int, **_: Any) -> Any:
        pids, is_complete = next(found)
        return SimpleNamespace(pids=pids, is_complete=is_complete)

    monkeypatch.setattr(procs, "kill_tree", kill_tree)
    group: Any = FakeGroup([], can_kill=False)
    handle.group = group
    assert not handle.kill(1.0, ())
    assert handle.kill_more(())
    assert handle.below == [7, 8, 9]
    assert handle.descendants_killed == 3


# --- the guard -------------------------------------------------------------------------------


class GuardedProc:
    """As much of a proc as the guard looks at."""

    state = ProcState.BUSY
    pid = os.getpid()
    cause = detail = overdue_at = None

    def __init__(self, limits: Limits, below: int, has_group: bool = True) -> None:
        kind = SimpleNamespace(limits=limits, is_guarded=True)
        self.attempt = SimpleNamespace(id=1, kind=kind)
        self.group = SimpleNamespace(is_made=has_group)
        self.below = below
        self.looks: list[int] = []

    def look_below(self, limit: int) -> list[int]:
        self.looks.append(limit)
        return list(range(1 << 22, (1 << 22) + (self.below if self.group.is_made else limit)))


def guard_over(*guarded: GuardedProc) -> tuple[Guard, list[ProcEvent]]:
    happened: list[ProcEvent] = []
    pool: Any = SimpleNamespace(
        nursery=SimpleNamespace(procs=guarded),
        deadlines=SimpleNamespace(call=lambda *_: None),
        happen=lambda _proc, event: happened.append(event),
    )
    return Guard(pool), happened


@pytest.mark.parametrize("has_group", [True, False])
def test_the_guard_looks_at_few_of_a_fork_bomb(has_group: bool) -> None:
    proc = GuardedProc(Limits(memory_bytes=1 << 40, processes=50), MANY, has_group)
    guard, happened = guard_over(proc)
    guard._sample()
    assert proc.looks == [LOOK_MAX]
    assert happened == [ProcEvent.DEADLINE_PASSED]
    assert proc.cause == "processes"


def test_without_a_group_the_guard_counts_as_far_as_the_limit() -> None:
    """But never for longer than a look may take."""
    for limit, looks in ((500, 501), (MANY, linux.DESCENDANTS_MAX)):
        proc = GuardedProc(Limits(processes=limit), MANY, has_group=False)
        guard, _ = guard_over(proc)
        guard._sample()
        assert proc.looks == [looks]


def test_all_procs_of_a_sample_share_its_time_for_the_dear_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each sample has its own."""
    untils: list[float] = []

    class CountingShare:
        def over(self, sizes: object, limit_bytes: int, until_s: float) -> None:
            untils.append(until_s)

    monkeypatch.setattr(guards, "Share", CountingShare)
    guarded = [GuardedProc(Limits(memory_bytes=1 << 20), 0) for _ in range(3)]
    guard, happened = guard_over(*guarded)
    guard._sample()
    assert len(untils) == 3
    assert len(set(untils)) == 1
    guard._sample()
    assert len(set(untils)) == 2
    assert happened == []


# --- the sweep -------------------------------------------------------------------------------


def test_a_sweep_looks_at_few_and_goes_on_until_it_has_looked_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[int] = []
    clock = SimpleNamespace(now=100.0)

    def orphan_of(pid: int) -> Orphan:
        looked.append(pid)
        return Orphan("stranger", False, 0)

    monkeypatch.setattr(orphans, "children_of", lambda _pid: list(range(1, 1_001)))
    monkeypatch.setattr(orphans, "orphan_of", orphan_of)
    monkeypatch.setattr(orphans.time, "monotonic", lambda: clock.now)
    sweeper = Orphans("fsmv2.test.")
    sweeper.sweep(set(), set())
    sweeps = 1
    assert sweeper.sweep_at is not None
    while sweeper.sweep_at is not None:
        assert len(looked) <= sweeps * orphans.LOOKS_MAX
        assert sweeps < 10
        clock.now = sweeper.sweep_at
        sweeper.sweep(set(), set())
        sweeps += 1
    assert looked == list(range(1, 1_001))


def test_the_dead_are_not_all_looked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were killed with their proc and have not come to us."""
    looked: list[int] = []

    def place_of(pid: int) -> None:
        looked.append(pid)

    monkeypatch.setattr(orphans, "children_of", lambda _pid: [])
    monkeypatch.setattr(orphans, "place_of", place_of)
    sweeper = Orphans("fsmv2.test.")
    sweeper.bury(0, range(1, 1_001))
    sweeper.sweep(set(), set())
    assert len(looked) == orphans.LOOKS_MAX
    while sweeper.sweep_at is not None:
        sweeper.sweep(set(), set())
    assert sorted(looked) == list(range(1, 1_001))
