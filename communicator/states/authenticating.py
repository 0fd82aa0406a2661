"""Authenticating: until there is a session that may be used.

Knows: how a failed login is waited out.
Does not know: syncing.
Invariants: never gives up; a permanent error waits 60 s or 300 s and is tried again, because
the token may be mended at the other end; a changed config is tried at once, and once.
"""

from __future__ import annotations

from fsmv2.communicator.actions.authenticate import AuthenticateAction
from fsmv2.communicator.states import syncing
from fsmv2.communicator.states.reading import (
    credentials,
    login_due_in_s,
    login_failures,
    login_outcome,
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
        due_in_s = login_due_in_s(snap)
        if due_in_s > 0:
            return Stay(reason=f"{why}; next login in {due_in_s:.1f} s")
        before = login_outcome(snap)
        # An identity belongs to a relay and a token; it must not outlive a change of either.
        same = before is not None and before.made_for == credentials(snap)
        action = AuthenticateAction(
            credentials=credentials(snap),
            errors_in_row=errors,
            instance_uuid=before.instance_uuid if before is not None and same else "",
            instance_name=before.instance_name if before is not None and same else "",
        )
        return Act(action, reason=f"logging in: {why}")
