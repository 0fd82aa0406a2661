"""How the communicator's states read a snapshot: logins and sessions.

Knows: which session may be used, when it is to be renewed, how logins stand, when the next one is
due.
Does not know: which state goes where, pushing and pulling (`flow`).
Invariants: pure; a wait is always measured from the end of the last attempt; an outcome that
was made for other credentials counts for nothing; a session ends when it expires, when the relay
refuses it or when the credentials change, never because a login fails or is killed; what is refused
of one direction only ends no session of the other's; the more sessions in a row end before anything
is done with them, the longer the next login waits; no token gets into a text.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from fsmv2.communicator.actions.authenticate import LASTING, AuthenticateAction
from fsmv2.communicator.actions.sync import SyncAction
from fsmv2.communicator.backoff import WAIT_S_MAX, spread, wait_s
from fsmv2.communicator.failurerate import FailureRate
from fsmv2.communicator.outcomes import (
    Credentials,
    Direction,
    Held,
    LoginOutcome,
    Said,
    Session,
    SyncOutcome,
)
from fsmv2.communicator.states.spans import at_least, within
from fsmv2.communicator.transport.errors import Kind, Problem
from fsmv2.supervisor import Action, Snapshot

if TYPE_CHECKING:
    from fsmv2.communicator.worker import CommunicatorConfig

# Two logins are never closer than this, however short a token lives.
LOGIN_SPACING_S = 1.0
# How the login after a session is waited for that has ended unused: as one after a failure.
_UNUSED = Problem(Kind.UNKNOWN, "a session has ended before anything was done with it")
# A token in a file may have changed: it is looked at this often, and sent only if it has.
LOOK_S = 10.0
# A token that would expire during the next day's work is renewed in this hour (local time).
NIGHT_HOUR = 3
WORK_HOURS = range(7, 20)
DAY_S = 24 * 3600.0


class Usable(NamedTuple):
    """A session that may be used now, the attempt that made it, and why it is to be renewed (empty:
    it is not)."""

    session: Session
    login_id: int
    left_s: float
    renewal: str = ""


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
    """The session to sync with, or why there is none."""
    login = login_outcome(snap)
    if login is not None and login.made_for != credentials(snap):
        return "relay or credentials changed"
    held = _held(snap)
    if held is None:
        return "not logged in"
    now = snap.now
    left_s = held.session.expires_at - now
    synced = sync_outcome(snap)
    refused = ""
    if synced is not None and is_made_with(synced, held.session, held.login_id):
        if _is_refused_as_a_whole(snap, synced):
            return "token refused by the relay"
        refused = _doubt(snap, synced)
    if left_s <= 0:
        unused = _unused_in_row(snap)
        return f"token has expired{f', {unused} in a row unused' if unused > 1 else ''}"
    renewal = refused
    if now >= held.session.refresh_at:
        renewal = f"token expires in {at_least(left_s)}, renewed ahead of that"
    elif _is_renewed_at_night(held.session, now, snap.identity.path):
        renewal = "token would expire during the next working day, renewed at night"
    return Usable(held.session, held.login_id, left_s, renewal)


def is_made_with(synced: SyncOutcome, session: Session, login_id: int) -> bool:
    """Whether a sync has used this very session."""
    return (synced.login_id, synced.session_at) == (login_id, session.made_at)


def is_renewal_due(snap: Snapshot, usable: Usable) -> bool:
    """Whether ``usable`` is to be renewed, and the last login long enough ago."""
    return bool(usable.renewal) and login_due_in_s(snap) <= 0


def _held(snap: Snapshot) -> Held | None:
    """The session of the last login that succeeded, by what the attempts since then tell of it."""
    result, login = snap.last_success(AuthenticateAction), login_outcome(snap)
    if result is None or login is None:
        return None
    return login.held if login.session is None else Held(login.session, result.attempt_id)


def instance_uuid(snap: Snapshot) -> str:
    """What the relay has called us last, for the present credentials; empty if it never has."""
    login = _login_now(snap)
    return "" if login is None else login.instance_uuid


def _is_renewed_at_night(session: Session, now: float, path: str) -> bool:
    """Whether the night's moment for ``path`` has come, and ``session`` is one that cannot wait.

    Each worker has its own moment in the hour, and a session made since then is left alone. One
    that could not be renewed in the hour is tried on, until the day is over.
    """
    here = time.localtime(now)
    into_day_s = here.tm_hour * 3600 + here.tm_min * 60 + here.tm_sec
    since_s = into_day_s - NIGHT_HOUR * 3600 - 3000 * spread(path, NIGHT_HOUR)
    if since_s < 0 or session.made_at >= now - since_s:
        return False
    if not now < session.expires_at <= now - since_s + DAY_S:
        return False
    return time.localtime(session.expires_at).tm_hour in WORK_HOURS


def login_outcome(snap: Snapshot) -> LoginOutcome | None:
    """What the last login brought that was not killed or cancelled, None before the first."""
    value = value_of(snap, AuthenticateAction)
    return value if isinstance(value, LoginOutcome) else None


def sync_outcome(snap: Snapshot) -> SyncOutcome | None:
    """What the last sync brought that was not killed or cancelled, None before the first."""
    value = value_of(snap, SyncAction)
    return value if isinstance(value, SyncOutcome) else None


def _login_now(snap: Snapshot) -> LoginOutcome | None:
    """The last login's outcome, if it was made for the present credentials."""
    login = login_outcome(snap)
    return login if login is not None and login.made_for == credentials(snap) else None


