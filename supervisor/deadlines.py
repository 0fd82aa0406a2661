"""Moments at which something happens to a proc unless it has happened by then.

Knows: moments, procs, events, and which attempt a moment was meant for.
Does not know: what the events do.
Invariants: a timer set for one attempt never hits another; deadlines count from the attempt's
true start, which the proc marks on the shared page.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from fsmv2.supervisor.attempts import Attempt
from fsmv2.supervisor.core.procfsm import ProcEvent
from fsmv2.supervisor.procs import ProcHandle


class Deadlines:
    """A heap of moments (monotonic seconds)."""

    __slots__ = ("_heap", "_ticket")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, ProcHandle, ProcEvent, int]] = []
        self._ticket = itertools.count()

    def next_moment(self) -> float | None:
        """The earliest moment; it may turn out not to matter any more."""
        return self._heap[0][0] if self._heap else None

    def set(self, moment: float, proc: ProcHandle, event: ProcEvent, attempt_id: int = 0) -> None:
        """Have ``event`` happen to ``proc`` at ``moment``; with ``attempt_id``, only if that
        attempt is still its own then."""
        heapq.heappush(self._heap, (moment, next(self._ticket), proc, event, attempt_id))

    def fire(self, now: float, happen: Callable[[ProcHandle, ProcEvent], None]) -> None:
        """Call ``happen`` for everything whose moment has come."""
        while self._heap and self._heap[0][0] <= now:
            _moment, _ticket, proc, event, attempt_id = heapq.heappop(self._heap)
            if attempt_id:
                attempt = proc.attempt
                if attempt is None or attempt.id != attempt_id:
                    continue
                later = true_end(proc, attempt, now)
                if later is not None:
                    self.set(later, proc, event, attempt_id)
                    continue
            happen(proc, event)


def true_end(proc: ProcHandle, attempt: Attempt, now: float) -> float | None:
    """When the attempt must end, if that is later than ``now``; None: it is due, and
    ``proc.cause`` says why. At its deadline an attempt with a grace is told to end by itself."""
    if attempt.cancel_cause is not None:
        proc.cause = attempt.cancel_cause
        proc.overdue_at = now
        return None
    begun_id, begun_at, _cpu_s = proc.page.begun()
    start = begun_at if begun_id == attempt.id else (attempt.dispatched_at or now)
    end = start + attempt.timeout_s
    if end > now:
        return end
    if attempt.grace_s > 0:
        proc.page.cancel(attempt.id)
        end += attempt.grace_s
        if end > now:
            return end
    proc.cause = "deadline"
    proc.overdue_at = end
    return None
