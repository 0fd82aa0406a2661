"""A parent's breaker for one child: when it is restarted, how often, and when a person is called.

Theory of operation. A child that fails begins an incident. It is restarted after a growing wait
(1 s × 2, cap 60 s, jitter); a restart has worked when the child runs within ``settle_s`` of its
new start, and is followed by the next, after the next wait, when it has not. Restarts count for
``window_s``, also those of incidents that are over, so that a child which falls over again and
again is restarted ever more rarely. The fourth in the window warns once. The fifth escalates, once
in an incident: after it nobody restarts the child any more, and its circuit stays open until it
runs, is no longer wanted to run, or has another spec. These attempts are apart from the
`RestartBudget`, which is about ends of the child's own account.

Knows: the moments of restarts, waits, what is told once.
Does not know: nodes, clocks, why a child counts as failed, who restarts it.
Invariants: no window holds more than ``attempts`` restarts; an incident escalates at most once, and
is restarted no more then; whatever runs closes its incident. Source: fsmv2-behaviour.md §3.
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


DEFAULT = Policy()

Cause = Literal["exists", "panic", "fresh", "healthy", "sanity"]

# What a parent sees of a child: it has failed; it runs; it is on its way (so far neither); it is on
# its way down or waits for others, which takes as long as it takes; nobody wants it to run.
Kind = Literal["failed", "runs", "comes", "waits", "away"]
Order = Literal["opened", "restart", "warn", "escalate", "closed"]


class Sight(msgspec.Struct, frozen=True):
    """One look at a child. ``unless`` is why it is not to be restarted, if it is not."""

    kind: Kind
    cause: Cause = "healthy"
    detail: str = ""
    unless: str = ""


class Track(msgspec.Struct, frozen=True):
    """What is known of one child. ``since`` is the beginning of its incident, None without one;
    ``next_at`` when it is restarted; ``settle_by`` until when it should run; ``made`` are
    the restarts of this incident."""

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

    @property
    def is_open(self) -> bool:
        """Whether there is an incident."""
        return self.since is not None

    def wake_at(self) -> float:
        """When it is to be looked at again though nothing has happened."""
        return min(self.next_at, self.settle_by)


CALM = Track()


def pruned(track: Track, now: float, policy: Policy = DEFAULT) -> Track:
    """``track`` without the restarts that have left the window."""
    kept = tuple(at for at in track.attempts if now - at < policy.window_s)
    if len(kept) == len(track.attempts):
        return track
    return msgspec.structs.replace(track, attempts=kept)


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
        begun = Track(track.attempts, now, sight.cause, sight.detail, sight.unless)
        after, orders = _wait(begun, now, chance, policy)
        return after, ("opened", *orders)
    if sight.kind in ("runs", "away"):
        return Track(track.attempts), ("closed",)
    if sight.kind == "waits":
        if track.wake_at() == NEVER:
            return track, ()
        return msgspec.structs.replace(track, next_at=NEVER, settle_by=NEVER), ()
    if sight.kind == "comes":
        return _comes(track, sight.unless, now, chance, policy)
    return _failed(track, sight, now, chance, policy)


def _comes(
    track: Track, unless: str, now: float, chance: Callable[[], float], policy: Policy
) -> tuple[Track, tuple[Order, ...]]:
    if track.unless != unless:
        track = msgspec.structs.replace(track, unless=unless)
    if track.escalated or unless:
        return track, ()
    if track.settle_by == NEVER:
        return msgspec.structs.replace(track, next_at=NEVER, settle_by=now + policy.settle_s), ()
    if now < track.settle_by:
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
    if track.unless or track.escalated:
        if track.wake_at() == NEVER:
            return track, ()
        return msgspec.structs.replace(track, next_at=NEVER, settle_by=NEVER), ()
    if track.next_at == NEVER:
        return _wait(track, now, chance, policy)
    return _when_due(track, now, policy)


def _wait(
    track: Track, now: float, chance: Callable[[], float], policy: Policy
) -> tuple[Track, tuple[Order, ...]]:
    """Wait for the next restart, or have a person called where none is left."""
    if track.unless or track.escalated:
        return track, ()
    made = len(track.attempts)
    if made >= policy.attempts:
        return msgspec.structs.replace(track, escalated=True, settle_by=NEVER), ("escalate",)
    wait_s = delay_s(made + 1, chance(), base_s=policy.base_s, max_s=policy.max_s)
    return msgspec.structs.replace(track, next_at=now + wait_s), ()


def _when_due(track: Track, now: float, policy: Policy) -> tuple[Track, tuple[Order, ...]]:
    if now < track.next_at:
        return track, ()
    attempts = (*track.attempts, now)
    orders: tuple[Order, ...] = ("restart",)
    warned, escalated = track.warned, False
    if len(attempts) >= policy.attempts:
        escalated = True
        orders = ("restart", "escalate")
    elif len(attempts) == WARN_AT and not warned:
        warned = True
        orders = ("restart", "warn")
    after = msgspec.structs.replace(
        track,
        attempts=attempts,
        made=track.made + 1,
        next_at=NEVER,
        settle_by=NEVER,
        warned=warned,
        escalated=escalated,
    )
    return after, orders
