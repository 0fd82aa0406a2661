"""The coordinator of both directions: a push and a pull side by side, in one attempt.

The engine runs one action of a worker at a time, and children cannot be handed a session at run
time, so the two directions share an attempt; in it each has a thread. A direction that is done
early does not wait for the other: as long as that one has a request under way, it tries again at
the poll interval, or when its backoff ends. So a slow pull holds up no push, and a long push no
pull. The attempt ends when neither has anything under way, and takes new tries for a few seconds
only, so that the root sees results and can change its mind.

While messages move it stays, and tries again much sooner than at the poll interval: a question is
seldom the last one, and its answer is to leave at once. An empty outbox costs no request. It keeps
a proc for that, so not for long at a time, and not at all where procs are short: an attempt that
has waited for one leaves as soon as it is done.

Knows: which direction may begin when, what is carried over for one that is left out.
Does not know: backoff, states.
Invariants: at most one push and one pull are under way at a time; after its first error a
direction is not tried again in this attempt; one direction's failure never hides the other's
outcome; at the attempt's deadline no request that keeps to its own limits is still under way; once
the worker is to stop no pull begins, and a push only beside one that is under way.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import msgspec

from fsmv2.communicator import metrics
from fsmv2.communicator.actions.call import Access
from fsmv2.communicator.actions.pull import (
    INBOX_BYTES_MAX,
    INBOX_MESSAGES_MAX,
    LARGE_REPLY,
    PullAction,
)
from fsmv2.communicator.actions.push import PushAction
from fsmv2.communicator.actions.told import after, told
from fsmv2.communicator.outcomes import Direction, SyncOutcome
from fsmv2.communicator.transport.errors import Kind, Problem
from fsmv2.supervisor import Action, ActionContext

NEVER = math.inf
ONE_FOLDER = Problem(
    Kind.UNKNOWN, "cannot sync: outbox and inbox are one folder by a link, want two folders"
)
# A pull begins within this many seconds of the attempt; a push too, or beside that last pull.
TRIES_S = 5.0
# It stays no longer than this where nothing is under way: others may wait for its proc.
STAYS_S = 0.5
# An attempt that has waited for its proc for so long keeps none.
CROWDED_AFTER_S = 0.1
# How often it looks at outbox and relay while messages move.
LIVELY_PUSH_S = 0.02
LIVELY_PULL_S = 0.1
# And the relay, as long as each time it has so many: then a request is shared by them.
BUSY_PULL_S = 0.03
BUSY_REPLY = 10


class SyncAction(Action, frozen=True):
    """One attempt at both directions.

    ``push`` and ``pull`` are how they stand. ``outbox`` or ``inbox`` None leaves that direction
    out; ``push_in_s`` and ``pull_in_s`` are the seconds until it is due, `NEVER` leaves it out too.
    ``lively_s`` is for how long after a message it counts on more, and looks for them often;
    ``lively_left_s`` what is left of that from the last attempt. ``asked_at``: when it was asked
    for, in seconds since the epoch.
    """

    # `TRIES_S`, the longest pull, and the longest push that began beside it.
    timeout_s: ClassVar[float] = 45.0
    # A pull that has left must be allowed to arrive: the relay has forgotten it already.
    grace_s: ClassVar[float] = 1.0

    access: Access
    outbox: str | None
    inbox: str | None
    push: Direction = Direction()
    pull: Direction = Direction()
    push_in_s: float = 0.0
    pull_in_s: float = 0.0
    poll_interval_s: float = 1.0
    lively_s: float = 0.0
    lively_left_s: float = 0.0
    asked_at: float | None = None
    inbox_messages_max: int = INBOX_MESSAGES_MAX
    inbox_bytes_max: int = INBOX_BYTES_MAX

    def execute(self, ctx: ActionContext) -> SyncOutcome:
        """Push and pull; returns both outcomes, whatever the relay says."""
        has_waited = self.asked_at is not None and time.time() - self.asked_at > CROWDED_AFTER_S
        stays_s = 0.0 if has_waited else STAYS_S
        sides = _Sides(ctx, self.access.request_s_max, stays_s, self.lively_s, self.lively_left_s)
        push = pull = None
        if is_one_folder(self.outbox, self.inbox):
            push = _Side(self.push, partial(_one_folder, self, ctx, "push"), self.push_in_s)
            pull = _Side(self.pull, partial(_one_folder, self, ctx, "pull"), self.pull_in_s)
        elif self.outbox is not None:
            pushing = PushAction(self.access, self.outbox)
            push = _Side(
                self.push,
                lambda before: pushing.run(ctx, before, lambda: sides.push_may_go_on),
                self.push_in_s,
            )
        if self.inbox is not None and pull is None:
            pulling = PullAction(
                self.access,
                self.inbox,
                messages_max=self.inbox_messages_max,
                bytes_max=self.inbox_bytes_max,
            )
            pull = _Side(self.pull, lambda before: pulling.run(ctx, before), self.pull_in_s)
        sides.run(push, pull, self.poll_interval_s)
        ended = time.monotonic()
        return SyncOutcome(
            made_for=self.access.credentials,
            login_id=self.access.login_id,
            session_at=self.access.session.made_at,
            push=_stands(push, self.push, sides.began_at, ended),
            pull=_stands(pull, self.pull, sides.began_at, ended),
            token_rejected=any(each is not None and each.is_rejected for each in (push, pull)),
            generation=self.access.generation,
            push_tried=push is not None and push.tried_at is not None,
            pull_tried=pull is not None and pull.tried_at is not None,
            lively_left_s=max(0.0, sides.counted_on_until - ended),
        )


def has_more(is_pull: bool, waiting: int, moved: int) -> bool:
    """Whether a try that went well has left something that need not wait for the poll interval."""
    return moved >= LARGE_REPLY if is_pull else moved > 0 and waiting > 0


def is_one_folder(outbox: str | None, inbox: str | None) -> bool:
    """Whether they are one by a link: what is pulled would be pushed back."""
    try:
        return outbox is not None and inbox is not None and os.path.samefile(outbox, inbox)
    except OSError:  # one is not there yet
        return False


def _one_folder(action: SyncAction, ctx: ActionContext, name: str, before: Direction) -> Direction:
    metrics.of(action.access.credentials.path)
    return told(ctx, name, before, after(before, ONE_FOLDER, asked=False))


class _Side:
    """One direction of an attempt. ``busy`` from before it begins a try until it has ended."""

    def __init__(
        self, stands: Direction, attempt: Callable[[Direction], Direction], due_in_s: float
    ) -> None:
        self.stands = stands
        self.attempt = attempt
        self.due_in_s = due_in_s
        self.busy = due_in_s <= 0
        self.tried_at: float | None = None
        self.moved = 0

    @property
    def is_rejected(self) -> bool:
        """Whether this attempt has found the token to be refused."""
        problem = self.stands.problem
        tried = self.tried_at is not None
        return tried and problem is not None and problem.kind is Kind.INVALID_TOKEN

    def once(self) -> None:
        """Try once, and add it to what this attempt has moved."""
        before = self.stands
        now = self.attempt(before)
        self.moved = now.moved
        if self.tried_at is not None:
            now = msgspec.structs.replace(
                now, moved=before.moved + now.moved, refused=before.refused + now.refused
            )
        self.stands = now
        self.tried_at = time.monotonic()


class _Sides:
    """Both directions, and when which of them may begin."""

    def __init__(
        self,
        ctx: ActionContext,
        request_s_max: float,
        stays_s: float,
        lively_s: float,
        lively_left_s: float,
    ) -> None:
        self.began_at = time.monotonic()
        self._ctx = ctx
        self._request_s_max = request_s_max
        self._changed = threading.Condition()
        self._lively_s = lively_s
        self._stays_until = self.began_at + stays_s
        # An attempt that finds nothing at first may just have begun between two messages.
        self.counted_on_until = self._lively_until = self.began_at + lively_left_s
        self._pull: _Side | None = None
        self._failure: BaseException | None = None

    @property
    def push_may_go_on(self) -> bool:
        """Whether a push may begin, or go on with its next request."""
        return self._has_time and (self._is_early or (self._pull is not None and self._pull.busy))

    @property
    def pull_may_begin(self) -> bool:
        """Whether a pull may begin: once the worker is to stop, none does."""
        return self._has_time and self._is_early

    @property
    def _is_early(self) -> bool:
        is_early = time.monotonic() - self.began_at < TRIES_S
        return is_early and not self._ctx.stopping

    @property
    def _has_time(self) -> bool:
        return not self._ctx.cancelled and self._ctx.deadline_s > self._request_s_max

    def run(self, push: _Side | None, pull: _Side | None, poll_interval_s: float) -> None:
        """Try what is due of both until neither has anything under way."""
        self._pull = pull
        thread = None
        if push is not None and pull is not None and pull.due_in_s < TRIES_S:
            thread = threading.Thread(
                target=self._run_pull, args=(pull, push, poll_interval_s), name="pull"
            )
            thread.start()
        elif pull is not None and push is None:
            self._side(pull, push, lambda: self.pull_may_begin, poll_interval_s)
        try:
            if push is not None:
                self._side(push, pull, lambda: self.push_may_go_on, poll_interval_s)
        finally:
            if thread is not None:
                thread.join()
        if self._failure is not None:
            raise self._failure

    def _run_pull(self, pull: _Side, push: _Side, poll_interval_s: float) -> None:
        try:
            self._side(pull, push, lambda: self.pull_may_begin, poll_interval_s)
        except BaseException as error:  # told where the attempt ends, not in a thread's last words
            self._failure = error

    def _side(
        self,
        mine: _Side,
        other: _Side | None,
        may_begin: Callable[[], bool],
        poll_interval_s: float,
    ) -> None:
        """Try ``mine`` when it is due, for as long as that is now or ``other`` is under way."""
        due_at = self.began_at + mine.due_in_s
        soon_at = NEVER
        try:
            while self._wait(mine, other, due_at, soon_at) and may_begin():
                mine.once()
                goes_on = has_more(mine is self._pull, mine.stands.waiting, mine.moved)
                now = time.monotonic()
                due_at = now + (0.0 if goes_on else poll_interval_s)
                soon_at = now + min(poll_interval_s, self._soon_s(mine))
                with self._changed:
                    if mine.moved:
                        self.counted_on_until = self._lively_until = now + self._lively_s
                    if mine.stands.problem is not None:
                        self._lively_until = self.began_at  # the root is to see it
                        return
        finally:
            with self._changed:
                mine.busy = False
                self._changed.notify_all()

    def _soon_s(self, mine: _Side) -> float:
        if mine is not self._pull:
            return LIVELY_PUSH_S
        return BUSY_PULL_S if mine.moved >= BUSY_REPLY else LIVELY_PULL_S

    def _wait(self, mine: _Side, other: _Side | None, due_at: float, soon_at: float) -> bool:
        """Wait until ``mine`` is due and mark it busy: at ``due_at``, or at ``soon_at`` while
        messages move. False if they do not, and ``other`` is done before that."""
        with self._changed:
            mine.busy = False
            self._changed.notify_all()
            while True:
                now = time.monotonic()
                is_lively = now < min(self._lively_until, self._stays_until)
                due = min(due_at, soon_at) if is_lively else due_at
                mine.busy = now >= due
                if mine.busy:
                    return True
                if not is_lively and (other is None or not other.busy):
                    return False
                until = min(due, self._lively_until, self._stays_until) if is_lively else due
                self._changed.wait(min(until - now, 3600.0))


def _stands(side: _Side | None, before: Direction, began_at: float, ended: float) -> Direction:
    """How a direction stands, with ``idle_s`` as of the attempt's end."""
    if side is None or side.tried_at is None:
        return msgspec.structs.replace(before, idle_s=before.idle_s + ended - began_at)
    return msgspec.structs.replace(side.stands, idle_s=ended - side.tried_at)
