"""Every transition, on hand-built snapshots: no clock, no relay, no process."""

from __future__ import annotations

import itertools
import time
from typing import Any

import msgspec
import pytest

from fsmv2.communicator import Communicator, CommunicatorConfig
from fsmv2.communicator.actions.authenticate import AuthenticateAction
from fsmv2.communicator.actions.call import Access
from fsmv2.communicator.actions.flush import FlushAction
from fsmv2.communicator.actions.reset import ResetAction
from fsmv2.communicator.actions.sync import SyncAction
from fsmv2.communicator.failurerate import FailureRate
from fsmv2.communicator.outcomes import (
    Credentials,
    Direction,
    Held,
    LoginOutcome,
    ResetOutcome,
    Session,
    SyncOutcome,
)
from fsmv2.communicator.states.authenticating import Authenticating
from fsmv2.communicator.states.degraded import Degraded
from fsmv2.communicator.states.flow import directions
from fsmv2.communicator.states.flushing import FLUSHING_S_MAX, Flushing
from fsmv2.communicator.states.stopped import Stopped
from fsmv2.communicator.states.syncing import Syncing
from fsmv2.communicator.transport.errors import Kind, Problem
from fsmv2.supervisor import Act, Action, ActionResult, Go, Secret, Snapshot, State, Stay
from fsmv2.supervisor.core.action import ActionError, DeathCertificate, Outcome
from fsmv2.supervisor.core.fsm import Decision, Desired, Identity, decide

NOW = 1_800_000_000.0
AUTH_TOKEN = "auth-token-hunter2"
JWT = "jwt-hunter3"
CONFIG = CommunicatorConfig(
    "https://relay.example.com/api", auth_token=Secret(AUTH_TOKEN), outbox="out", inbox="in"
)
MADE_FOR = Credentials(CONFIG.relay_url, CONFIG.auth_token, path="root/line-1")
SESSION = Session(Secret(JWT), expires_at=NOW + 80_000, refresh_at=NOW + 79_400)
NETWORK = Problem(Kind.NETWORK, "cannot reach the relay: refused")
LOGIN_ID, SYNC_ID = 100, 200


def login(session: Session | None = SESSION, **fields: Any) -> LoginOutcome:
    fields.setdefault("made_for", MADE_FOR)
    fields.setdefault("instance_uuid", "3f0c")
    return LoginOutcome(session=session, **fields)


def failed_login(kind: Kind, errors: int = 1, **fields: Any) -> LoginOutcome:
    return login(None, problem=Problem(kind, f"HTTP x ({kind})", **fields), errors_in_row=errors)


def tried(errors: int = 0, problem: Problem | None = None, **fields: Any) -> Direction:
    if errors:
        problem = problem or NETWORK
    return Direction(errors_in_row=errors, problem=problem, **{"idle_s": 0.0, **fields})


def synced(push: Direction, pull: Direction, **fields: Any) -> SyncOutcome:
    fields.setdefault("made_for", MADE_FOR)
    fields.setdefault("login_id", LOGIN_ID)
    fields.setdefault("session_at", SESSION.made_at)
    return SyncOutcome(push=push, pull=pull, **fields)


def snapshot(
    state: type[State],
    *,
    logged_in: LoginOutcome | None = None,
    login_s: float = 10.0,
    sync: SyncOutcome | None = None,
    sync_s: float = 0.5,
    config: CommunicatorConfig = CONFIG,
    killed: dict[type[Action], int] | None = None,
    how: Any = "timed_out",
    error: ActionError | None = None,
    reset: ResetOutcome | None = None,
    reset_s: float | None = None,
    login_id: int = LOGIN_ID,
    now: float = NOW,
    shutdown: bool = False,
    flushed: ActionResult | None = None,
    entered_s: float = 0.0,
    queued_s: float = 0.0,
    killed_s: float = 1.0,
    cancelled: type[Action] | None = None,
) -> Snapshot:
    """What the engine would build: ``login_s`` and ``sync_s`` seconds after the last results,
    ``entered_s`` after the state was entered; a flush has just ended; the sync had waited for
    ``queued_s``; ``killed`` attempts ended ``killed_s`` after the result before them; and one more
    attempt of type ``cancelled`` was cancelled just now."""
    results: dict[type[Action], ActionResult] = {}
    successes: dict[type[Action], tuple[ActionResult, float]] = {}
    history: dict[type[Action], tuple[Outcome, ...]] = {}
    ends = {AuthenticateAction: 1000 - login_s, SyncAction: 1000 - sync_s}
    ends[ResetAction] = 1000 - (reset_s or 0)
    ends[FlushAction] = 1000.0
    if logged_in is not None:
        results[AuthenticateAction] = ActionResult(
            status="succeeded",
            action_type="AuthenticateAction",
            attempt_id=login_id,
            value=logged_in,
        )
    if sync is not None:
        results[SyncAction] = ActionResult(
            status="succeeded",
            action_type="SyncAction",
            attempt_id=SYNC_ID,
            value=sync,
            queued_s=queued_s,
        )
    for kind in killed or {}:
        if kind in results:
            successes[kind] = (results[kind], ends[kind] - killed_s)
        results[kind] = ActionResult(
            status=how,
            action_type=kind.__name__,
            attempt_id=300,
            error=error,
            certificate=None if error else DeathCertificate(verdict=how),
        )
        history[kind] = (results[kind].outcome,)
    if reset_s is not None:
        results[ResetAction] = ActionResult(
            status="failed" if reset is None else "succeeded",
            action_type="ResetAction",
            attempt_id=250,
            value=reset,
        )
    if flushed is not None:
        results[FlushAction] = flushed
    if cancelled is not None:
        if cancelled in results and cancelled not in successes:
            successes[cancelled] = (results[cancelled], ends[cancelled])
        results[cancelled] = ActionResult(
            status="cancelled", action_type=cancelled.__name__, attempt_id=400
        )
        ends[cancelled] = 1000.0
        history[cancelled] = (*history.get(cancelled, ()), results[cancelled].outcome)
    return Snapshot(
        identity=Identity("line-1", "root/line-1", "communicator", 1),
        state=state(),
        desired=Desired("running", config, shutdown=shutdown),
        results=results,
        result_ends={kind: ends[kind] for kind in results},
        failures=killed or {},
        successes=successes,
        history=history,
        entered_at=1000.0 - entered_s,
        monotonic=1000.0,
        wall=now,
    )


