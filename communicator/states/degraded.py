"""Degraded: logged in, but a direction has failed 3 times in a row or holds up 100 messages.

Knows: when it is well again.
Does not know: how long errors are waited out, at which of them connections are reset (`flow`).
Invariants: goes on trying; the first success of what had failed too often ends it, whatever few
errors the other direction may have.
"""

from __future__ import annotations

from fsmv2.communicator.states import authenticating, syncing
from fsmv2.communicator.states.flow import directions, renewal_step, reset_due, sync_step
from fsmv2.communicator.states.reading import usable_session
from fsmv2.supervisor import Act, Go, Phase, Snapshot, State, Stay


class Degraded(State):
    """Syncs on, each direction at its own backoff; resets connections now and then."""

    phase = Phase.DEGRADED

    def next(self, snap: Snapshot) -> Go | Act | Stay:
        """To Authenticating without a session, to Syncing once what was in trouble is well."""
        usable = usable_session(snap)
        if isinstance(usable, str):
            return Go(authenticating.Authenticating, reason=usable)
        renewal = renewal_step(snap, usable)
        if renewal is not None:
            return renewal
        both = directions(snap)
        if both.is_out_of_trouble:
            return Go(syncing.Syncing, reason=str(both))
        reset = reset_due(snap)
        if reset is not None:
            return Act(reset, reason=f"{both}; connections are reset")
        return sync_step(snap, usable, both)
