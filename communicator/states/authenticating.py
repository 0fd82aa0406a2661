"""Authenticating: until there is a session that may be used.

Knows: how a failed login is waited out.
Does not know: syncing.
Invariants: a changed relay or token is tried at once, and once; a token that was refused is not
sent again, or after an hour at the earliest, because it may be mended at the other end; what may
pass by itself is tried again for ever.
"""

from __future__ import annotations

from fsmv2.communicator.actions.authenticate import LASTING
from fsmv2.communicator.states import syncing
from fsmv2.communicator.states.reading import (
    login_due_in_s,
    login_failures,
    next_login,
    usable_session,
)
from fsmv2.supervisor import Act, Go, Phase, Snapshot, State, Stay


class Authenticating(State):
    """Logs in, with backoff."""

    phase = Phase.STARTING

    def next(self, snap: Snapshot) -> Go | Act | Stay:
        """To Syncing with a usable session, else a login when one is due."""
        usable = usable_session(snap)
        if not isinstance(usable, str):
            return Go(syncing.Syncing, reason=f"logged in, token good for {usable.left_s:.0f} s")
        errors, problem = login_failures(snap)
        why = usable
        if problem is not None:
            why = f"login failed {errors} in a row, last: {problem}"
            if problem.kind in LASTING:
                why += "; parked until the relay or the token is changed"
        due_in_s = login_due_in_s(snap)
        if due_in_s > 0:
            return Stay(reason=f"{why}; next login in {due_in_s:.1f} s")
        return Act(next_login(snap), reason=f"logging in: {why}")