def decided(snap: Snapshot) -> Decision:
    """The decision, with what must hold of every one: a reason, and no secret in it."""
    decision = decide(Communicator(), snap)
    assert AUTH_TOKEN not in repr(decision)
    assert JWT not in repr(decision)
    return decision


def went(snap: Snapshot) -> type[State]:
    decision = decided(snap)
    assert isinstance(decision, Go), decision
    return decision.state


def logs_in(snap: Snapshot) -> AuthenticateAction:
    decision = decided(snap)
    assert isinstance(decision, Act), decision
    assert isinstance(decision.action, AuthenticateAction)
    return decision.action


def syncs(snap: Snapshot) -> SyncAction:
    decision = decided(snap)
    assert isinstance(decision, Act), decision
    assert isinstance(decision.action, SyncAction)
    return decision.action


def waits(snap: Snapshot) -> str:
    decision = decided(snap)
    assert isinstance(decision, Stay), decision
    return decision.reason


def test_stopped_goes_to_authenticating() -> None:
    """Asked to run, the first thing is a login."""
    assert went(snapshot(Stopped)) is Authenticating


@pytest.mark.parametrize("state", [Authenticating, Syncing, Degraded])
def test_a_stop_leads_to_flushing_from_everywhere(state: type[State]) -> None:
    """Scenario 53: also in the middle of an incident."""
    sick = synced(tried(9), tried(9))
    assert went(snapshot(state, logged_in=login(), sync=sick, shutdown=True)) is Flushing


def flushes(**fields: Any) -> FlushAction:
    decision = decided(snapshot(Flushing, shutdown=True, **fields))
    assert isinstance(decision, Act), decision
    assert isinstance(decision.action, FlushAction)
    return decision.action


def stops(**fields: Any) -> str:
    decision = decided(snapshot(Flushing, shutdown=True, **fields))
    assert isinstance(decision, Go), decision
    assert decision.state is Stopped
    return decision.reason


def test_a_stop_flushes_once_and_says_what_is_left() -> None:
    """Scenario 40: with the session there is; without one it is counted only. However the flush
    ends, also if it never begins, the stop goes on."""
    assert "no outbox" in stops(config=msgspec.structs.replace(CONFIG, outbox=None))
    action = flushes(logged_in=login(), sync=synced(tried(), tried(3)))
    assert (action.access, action.outbox) == (Access(MADE_FOR, SESSION, LOGIN_ID, "3f0c"), "out")
    assert flushes(logged_in=login(), sync=synced(tried(2), tried())).before.errors_in_row == 2
    assert flushes().access is None
    left = Direction(moved=15, waiting=35, problem=NETWORK)
    done = ActionResult(status="succeeded", action_type="FlushAction", attempt_id=1, value=left)
    assert stops(flushed=done, entered_s=1.0) == (
        f"flushed: 15 messages sent, 35 left in the outbox ({NETWORK})"
    )
    killed = ActionResult(status="timed_out", action_type="FlushAction", attempt_id=1)
    assert "has not ended by itself" in stops(flushed=killed, entered_s=1.0)
    assert "no action could begin" in stops(entered_s=FLUSHING_S_MAX + 1)


def test_a_stop_that_is_taken_back_is_gone_through_all_the_same() -> None:
    """Scenario 51: the flush is made once and ended, then the worker begins anew."""
    fields: dict[str, Any] = {"logged_in": login(), "sync": synced(tried(), tried())}
    decision = decided(snapshot(Flushing, **fields))
    assert isinstance(decision, Act)
    assert isinstance(decision.action, FlushAction)
    done = ActionResult(
        status="succeeded", action_type="FlushAction", attempt_id=1, value=Direction()
    )
    assert went(snapshot(Flushing, flushed=done, entered_s=1.0, **fields)) is Stopped
    assert went(snapshot(Stopped, flushed=done, **fields)) is Authenticating


