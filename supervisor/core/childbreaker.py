"""A parent's breaker for one child: when it is restarted, how often, and when a person is called.

Theory of operation. A child that fails begins an incident. It is restarted after a growing wait
(1 s × 2, cap 60 s, jitter); a restart has worked when the child runs within ``settle_s`` of its
new start, and is followed by the next, after the next wait, when it has not. Restarts count for
``window_s``, also those of incidents that are over, so that a child which falls over again and
again is restarted ever more rarely; those of an incident count for as long as it lasts. The fourth
warns once. The fifth escalates, once in an incident: after it nobody restarts the child any more,
and its circuit stays open until it runs, is no longer wanted to run, or has another spec. A child
that runs and falls over again after that is left alone, and nobody is called once more, until
``window_s`` after the escalation. One whose constructor raises is not restarted but made anew by
itself; its tries count the same.

A child that runs closes its incident at once; when the last one was over less than ``calm_s``
before this one began, only after it has run for ``steady_s``: a child that goes up and down each
second keeps its circuit open. These attempts are apart from the `RestartBudget`, which is about
ends of the child's own account.

Knows: the moments of restarts, waits, what is told once.
Does not know: nodes, clocks, why a child counts as failed, who restarts it.
Invariants: no window holds more than ``attempts`` restarts or more than one escalation; an incident
that has escalated is restarted no more; whatever goes on running closes its incident. Source:
fsmv2-behaviour.md §3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from fsmv2.supervisor.core.backoff import delay_s

NEVER = float("inf")
WARN_AT = 4


class Policy(msgspec.Struct, frozen=True):
    """How often and how fast; the ticket's figures."""

    base_s: float = 1.0
    max_s: float = 60.0
    attempts: int = 5
    window_s: float = 300.0
    settle_s: float = 30.0
    calm_s: float = 60.0
    steady_s: float = 10.0
    busy_look_s: float = 1.0


DEFAULT = Policy()

Cause = Literal["exists", "panic", "fresh", "healthy", "sanity"]

# What a parent sees of a child: it has failed; it runs; it is on its way (so far neither); it is on
# its way down or waits for others, which takes as long as it takes; nobody wants it to run.
Kind = Literal["failed", "runs", "comes", "waits", "away"]
Order = Literal["opened", "restart", "warn", "escalate", "closed"]


class Sight(msgspec.Struct, frozen=True):
    """One look at a child. ``unless`` is why it is not to be restarted, if it is not; ``tries`` is
    how often it was tried in vain to make it, where that is what has failed; ``busy``: it is at an
    action, which has a deadline of its own."""

    kind: Kind
    cause: Cause = "healthy"
    detail: str = ""
    unless: str = ""
    tries: int = 0
    busy: bool = False


class Track(msgspec.Struct, frozen=True):
    """What is known of one child. ``since`` is the beginning of its incident, None without one;
    ``next_at`` when it is restarted; ``settle_by`` until when it should run; ``made`` are the
    restarts, or tries, of this incident; ``runs_since`` is when it ran again, and ``steady_by``
    when it will have done so long enough. ``escalated_at`` and ``closed_at`` outlive an incident:
    when a person was last called, and when the last incident was over."""

    attempts: tuple[float, ...] = ()
    since: float | None = None
    cause: Cause = "healthy"
    detail: str = ""
    unless: str = ""
    next_at: float = NEVER
    settle_by: float = NEVER
    made: int = 0
    warned: bool = False
    escalated: bool = False
    runs_since: float | None = None
    steady_by: float = NEVER
    escalated_at: float = -NEVER
    closed_at: float = -NEVER

    @property
    def is_open(self) -> bool:
        """Whether there is an incident."""
        return self.since is not None

    def wake_at(self) -> float:
        """When it is to be looked at again though nothing has happened."""
        return min(self.next_at, self.settle_by) if self.runs_since is None else self.steady_by

    def attempts_shown(self) -> int:
        """How often it was tried to bring the child back: in the window, or in an incident that
        lasts longer; all of them, once a person was called for it."""
        tried = max(self.made, len(self.attempts))
        return max(tried, DEFAULT.attempts) if self.escalated else tried


CALM = Track()


def pruned(track: Track, now: float, policy: Policy = DEFAULT) -> Track:
    """``track`` without what has left the window."""
    kept = tuple(at for at in track.attempts if at + policy.window_s > now)
    escalated_at = track.escalated_at if track.escalated_at + policy.window_s > now else -NEVER
    closed_at = track.closed_at
    if not track.is_open and now - closed_at >= policy.calm_s:
        closed_at = -NEVER
    if (len(kept), escalated_at, closed_at) == (
        len(track.attempts),
        track.escalated_at,
        track.closed_at,
    ):
        return track
    return msgspec.structs.replace(
        track, attempts=kept, escalated_at=escalated_at, closed_at=closed_at
    )


def look(
    track: Track, sight: Sight, now: float, chance: Callable[[], float], policy: Policy = DEFAULT
) -> tuple[Track, tuple[Order, ...]]:
    """What one look at the child makes of ``track``, and what is to be done and told, in order.

    ``chance`` gives the jitter in [0, 1); it is called when a wait begins, and only then.
    """
    track = pruned(track, now, policy)
    if not track.is_open:
        if sight.kind != "failed":
            return track, ()
        begun = Track(
            track.attempts,
            now,
            sight.cause,
            sight.detail,
            sight.unless,
            escalated_at=track.escalated_at,
            closed_at=track.closed_at,
        )
        after, orders = _failed(begun, sight, now, chance, policy)
        return after, ("opened", *orders)
    if sight.kind == "away":
        return _over(track, now), ("closed",)
    if sight.kind == "runs":
        return _runs(track, now, policy)
    if track.runs_since is not None:
        track = msgspec.structs.replace(track, runs_since=None, steady_by=NEVER)
    if sight.kind == "waits":
        if track.unless != sight.unless:
            track = msgspec.structs.replace(track, unless=sight.unless)
        return _unhurried(track), ()
    if sight.kind == "comes":
        return _comes(track, sight, now, chance, policy)
    return _failed(track, sight, now, chance, policy)


