"""Stopped: no session, nothing sent. Where a communicator begins and ends."""

from __future__ import annotations

from fsmv2.communicator.states import authenticating
from fsmv2.supervisor import Go, Phase, Snapshot, State


class Stopped(State):
    """Waits to be asked to run; the framework holds it here while it is asked to stop."""

    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Go:
        """Log in."""
        return Go(authenticating.Authenticating, reason="asked to run")