def test_first_login_carries_the_credentials_only() -> None:
    """Nothing is known yet."""
    action = logs_in(snapshot(Authenticating))
    assert action == AuthenticateAction(credentials=MADE_FOR)


def test_login_leads_to_syncing() -> None:
    """A session that is good beyond its refresh moment may be used."""
    assert went(snapshot(Authenticating, logged_in=login())) is Syncing


@pytest.mark.parametrize(
    ("kind", "errors", "wait_s"),
    [
        (Kind.SERVER_ERROR, 1, 2),
        (Kind.SERVER_ERROR, 2, 4),
        (Kind.UNKNOWN, 3, 8),
        (Kind.NETWORK, 5, 32),
        (Kind.NETWORK, 60, 60),
        (Kind.PROXY_BLOCK, 1000, 60),
        (Kind.CLOUDFLARE, 1, 60),
        (Kind.RATE_LIMIT, 2, 60),
    ],
)
def test_failed_login_is_waited_out_from_the_last_attempt_and_never_given_up(
    kind: Kind, errors: int, wait_s: float
) -> None:
    """Before the wait is over nothing is sent; after it, one login, for ever."""
    failure = failed_login(kind, errors)
    reason = waits(snapshot(Authenticating, logged_in=failure, login_s=wait_s - 0.01))
    assert f"failed {errors} in a row" in reason
    assert str(kind) in reason
    action = logs_in(snapshot(Authenticating, logged_in=failure, login_s=wait_s * 1.2 + 0.01))
    assert action.errors_in_row == errors
    assert action.instance_uuid == "3f0c"


def test_retry_after_is_honoured_at_the_first_failed_login() -> None:
    """30 s asked for are 30 s, though our own schedule says 2."""
    failure = failed_login(Kind.SERVER_ERROR, 1, status=503, retry_after_s=30.0)
    waits(snapshot(Authenticating, logged_in=failure, login_s=29.9))
    logs_in(snapshot(Authenticating, logged_in=failure, login_s=36.1))


@pytest.mark.parametrize(
    "change",
    [
        {"auth_token": Secret("another-token")},
        {"relay_url": "https://other.example.com"},
        {"auth_token_file": "/run/token"},
    ],
)
@pytest.mark.parametrize("state", [Syncing, Degraded])
def test_changed_relay_or_token_takes_effect_at_once(
    state: type[State], change: dict[str, Any]
) -> None:
    """From a healthy session, and out of a parked login without waiting for its end."""
    changed = msgspec.structs.replace(CONFIG, **change)
    assert went(snapshot(state, logged_in=login(), config=changed)) is Authenticating
    action = logs_in(snapshot(Authenticating, logged_in=login(), config=changed, login_s=0.0))
    assert action.instance_uuid == ""
    parked = failed_login(Kind.INVALID_TOKEN, 7)
    action = logs_in(snapshot(Authenticating, logged_in=parked, config=changed, login_s=0.1))
    assert action.errors_in_row == 0


def test_changed_config_that_fails_too_waits_like_any_other() -> None:
    """The change bypasses the wait once, not on every tick."""
    changed = msgspec.structs.replace(CONFIG, auth_token=Secret("another-token"))
    made_for = msgspec.structs.replace(MADE_FOR, auth_token=Secret("another-token"))
    failure = login(None, made_for=made_for, problem=NETWORK, errors_in_row=1)
    waits(snapshot(Authenticating, logged_in=failure, config=changed, login_s=0.1))


def test_killed_login_is_waited_out() -> None:
    """An attempt that was killed brought no value; its count is the framework's."""
    killed = {AuthenticateAction: 3}
    reason = waits(snapshot(Authenticating, killed=killed, login_s=7.9))
    assert "timed_out" in reason
    assert logs_in(snapshot(Authenticating, killed=killed, login_s=9.7)).errors_in_row == 3


def test_login_that_failed_by_a_bug_of_our_own_is_waited_out_without_its_text() -> None:
    """Scenario 14: the exception's type is told; its text may be about anything."""
    raised: dict[str, Any] = {
        "killed": {AuthenticateAction: 1},
        "how": "failed",
        "error": ActionError("RuntimeError", "s3cret"),
    }
    reason = waits(snapshot(Authenticating, login_s=1.99, **raised))
    assert "failed 1 in a row" in reason
    assert "RuntimeError" in reason
    assert "s3cret" not in reason
    due = snapshot(Authenticating, login_s=2.41, **raised)
    assert logs_in(due).errors_in_row == 1
    assert "s3cret" not in repr(decided(due))


def test_a_first_attempt_that_was_cancelled_is_no_error() -> None:
    """Scenario 13: an operator or a machine short of memory has ended it; nothing is recorded, and
    the next one waits for no backoff."""
    assert logs_in(snapshot(Authenticating, cancelled=AuthenticateAction)).errors_in_row == 0
    action = syncs(snapshot(Syncing, logged_in=login(), cancelled=SyncAction))
    assert action.push == action.pull == Direction()


