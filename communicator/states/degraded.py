"""Degraded: logged in, but a direction has failed at least 3 times in a row.

Knows: when it is well again.
Does not know: how long errors are waited out (`reading`).
Invariants: goes on trying; the first success of what failed ends it.
"""

from __future__ import annotations

from fsmv2.communicator.states import authenticating, syncing
from fsmv2.communicator.states.reading import directions, sync_step, usable_session
from fsmv2.supervisor import Act, Go, Phase, Snapshot, State, Stay


class Degraded(State):
    """Syncs on, each direction at its own backoff."""

    phase = Phase.DEGRADED

    def next(self, snap: Snapshot) -> Go | Act | Stay:
        """To Authenticating without a session, to Syncing once neither direction has errors."""
        usable = usable_session(snap)
        if isinstance(usable, str):
            return Go(authenticating.Authenticating, reason=usable)
        both = directions(snap)
        if both.errors_in_row == 0:
            return Go(syncing.Syncing, reason=str(both))
        return sync_step(snap, usable, both)
