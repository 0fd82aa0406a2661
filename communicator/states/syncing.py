"""Syncing: logged in, messages move both ways.

Knows: when it must log in again, and when it is no longer well.
Does not know: how long errors are waited out (`flow`).
Invariants: no sync without a session that is good; at its refresh moment one way to Authenticating,
and none more for a renewal that fails.
"""

from __future__ import annotations

from fsmv2.communicator.states import authenticating, degraded
from fsmv2.communicator.states.flow import directions, renewal_step, sync_step
from fsmv2.communicator.states.reading import usable_session
from fsmv2.supervisor import Act, Go, Phase, Snapshot, State, Stay


class Syncing(State):
    """Syncs at every poll interval, and after an error at its backoff."""

    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Go | Act | Stay:
        """To Authenticating without a session, to Degraded at 3 errors in a row or 100 messages
        that could not be pushed."""
        usable = usable_session(snap)
        if isinstance(usable, str):
            return Go(authenticating.Authenticating, reason=usable)
        renewal = renewal_step(snap, usable)
        if renewal is not None:
            return renewal
        both = directions(snap)
        if both.is_in_trouble:
            return Go(degraded.Degraded, reason=str(both))
        return sync_step(snap, usable, both)
