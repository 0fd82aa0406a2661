"""Evidence has a budget: also when all procs die at one moment, and none of them can speak."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from fsmv2.supervisor.core.procfsm import ProcEvent, ProcState
from fsmv2.supervisor.pool import witness as witnesses
from fsmv2.supervisor.pool.certificate import Ending, LastLook, Signs, certify
from fsmv2.supervisor.pool.deadlines import Deadlines
from fsmv2.supervisor.pool.witness import (
    READ_S_MIN,
    READER_BUDGET_S,
    STACK_BUDGET_S,
    UNREAD,
    Witness,
)

PROCS = 8


class Played:
    """Procs that are stopped, a root that steps, and a clock that a read moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, read_s: Callable[[int], float]) -> None:
        self.now = 1_000.0
        self.reads: list[int] = []
        self.killed_at: dict[int, float] = {}
        self._read_s = read_s
        monkeypatch.setattr(witnesses, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(witnesses, "signs_of", lambda _pid: Signs(state="T"))
        monkeypatch.setattr(witnesses, "read_stacks", self._read_stacks)
        self.deadlines = Deadlines()
        self.witness = Witness(self)  # type: ignore[arg-type]
        self.procs = [proc_of(pid) for pid in range(1, PROCS + 1)]

    def _read_stacks(self, pid: int, _anchor: int, budget_s: float) -> str | None:
        assert budget_s <= READER_BUDGET_S
        self.reads.append(pid)
        self.now += self._read_s(pid)
        return f"stack of {pid}"

    def happen(self, proc: Any, event: ProcEvent) -> None:
        """The rows of the procs' table out of witnessing."""
        if proc.state is ProcState.WITNESSING:
            proc.state = ProcState.KILLED
            self.witness.make_do(proc)
            self.killed_at[proc.pid] = self.now

    def run(self) -> list[float]:
        """All deadlines pass in one step; then step until nothing is to be done. The seconds
        that each step took."""
        asked_at = self.now
        for proc in self.procs:
            self.witness.ask(proc, asked_at)
        took = [self.now - asked_at]
        while self.deadlines:
            began = self.now = max(self.now, self.deadlines.next_moment() or 0.0)
            self.deadlines.fire(began, self.happen)
            took.append(self.now - began)
        return took


def proc_of(pid: int) -> Any:
    """As much of a proc as a witness looks at."""
    return SimpleNamespace(
        pid=pid, anchor=1, state=ProcState.WITNESSING, attempt=object(), cause="deadline",
        stack=None, unread=None, silence="", forget_stack=lambda: None, keep_stack=lambda: None,
    )  # fmt: skip


def test_the_budget_is_of_all_procs_together_and_no_kill_is_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each read takes as long as one may: who is not read is said not to be."""
    played = Played(monkeypatch, lambda _pid: READER_BUDGET_S)
    began = played.now
    steps = played.run()
    assert max(steps) <= READER_BUDGET_S * 1.01
    assert set(played.killed_at) == {proc.pid for proc in played.procs}
    assert max(played.killed_at.values()) <= began + STACK_BUDGET_S + 2 * READER_BUDGET_S
    for proc in played.procs:
        assert bool(proc.stack) != bool(proc.unread)
    assert [proc.unread for proc in played.procs].count(UNREAD) >= PROCS // 2


def test_what_cannot_be_read_in_this_step_is_read_in_a_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reads are quick as a rule, and there are 20 ms for them."""
    played = Played(monkeypatch, lambda _pid: 0.75 * READ_S_MIN)
    steps = played.run()
    assert len(steps) > 1
    assert max(steps) <= READER_BUDGET_S
    assert [proc.stack for proc in played.procs].count(None) == 0
    assert [proc.unread for proc in played.procs] == [None] * PROCS


def test_a_proc_that_is_another_one_by_then_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answered after all, and is at its next attempt."""
    played = Played(monkeypatch, lambda _pid: READER_BUDGET_S)
    for proc in played.procs[:2]:
        played.witness.ask(proc, played.now)
    played.procs[1].attempt = object()
    played.procs[1].state = ProcState.BUSY
    while played.deadlines:
        played.now = max(played.now, played.deadlines.next_moment() or 0.0) + 1.0
        played.deadlines.fire(played.now, played.happen)
    assert played.reads == [1]


@pytest.mark.parametrize(
    ("state", "cpu_ms_per_look", "says"),
    [
        ("R", 0.0, None),
        ("R", 0.02, None),
        ("R", 2.0, "had 2.0 ms of CPU"),
        ("R", None, None),
        ("S", 0.0, "did not wake up for 6.0 ms"),
    ],
    ids=["waits for a CPU", "had hardly any", "runs", "no figures", "sleeps"],
)
def test_a_hang_in_c_is_only_said_of_what_had_cpu_time_or_slept(
    monkeypatch: pytest.MonkeyPatch, state: str, cpu_ms_per_look: float | None, says: str | None
) -> None:
    """On a busy machine a Python loop waits its turn: runnable, and with nothing to show for."""
    played = Played(monkeypatch, lambda _pid: 0.0)
    looks = itertools.count()
    monkeypatch.setattr(
        witnesses,
        "main_thread_cpu_now_s",
        lambda _pid: None if cpu_ms_per_look is None else next(looks) * cpu_ms_per_look / 1000,
    )
    monkeypatch.setattr(witnesses, "signs_of", lambda _pid: Signs(state=state))
    proc = proc_of(1)
    proc.hangs_in_c, proc.is_dumped = None, False
    proc.read_wakeups, proc.has_echoed = (lambda: True), (lambda: False)
    played.witness.woken(proc, 1)
    while played.deadlines:
        played.now = max(played.now, played.deadlines.next_moment() or 0.0)
        played.deadlines.fire(played.now, played.happen)
    assert proc.state is ProcState.KILLED
    assert (says or "") in (proc.hangs_in_c or "")
    assert (proc.hangs_in_c is None) == (says is None)
    assert played.killed_at[1] <= 1_000.0 + STACK_BUDGET_S


@pytest.mark.parametrize(
    ("stack", "says"), [(None, f"its deadline of 1 s had passed; {UNREAD}"), ("File", None)]
)
def test_the_certificate_says_that_there_was_no_time_for_a_stack(
    stack: str | None, says: str | None
) -> None:
    """Unless one came all the same."""
    detail = "its deadline of 1 s had passed"
    _status, certificate = certify(
        Ending(
            cause="deadline", exit_code=-9, look=LastLook(), stack=stack, descendants_killed=0,
            log_tail=(), started_at=None, ended_at=0.0, cpu_s=None, slot_back_s=None,
            detail=detail, unread=UNREAD,
        )
    )  # fmt: skip
    assert certificate.verdict == "timed_out"
    assert certificate.detail == (says or detail)
