"""How old an observation may be, and what is done when it is older. Arithmetic only.

Knows: the thresholds, how they grow for a worker that is observed rarely, the waits between
restarts of a probe, the spread of observations.
Does not know: nodes, clocks, what an observation is; randomness is an argument in [0, 1).
Invariants: 0 < stale < dead for every interval; an observation is never later than its interval.
Source of the defaults: fsmv2-behaviour.md §2.3 (10 s, 20 s; 2, 4, 6 s).
"""

from __future__ import annotations

import msgspec

from fsmv2.supervisor.core.errors import SpecError

# The waits after a restart of a probe, until the next; after the last of them no more is tried.
RESTART_WAITS_S = (2.0, 4.0, 6.0)
# Two observations may be missed before a worker is paused.
INTERVALS_MISSED = 2.5
# The first interval is cut by up to this share: workers that came up together part for good.
FIRST_SPREAD = 0.5


class Thresholds(msgspec.Struct, frozen=True):
    """For one worker, in seconds: from which age on its observation is too old to decide on, and
    from which on its probe counts as dead."""

    interval_s: float = 1.0
    stale_s: float = 10.0
    dead_s: float = 20.0


class ObservationRules(msgspec.Struct, frozen=True, kw_only=True):
    """For a whole tree. ``spread`` is the share of an interval taken off at random, ``backoff_s``
    the longest wait after failures, ``intervals`` replaces worker types' own interval."""

    stale_s: float = 10.0
    dead_s: float = 20.0
    spread: float = 0.1
    backoff_s: float = 30.0
    intervals: dict[str, float] = {}

    def __post_init__(self) -> None:
        if not 0 < self.stale_s < self.dead_s:
            raise SpecError(
                f"cannot observe with stale_s {self.stale_s:g} and dead_s {self.dead_s:g}, "
                "want 0 < stale_s < dead_s"
            )

    def thresholds(self, worker_type: str, own_interval_s: float) -> Thresholds:
        """Those of a worker type whose class says ``own_interval_s``."""
        interval_s = self.intervals.get(worker_type, own_interval_s)
        stale_s = max(self.stale_s, INTERVALS_MISSED * interval_s)
        return Thresholds(interval_s, stale_s, stale_s + self.dead_s - self.stale_s)


DEFAULT_RULES = ObservationRules()


def spread_s(interval_s: float, share: float, random: float) -> float:
    """``interval_s``, less up to ``share`` of it."""
    return interval_s * (1.0 - share * random)