def login_failures(snap: Snapshot) -> tuple[int, Problem | None]:
    """How many logins have failed in a row for the present credentials, and the last reason."""
    login = _login_now(snap)
    errors, problem = unfinished(snap, AuthenticateAction)
    if login is None:
        return errors, problem
    if not errors or (login.problem is not None and login.problem.kind in LASTING):
        # A look at a parked token that was killed is no reason to send it once more.
        return login.errors_in_row, login.problem
    return login.errors_in_row + errors, problem


def login_due_in_s(snap: Snapshot) -> float:
    """Seconds until the next login may be tried; 0 or less is now."""
    errors, problem = login_failures(snap)
    if problem is None and login_outcome(snap) is not _login_now(snap):
        return 0.0  # a changed relay or token takes effect at once
    since_s = ended_s_ago(snap, AuthenticateAction)
    if problem is None:
        return max(LOGIN_SPACING_S, _rejection_wait_s(snap), _unused_wait_s(snap)) - since_s
    if problem.kind in LASTING:
        config: CommunicatorConfig = snap.config
        return (WAIT_S_MAX if config.auth_token else LOOK_S) - since_s
    return wait_s(problem, errors, f"{snap.identity.path}/login") - since_s


def next_login(snap: Snapshot) -> AuthenticateAction:
    """The login that is due now."""
    before = _login_now(snap)
    errors, problem = login_failures(snap)
    usable = usable_session(snap)
    # Identity and rate belong to a relay and a token; they must not outlive a change of either.
    action = AuthenticateAction(
        credentials=credentials(snap),
        errors_in_row=errors,
        instance_uuid=instance_uuid(snap),
        rate=FailureRate() if before is None else before.rate,
        said=Said() if before is None else before.said,
        held=None if isinstance(usable, str) else Held(usable.session, usable.login_id),
        unused=_unused_in_row(snap),
    )
    if before is None:
        return action
    asked_s_ago = before.asked_s_ago + snap.since_success_s(AuthenticateAction)
    since_s = ended_s_ago(snap, AuthenticateAction)
    if asked_s_ago - since_s >= WAIT_S_MAX:
        asked_s_ago = since_s  # the one that was killed then was no look: it has asked
    if problem is None or problem.kind not in LASTING or asked_s_ago >= WAIT_S_MAX:
        return action
    known = msgspec.structs.replace(before, asked_s_ago=asked_s_ago, held=action.held)
    return msgspec.structs.replace(action, refused=known)


