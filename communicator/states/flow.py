"""How the communicator's states read a snapshot: pushing and pulling.

Knows: how each direction stands, when it is in trouble, what is due and what must wait, when
connections are reset.
Does not know: which state goes where (but for a renewal), how a session comes to be (`reading`).
Invariants: pure; a wait is always measured from the end of the last try of that direction; each
multiple of errors that a reset is due at leads to one reset; no message gets into a text.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from fsmv2.communicator.actions.call import Access
from fsmv2.communicator.actions.reset import ResetAction
from fsmv2.communicator.actions.sync import (
    CROWDED_AFTER_S,
    LIVELY_PULL_S,
    LIVELY_PUSH_S,
    NEVER,
    SyncAction,
    has_more,
)
from fsmv2.communicator.backoff import wait_s
from fsmv2.communicator.failurerate import SYNC
from fsmv2.communicator.outcomes import Direction, ResetOutcome
from fsmv2.communicator.states import authenticating
from fsmv2.communicator.states.reading import (
    Usable,
    credentials,
    failed_login,
    instance_uuid,
    is_made_with,
    is_renewal_due,
    next_login,
    next_login_story,
    sync_outcome,
    unfinished,
    value_of,
)
from fsmv2.communicator.states.spans import at_least, within
from fsmv2.communicator.transport.errors import FACTS, Kind, Problem
from fsmv2.supervisor import Act, Go, Snapshot, Stay

if TYPE_CHECKING:
    from fsmv2.communicator.worker import CommunicatorConfig

DEGRADED_AT_ERRORS = 3
DEGRADED_AT_PENDING = 100
WELL_AT_PENDING = 50


class Directions(NamedTuple):
    """How both directions stand, brought up to the snapshot's moment."""

    push: Direction
    pull: Direction

    @property
    def errors_in_row(self) -> int:
        """Of the direction that is worse off."""
        return max(self.push.errors_in_row, self.pull.errors_in_row)

    @property
    def is_in_trouble(self) -> bool:
        """Whether one direction has failed too often, or holds up too much.

        Only what a failed push has left counts as pending: a long outbox that is being sent is
        no trouble, and a pull keeps nothing back (without room it is not made).
        """
        return self.errors_in_row >= DEGRADED_AT_ERRORS or self._held_up >= DEGRADED_AT_PENDING

    @property
    def is_out_of_trouble(self) -> bool:
        """Whether what was in trouble is no more: a direction that failed too often has succeeded,
        or else it would have as many errors still. Where messages are held up far fewer than what
        led there count, so that a number about that limit does not lead to and fro."""
        return self.errors_in_row < DEGRADED_AT_ERRORS and self._held_up < WELL_AT_PENDING

    @property
    def _held_up(self) -> int:
        return self.push.waiting if self.push.problem is not None else 0

    def __str__(self) -> str:
        return f"push {_standing(self.push)}, pull {_standing(self.pull)}"


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
    outcome = sync_outcome(snap)
    if outcome is None or outcome.made_for != credentials(snap):
        both = Directions(Direction(), Direction())
    else:
        since_s = snap.since_success_s(SyncAction)
        push, pull = (
            msgspec.structs.replace(each, idle_s=each.idle_s + since_s)
            for each in (outcome.push, outcome.pull)
        )
        both = Directions(push, pull)
    attempts, problem = unfinished(snap, SyncAction)
    if problem is None:
        return both
    return Directions(
        _lost(snap, "push", both.push, attempts, problem),
        _lost(snap, "pull", both.pull, attempts, problem),
    )


def _lost(
    snap: Snapshot, name: str, before: Direction, attempts: int, problem: Problem
) -> Direction:
    """A direction after ``attempts`` that ended without an outcome: each is an error of it, unless
    it was waiting out an error of its own and not tried."""
    since_s = snap.since_result_s(SyncAction)
    if before.problem is not None and before.idle_s - since_s < _wait_s(snap, name, before):
        return before
    rate = before.rate
    for _ in range(min(attempts, SYNC.outcomes_max)):
        rate = rate.with_outcome(True, SYNC)
    return msgspec.structs.replace(
        before,
        errors_in_row=before.errors_in_row + attempts,
        problem=problem,
        idle_s=since_s,
        # An alarm is given by an action: the next that fails gives it.
        rate=msgspec.structs.replace(rate, alarmed=before.rate.alarmed),
    )


def generation(snap: Snapshot) -> int:
    """How many resets there have been, as far as any outcome still tells."""
    synced, reset = sync_outcome(snap), value_of(snap, ResetAction)
    return max(
        synced.generation if synced is not None else 0,
        reset.generation if isinstance(reset, ResetOutcome) else 0,
    )


