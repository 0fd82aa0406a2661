"""A pool's counts and procs as plain data, for status pages, metrics and tests.

Knows: what a pool has and where it keeps it.
Does not know: who reads the figures.
Invariants: JSON-ready; reading changes nothing; no value of an action is in it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fsmv2.supervisor.pool.pool import Pool


def pool_statistics(pool: Pool) -> dict[str, Any]:
    """Procs with what they do, lanes with how full they are, and counts since the start."""
    return {
        "procs": [
            {
                "slot": proc.slot,
                "pid": proc.pid,
                "state": str(proc.state),
                # One that is overdue has left its lane to a spare, and is none for that.
                "lane": proc.lane or (proc.attempt.lane.name if proc.attempt else "spare"),
                "action": proc.attempt.name if proc.attempt else None,
                "attempt_id": proc.attempt.id if proc.attempt else None,
            }
            for proc in pool.nursery.procs
        ],
        "queued": sum(len(lane.queue) for lane in pool.lanes.values()),
        "lanes": {
            lane.name: {
                "procs": len(lane.members),
                "busy": len(lane.members) - len(lane.idle),
                "size": lane.size,
                "queued": len(lane.queue),
                "held": lane.queue.held,
                "waiting_in_pipes": lane.waiting_in_pipes,
            }
            for lane in pool.lanes.values()
        },
        "quarantined": quarantine_records(pool),
        "starts_waiting": pool.nursery.starts_waiting,
        "start_method": pool.nursery.keeper.method,
        "excluded": dict(pool.nursery.keeper.template.excluded),
        "open": len(pool.ledger),
        "finished": dict(pool.ledger.finished),
        "late_results_dropped": pool.ledger.dropped,
        "deaths": pool.nursery.deaths,
        "starts": pool.nursery.starts,
        "template_pid": pool.nursery.keeper.pid,
    }


def quarantine_records(pool: Pool) -> dict[str, Any]:
    """Each action type that is kept apart, by the name that releases it."""
    now = time.monotonic()
    return {
        name: {
            "verdict": kind.record.verdict,
            "deaths": len(kind.record.deaths) + kind.record.failures - 1,
            "held": len(kind.held),
            "quarantined_s": now - (kind.record.since or now),
            "retry_in_s": max(0.0, kind.record.not_before - now),
        }
        for name, kind in pool.kinds.quarantined().items()
    }