@pytest.mark.parametrize(
    ("kind", "state", "fields"),
    [
        (AuthenticateAction, Authenticating, {"logged_in": failed_login(Kind.INVALID_TOKEN)}),
        (AuthenticateAction, Authenticating, {"logged_in": failed_login(Kind.SERVER_ERROR, 5)}),
        (AuthenticateAction, Syncing, {"logged_in": login(), "sync": "well"}),
        (SyncAction, Degraded, {"logged_in": login(), "sync": "sick"}),
        (SyncAction, Degraded, {"logged_in": login(), "sync": "sick", "reset_s": 0.2}),
        (SyncAction, Syncing, {"logged_in": login(), "sync": "well"}),
        (SyncAction, Syncing, {"logged_in": login(), "sync": "refused"}),
    ],
)
def test_a_cancelled_attempt_changes_nothing(
    kind: type[Action], state: type[State], fields: dict[str, Any]
) -> None:
    """Scenario 13, nothing is recorded: errors, waits, a park, a session, a reset that was made
    are what they were, at any moment after it."""
    said = {"well": synced(tried(), tried()), "sick": synced(tried(5), tried(5))}
    said["refused"] = synced(tried(1, Problem(Kind.INVALID_TOKEN, "HTTP 401")), tried())
    if "sync" in fields:
        fields = fields | {"sync": said[fields["sync"]]}
    for seconds in (0.0, 0.4, 1.1, 3.0, 9.7, 39.0, 3601.0):
        when = {"login_s": seconds, "sync_s": seconds}
        assert decided(snapshot(state, **fields, **when, cancelled=kind)) == decided(
            snapshot(state, **fields, **when)
        ), seconds


@pytest.mark.parametrize("cancelled", [None, SyncAction])
def test_killed_syncs_add_to_what_was_known(cancelled: type[Action] | None) -> None:
    """Of a direction that was tried: what the one before it had is an error more, for each; the
    rate goes on. Also when another attempt was cancelled since."""
    rate = FailureRate(3, b"\x01")
    sync = synced(tried(2, rate=rate), tried(rate=rate, waiting=7))
    snap = snapshot(
        Degraded, logged_in=login(), sync=sync, killed={SyncAction: 2}, killed_s=70.0, sync_s=60.0,
        cancelled=cancelled,
    )  # fmt: skip
    both = directions(snap)
    assert (both.push.errors_in_row, both.pull.errors_in_row) == (4, 2)
    assert str(both.push.problem) == str(both.pull.problem) == "attempt timed_out"
    assert both.pull.waiting == 7
    assert both.push.idle_s == (0.0 if cancelled else 60.0)
    assert (both.pull.rate.count, both.pull.rate.failures) == (5, 3)


def test_a_killed_sync_ends_no_wait_of_a_direction_that_it_did_not_try() -> None:
    """A relay that says Retry-After: 3600 to pushes is left alone, whatever becomes of pulls."""
    busy = Problem(Kind.RATE_LIMIT, "HTTP 429", 429, retry_after_s=3600.0)
    sync = synced(tried(1, busy), tried())
    snap = snapshot(
        Syncing, logged_in=login(), sync=sync, killed={SyncAction: 1}, killed_s=5.0, sync_s=2.5
    )
    action = syncs(snap)
    assert (action.push.errors_in_row, action.push.problem) == (1, busy)
    assert action.push_in_s > 3590
    assert (action.pull.errors_in_row, action.pull_in_s) == (1, 0.0)


def test_an_attempt_that_crashed_says_nothing_of_the_line() -> None:
    """Or else three of them would put large messages in doubt."""
    for how, kind in (("timed_out", Kind.NETWORK), ("crashed", Kind.UNKNOWN)):
        snap = snapshot(Syncing, logged_in=login(), killed={SyncAction: 1}, how=how)
        assert directions(snap).push.problem == Problem(kind, f"attempt {how}")


def test_a_killed_login_adds_to_the_failed_ones_and_takes_no_session() -> None:
    """And a look at a parked token that is killed does not have it sent again."""
    killed: dict[str, Any] = {"killed": {AuthenticateAction: 1}, "login_s": 300.0}
    held = Held(SESSION, LOGIN_ID)
    down = msgspec.structs.replace(failed_login(Kind.SERVER_ERROR, 3), held=held)
    action = logs_in(snapshot(Authenticating, logged_in=down, **killed, now=SESSION.refresh_at))
    assert (action.errors_in_row, action.held) == (4, held)
    assert syncs(snapshot(Syncing, logged_in=login(), **killed)).access.session == SESSION
    parked = failed_login(Kind.INVALID_TOKEN)
    assert "parked" in waits(snapshot(Authenticating, logged_in=parked, **killed))
    in_a_file = msgspec.structs.replace(CONFIG, auth_token=None, auth_token_file="/run/token")
    made_for = msgspec.structs.replace(MADE_FOR, auth_token=None, auth_token_file="/run/token")
    parked = msgspec.structs.replace(parked, made_for=made_for)
    look = logs_in(snapshot(Authenticating, logged_in=parked, **killed, config=in_a_file))
    assert look.refused is not None  # so the same token is not sent