def reset_due(snap: Snapshot) -> ResetAction | None:
    """The reset that the last sync calls for, None where it calls for none or had it already.

    A killed sync calls for none: its proc is gone, and its connections with it.
    """
    outcome = sync_outcome(snap)
    if outcome is None or outcome.made_for != credentials(snap):
        return None
    errors = [
        each.errors_in_row
        for each, tried in ((outcome.push, outcome.push_tried), (outcome.pull, outcome.pull_tried))
        if tried
        and each.problem is not None
        and (every := FACTS[each.problem.kind].reset_every)
        and each.errors_in_row % every == 0
    ]
    if not errors or snap.since_result_s(ResetAction) <= snap.since_success_s(SyncAction):
        return None
    path = snap.identity.path
    return ResetAction(generation=generation(snap) + 1, errors_in_row=max(errors), path=path)


def renewal_step(snap: Snapshot, usable: Usable) -> Go | Act | None:
    """Renew the session, where that is due: the first time in Authenticating. A renewal that has
    failed is tried again from where we are, between syncs, and no state tells of each try."""
    if not is_renewal_due(snap, usable):
        return None
    failed = failed_login(snap)
    if not failed:
        return Go(authenticating.Authenticating, reason=usable.renewal)
    return Act(next_login(snap), reason=f"logging in: {usable.renewal}; renewal {failed}")


def sync_step(snap: Snapshot, usable: Usable, both: Directions) -> Act | Stay:
    """Sync what is due, or say how long nothing is."""
    config: CommunicatorConfig = snap.config
    if config.outbox is None and config.inbox is None:
        return Stay(reason="logged in; neither outbox nor inbox is set, so nothing is synced")
    push_in_s = NEVER if config.outbox is None else _due_in_s(snap, usable, both.push, "push")
    pull_in_s = NEVER if config.inbox is None else _due_in_s(snap, usable, both.pull, "pull")
    story = f"{both}; token good for {at_least(usable.left_s)}{_renewal_story(snap, usable)}"
    if min(push_in_s, pull_in_s) > 0:
        return Stay(reason=story + within("next sync", min(push_in_s, pull_in_s)))
    action = SyncAction(
        access=access(snap, usable),
        outbox=config.outbox,
        inbox=config.inbox,
        inbox_messages_max=config.inbox_messages_max,
        inbox_bytes_max=config.inbox_bytes_max,
        push=both.push,
        pull=both.pull,
        # A direction that is well rides along; one that waits out an error does not.
        push_in_s=0.0 if both.push.problem is None else max(0.0, push_in_s),
        pull_in_s=0.0 if both.pull.problem is None else max(0.0, pull_in_s),
        poll_interval_s=config.poll_interval_s,
        lively_s=config.lively_s,
        lively_left_s=_lively_left_s(snap),
        asked_at=snap.now,
    )
    return Act(action, reason=story)


def access(snap: Snapshot, usable: Usable) -> Access:
    """What an action speaks to the relay with."""
    return Access(
        credentials=credentials(snap),
        session=usable.session,
        login_id=usable.login_id,
        instance_uuid=instance_uuid(snap),
        generation=generation(snap),
    )


def _renewal_story(snap: Snapshot, usable: Usable) -> str:
    failed = failed_login(snap)
    if not failed:
        return ""
    next_one = next_login_story(snap) if usable.renewal else ""
    return f"; renewal {failed}{next_one}"


def _due_in_s(snap: Snapshot, usable: Usable, direction: Direction, name: str) -> float:
    config: CommunicatorConfig = snap.config
    if direction.problem is None:
        # The last attempt may have stopped at its limit, not at the end of what there was.
        goes_on = has_more(name == "pull", direction.waiting, direction.moved)
        if goes_on and not direction.held:
            return 0.0
        interval_s = config.poll_interval_s
        if _lively_left_s(snap) > 0:
            last = snap.result(SyncAction)
            is_crowded = last is not None and last.queued_s > CROWDED_AFTER_S
            interval_s = min(interval_s, LIVELY_PULL_S if is_crowded else LIVELY_PUSH_S)
        return interval_s - direction.idle_s
    outcome = sync_outcome(snap)
    refused = direction.problem.kind is Kind.INVALID_TOKEN
    is_old = outcome is not None and not is_made_with(outcome, usable.session, usable.login_id)
    # From the second in a row on it may be the direction's own, and no token's.
    if refused and is_old and direction.errors_in_row < 2:
        return 0.0  # that was another token
    return _wait_s(snap, name, direction) - direction.idle_s


def _wait_s(snap: Snapshot, name: str, direction: Direction) -> float:
    """Seconds from a failed try of a direction to the next; none after a success."""
    if direction.problem is None:
        return 0.0
    return wait_s(direction.problem, direction.errors_in_row, f"{snap.identity.path}/{name}")


def _lively_left_s(snap: Snapshot) -> float:
    config: CommunicatorConfig = snap.config
    outcome = sync_outcome(snap)
    if outcome is None:
        return 0.0
    left_s = outcome.lively_left_s - snap.since_success_s(SyncAction)
    return min(config.lively_s, max(0.0, left_s))


def _standing(direction: Direction) -> str:
    if direction.problem is not None:
        return f"failed {direction.errors_in_row} in a row ({direction.problem})"
    if math.isinf(direction.idle_s):
        return "not tried yet"
    held = " (inbox full)" if direction.held else ""
    return f"ok, {direction.moved} moved, {direction.waiting} waiting{held}"
