"""What a pool says of itself for the readings.

Knows: where a pool keeps its counts.
Does not know: what they come to over time: `core.poolreadings`.
Invariants: reading changes nothing, and looks at `LOOK_MAX` attempts at most.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from fsmv2.supervisor.core.poolreadings import PoolFacts

if TYPE_CHECKING:
    from fsmv2.supervisor.pool.pool import Pool

LOOK_MAX = 1_000


def pool_facts(pool: Pool, unwanted_deaths: int, now: float) -> PoolFacts:
    """The pool's counts at ``now``; ``unwanted_deaths``: procs that died though nobody meant
    them to."""
    failed = pool.nursery.failed
    # In the order in which they came; what is held back with its type does not wait for a proc.
    waiting = (
        attempt.submitted_at
        for attempt in islice(pool.ledger.open.values(), LOOK_MAX)
        if attempt.proc is None and not attempt.is_held
    )
    oldest = next(waiting, now)
    return PoolFacts(
        start_failures=failed.total,
        deaths=unwanted_deaths,
        queue_age_s=max(0.0, now - oldest),
        stuck_s=max(0.0, now - failed.stuck_since) if failed.stuck_since is not None else 0.0,
    )
