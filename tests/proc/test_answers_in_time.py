"""A proc that answers while its stack is taken goes on as if it had not been asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import lane_actions as acts
import pytest
from driving import Driven, driven

from fsmv2.supervisor import procs, witness
from fsmv2.supervisor.core.procfsm import ProcEvent, ProcState
from fsmv2.supervisor.procs import ProcHandle

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
