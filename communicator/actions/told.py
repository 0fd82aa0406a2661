"""What one try makes of a direction, and what is logged of it.

Knows: counting, the failure rate, that an incident is logged when it begins, when it becomes
another, and when it ends.
Does not know: requests, files.
Invariants: a success ends a row of errors, and so does having nothing to send, or no room for what
would come: or else a row that began with a message that is gone would never end, nor one before
an inbox filled up. What asked nothing of the relay is no outcome
for the rate, unless it failed at that. However long a trouble lasts and however it changes to and
fro, the log has no line per try: each class of problem is named once, and one that comes back when
it has come `RETURNED_AT` times in a row.
"""

from __future__ import annotations

import re
import zlib

import msgspec

from fsmv2.communicator import metrics
from fsmv2.communicator.failurerate import SYNC
from fsmv2.communicator.outcomes import Direction, Doubt, Said
from fsmv2.communicator.spool import Taken
from fsmv2.communicator.transport.errors import Kind, Problem
from fsmv2.supervisor import ActionContext

# The other may be about to go: after a reload that has given the worker another name, say.
TAKEN_S = 2.0
# Classes of problems that one trouble may have; from then on each new one counts as come back.
CLASSES_MAX = 8
RETURNED_AT = 3


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
        said=before.said,
        doubt=before.doubt if doubt is None else doubt,
    )


def taken_by_another(verb: str, taken: Taken) -> Problem:
    """For a try that did nothing, because another was at work in the same folder."""
    return Problem(Kind.UNKNOWN, f"cannot {verb}: {taken}", retry_after_s=TAKEN_S)


def told(ctx: ActionContext, name: str, before: Direction, now: Direction) -> Direction:
    """``now``, counted, and logged where something of it is new: a row of errors begins, is of
    another class or is over, or the rate of failures is too high."""
    metrics.tried(name, before, now)
    said = say(ctx, name, before.said, now.problem, before.errors_in_row)
    if now.problem is not None and now.rate.alarmed and not before.rate.alarmed:
        counts = {"failed": now.rate.failures, "of": now.rate.count}
        ctx.log(f"{name} keeps failing", "error", **counts, **facts_of(now.problem))
    return msgspec.structs.replace(now, said=said)


def say(
    ctx: ActionContext, name: str, said: Said, problem: Problem | None, errors_in_row: int
) -> Said:
    """Log what is new of a trouble after one more try, ``errors_in_row`` came before that; returns
    what the log has of it now."""
    if problem is None:
        if said.named:
            ctx.log(f"{name} fails no more", errors_in_row=errors_in_row)
        return Said()
    kind = _class_of(problem)
    times = said.times + 1 if kind == said.now else 1
    named, last = said.named, said.last
    is_new = kind not in named and len(named) < CLASSES_MAX
    if is_new or (kind != last and times >= RETURNED_AT):
        event = f"{name} fails differently" if named else f"{name} failed"
        ctx.log(event, "warning", **facts_of(problem))
        named, last = (*named, kind) if is_new else named, kind
    return Said(named, last, kind, times)


def facts_of(problem: Problem) -> dict[str, str | int | None]:
    """A problem as fields of a log record."""
    return {"kind": str(problem.kind), "status": problem.status, "detail": problem.text}


def _class_of(problem: Problem) -> int:
    """The same for problems that differ in numbers only, other than their status."""
    text = re.sub(r"[0-9][0-9.,]*", "0", problem.text)
    return zlib.crc32(f"{problem.kind} {problem.status} {text}".encode())
