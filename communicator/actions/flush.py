"""The last push before a stop: what still waits is sent, for as long as a stop may take.

Knows: how little time there is, and that what is left is told.
Does not know: states, pulling: after a stop was asked for nothing is pulled.
Invariants: without a session, or while pushing waits out an error, nothing is sent, only counted;
what is left stays in the outbox for the next start; no request is under way at the attempt's
deadline.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import msgspec

from fsmv2.communicator import metrics, spool
from fsmv2.communicator.actions.call import Access, all_within
from fsmv2.communicator.actions.push import PushAction
from fsmv2.communicator.outcomes import Direction
from fsmv2.supervisor import Action, ActionContext

FLUSH_S = 3.0
# A request that begins is waited for so long, whatever the config says.
ANSWER_S = 1.5
# No request lasts until so shortly before the attempt's end: then it counts.
COUNT_S = 0.3


class FlushAction(Action, frozen=True):
    """Send what waits in ``outbox``, and tell what is left. ``before`` is how pushing stands;
    ``access`` None: there is no session. ``path``: the worker's, for its metrics."""

    timeout_s: ClassVar[float] = FLUSH_S + ANSWER_S
    grace_s: ClassVar[float] = 0.5

    access: Access | None
    outbox: str
    before: Direction = Direction()
    path: str = ""

    def execute(self, ctx: ActionContext) -> Direction:
        """Push until nothing waits, something fails or the time is over; returns how it stands."""
        metrics.of(self.path)
        moved = 0
        stands = self.before
        # One that connects slowly has less for its answer: what is left is to be told in any case.
        with all_within(max(0.0, ctx.deadline_s - COUNT_S)):
            while self.access is not None and stands.problem is None and _has_time(ctx):
                before = msgspec.structs.replace(stands, moved=0)
                pushing = PushAction(_hurried(self.access), self.outbox)
                stands = pushing.run(ctx, before, lambda: _has_time(ctx))
                moved += stands.moved
                if not stands.moved:
                    break
        try:
            left = spool.outgoing(Path(self.outbox), 1, 1)[1]
        except (OSError, spool.AsideFull):
            left = stands.waiting
        stands = msgspec.structs.replace(stands, moved=moved, waiting=left)
        metrics.tried("push", stands, stands)
        if left:
            ctx.log("messages left in the outbox at a stop", "warning", count=left)
        return stands


def _has_time(ctx: ActionContext) -> bool:
    return not ctx.cancelled and ctx.deadline_s > ANSWER_S


def _hurried(access: Access) -> Access:
    made_for = access.credentials
    timeout_s = min(made_for.timeout_s, ANSWER_S)
    return msgspec.structs.replace(
        access, credentials=msgspec.structs.replace(made_for, timeout_s=timeout_s)
    )