def test_a_killed_try_at_a_parked_token_is_its_one_in_the_hour() -> None:
    """One of the looks before it asked nothing, and puts nothing off."""
    in_a_file = msgspec.structs.replace(CONFIG, auth_token=None, auth_token_file="/run/token")
    made_for = msgspec.structs.replace(MADE_FOR, auth_token=None, auth_token_file="/run/token")
    parked = msgspec.structs.replace(failed_login(Kind.INVALID_TOKEN), made_for=made_for)
    killed: dict[str, Any] = {"killed": {AuthenticateAction: 1}, "config": in_a_file}
    for killed_s, login_s, may_ask in (
        (3_700.0, 20.0, False),
        (900.0, 20.0, False),
        (900.0, 2_710.0, True),
        (3_700.0, 3_610.0, True),
    ):
        fields: dict[str, Any] = {"killed_s": killed_s, "login_s": login_s, **killed}
        action = logs_in(snapshot(Authenticating, logged_in=parked, **fields))
        assert (action.refused is None) is may_ask, (killed_s, login_s)


def test_an_empty_auth_token_is_none() -> None:
    """The one in the file is looked at every ten seconds then."""
    empty = msgspec.structs.replace(CONFIG, auth_token=Secret(""), auth_token_file="/run/token")
    made_for = msgspec.structs.replace(
        MADE_FOR, auth_token=Secret(""), auth_token_file="/run/token"
    )
    parked = msgspec.structs.replace(failed_login(Kind.INVALID_TOKEN), made_for=made_for)
    assert logs_in(snapshot(Authenticating, logged_in=parked, login_s=10.1, config=empty)).refused


def test_a_refusal_that_is_a_directions_own_outlives_a_renewal() -> None:
    """A token that was renewed because it expired is no reason to ask once more at once."""
    own = Problem(Kind.INVALID_TOKEN, "HTTP 403", 403, retry_after_s=3_000.0)
    for errors, waits_on in ((1, False), (2, True)):
        sync = synced(tried(errors, own), tried(), token_rejected=True)
        fresh: dict[str, Any] = {"logged_in": login(), "sync": sync, "login_id": LOGIN_ID + 5}
        action = syncs(snapshot(Syncing, **fresh, sync_s=1.5))
        assert (action.push_in_s > 2_900) is waits_on


def test_a_refusal_that_another_root_met_is_not_of_this_session() -> None:
    """Attempts are counted from 1 in every root; a kept outcome may have the number of the new
    login."""
    refusal = Problem(Kind.INVALID_TOKEN, "HTTP 401", 401)
    old = synced(tried(1, refusal), tried(), token_rejected=True, session_at=SESSION.made_at - 900)
    assert syncs(snapshot(Syncing, logged_in=login(), sync=old)).push_in_s == 0.0


@pytest.mark.parametrize("state", [Syncing, Degraded])
def test_token_is_renewed_before_it_expires(state: type[State]) -> None:
    """Scenario 15: at its refresh moment, not at its end, and not before."""
    at = SESSION.refresh_at
    assert went(snapshot(state, logged_in=login(), now=at)) is Authenticating
    assert logs_in(snapshot(Authenticating, logged_in=login(), now=at)).errors_in_row == 0
    sick = synced(tried(3), tried(3))
    early = snapshot(state, logged_in=login(), sync=sick, now=at - 1)
    assert not (isinstance(d := decided(early), Go) and d.state is Authenticating)


def test_a_token_that_dies_at_once_makes_no_login_loop() -> None:
    """Scenario 16: logins that bring nothing that can be used are waited out like those that fail,
    longer and longer; a single sync that was served ends that."""
    dead = Session(Secret(JWT), expires_at=NOW, refresh_at=NOW)
    for unused, least_s, most_s in ((0, 2, 3), (1, 4, 5), (4, 32, 39), (5, 60, 72), (999, 60, 72)):
        brought = login(dead, unused=unused)
        reason = waits(snapshot(Authenticating, logged_in=brought, login_s=least_s - 0.1))
        assert ("in a row unused" in str(reason)) == (unused > 0)
        action = logs_in(snapshot(Authenticating, logged_in=brought, login_s=most_s))
        assert action.unused == unused + 1
        failing = synced(tried(1), tried(1))
        waits(snapshot(Authenticating, logged_in=brought, sync=failing, login_s=least_s - 0.1))
        for other in ({"login_id": 7}, {"session_at": 8.0}):
            before = synced(tried(), tried(), **other)
            waits(snapshot(Authenticating, logged_in=brought, sync=before, login_s=least_s - 0.1))
        for served in (synced(tried(), tried(1)), synced(tried(1), tried())):
            waits(snapshot(Authenticating, logged_in=brought, sync=served, login_s=0.5))
            snap = snapshot(Authenticating, logged_in=brought, sync=served, login_s=1.0)
            assert logs_in(snap).unused == 0
    failed = login(None, problem=NETWORK, errors_in_row=1, unused=3)
    assert logs_in(snapshot(Authenticating, logged_in=failed, login_s=3000)).unused == 3


