"""When an attempt must end, and that one which is being ended keeps its cause of death."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from fsmv2.supervisor.core.procfsm import ProcEvent, ProcState
from fsmv2.supervisor.pool.deadlines import Deadlines, true_end

NOW = 1_000.0


def proc_at_work(begun_at: float = NOW - 10.0, timeout_s: float = 1.0) -> Any:
    """As much of a proc, its page and its attempt as a deadline concerns."""
    kind = SimpleNamespace(grace_s=0.0, heartbeat_s=math.inf, timeout_s_max=None)
    attempt = SimpleNamespace(id=7, place=1, kind=kind, timeout_s=timeout_s, cancel_cause=None)
    page = SimpleNamespace(
        begun=lambda: (7, begun_at, 0.0), begun_place=lambda: 1, extension_of=lambda _id: 0.0
    )
    return SimpleNamespace(
        attempt=attempt, page=page, state=ProcState.BUSY, attempt_at=NOW - 10.0,
        deadline_at=math.inf, cause=None, detail=None, overdue_at=None,
    )  # fmt: skip


def passed(proc: Any) -> list[ProcEvent]:
    """What happens to ``proc`` when its deadline is looked at now."""
    deadlines, happened = Deadlines(), []
    deadlines.look_again(proc, NOW - 0.5)
    deadlines.fire(NOW, lambda _proc, event: happened.append(event))
    return happened


def test_a_deadline_that_has_passed_is_the_cause_of_death() -> None:
    """The attempt was at work, nothing else was wrong."""
    proc = proc_at_work()
    assert passed(proc) == [ProcEvent.DEADLINE_PASSED]
    assert proc.cause == "deadline"


@pytest.mark.parametrize("state", [ProcState.WITNESSING, ProcState.KILLED, ProcState.LEAVING])
def test_a_deadline_that_passes_while_a_proc_is_being_ended_is_not_its_cause(
    state: ProcState,
) -> None:
    """The kernel may take a while to free the memory of one that our guard has killed."""
    proc = proc_at_work()
    proc.state, proc.cause, proc.detail, proc.overdue_at = state, "memory", "too much", NOW - 2.0
    assert passed(proc) == []
    assert (proc.cause, proc.detail, proc.overdue_at) == ("memory", "too much", NOW - 2.0)


@pytest.mark.parametrize("begun_at", [math.inf, math.nan, NOW + 1e9])
def test_a_start_that_makes_no_sense_does_not_put_the_end_off(begun_at: float) -> None:
    """The action can write to the page; the moment it was given to its proc counts then."""
    proc = proc_at_work(begun_at)
    assert true_end(proc, proc.attempt, NOW) is None
    assert proc.cause == "deadline"
