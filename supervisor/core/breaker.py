"""The infrastructure breaker: closed, open, half open. Arithmetic only.

Open: no new action starts. Half open: 1, then 2, then 4 … actions at a time, each under a lease.
Closed again when the machine was well for one probe period of half open.

Knows: its state, the leases that are out, what an operator has forced, when it changes by itself.
Does not know: readings and limits (`limits`), who wants to start an action, clocks.
Invariants: half open ends by itself at the latest one probe period after it began, whatever becomes
of the actions, so that nothing can keep it there; recovered machine: closed within two probe
periods; out of half open any excess, however short, opens it again, and that is no flip: an input
that goes up and down each second gets it open once. Source: DESIGN.md §6.
"""

from __future__ import annotations

from typing import Literal

import msgspec

PROBE_S = 5.0
# Of a probe period: one that hangs holds the others up for no longer.
LEASE_SHARE = 0.25
FORCE_S = 600.0
FORCE_S_MAX = 86_400.0

BreakerState = Literal["closed", "open", "half_open"]
Forced = Literal["open", "closed"]
Change = Literal["opened", "half_opened", "reopened", "closed"]


class Lease(msgspec.Struct, frozen=True):
    """The right of one action to run while half open. It ends at ``until`` if nobody gives it
    back."""

    attempt_id: int
    until: float


class Breaker(msgspec.Struct, frozen=True):
    """See the module. Moments in monotonic seconds. ``since`` is when ``state`` began,
    ``opened_at`` when the incident did; ``tries`` counts the times it was half open in this
    incident; ``quota`` is how many may run at a time, ``passed`` how many of them have; before
    ``not_before`` it is not half open again. ``causes`` are what is wrong, for people."""

    state: BreakerState = "closed"
    since: float = 0.0
    opened_at: float | None = None
    causes: tuple[str, ...] = ()
    tries: int = 0
    quota: int = 0
    passed: int = 0
    not_before: float = 0.0
    leases: tuple[Lease, ...] = ()
    forced: Forced | None = None
    forced_since: float = 0.0
    forced_until: float = 0.0
    probe_s: float = PROBE_S


def effective(breaker: Breaker, now: float) -> BreakerState:
    """The state that counts at ``now``: an operator's word before its own."""
    if breaker.forced is not None and now < breaker.forced_until:
        return breaker.forced
    return breaker.state


def step(
    breaker: Breaker, exceeded: tuple[str, ...], over: tuple[str, ...], now: float
) -> tuple[Breaker, Change | None]:
    """``breaker`` at ``now``, and what has changed. ``exceeded`` says which limits are exceeded
    for good, ``over`` also those that are exceeded this moment only."""
    if breaker.forced is not None and now >= breaker.forced_until:
        breaker = msgspec.structs.replace(breaker, forced=None)
    breaker = _without_expired(breaker, now)
    match breaker.state:
        case "closed":
            if exceeded:
                return _opened(breaker, exceeded, now), "opened"
        case "open":
            if exceeded or over:
                return msgspec.structs.replace(breaker, causes=exceeded or over), None
            if now >= breaker.not_before:
                return _half_opened(breaker, now), "half_opened"
        case "half_open":
            if exceeded or over:
                return _reopened(breaker, exceeded or over, now, now), "reopened"
            # As `next_moment` has it, or a rounding would have it looked at for ever.
            if now >= breaker.since + breaker.probe_s:
                return _closed(breaker, now), "closed"
    return breaker, None


def next_moment(breaker: Breaker, now: float) -> float | None:
    """When `step`, after it was called at ``now``, may change something though no reading has;
    None: never."""
    moments = [breaker.forced_until] if breaker.forced is not None else []
    if breaker.state == "half_open":
        moments += [breaker.since + breaker.probe_s, *(lease.until for lease in breaker.leases)]
    elif breaker.state == "open" and breaker.not_before > now:
        moments.append(breaker.not_before)
    return min(moments, default=None)


def may_start(breaker: Breaker, now: float) -> bool:
    """Whether one more action may start."""
    state = effective(breaker, now)
    if state != "half_open":
        return state == "closed"
    return sum(lease.until > now for lease in breaker.leases) < breaker.quota


def lend(breaker: Breaker, attempt_id: int, now: float) -> Breaker:
    """``breaker`` after an action has started; only half open there is a lease to it."""
    if effective(breaker, now) != "half_open":
        return breaker
    lease = Lease(attempt_id, now + LEASE_SHARE * breaker.probe_s)
    return msgspec.structs.replace(breaker, leases=(*breaker.leases, lease))


def give_back(
    breaker: Breaker, attempt_id: int, failed: str | None, now: float
) -> tuple[Breaker, Change | None]:
    """``breaker`` after an action has ended. ``failed`` says what of the machine it failed for;
    None: for nothing of it, however it ended. Once as many have passed as may run at a time,
    twice as many may."""
    if all(lease.attempt_id != attempt_id for lease in breaker.leases):
        return breaker, None
    if failed is not None and breaker.state == "half_open":
        return _reopened(breaker, (failed,), now, now + breaker.probe_s), "reopened"
    left = tuple(lease for lease in breaker.leases if lease.attempt_id != attempt_id)
    passed, quota = breaker.passed + 1, breaker.quota
    if passed >= quota:
        passed, quota = 0, 2 * quota
    return msgspec.structs.replace(breaker, leases=left, passed=passed, quota=quota), None


def force(breaker: Breaker, forced: Forced | None, until: float, now: float) -> Breaker:
    """``breaker`` with an operator's word that counts from ``now`` until ``until``; None takes it
    back."""
    if forced is None:
        return msgspec.structs.replace(breaker, forced=None, forced_until=0.0)
    since = breaker.forced_since if breaker.forced == forced else now
    return msgspec.structs.replace(breaker, forced=forced, forced_since=since, forced_until=until)


def downtime_s(breaker: Breaker, now: float) -> float:
    """Seconds since this incident began, or since an operator has opened it."""
    since = [breaker.opened_at] if breaker.opened_at is not None else []
    if breaker.forced == "open" and now < breaker.forced_until:
        since.append(breaker.forced_since)
    return now - min(since, default=now)


def _without_expired(breaker: Breaker, now: float) -> Breaker:
    # An action that outlives its lease says nothing against the machine: its place is free.
    kept = tuple(lease for lease in breaker.leases if lease.until > now)
    if len(kept) == len(breaker.leases):
        return breaker
    return msgspec.structs.replace(breaker, leases=kept)


def _opened(breaker: Breaker, causes: tuple[str, ...], now: float) -> Breaker:
    return msgspec.structs.replace(
        breaker, state="open", since=now, opened_at=now, causes=causes, tries=0, not_before=now
    )


def _half_opened(breaker: Breaker, now: float) -> Breaker:
    return msgspec.structs.replace(
        breaker,
        state="half_open",
        since=now,
        tries=breaker.tries + 1,
        quota=1,
        passed=0,
        leases=(),
    )


def _reopened(breaker: Breaker, causes: tuple[str, ...], now: float, not_before: float) -> Breaker:
    return msgspec.structs.replace(
        breaker, state="open", since=now, causes=causes, leases=(), not_before=not_before
    )


def _closed(breaker: Breaker, now: float) -> Breaker:
    return msgspec.structs.replace(
        breaker, state="closed", since=now, opened_at=None, causes=(), leases=(), tries=0
    )