@pytest.mark.parametrize("state", [Syncing, Degraded])
def test_refused_token_is_dropped_at_once(state: type[State]) -> None:
    """401 or 403 on a sync: one login, though the token has hours to live."""
    refusal = Problem(Kind.INVALID_TOKEN, "HTTP 401 (invalid_token): 9 bytes of body", 401)
    sync = synced(tried(), tried(1, refusal), token_rejected=True)
    snap = snapshot(state, logged_in=login(), sync=sync, login_s=3000)
    assert went(snap) is Authenticating
    logs_in(snapshot(Authenticating, logged_in=login(), sync=sync, login_s=3000))


def test_new_login_clears_the_refusal_of_the_old_one() -> None:
    """The refused sync is tried again at once with the new token, not after 60 s."""
    refusal = Problem(Kind.INVALID_TOKEN, "HTTP 401", 401)
    sync = synced(tried(), tried(1, refusal), token_rejected=True)
    fresh: dict[str, Any] = {"logged_in": login(), "sync": sync, "login_id": LOGIN_ID + 5}
    assert went(snapshot(Authenticating, **fresh)) is Syncing
    action = syncs(snapshot(Syncing, **fresh))
    assert action.access.login_id == LOGIN_ID + 5
    assert action.pull_in_s == 0


def test_new_tokens_that_are_refused_too_make_no_login_loop() -> None:
    """From the second refusal in a row, logins are a minute apart."""
    refusal = Problem(Kind.INVALID_TOKEN, "HTTP 403", 403)
    sync = synced(tried(3, refusal), tried(2, refusal), token_rejected=True)
    fields: dict[str, Any] = {"logged_in": login(), "sync": sync}
    assert "refused" in waits(snapshot(Authenticating, login_s=59.9, **fields))
    logs_in(snapshot(Authenticating, login_s=72.1, **fields))


def test_first_sync_does_both_directions() -> None:
    """Right after the login."""
    action = syncs(snapshot(Syncing, logged_in=login()))
    assert action.push_in_s == action.pull_in_s == 0
    assert action.access == Access(MADE_FOR, SESSION, LOGIN_ID, "3f0c")
    assert (action.outbox, action.inbox) == ("out", "in")


def test_healthy_sync_waits_for_its_poll_interval() -> None:
    """And says the same all the while: a reason that changed with each tick would be published and
    kept with each."""
    sync = synced(tried(), tried())
    reasons = {
        waits(snapshot(Syncing, logged_in=login(), sync=sync, sync_s=number / 100))
        for number in range(100)
    }
    idle = "push ok, 0 moved, 0 waiting, pull ok, 0 moved, 0 waiting; token good for 22 h"
    assert reasons == {idle}
    assert decided(snapshot(Syncing, logged_in=login(), sync=sync, sync_s=1.0)).reason == idle
    slow = msgspec.structs.replace(CONFIG, poll_interval_s=60.0)
    reason = waits(snapshot(Syncing, logged_in=login(), sync=sync, sync_s=12.0, config=slow))
    assert reason == f"{idle}; next sync within 50 s"
    syncs(snapshot(Syncing, logged_in=login(), sync=sync, sync_s=1.0))


def test_the_next_sync_comes_soon_after_a_message() -> None:
    """Its answer, or the next one, is not to wait for the poll interval, for as long as more are
    counted on: also after an attempt that has found nothing. Unless that is not wanted."""
    sync = synced(tried(), tried(), lively_left_s=1.5)
    waits(snapshot(Syncing, logged_in=login(), sync=sync, sync_s=0.01))
    action = syncs(snapshot(Syncing, logged_in=login(), sync=sync, sync_s=0.11))
    assert (action.lively_s, round(action.lively_left_s, 2)) == (2.0, 1.39)
    patient = msgspec.structs.replace(CONFIG, lively_s=0.0)
    for sync_s, config in ((0.11, patient), (0.5, CONFIG)):
        over = msgspec.structs.replace(sync, lively_left_s=0.4 if config is CONFIG else 1.5)
        waits(snapshot(Syncing, logged_in=login(), sync=over, sync_s=sync_s, config=config))


def test_where_procs_are_short_the_next_sync_comes_a_little_later() -> None:
    """And is told when it was asked for, so that it can tell whether it has waited itself."""
    sync = synced(tried(), tried(), lively_left_s=1.5)
    waits(snapshot(Syncing, logged_in=login(), sync=sync, sync_s=0.05, queued_s=0.2))
    snap = snapshot(Syncing, logged_in=login(), sync=sync, sync_s=0.05)
    assert syncs(snap).asked_at == snap.now


def test_outbox_that_was_not_emptied_is_gone_on_with_at_once() -> None:
    """An attempt that stopped at its limit leaves more to do."""
    sync = synced(tried(moved=100, waiting=50), tried())
    syncs(snapshot(Syncing, logged_in=login(), sync=sync, sync_s=0.0))


@pytest.mark.parametrize("errors", [1, 2, 3, 4, 6, 50])
@pytest.mark.parametrize("side", ["push", "pull"])
def test_degraded_at_three_errors_of_one_direction(errors: int, side: str) -> None:
    """Scenario 42: two are bad luck; three are an incident, whatever the other direction does."""
    both = {"push": tried(), "pull": tried(), side: tried(errors)}
    snap = snapshot(Syncing, logged_in=login(), sync=synced(**both), sync_s=0.1)
    if errors < 3:
        assert f"{side} failed {errors} in a row" in waits(snap)
    else:
        assert went(snap) is Degraded


