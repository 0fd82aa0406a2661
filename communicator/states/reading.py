"""How the communicator's states read a snapshot.

Knows: which session may be used, how each direction stands, what is due and what must wait.
Does not know: which state goes where.
Invariants: pure; a wait is always measured from the end of the last attempt; an outcome that
was made for other credentials counts for nothing; no token and no message gets into a text.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from fsmv2.communicator.actions.authenticate import AuthenticateAction
from fsmv2.communicator.actions.pull import INBOX_FILES_MAX
from fsmv2.communicator.actions.sync import SyncAction
from fsmv2.communicator.backoff import wait_s
from fsmv2.communicator.outcomes import (
    Credentials,
    Direction,
    LoginOutcome,
    Session,
    SyncOutcome,
)
from fsmv2.communicator.transport.errors import Kind, Problem
from fsmv2.supervisor import Act, Action, ActionResult, Snapshot, Stay

if TYPE_CHECKING:
    from fsmv2.communicator.worker import CommunicatorConfig

DEGRADED_AT_ERRORS = 3
# Two logins are never closer than this, however short a token lives.
LOGIN_SPACING_S = 1.0


class Usable(NamedTuple):
    """A session that may be used now, and the attempt that made it."""

    session: Session
    login_id: int
    left_s: float


class Directions(NamedTuple):
    """How both directions stand, brought up to the snapshot's moment."""

    push: Direction
    pull: Direction

    @property
    def errors_in_row(self) -> int:
        """Of the direction that is worse off."""
        return max(self.push.errors_in_row, self.pull.errors_in_row)

    def __str__(self) -> str:
        return f"push {_standing(self.push)}, pull {_standing(self.pull)}"


def credentials(snap: Snapshot) -> Credentials:
    """What the present config logs in with."""
    config: CommunicatorConfig = snap.config
    return Credentials(
        relay_url=config.relay_url,
        auth_token=config.auth_token,
        auth_token_file=config.auth_token_file,
        timeout_s=config.timeout_s,
        allow_insecure_tls=config.allow_insecure_tls,
    )


def usable_session(snap: Snapshot) -> Usable | str:
    """The session to sync with, or why a login is needed."""
    result = snap.result(AuthenticateAction)
    login = login_outcome(snap)
    if result is None or login is None:
        return "not logged in"
    if login.made_for != credentials(snap):
        return "relay or credentials changed"
    if login.session is None:
        return "not logged in"
    synced = _sync_outcome(snap)
    if synced is not None and synced.token_rejected and synced.login_id == result.attempt_id:
        return "token refused by the relay"
    if snap.now >= login.session.refresh_at:
        left_s = login.session.expires_at - snap.now
        return f"token expires in {left_s:.0f} s, renewed ahead of that"
    return Usable(login.session, result.attempt_id, login.session.expires_at - snap.now)


def login_outcome(snap: Snapshot) -> LoginOutcome | None:
    """What the last login brought, None before the first and after one that was killed."""
    value = _value(snap.result(AuthenticateAction))
    return value if isinstance(value, LoginOutcome) else None


def login_failures(snap: Snapshot) -> tuple[int, Problem | None]:
    """How many logins have failed in a row for the present credentials, and the last reason."""
    login = login_outcome(snap)
    if login is not None:
        same = login.made_for == credentials(snap)
        return (login.errors_in_row, login.problem) if same else (0, None)
    return _unfinished(snap, AuthenticateAction)


def login_due_in_s(snap: Snapshot) -> float:
    """Seconds until the next login may be tried; 0 or less is now."""
    since_s = snap.since_result_s(AuthenticateAction)
    login = login_outcome(snap)
    if login is not None and login.made_for != credentials(snap):
        return 0.0  # a changed relay or token takes effect at once
    errors, problem = login_failures(snap)
    if problem is not None:
        return wait_s(problem, errors, f"{snap.identity.path}/login") - since_s
    return max(LOGIN_SPACING_S, _rejection_wait_s(snap)) - since_s


def directions(snap: Snapshot) -> Directions:
    """How pushing and pulling stand for the present credentials.

    A direction that is switched off has no errors: nothing would ever clear them.
    """
    config: CommunicatorConfig = snap.config
    both = _directions(snap)
    return Directions(
        Direction() if config.outbox is None else both.push,
        Direction() if config.inbox is None else both.pull,
    )


