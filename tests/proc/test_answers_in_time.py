"""A proc that answers while its stack is taken goes on as if it had not been asked."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lane_actions as acts
import pytest
from driving import Driven, driven

from fsmv2.supervisor.core.procfsm import ProcEvent, ProcState
from fsmv2.supervisor.core.quarantine import Record
from fsmv2.supervisor.pool import procs, witness
from fsmv2.supervisor.pool.deadlines import Deadlines
from fsmv2.supervisor.pool.procs import ProcHandle

BUDGET_S = 1_000.0


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driven]:
    """Of one proc, that never hears that it was asked: signal 0 is none (kill(2))."""
    monkeypatch.setattr(procs, "DUMP_SIGNAL", 0)
    monkeypatch.setattr(witness, "STACK_BUDGET_S", BUDGET_S)
    with driven({"actions": 1}, spares=0) as made:
        made.wait_ready()
        yield made


def asked(made: Driven, path: Path) -> tuple[ProcHandle, int]:
    """A proc at work until ``path`` is there, that was just asked for its stack; its attempt."""
    (proc,) = made.pool.lanes["actions"].members
    attempt = made.submit(acts.Await(str(path)))
    made.until(lambda: proc.page.begun()[0] == attempt, "begun")
    made.pool.happen(proc, ProcEvent.DEADLINE_PASSED)
    assert proc.state is ProcState.WITNESSING
    return proc, attempt


def moments_of(made: Driven, proc: ProcHandle) -> list[Any]:
    """What will happen to ``proc``, and when."""
    return [entry for entry in made.pool.deadlines.heap if entry[2] is proc]


def let_pass(made: Driven, moments: list[Any]) -> None:
    """All of ``moments`` come, and no other."""
    deadlines = Deadlines()
    deadlines.heap = sorted(moments)
    deadlines.fire(math.inf, made.pool.happen)


def test_its_priority_is_what_it_was_before(made: Driven, tmp_path: Path) -> None:
    """It was raised so that the proc can answer on a busy machine, where the root may do so."""
    (proc,) = made.pool.lanes["actions"].members
    before = os.getpriority(os.PRIO_PROCESS, proc.pid)
    path = tmp_path / "go"
    _proc, attempt = asked(made, path)
    raised = os.getpriority(os.PRIO_PROCESS, proc.pid)
    assert raised in (before, procs.RAISED_NICENESS)
    path.touch()
    assert made.result(attempt).succeeded
    assert os.getpriority(os.PRIO_PROCESS, proc.pid) == before


def test_the_time_for_evidence_is_the_attempts_own(made: Driven, tmp_path: Path) -> None:
    """What was left of an earlier attempt's would cut the next one's short."""
    path = tmp_path / "go"
    _proc, attempt = asked(made, path)
    path.touch()
    assert made.result(attempt).succeeded
    path.unlink()

    (proc,) = made.pool.lanes["actions"].members
    stale = moments_of(made, proc)
    _proc, attempt = asked(made, path)
    own = [entry for entry in moments_of(made, proc) if entry not in stale]
    let_pass(made, stale)
    assert proc.state is ProcState.WITNESSING
    let_pass(made, own)
    assert proc.state is ProcState.KILLED
    assert made.result(attempt).status == "crashed"


def test_the_next_of_its_key_goes_though_a_spare_has_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All other procs have been idle for long: nobody but it can tell that the key is free."""
    monkeypatch.setattr(procs, "DUMP_SIGNAL", 0)
    monkeypatch.setattr(witness, "STACK_BUDGET_S", BUDGET_S)
    with driven({"actions": 1}, spares=1) as made:
        made.wait_ready()
        path = tmp_path / "go"
        (proc,) = made.pool.lanes["actions"].members
        first = made.submit(acts.Await(str(path)), key="a")
        made.until(lambda: proc.page.begun()[0] == first, "begun")
        made.pool.happen(proc, ProcEvent.DEADLINE_PASSED)
        assert proc not in made.pool.lanes["actions"].members
        second = made.submit(acts.Both(str(tmp_path / "notes"), "second"), key="a")
        path.touch()
        assert made.result(first).succeeded
        assert made.result(second).succeeded
        made.until(lambda: made.pool.spares == [proc], "it is the spare now")


def test_the_next_of_its_key_goes_when_an_attempt_in_quarantine_fails(tmp_path: Path) -> None:
    """Which leaves its type in quarantine; the next one's is not."""
    with driven({"actions": 1}, spares=0) as made:
        pool = made.pool
        kind = pool.kinds[acts.Note]
        kind.record = Record(since=0.0)
        pool.endings.enter_quarantine(kind)
        made.wait_ready()
        first = made.submit(acts.Note(str(tmp_path / "missing" / "notes"), "first"), key="a")
        second = made.submit(acts.Both(str(tmp_path / "notes"), "second"), key="a")
        assert made.result(first).status == "failed"
        assert kind.record.is_quarantined
        assert made.result(second).succeeded
