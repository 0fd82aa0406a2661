"""What one try makes of a direction, and what is logged of it.

Knows: counting, the failure rate, that an incident is logged when it begins.
Does not know: requests, files.
Invariants: a success ends a row of errors, and so does having nothing to send, or no room for what
would come: or else a row that began with a message that is gone would never end, nor one before
an inbox filled up. What asked nothing of the relay is no outcome
for the rate, unless it failed at that.
"""

from __future__ import annotations

from fsmv2.communicator import metrics
from fsmv2.communicator.failurerate import SYNC
from fsmv2.communicator.outcomes import Direction, Doubt
from fsmv2.communicator.spool import Taken
from fsmv2.communicator.transport.errors import Kind, Problem
from fsmv2.supervisor import ActionContext

# The other may be about to go: after a reload that has given the worker another name, say.
TAKEN_S = 2.0


def after(
    before: Direction,
    problem: Problem | None,
    *,
    asked: bool = True,
    moved: int = 0,
    waiting: int | None = None,
    refused: int = 0,
    held: bool = False,
    strangers: int | None = None,
    doubt: Doubt | None = None,
) -> Direction:
    """``before`` one try later. ``asked`` False: the relay was not asked anything, so the rate
    does not count it."""
    failed = problem is not None
    return Direction(
        errors_in_row=before.errors_in_row + 1 if failed else 0,
        problem=problem,
        idle_s=0.0,
        moved=moved,
        waiting=before.waiting if waiting is None else waiting,
        refused=refused,
        held=held,
        rate=before.rate.with_outcome(failed, SYNC) if asked or failed else before.rate,
        strangers=before.strangers if strangers is None else strangers,
        doubt=before.doubt if doubt is None else doubt,
    )


def taken_by_another(verb: str, taken: Taken) -> Problem:
    """For a try that did nothing, because another was at work in the same folder."""
    return Problem(Kind.UNKNOWN, f"cannot {verb}: {taken}", retry_after_s=TAKEN_S)


def told(ctx: ActionContext, name: str, before: Direction, now: Direction) -> None:
    """Count it, and log what has just begun: a row of errors, a rate of failures that is too
    high."""
    metrics.tried(name, before, now)
    problem = now.problem
    if problem is None:
        return
    facts = {"kind": str(problem.kind), "status": problem.status, "detail": problem.text}
    if before.problem is None:
        ctx.log(f"{name} failed", "warning", **facts)
    if now.rate.alarmed and not before.rate.alarmed:
        ctx.log(
            f"{name} keeps failing", "error", failed=now.rate.failures, of=now.rate.count, **facts
        )