def test_first_success_ends_degraded() -> None:
    """Scenario 44, of the direction that was in trouble: a few errors of the other are none. Not
    before: a push that fails and holds up fewer than a hundred has succeeded in nothing."""
    for errors in (0, 1, 2):
        for well in (synced(tried(moved=1), tried(errors)), synced(tried(errors), tried())):
            assert went(snapshot(Degraded, logged_in=login(), sync=well)) is Syncing
    for ill in (synced(tried(moved=1), tried(3)), synced(tried(1, waiting=50), tried())):
        waits(snapshot(Degraded, logged_in=login(), sync=ill, sync_s=0.1))


def test_no_state_is_entered_and_left_at_once() -> None:
    """What leads into Degraded does not lead out of it, and the other way round."""
    for errors, waiting in itertools.product(range(8), (0, 49, 50, 99, 100, 101)):
        sync = synced(tried(errors, waiting=waiting), tried())
        both: dict[str, Any] = {"logged_in": login(), "sync": sync}
        ways = [isinstance(decided(snapshot(state, **both)), Go) for state in (Syncing, Degraded)]
        assert ways != [True, True]


@pytest.mark.parametrize("state", [Syncing, Degraded])
@pytest.mark.parametrize(("errors", "wait_s"), [(1, 2), (2, 4), (3, 8), (6, 60), (901, 60)])
def test_failed_direction_is_left_out_until_its_wait_is_over(
    state: type[State], errors: int, wait_s: float
) -> None:
    """The other direction goes on at the poll interval meanwhile."""
    if (state is Degraded) is not (errors >= 3):
        return
    for idle_s, tries in ((wait_s - 2.0, False), (wait_s * 1.2, True)):
        sync = synced(tried(errors, idle_s=idle_s), tried())
        action = syncs(snapshot(state, logged_in=login(), sync=sync, sync_s=1.5))
        assert (action.push_in_s == 0) is tries
        assert action.pull_in_s == 0
        assert action.push.idle_s == idle_s + 1.5


def test_retry_after_on_a_sync_is_honoured_from_the_first_error() -> None:
    """While the other direction goes on."""
    limited = Problem(Kind.RATE_LIMIT, "HTTP 429", 429, retry_after_s=120.0)
    sync = synced(tried(1, limited), tried(1, limited))
    waits(snapshot(Syncing, logged_in=login(), sync=sync, sync_s=119.9))
    syncs(snapshot(Syncing, logged_in=login(), sync=sync, sync_s=144.1))


def test_killed_syncs_count_as_errors_of_both_directions() -> None:
    """A hung relay that makes the framework kill us is an incident too, and it can end."""
    fields: dict[str, Any] = {"logged_in": login(), "killed": {SyncAction: 3}}
    assert went(snapshot(Syncing, **fields)) is Degraded
    waits(snapshot(Degraded, sync_s=7.9, **fields))
    action = syncs(snapshot(Degraded, sync_s=9.7, **fields))
    assert action.push.errors_in_row == action.pull.errors_in_row == 3


def test_a_direction_that_is_off_has_no_errors() -> None:
    """After a kill nothing would ever clear them, and Degraded would never end."""
    config = msgspec.structs.replace(CONFIG, outbox=None)
    snap = snapshot(Degraded, logged_in=login(), killed={SyncAction: 3}, sync_s=60, config=config)
    action = syncs(snap)
    assert action.push == Direction()
    assert action.outbox is None


def test_errors_of_another_relay_do_not_count() -> None:
    """A changed relay starts with a clean slate."""
    old = Credentials("https://old.example.com", CONFIG.auth_token)
    sync = synced(tried(9), tried(9), made_for=old, token_rejected=True, login_id=7)
    action = syncs(snapshot(Syncing, logged_in=login(), sync=sync))
    assert action.push.errors_in_row == 0


def test_without_folders_nothing_is_synced() -> None:
    """Pulling deletes at the relay, so without a place to put it nothing is pulled."""
    config = CommunicatorConfig(CONFIG.relay_url, auth_token=CONFIG.auth_token)
    assert "neither outbox nor inbox" in waits(snapshot(Syncing, logged_in=login(), config=config))