def _directions(snap: Snapshot) -> Directions:
    since_s = snap.since_result_s(SyncAction)
    outcome = _sync_outcome(snap)
    if outcome is None:
        # Killed or crashed: what it would have said of each direction is lost with it.
        errors, problem = _unfinished(snap, SyncAction)
        lost = Direction(errors_in_row=errors, problem=problem, idle_s=since_s)
        return Directions(lost, lost)
    if outcome.made_for != credentials(snap):
        return Directions(Direction(), Direction())
    return Directions(
        *(
            msgspec.structs.replace(each, idle_s=each.idle_s + since_s)
            for each in (outcome.push, outcome.pull)
        )
    )


def sync_step(snap: Snapshot, usable: Usable, both: Directions) -> Act | Stay:
    """Sync what is due, or say how long nothing is."""
    config: CommunicatorConfig = snap.config
    if config.outbox is None and config.inbox is None:
        return Stay(reason="logged in; neither outbox nor inbox is set, so nothing is synced")
    push_in_s = math.inf if config.outbox is None else _push_due_in_s(snap, usable, both.push)
    pull_in_s = math.inf if config.inbox is None else _pull_due_in_s(snap, usable, both.pull)
    story = f"{both}; token good for {usable.left_s:.0f} s"
    if min(push_in_s, pull_in_s) > 0:
        return Stay(reason=f"{story}; next sync in {min(push_in_s, pull_in_s):.1f} s")
    login = login_outcome(snap)
    action = SyncAction(
        credentials=credentials(snap),
        session=usable.session,
        login_id=usable.login_id,
        instance_uuid=login.instance_uuid if login is not None else "",
        outbox=config.outbox,
        inbox=config.inbox,
        push=both.push,
        pull=both.pull,
        # A direction that is well rides along; one that waits out an error does not.
        push_now=push_in_s <= 0 or both.push.problem is None,
        pull_now=pull_in_s <= 0 or both.pull.problem is None,
    )
    return Act(action, reason=story)


def _push_due_in_s(snap: Snapshot, usable: Usable, push: Direction) -> float:
    if push.problem is None and push.waiting > 0 and push.moved > 0:
        return 0.0  # the last attempt stopped at its limit, not at the end of the outbox
    return _due_in_s(snap, usable, push, "push")


def _pull_due_in_s(snap: Snapshot, usable: Usable, pull: Direction) -> float:
    return _due_in_s(snap, usable, pull, "pull")


def _due_in_s(snap: Snapshot, usable: Usable, direction: Direction, name: str) -> float:
    config: CommunicatorConfig = snap.config
    if direction.problem is None:
        return config.poll_interval_s - direction.idle_s
    outcome = _sync_outcome(snap)
    refused = direction.problem.kind is Kind.INVALID_TOKEN
    if refused and outcome is not None and outcome.login_id != usable.login_id:
        return 0.0  # that was another token; the wait was spent before the new login
    path = f"{snap.identity.path}/{name}"
    return wait_s(direction.problem, direction.errors_in_row, path) - direction.idle_s


def _rejection_wait_s(snap: Snapshot) -> float:
    """Seconds a login keeps from the one before when its token was refused in use.

    The first refusal is answered at once: a token was revoked. A second in a row means that
    new tokens are refused too, and logging in over and over would not mend it.
    """
    outcome = _sync_outcome(snap)
    if outcome is None or not outcome.token_rejected or outcome.made_for != credentials(snap):
        return 0.0
    refused = [
        each
        for each in (outcome.push, outcome.pull)
        if each.problem is not None and each.problem.kind is Kind.INVALID_TOKEN
    ]
    worst = max(refused, key=lambda each: each.errors_in_row, default=None)
    if worst is None or worst.problem is None or worst.errors_in_row < 2:
        return 0.0
    return wait_s(worst.problem, worst.errors_in_row, f"{snap.identity.path}/login")


def _unfinished(snap: Snapshot, kind: type[Action]) -> tuple[int, Problem | None]:
    result = snap.result(kind)
    if result is None or result.succeeded:
        return 0, None
    # The verdict only: an exception's own text may be about anything.
    how = f"{result.verdict}: {result.error.type}" if result.error else result.verdict
    return max(1, snap.failures(kind)), Problem(Kind.NETWORK, f"attempt {how}")


def _sync_outcome(snap: Snapshot) -> SyncOutcome | None:
    value = _value(snap.result(SyncAction))
    return value if isinstance(value, SyncOutcome) else None


def _value(result: ActionResult | None) -> object:
    return result.value if result is not None and result.succeeded else None


def _standing(direction: Direction) -> str:
    if direction.problem is not None:
        return f"failed {direction.errors_in_row} in a row ({direction.problem})"
    if math.isinf(direction.idle_s):
        return "not tried yet"
    full = " (inbox full)" if direction.waiting >= INBOX_FILES_MAX else ""
    return f"ok, {direction.moved} moved, {direction.waiting} waiting{full}"