def _over(track: Track, now: float) -> Track:
    return Track(track.attempts, escalated_at=track.escalated_at, closed_at=now)


def _unhurried(track: Track) -> Track:
    """``track`` with nothing due."""
    if track.wake_at() == NEVER:
        return track
    return msgspec.structs.replace(track, next_at=NEVER, settle_by=NEVER)


def _runs(track: Track, now: float, policy: Policy) -> tuple[Track, tuple[Order, ...]]:
    began = now if track.runs_since is None else track.runs_since
    is_calm = track.since is not None and track.since - track.closed_at >= policy.calm_s
    steady_by = began if is_calm else began + policy.steady_s
    if now >= steady_by:
        return _over(track, now), ("closed",)
    if track.runs_since is not None:
        return track, ()
    # A restart that is due stays so: one that runs for a moment now and then has to have it too.
    return msgspec.structs.replace(
        track,
        settle_by=NEVER,
        runs_since=began,
        steady_by=steady_by,
        unless=f"it runs again, which counts once it has for {policy.steady_s:g} s",
    ), ()


def _comes(
    track: Track, sight: Sight, now: float, chance: Callable[[], float], policy: Policy
) -> tuple[Track, tuple[Order, ...]]:
    if track.unless != sight.unless:
        track = msgspec.structs.replace(track, unless=sight.unless)
    if track.escalated or sight.unless:
        return _unhurried(track), ()
    if track.settle_by == NEVER:
        return msgspec.structs.replace(track, next_at=NEVER, settle_by=now + policy.settle_s), ()
    if sight.busy and now >= track.settle_by:
        # It waits for a proc, or for its action's end: a restart would only lose its place.
        later = now + policy.busy_look_s
        return msgspec.structs.replace(track, settle_by=later, next_at=NEVER), ()
    if now < track.settle_by:
        # It had failed again for a moment. Its time to come up does not begin anew, or one that
        # falters would never be restarted.
        if track.next_at < track.settle_by:
            track = msgspec.structs.replace(track, next_at=track.settle_by)
        return track, ()
    if track.next_at == NEVER:
        late = f"not running {policy.settle_s:g} s after its start"
        return _wait(msgspec.structs.replace(track, detail=late), now, chance, policy)
    return _when_due(track, now, policy)


def _failed(
    track: Track, sight: Sight, now: float, chance: Callable[[], float], policy: Policy
) -> tuple[Track, tuple[Order, ...]]:
    if (track.cause, track.detail, track.unless) != (sight.cause, sight.detail, sight.unless):
        track = msgspec.structs.replace(
            track, cause=sight.cause, detail=sight.detail, unless=sight.unless
        )
    if sight.tries:
        return _tried(_unhurried(track), sight.tries, now, policy)
    if track.unless or track.escalated:
        return _unhurried(track), ()
    if track.next_at == NEVER:
        return _wait(track, now, chance, policy)
    return _when_due(track, now, policy)


def _tried(track: Track, tries: int, now: float, policy: Policy) -> tuple[Track, tuple[Order, ...]]:
    """It could not be made, ``tries`` times by now; that is tried again by itself."""
    if track.made != tries:
        track = msgspec.structs.replace(track, made=tries)
    if tries >= policy.attempts:
        if track.escalated or track.escalated_at > -NEVER:
            return track, ()
        return msgspec.structs.replace(track, escalated=True, escalated_at=now), ("escalate",)
    if tries >= WARN_AT and not track.warned:
        return msgspec.structs.replace(track, warned=True), ("warn",)
    return track, ()


def _wait(
    track: Track, now: float, chance: Callable[[], float], policy: Policy
) -> tuple[Track, tuple[Order, ...]]:
    """Wait for the next restart: after an escalation until that has left the window."""
    if track.escalated_at > -NEVER:
        next_at = track.escalated_at + policy.window_s
    else:
        wait_s = delay_s(
            len(track.attempts) + 1, chance(), base_s=policy.base_s, max_s=policy.max_s
        )
        next_at = now + wait_s
    return msgspec.structs.replace(track, next_at=next_at), ()


def _when_due(track: Track, now: float, policy: Policy) -> tuple[Track, tuple[Order, ...]]:
    if now < track.next_at:
        return track, ()
    attempts = (*track.attempts, now)
    made = track.made + 1
    orders: tuple[Order, ...] = ("restart",)
    warned, escalated_at = track.warned, track.escalated_at
    # An incident may outlast the window: one whose child takes a minute to go down and to fail.
    tried = max(len(attempts), made)
    if is_last := tried >= policy.attempts:
        escalated_at = now
        orders = ("restart", "escalate")
    elif tried >= WARN_AT and not warned:
        warned = True
        orders = ("restart", "warn")
    after = msgspec.structs.replace(
        track,
        attempts=attempts,
        made=made,
        next_at=NEVER,
        settle_by=NEVER,
        warned=warned,
        escalated=is_last,
        escalated_at=escalated_at,
    )
    return after, orders
