"""Readings of the pool: what its counts come to over the last minute.

Knows: the pool's counts at several moments.
Does not know: the pool.
Invariants: a rate is what happened in the last `WINDOW_S` seconds, however long the pool has run.
"""

from __future__ import annotations

from collections import deque

import msgspec

from fsmv2.supervisor.core.readings import Reading, Unit

WINDOW_S = 60.0
SCOPE = "pool"
POOL_NAMES = ("pool.start_failures", "pool.deaths", "pool.queue_age_s", "pool.stuck_s")


class PoolFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A pool's counts at one moment: starts of procs that have failed, procs that died though
    nobody wanted it, how long the oldest action waits for a proc, how long none could be started
    (0: one can), and what the pool says of that."""

    start_failures: int = 0
    deaths: int = 0
    queue_age_s: float = 0.0
    stuck_s: float = 0.0


class PoolHistory:
    """`add` what the pool says now and then; `readings` of the newest."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, PoolFacts]] = deque()

    def add(self, facts: PoolFacts, now: float) -> None:
        """The pool's counts at ``now`` (monotonic seconds)."""
        self._kept.append((now, facts))
        # One that is older stays: what was counted since then is what the window holds.
        while len(self._kept) > 2 and self._kept[1][0] <= now - WINDOW_S:
            self._kept.popleft()

    def readings(self) -> dict[str, Reading]:
        """Of what was added last; none before."""
        if not self._kept:
            return {}
        at, facts = self._kept[-1]
        first = self._kept[0][1]

        def reading(name: str, value: float, unit: Unit, source: str) -> Reading:
            return Reading(name=name, value=value, unit=unit, scope=SCOPE, source=source, at=at)

        found = (
            reading(
                "pool.start_failures",
                float(max(0, facts.start_failures - first.start_failures)),
                "1/min",
                "starts of procs that failed in the last 60 s",
            ),
            reading(
                "pool.deaths",
                float(max(0, facts.deaths - first.deaths)),
                "1/min",
                "procs that died unwanted in the last 60 s",
            ),
            reading("pool.queue_age_s", facts.queue_age_s, "s", "the oldest action that waits"),
            reading("pool.stuck_s", facts.stuck_s, "s", "how long no proc could be started"),
        )
        return {each.name: each for each in found}
