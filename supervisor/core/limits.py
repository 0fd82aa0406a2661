"""Limits of what the machine may be asked for, and whether one is exceeded for good.

Knows: a limit's two thresholds and its hold time, what became of one reading over time.
Does not know: where a reading comes from, what is done about it.
Invariants: between the two thresholds nothing changes; a missing reading neither exceeds a limit
nor ends an excess, short or for good, but an excess nobody has seen for `FORGET_S` counts no more:
or a file that has become unreadable would keep the breaker open for ever.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from fsmv2.supervisor.core.poolreadings import POOL_NAMES
from fsmv2.supervisor.core.readings import DISK_KINDS, MACHINE_NAMES

FORGET_S = 30.0


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Exceeded when the reading is at or over ``open`` for ``for_s`` seconds without a break;
    kept again as soon as it is under ``close``. Both in the reading's unit (shares are 0 to 1)."""

    open: Annotated[float, Meta(ge=0)]
    close: Annotated[float, Meta(ge=0)]
    for_s: Annotated[float, Meta(ge=0, le=3_600)] = 5.0

    def __post_init__(self) -> None:
        numbers = (self.open, self.close, self.for_s)
        if not all(math.isfinite(number) for number in numbers) or self.close > self.open:
            raise ValueError(
                f"cannot use limit: got open {self.open!r}, close {self.close!r}, for_s "
                f"{self.for_s!r}, want finite numbers and close <= open"
            )


READINGS = (*MACHINE_NAMES, *POOL_NAMES, *DISK_KINDS)
CLOSE_TO_FULL = Limit(open=0.95, close=0.90)
# Of these the machine has only so much, and who takes the rest takes it from everybody. CPU, load
# and swap have no default: a machine that is busy does its work.
DEFAULT_LIMITS: Mapping[str, Limit] = {
    "memory": CLOSE_TO_FULL,
    "pids": CLOSE_TO_FULL,
    "open_files": CLOSE_TO_FULL,
    "disk": Limit(open=0.98, close=0.95),
    "inodes": Limit(open=0.98, close=0.95),
    # 4 of 10 s in which nobody could run for want of memory: the machine is thrashing.
    "pressure.memory.full": Limit(open=0.40, close=0.20, for_s=10.0),
}


class Track(msgspec.Struct, frozen=True):
    """One reading against its limit. ``over_since``: at or over ``open`` without a break since;
    ``exceeded_since``: the limit counts as exceeded since; ``seen_at``: the last reading that was
    not missing. Moments in monotonic seconds."""

    name: str
    limit: Limit
    value: float | None = None
    seen_at: float | None = None
    over_since: float | None = None
    exceeded_since: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether the newest reading is at or over the limit, however short."""
        return self.over_since is not None

    @property
    def is_exceeded(self) -> bool:
        """Whether the limit is exceeded."""
        return self.exceeded_since is not None


def follow(track: Track, value: float | None, now: float) -> Track:
    """``track`` after one reading more; None: it is missing."""
    if value is None or math.isnan(value):
        if track.seen_at is not None and now - track.seen_at >= FORGET_S:
            return msgspec.structs.replace(track, value=None, over_since=None, exceeded_since=None)
        return msgspec.structs.replace(track, value=None)
    limit, exceeded, over = track.limit, track.exceeded_since, track.over_since
    if value >= limit.open:
        over = now if over is None else over
        if exceeded is None and now - over >= limit.for_s:
            exceeded = now
    else:
        over = None
        if value < limit.close:
            exceeded = None
    return Track(track.name, limit, value, now, over, exceeded)


def limit_of(name: str, limits: Mapping[str, Limit | None]) -> Limit | None:
    """The limit for the reading ``name``: its own, or that of its kind ("disk" of "disk:/data"),
    first of ``limits``, in which None takes one away, then of the defaults."""
    kind = name.partition(":")[0]
    for table in (limits, DEFAULT_LIMITS):
        for key in (name, kind):
            if key in table:
                return table[key]
    return None


def shown(track: Track) -> str:
    """What is wrong, for people: the reading, its value and the limit."""
    if track.value is None:
        return f"{track.name} has no reading"
    if track.limit.open <= 1.0 and track.value <= 10.0:
        return f"{track.name} at {track.value:.0%}, limit {track.limit.open:.0%}"
    return f"{track.name} at {track.value:g}, limit {track.limit.open:g}"


def unknown_reading(name: str, disks: tuple[str, ...]) -> str:
    """Why ``name`` is no reading, with those there are; empty when it is one."""
    kind, _, path = name.partition(":")
    if name in READINGS or (kind in DISK_KINDS and path in disks):
        return ""
    if kind in DISK_KINDS:
        return f"got a path that is not among the disks, want one of {', '.join(disks) or 'none'}"
    return f"got an unknown reading, want one of {', '.join(READINGS)}"
