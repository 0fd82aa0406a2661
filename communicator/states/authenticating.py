"""Authenticating: until there is a session that may be used, and at the first try to renew one.

Knows: how a failed login is waited out.
Does not know: syncing, and how a renewal that has failed is tried again (`flow`).
Invariants: a changed relay or token is tried at once, and once; a token that was refused is not
sent again, or after an hour at the earliest, because it may be mended at the other end; what may
pass by itself is tried again for ever.
"""

from __future__ import annotations

from fsmv2.communicator.states import syncing
from fsmv2.communicator.states.reading import (
    failed_login,
    is_renewal_due,
    login_due_in_s,
    next_login,
    next_login_story,
    usable_session,
)
from fsmv2.communicator.states.spans import at_least
from fsmv2.supervisor import Act, Go, Phase, Snapshot, State, Stay


class Authenticating(State):
    """Logs in, with backoff."""

    phase = Phase.STARTING

    def next(self, snap: Snapshot) -> Go | Act | Stay:
        """To Syncing with a usable session, new or, after a renewal that failed, the one there was;
        else a login when one is due."""
        usable, failed = usable_session(snap), failed_login(snap)
        if isinstance(usable, str):
            why = f"{usable}; login {failed}" if failed else usable
        elif is_renewal_due(snap, usable):
            why = usable.renewal
        else:
            held = f"renewal {failed}; " if failed else "logged in, "
            return Go(syncing.Syncing, reason=f"{held}token good for {at_least(usable.left_s)}")
        if login_due_in_s(snap) > 0:
            return Stay(reason=why + next_login_story(snap))
        return Act(next_login(snap), reason=f"logging in: {why}")
