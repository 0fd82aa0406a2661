"""Outbox to relay: one direction of a sync.

Knows: batches, sending one by one after a failure, which statuses condemn a single message.
Does not know: states, backoff, the other direction.
Invariants: a file is deleted only after the relay answered 2xx for the request it was in; the
order of the outbox is kept; a batch is never given up, a single message only when the relay
refuses this very message, and then its file is kept aside.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fsmv2.communicator import spool
from fsmv2.communicator.actions.call import Call
from fsmv2.communicator.outcomes import Direction
from fsmv2.communicator.transport.errors import Kind, Problem, TransportError

BATCH_MESSAGES_MAX = 100
BATCH_BYTES_MAX = 4 * 1024 * 1024
REQUESTS_MAX = 100
# Only these say "this message, whenever you send it". 404, 408 and 425 do not.
POISON_STATUSES = frozenset({400, 413, 422})


def push_outbox(
    call: Call, outbox: Path, before: Direction, may_go_on: Callable[[], bool]
) -> Direction:
    """Send what waits in ``outbox`` and return how pushing stands.

    Sends in batches, or one by one while the last try had failed: so a message the relay does
    not take is found without holding back the others. An empty outbox makes no request. Stops
    at the first error that is not one message's own, after `REQUESTS_MAX` requests so that a
    pull gets its turn, and when ``may_go_on`` says no.
    """
    if not may_go_on():
        return before
    single = before.problem is not None
    moved = refused = waiting = 0
    problem: Problem | None = None
    try:
        for _ in range(REQUESTS_MAX):
            taken, waiting, bad = spool.outgoing(
                outbox, 1 if single else BATCH_MESSAGES_MAX, BATCH_BYTES_MAX
            )
            refused += bad
            if not taken or not may_go_on():
                break
            try:
                call.transport.push(
                    call.token, [each.message for each in taken], call.instance_uuid
                )
            except TransportError as error:
                if not (len(taken) == 1 and error.problem.status in POISON_STATUSES):
                    problem = error.problem
                    break
                spool.set_aside(taken[0].path)
                refused += 1
                call.ctx.log("message refused by the relay", "warning", status=error.problem.status)
                continue
            for each in taken:
                each.delete()
            moved += len(taken)
            waiting -= len(taken)
    except OSError as error:
        problem = Problem(Kind.UNKNOWN, f"cannot work in the outbox: {error.strerror}")
    if refused:
        call.ctx.log("messages set aside in the outbox", "warning", count=refused)
    if problem is not None and before.problem is None:
        call.ctx.log("push failed", "warning", kind=str(problem.kind), status=problem.status)
    return Direction(
        errors_in_row=0 if problem is None else before.errors_in_row + 1,
        problem=problem,
        idle_s=0.0,
        moved=moved,
        waiting=waiting,
        refused=refused,
    )
