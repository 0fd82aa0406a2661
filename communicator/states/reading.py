"""How the communicator's states read a snapshot: logins and sessions.

Knows: which session may be used, how logins stand, when the next one is due.
Does not know: which state goes where, pushing and pulling (`flow`).
Invariants: pure; a wait is always measured from the end of the last attempt; an outcome that
was made for other credentials counts for nothing; what is refused of one direction only ends no
session of the other's; no token gets into a text.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from fsmv2.communicator.actions.authenticate import LASTING, AuthenticateAction
from fsmv2.communicator.actions.sync import SyncAction
from fsmv2.communicator.backoff import WAIT_S_MAX, spread, wait_s
from fsmv2.communicator.outcomes import (
    Credentials,
    Direction,
    LoginOutcome,
    Session,
    SyncOutcome,
)
from fsmv2.communicator.transport.errors import Kind, Problem
from fsmv2.supervisor import Action, ActionResult, Snapshot

if TYPE_CHECKING:
    from fsmv2.communicator.worker import CommunicatorConfig

# Two logins are never closer than this, however short a token lives.
LOGIN_SPACING_S = 1.0
# A token in a file may have changed: it is looked at this often, and sent only if it has.
LOOK_S = 10.0
# A token that would expire during the next day's work is renewed in this hour (local time).
NIGHT_HOUR = 3
WORK_HOURS = range(7, 20)
DAY_S = 24 * 3600.0


class Usable(NamedTuple):
    """A session that may be used now, and the attempt that made it."""

    session: Session
    login_id: int
    left_s: float


def credentials(snap: Snapshot) -> Credentials:
    """What the present config logs in with."""
    config: CommunicatorConfig = snap.config
    return Credentials(
        relay_url=config.relay_url or "",
        auth_token=config.auth_token,
        auth_token_file=config.auth_token_file,
        timeout_s=config.timeout_s,
        allow_insecure_tls=config.allow_insecure_tls,
        path=snap.identity.path,
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
    synced = sync_outcome(snap)
    is_of_this = synced is not None and synced.login_id == result.attempt_id
    if synced is not None and is_of_this and _is_refused_as_a_whole(snap, synced):
        return "token refused by the relay"
    now = snap.now
    if now >= login.session.refresh_at:
        return f"token expires in {login.session.expires_at - now:.0f} s, renewed ahead of that"
    if _is_renewed_at_night(login.session, now, snap.identity.path):
        return "token would expire during the next working day, renewed at night"
    return Usable(login.session, result.attempt_id, login.session.expires_at - now)


def _is_renewed_at_night(session: Session, now: float, path: str) -> bool:
    """Whether it is the night's moment for ``path`` and ``session`` is one that cannot wait.

    Each worker has its own moment in the hour, and a session made since then is left alone.
    """
    if not now < session.expires_at <= now + DAY_S:
        return False
    here = time.localtime(now)
    into_hour_s = here.tm_min * 60 + here.tm_sec
    moment_s = 3000 * spread(path, NIGHT_HOUR)
    if here.tm_hour != NIGHT_HOUR or into_hour_s < moment_s:
        return False
    was_before = session.made_at < now - (into_hour_s - moment_s)
    return was_before and time.localtime(session.expires_at).tm_hour in WORK_HOURS


def login_outcome(snap: Snapshot) -> LoginOutcome | None:
    """What the last login brought, None before the first and after one that was killed."""
    value = value_of(snap.result(AuthenticateAction))
    return value if isinstance(value, LoginOutcome) else None


def sync_outcome(snap: Snapshot) -> SyncOutcome | None:
    """What the last sync brought, None before the first and after one that was killed."""
    value = value_of(snap.result(SyncAction))
    return value if isinstance(value, SyncOutcome) else None


def login_failures(snap: Snapshot) -> tuple[int, Problem | None]:
    """How many logins have failed in a row for the present credentials, and the last reason."""
    login = login_outcome(snap)
    if login is not None:
        same = login.made_for == credentials(snap)
        return (login.errors_in_row, login.problem) if same else (0, None)
    return unfinished(snap, AuthenticateAction)


def login_due_in_s(snap: Snapshot) -> float:
    """Seconds until the next login may be tried; 0 or less is now."""
    since_s = snap.since_result_s(AuthenticateAction)
    login = login_outcome(snap)
    if login is not None and login.made_for != credentials(snap):
        return 0.0  # a changed relay or token takes effect at once
    errors, problem = login_failures(snap)
    if problem is None:
        return max(LOGIN_SPACING_S, _rejection_wait_s(snap)) - since_s
    if login is not None and problem.kind in LASTING:
        config: CommunicatorConfig = snap.config
        return (WAIT_S_MAX if config.auth_token is not None else LOOK_S) - since_s
    return wait_s(problem, errors, f"{snap.identity.path}/login") - since_s


def next_login(snap: Snapshot) -> AuthenticateAction:
    """The login that is due now."""
    before = login_outcome(snap)
    errors, problem = login_failures(snap)
    action = AuthenticateAction(credentials=credentials(snap), errors_in_row=errors)
    # An identity belongs to a relay and a token; it must not outlive a change of either.
    if before is None or before.made_for != action.credentials:
        return action
    action = msgspec.structs.replace(
        action,
        instance_uuid=before.instance_uuid,
        instance_name=before.instance_name,
        rate=before.rate,
    )
    asked_s_ago = before.asked_s_ago + snap.since_result_s(AuthenticateAction)
    if problem is None or problem.kind not in LASTING or asked_s_ago >= WAIT_S_MAX:
        return action
    known = msgspec.structs.replace(before, asked_s_ago=asked_s_ago)
    return msgspec.structs.replace(action, refused=known)


def _refused(synced: SyncOutcome) -> dict[str, Direction]:
    """The directions whose last try, in this very sync, was refused for its token."""
    sides = {"push": (synced.push, synced.push_tried), "pull": (synced.pull, synced.pull_tried)}
    return {
        name: each
        for name, (each, tried) in sides.items()
        if tried and not each.held and _is_refusal(each)
    }


def _is_refusal(direction: Direction) -> bool:
    return direction.problem is not None and direction.problem.kind is Kind.INVALID_TOKEN


def _is_refused_as_a_whole(snap: Snapshot, synced: SyncOutcome) -> bool:
    """Whether a refusal in ``synced`` is about its session, and not one direction's own.

    The first one of a direction is, for it may be about the token: one login shows. When a new
    token is refused there too it is the session's where no direction is served, and none of its
    where another one is. Where that one had nothing to ask it cannot be told: the other one goes
    on with the session there is, and the login that is due sooner or later is the next try.
    """
    refused = _refused(synced)
    if not synced.token_rejected or not refused:
        return False
    if min(each.errors_in_row for each in refused.values()) < 2:
        return True
    config: CommunicatorConfig = snap.config
    used = [
        each
        for each, folder in ((synced.push, config.outbox), (synced.pull, config.inbox))
        if folder is not None
    ]
    if all(map(_is_refusal, used)):
        return True
    push_served = synced.push_tried and synced.push.problem is None and synced.push.moved > 0
    pull_served = synced.pull_tried and synced.pull.problem is None and not synced.pull.held
    if push_served or pull_served:
        return False
    return snap.since_result_s(AuthenticateAction) >= _rejection_wait_s(snap)


def _rejection_wait_s(snap: Snapshot) -> float:
    """Seconds a login keeps from the one before when its token was refused in use.

    The first refusal is answered at once: a token was revoked. A second in a row means that
    new tokens are refused too, and logging in over and over would not mend it.
    """
    outcome = sync_outcome(snap)
    if outcome is None or not outcome.token_rejected or outcome.made_for != credentials(snap):
        return 0.0
    refused = _refused(outcome)
    name = min(refused, key=lambda each: refused[each].errors_in_row, default="")
    least = refused.get(name, Direction())
    if least.problem is None or least.errors_in_row < 2:
        return 0.0
    # The very wait that this direction has just spent: with its next refusal a login is due.
    return wait_s(least.problem, least.errors_in_row - 1, f"{snap.identity.path}/{name}")


def unfinished(snap: Snapshot, kind: type[Action]) -> tuple[int, Problem | None]:
    """How many attempts of ``kind`` have ended without an outcome of their own, and how. One that
    was cancelled says nothing of the relay, and is not counted."""
    result = snap.result(kind)
    if result is None or result.succeeded:
        return 0, None
    if result.status == "cancelled" and not snap.failures(kind):
        return 0, None
    # The verdict only: an exception's own text may be about anything.
    how = f"{result.verdict}: {result.error.type}" if result.error else result.verdict
    return max(1, snap.failures(kind)), Problem(Kind.NETWORK, f"attempt {how}")


def value_of(result: ActionResult | None) -> object:
    """What an attempt brought, None where it did not succeed."""
    return result.value if result is not None and result.succeeded else None
