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
from typing import ClassVar

from fsmv2.communicator import metrics, spool
from fsmv2.communicator.actions.call import Access, Call
from fsmv2.communicator.actions.told import after, told
from fsmv2.communicator.outcomes import Direction
from fsmv2.communicator.transport.errors import Kind, Problem, TransportError
from fsmv2.supervisor import Action, ActionContext

BATCH_MESSAGES_MAX = 100
BATCH_BYTES_MAX = 4 * 1024 * 1024
REQUESTS_MAX = 100
# Only these say "this message, whenever you send it". 404, 408 and 425 do not.
POISON_STATUSES = frozenset({400, 413, 422})
# A relay that refuses so many in a row refuses them all: that is an error of its own, or of what
# stands before it, and no reason to empty the outbox.
REFUSED_IN_ROW_MAX = 3


class PushAction(Action, frozen=True):
    """Send what waits in ``outbox``; ``before`` is how pushing stands."""

    timeout_s: ClassVar[float] = 40.0

    access: Access
    outbox: str
    before: Direction = Direction()

    def execute(self, ctx: ActionContext) -> Direction:
        """Push until the outbox is empty, half of the time is over or something fails."""

        def may_go_on() -> bool:
            return not ctx.cancelled and ctx.deadline_s > self.timeout_s / 2

        return self.run(ctx, self.before, may_go_on)

    def run(
        self, ctx: ActionContext, before: Direction, may_go_on: Callable[[], bool]
    ) -> Direction:
        """The same as part of a sync, which says for how long."""
        try:
            call = self.access.call(ctx)
        except TransportError as error:
            return after(before, error.problem)
        return push_outbox(call, Path(self.outbox), before, may_go_on)


def push_outbox(
    call: Call, outbox: Path, before: Direction, may_go_on: Callable[[], bool]
) -> Direction:
    """Send what waits in ``outbox`` and return how pushing stands.

    Sends in batches, or one by one while the last try had failed: so a message the relay does
    not take is found without holding back the others. An empty outbox makes no request. Stops
    at the first error that is not one message's own, after `REQUESTS_MAX` requests so that others
    get their turn, and when ``may_go_on`` says no.
    """
    if not may_go_on():
        return before
    single = before.problem is not None
    moved = refused = waiting = unreadable = 0
    moved_then = refused_then = 0
    asked = False
    problem: Problem | None = None
    try:
        for _ in range(REQUESTS_MAX):
            if moved > moved_then:
                moved_then, refused_then = moved, refused
            taken, waiting, bad = spool.outgoing(
                outbox, 1 if single else BATCH_MESSAGES_MAX, BATCH_BYTES_MAX
            )
            unreadable += bad
            if not taken or not may_go_on():
                break
            asked = True
            try:
                with metrics.request("push"):
                    call.transport.push(
                        call.token, [each.message for each in taken], call.instance_uuid
                    )
            except TransportError as error:
                few = refused - refused_then < REFUSED_IN_ROW_MAX
                if not (few and len(taken) == 1 and _is_poison(error.problem)):
                    problem = error.problem
                    break
                spool.set_aside(taken[0])
                refused += 1
                call.ctx.log("message refused by the relay", "warning", status=error.problem.status)
                continue
            spool.acknowledge(taken)
            metrics.moved("push", len(taken), sum(each.size for each in taken))
            moved += len(taken)
            waiting -= len(taken)
    except OSError as error:
        problem = Problem(Kind.UNKNOWN, f"cannot work in the outbox: {error.strerror}")
    refused += unreadable
    if refused:
        call.ctx.log("messages set aside in the outbox", "warning", count=refused)
    direction = after(before, problem, asked=asked, moved=moved, waiting=waiting, refused=refused)
    told(call.ctx, "push", before, direction)
    return direction


def _is_poison(problem: Problem) -> bool:
    """Whether the relay itself, and no proxy on the way, has refused what it was sent."""
    return problem.kind is Kind.UNKNOWN and problem.status in POISON_STATUSES
