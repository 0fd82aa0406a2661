"""What it means that procs could not be started: a wait, a pool that is stuck, or a hopeless one.

Knows: how many starts in a row have failed, whether any ever succeeded, by whose doing.
Does not know: how procs are started.
Invariants: one event when a pool gets stuck, one when it has recovered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fsmv2.supervisor.core.backoff import delay_s
from fsmv2.supervisor.core.events import PoolRecovered, PoolStuck

if TYPE_CHECKING:
    from fsmv2.supervisor.pool.pool import Pool

STUCK_AFTER_FAILURES = 3
WAIT_S = 0.05
WAIT_S_MAX = 5.0


class FailedStarts:
    """Of one pool, since its last start of a proc."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._in_a_row = self._by_themselves = 0
        # Since the pool began.
        self.total = 0
        self._has_started = False
        # Whether procs cannot be started, not one ever was, and nobody else kills them: then it is
        # a mistake in the program or the machine, not something that passes, and whoever waits
        # for a result must learn of it.
        self.is_hopeless = False
        # What everybody is told who submits meanwhile.
        self.why = ""
        # Since when no proc could be started (monotonic seconds), None while all is well.
        self.stuck_since: float | None = None

    def one_started(self, now: float) -> None:
        """A proc has said hello: all is well."""
        self._has_started = True
        self.is_hopeless = False
        self._in_a_row = self._by_themselves = 0
        if self.stuck_since is not None:
            self._pool.on_event(PoolRecovered(downtime_s=now - self.stuck_since))
            self.stuck_since = None

    def one_failed(self, now: float, reason: str, by_others: bool = False) -> float:
        """A start has failed, ``by_others``: somebody killed it, or its order was lost. Returns
        the seconds to wait before the next."""
        self._in_a_row += 1
        self.total += 1
        self._by_themselves += not by_others
        self.note_stuck(self._in_a_row, reason, now)
        return delay_s(self._in_a_row, self._pool.random.random(), base_s=WAIT_S, max_s=WAIT_S_MAX)

    def cannot_fork(self, ever: bool) -> None:
        """There is no template again, or (``ever``) there can be none."""
        self._by_themselves += STUCK_AFTER_FAILURES if ever else 1

    def note_stuck(self, failures: int, reason: str, now: float) -> None:
        """Something has kept procs from being started ``failures`` times in a row."""
        told = f"{reason} ({failures} failures in a row)"
        if failures >= STUCK_AFTER_FAILURES and self.stuck_since is None:
            self.stuck_since = now
            self._pool.on_event(PoolStuck(reason=told))
        self.is_hopeless = not self._has_started and self._by_themselves >= STUCK_AFTER_FAILURES
        if self.is_hopeless:
            self.why = f"no proc can be started: {told}"
            self._pool.refuse_waiting("PoolStuck", self.why)
