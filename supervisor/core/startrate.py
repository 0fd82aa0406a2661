"""How many procs may be started in which time: a token bucket.

Knows: the rate, the burst, how many starts are left.
Does not know: clocks, procs, what makes them necessary.
Invariants: in any t seconds at most ``burst + rate * t`` starts are granted; a moment that lies
before the last one grants nothing extra.
"""

from __future__ import annotations

import msgspec


class StartRate(msgspec.Struct, frozen=True):
    """``per_s`` starts per second in the long run, ``burst`` at once. ``left`` of them are
    left as of ``at`` (monotonic seconds)."""

    per_s: float
    burst: float
    left: float
    at: float


def full(per_s: float, burst: float, now: float) -> StartRate:
    """A bucket from which nothing was taken yet."""
    return StartRate(per_s, burst, burst, now)


def take(rate: StartRate, now: float) -> tuple[StartRate, bool]:
    """The bucket after one more start at ``now``, and whether it is granted."""
    left = min(rate.burst, rate.left + max(0.0, now - rate.at) * rate.per_s)
    granted = left >= 1.0
    return (
        StartRate(rate.per_s, rate.burst, left - 1.0 if granted else left, max(rate.at, now)),
        granted,
    )


def next_moment(rate: StartRate) -> float:
    """When the next start is granted."""
    return rate.at + max(0.0, 1.0 - rate.left) / rate.per_s