def test_equal_snapshots_give_equal_decisions() -> None:
    """No dice and no clock of its own."""
    sync = synced(tried(2), tried(1))
    first, second = (
        decided(snapshot(Syncing, logged_in=login(), sync=sync, sync_s=3.0)) for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize(("waiting", "state"), [(99, None), (100, Degraded)])
def test_degraded_at_100_messages_that_could_not_be_pushed(
    waiting: int, state: type[State] | None
) -> None:
    """Scenario 43, and trap 31: a long outbox alone is no trouble, and never an endless change
    of states; what failed and holds up a hundred is."""
    failed = synced(tried(1, waiting=waiting), tried())
    snap = snapshot(Syncing, logged_in=login(), sync=failed, sync_s=0.1)
    assert went(snap) is state if state else waits(snap)
    waits(snapshot(Degraded, logged_in=login(), sync=failed, sync_s=0.1))
    busy = synced(tried(moved=100, waiting=5000), tried())
    syncs(snapshot(Syncing, logged_in=login(), sync=busy, sync_s=0.1))
    assert went(snapshot(Degraded, logged_in=login(), sync=busy, sync_s=0.1)) is Syncing


def test_full_inbox_is_told_and_is_no_trouble() -> None:
    """Scenario 44's other half: pulling keeps nothing back, so it only waits for room."""
    held = synced(tried(moved=1), tried(waiting=960, held=True))
    reason = waits(snapshot(Syncing, logged_in=login(), sync=held, sync_s=0.05))
    assert "960 waiting (inbox full)" in reason


def resets(snap: Snapshot) -> ResetAction | None:
    decision = decided(snap)
    acts = isinstance(decision, Act) and isinstance(decision.action, ResetAction)
    return decision.action if acts else None


@pytest.mark.parametrize("side", ["push", "pull"])
@pytest.mark.parametrize(
    ("kind", "at"),
    [
        (Kind.NETWORK, {5, 10, 15, 20}),
        (Kind.SERVER_ERROR, {10, 20}),
        (Kind.CLOUDFLARE, {10, 20}),
        (Kind.UNKNOWN, set()),
        (Kind.PROXY_BLOCK, set()),
        (Kind.RATE_LIMIT, set()),
        (Kind.INVALID_TOKEN, set()),
    ],
)
def test_connections_are_reset_at_multiples_of_errors(kind: Kind, at: set[int], side: str) -> None:
    """Scenario 47: network errors at 5, 10, ...; server errors at 10, 20, ...; others never."""
    for errors in range(1, 21):
        failed = tried(errors, Problem(kind, "x"))
        both = {"push": tried(), "pull": tried(), side: failed}
        snap = snapshot(Degraded, logged_in=login(), sync=synced(**both), sync_s=0.1)
        assert (resets(snap) is not None) is (errors in at), errors


def test_a_reset_happens_once_and_only_in_degraded() -> None:
    """Scenario 47: not again after it, whatever became of it, and not for a direction that was
    left out of the last sync, whose count is an old one."""
    five = synced(tried(5), tried())
    fields: dict[str, Any] = {"logged_in": login(), "sync": five, "sync_s": 0.9}
    reset = resets(snapshot(Degraded, **fields))
    assert reset == ResetAction(generation=1, errors_in_row=5, path="root/line-1")
    assert went(snapshot(Syncing, **fields)) is Degraded
    for outcome in (ResetOutcome(1), None):
        done = snapshot(Degraded, reset=outcome, reset_s=0.5, **fields)
        waits(done)
        again = snapshot(Degraded, reset=outcome, reset_s=70.0, **fields)
        assert resets(again) is not None, "that reset was for an earlier sync"
    left_out = synced(tried(5), tried(), push_tried=False)
    assert resets(snapshot(Degraded, logged_in=login(), sync=left_out, sync_s=1.0)) is None
    assert resets(snapshot(Degraded, logged_in=login(), killed={SyncAction: 5})) is None


def test_generation_goes_on() -> None:
    """Scenario 48: the next sync carries it, a later reset counts on from it; the failure
    rate goes on too, or a long outage with its resets would never be one."""
    rate = FailureRate(3, b"\x07")
    sync = synced(tried(5, rate=rate), tried(rate=rate), generation=4)
    fields: dict[str, Any] = {"logged_in": login(), "sync": sync}
    action = syncs(snapshot(Degraded, sync_s=60, reset=ResetOutcome(5), reset_s=59, **fields))
    assert action.access.generation == 5
    assert action.push.rate == action.pull.rate == rate
    old = snapshot(Degraded, sync_s=60, reset=ResetOutcome(3), reset_s=90, **fields)
    reset = resets(old)
    assert reset is not None
    assert reset.generation == 5
    killed = snapshot(
        Degraded,
        logged_in=login(),
        killed={SyncAction: 3},
        sync_s=60,
        reset=ResetOutcome(5),
        reset_s=90,
    )
    assert syncs(killed).access.generation == 5


def test_token_that_would_expire_at_work_is_renewed_at_night(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Scenario 18: exactly one login in the hour from 3, at the worker's own moment; none for a
    token that expires in the evening, nor for one that the night has brought."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    night = (NOW // 86_400 + 1) * 86_400 + 3 * 3600
    try:
        for expires_at, times in ((night + 9 * 3600, 1), (night + 18 * 3600, 0)):
            session = Session(Secret(JWT), expires_at, expires_at - 600, night - 3 * 3600)
            renewals = []
            for minute in range(-60, 120):
                now = night + minute * 60
                snap = snapshot(Syncing, logged_in=login(session), login_s=9999, now=now)
                if isinstance(decision := decided(snap), Go):
                    assert "renewed at night" in decision.reason
                    renewals.append(minute)
                    # As short-lived as the one before, and still only one.
                    session = Session(Secret(JWT), now + 9 * 3600, now + 8 * 3600, now)
            assert len(renewals) == times
            assert all(0 <= minute < 60 for minute in renewals)
    finally:
        monkeypatch.undo()
        time.tzset()
