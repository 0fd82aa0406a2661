"""The cure for connections that are there and do not work: begin anew with all of them.

Knows: that connections live in procs, each in its own, and that this attempt runs in one of them.
Does not know: when a reset is due.
Invariants: requests under way end on the connections they have; no message, no session and no
connection of another worker is touched. The procs that are not reached here see the new generation
with their next push or pull, each once. (A proc that hangs needs no reset: it is killed, and its
connections are gone with it.)
"""

from __future__ import annotations

from typing import ClassVar

from fsmv2.communicator.outcomes import ResetOutcome
from fsmv2.supervisor import Action, ActionContext


class ResetAction(Action, frozen=True):
    """Close what this proc has open for the worker at ``path``, and declare everything of it before
    ``generation`` void. ``errors_in_row`` are the errors that led to it, for the log.
    """

    timeout_s: ClassVar[float] = 5.0

    generation: int
    errors_in_row: int
    path: str = ""

    def execute(self, ctx: ActionContext) -> ResetOutcome:
        """Close the worker's idle connections of this proc."""
        from fsmv2.communicator.transport.http import close_of

        closed = close_of(self.path)
        ctx.log("connections reset", "warning", errors_in_row=self.errors_in_row, closed=closed)
        return ResetOutcome(self.generation)