def failed_login(snap: Snapshot) -> str:
    """What there is to say of the last login if it failed: how often in a row, why, and whether
    it is tried again; else nothing."""
    errors, problem = login_failures(snap)
    if problem is None:
        return ""
    parked = f"; parked until the relay or the token is changed{_parked_for(snap)}"
    return f"failed {errors} in a row, last: {problem}{parked if problem.kind in LASTING else ''}"


def _parked_for(snap: Snapshot) -> str:
    """When a token that was refused is sent once more all the same; nothing where there is none."""
    before = _login_now(snap)
    if before is None or before.refused_mark is None:
        return ""
    since_s = before.asked_s_ago + snap.since_success_s(AuthenticateAction)
    return within("the same token is sent again", WAIT_S_MAX - since_s)


def next_login_story(snap: Snapshot) -> str:
    """When the next login may be tried. Of a token that is parked something else is told: the
    looks at its file are no logins."""
    _, problem = login_failures(snap)
    if problem is not None and problem.kind in LASTING and _parked_for(snap):
        return ""
    return within("next login", login_due_in_s(snap))


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
    token is refused there too it is the session's where no direction is served.
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
    return all(map(_is_refusal, used))


def _doubt(snap: Snapshot, synced: SyncOutcome) -> str:
    """Why to log in again for a refusal that is not the session's as a whole, empty for no reason.

    It is not where the other direction is served. Where that one had nothing to ask it cannot be
    told: it goes on with the session there is, and a login each now and then is the next try.
    """
    if not synced.token_rejected or not _refused(synced):
        return ""
    push_served = synced.push_tried and synced.push.problem is None and synced.push.moved > 0
    pull_served = synced.pull_tried and synced.pull.problem is None and not synced.pull.held
    if push_served or pull_served:
        return ""
    waited = ended_s_ago(snap, AuthenticateAction) >= _rejection_wait_s(snap)
    return "token refused by the relay in one direction" if waited else ""


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


def _unused_in_row(snap: Snapshot) -> int:
    """How many sessions in a row, the present one included, no sync has got anything done with.

    One that was refused is not among them: how long that is waited out is another question.
    """
    login = _login_now(snap)
    if login is None or login.session is None:
        return 0 if login is None else login.unused
    synced, result = sync_outcome(snap), snap.last_success(AuthenticateAction)
    if synced is None or result is None:
        return login.unused + 1
    if not is_made_with(synced, login.session, result.attempt_id):
        return login.unused + 1
    is_served = (synced.push_tried and synced.push.problem is None) or (
        synced.pull_tried and synced.pull.problem is None
    )
    return 0 if is_served or synced.token_rejected else login.unused + 1


def _unused_wait_s(snap: Snapshot) -> float:
    """Seconds a login keeps from the one before when that was of no use."""
    unused = _unused_in_row(snap)
    return wait_s(_UNUSED, unused, f"{snap.identity.path}/login") if unused else 0.0


def unfinished(snap: Snapshot, kind: type[Action]) -> tuple[int, Problem | None]:
    """How many attempts of ``kind`` have ended without an outcome since the last that had one, and
    how the last did. One that was cancelled says nothing of the relay, and is not counted."""
    errors, result = snap.failures(kind), snap.result(kind)
    if not errors or result is None or result.succeeded:
        return 0, None
    told = [one for one in snap.history(kind) if one.status != "cancelled"]
    last = told[-1] if told else result.outcome
    # The verdict and the type only: an exception's own text may be about anything.
    how = f"{last.verdict}: {last.error}" if last.error else last.verdict
    # Only one that was too slow says something of the line.
    is_late = last.status == "timed_out"
    return errors, Problem(Kind.NETWORK if is_late else Kind.UNKNOWN, f"attempt {how}")


def ended_s_ago(snap: Snapshot, kind: type[Action]) -> float:
    """Seconds since the last attempt of ``kind`` ended that says anything; infinite if none has."""
    return snap.since_result_s(kind) if snap.failures(kind) else snap.since_success_s(kind)


def value_of(snap: Snapshot, kind: type[Action]) -> object:
    """What the last attempt of ``kind`` that succeeded has brought, None before the first."""
    result = snap.last_success(kind)
    return None if result is None else result.value
