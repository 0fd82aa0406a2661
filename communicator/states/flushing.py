"""Flushing: asked to stop, and what waits in the outbox is sent before.

Knows: when that is over.
Does not know: how much is sent, or why it is asked to stop.
Invariants: nothing is pulled; one attempt, whatever it brings; ends by itself, also when its
action is never begun.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fsmv2.communicator.actions.flush import FlushAction
from fsmv2.communicator.outcomes import Direction
from fsmv2.communicator.states import stopped
from fsmv2.communicator.states.flow import access, directions
from fsmv2.communicator.states.reading import usable_session
from fsmv2.supervisor import Act, Go, Phase, Snapshot, State, Stay

if TYPE_CHECKING:
    from fsmv2.communicator.worker import CommunicatorConfig

# Less than a stop may take; the action itself has less. More than a sync that was under way is
# waited for, and given to end (5 s and 1 s).
FLUSHING_S_MAX = 7.0


class Flushing(State):
    """Sends what waits, once."""

    phase = Phase.STOPPING

    def next(self, snap: Snapshot) -> Go | Act | Stay:
        """To Stopped once the flush has ended, or there is none to make."""
        config: CommunicatorConfig | None = snap.config
        if config is None or config.outbox is None:
            return Go(stopped.Stopped, reason="no outbox to flush")
        if snap.since_result_s(FlushAction) <= snap.time_in_state_s:
            return Go(stopped.Stopped, reason=_told(snap))
        if snap.time_in_state_s > FLUSHING_S_MAX:
            return Go(stopped.Stopped, reason="the outbox is not flushed: no action could begin")
        usable = usable_session(snap)
        before = directions(snap).push
        action = FlushAction(
            access=None if isinstance(usable, str) else access(snap, usable),
            outbox=config.outbox,
            before=before,
            path=snap.identity.path,
        )
        why = usable if isinstance(usable, str) else str(before.problem or "")
        return Act(action, reason=f"counting the outbox: {why}" if why else "flushing the outbox")


def _told(snap: Snapshot) -> str:
    result = snap.result(FlushAction)
    found = result.value if result is not None and result.succeeded else None
    if not isinstance(found, Direction):
        return "the flush of the outbox has not ended by itself; what it left is there"
    why = f" ({found.problem})" if found.waiting and found.problem is not None else ""
    return f"flushed: {found.moved} messages sent, {found.waiting} left in the outbox{why}"
