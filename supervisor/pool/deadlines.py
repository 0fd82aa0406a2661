"""Moments at which something happens to a proc unless it has happened by then.

Knows: moments, procs, events, when the attempt at work on a proc must end and why.
Does not know: what the events do.
Invariants: deadlines count from the attempt's true start, which the proc marks on the shared
page; a proc has one deadline in the heap however many attempts it answers, so the heap grows
with the procs, not with the work.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable

from fsmv2.supervisor.core.procfsm import ProcEvent, ProcState
from fsmv2.supervisor.pool.attempts import Attempt
from fsmv2.supervisor.pool.procs import ProcHandle

Handler = Callable[[], None]

# While a proc's answer is on its way, and for how long at most that is believed.
ANSWER_LOOK_S = 0.005
ANSWER_S_MAX = 1.0


class Deadlines:
    """A heap of moments (monotonic seconds)."""

    __slots__ = ("_ticket", "heap")

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, ProcHandle | None, ProcEvent | Handler]] = []
        self._ticket = itertools.count()

    def __len__(self) -> int:
        return len(self.heap)

    def next_moment(self) -> float | None:
        """The earliest moment; it may turn out not to matter any more."""
        return self.heap[0][0] if self.heap else None

    def set(self, moment: float, proc: ProcHandle, event: ProcEvent) -> None:
        """Have ``event`` happen to ``proc`` at ``moment``."""
        heapq.heappush(self.heap, (moment, next(self._ticket), proc, event))

    def call(self, moment: float, handler: Handler, proc: ProcHandle | None = None) -> None:
        """Call ``handler`` at ``moment``, unless ``proc`` is forgotten by then."""
        heapq.heappush(self.heap, (moment, next(self._ticket), proc, handler))

    def forget(self, proc: ProcHandle) -> None:
        """Nothing happens to ``proc`` any more. Without this, its remains would be kept up to
        the longest deadline it was ever given."""
        self.heap = [entry for entry in self.heap if entry[2] is not proc]
        heapq.heapify(self.heap)

    def watch(self, proc: ProcHandle, attempt: Attempt, now: float) -> None:
        """``attempt`` is at work on ``proc``, or will be at once: keep its deadline."""
        patience_s = min(attempt.timeout_s, attempt.kind.heartbeat_s)
        if attempt.cancel_cause is not None:
            patience_s = 0.0
        self.look_again(proc, now + patience_s)

    def look_again(self, proc: ProcHandle, moment: float) -> None:
        """Look at the deadline of what ``proc`` runs at ``moment``, or before it."""
        if moment < proc.deadline_at:
            proc.deadline_at = moment
            self.set(moment, proc, ProcEvent.DEADLINE_PASSED)

    def fire(self, now: float, happen: Callable[[ProcHandle, ProcEvent], None]) -> None:
        """Call ``happen`` for everything whose moment has come."""
        while self.heap and self.heap[0][0] <= now:
            moment, _ticket, proc, event = heapq.heappop(self.heap)
            if proc is None or not isinstance(event, ProcEvent):
                assert not isinstance(event, ProcEvent)
                event()
                continue
            if event is ProcEvent.DEADLINE_PASSED:
                if moment != proc.deadline_at:
                    continue  # an earlier one was set since, and has been handled
                proc.deadline_at = math.inf
                # One that is being ended has its cause of death already: a kill takes effect,
                # and is reaped, while deadlines go on passing.
                if proc.attempt is None or proc.state is not ProcState.BUSY:
                    continue
                later = true_end(proc, proc.attempt, now)
                if later is not None:
                    self.look_again(proc, later)
                    continue
            happen(proc, event)


def true_end(proc: ProcHandle, attempt: Attempt, now: float) -> float | None:
    """When the attempt must be looked at again, if that is later than ``now``; None: it is due,
    and ``proc.cause`` says why. An attempt with a grace is first told to end by itself."""
    kind = attempt.kind
    if attempt.cancel_cause is not None:
        return _end_of_cancelled(proc, attempt, now)
    begun_id, begun_at, _cpu_s = proc.page.begun()
    # The page is the action's to spoil: a start that has not come yet would put the end off.
    has_begun = begun_id == attempt.id and begun_at <= now
    start = begun_at if has_begun else proc.attempt_at
    has_answered = proc.page.begun_place() > attempt.place
    if has_answered and now - start < attempt.timeout_s + ANSWER_S_MAX:
        # The next one is at work: this one's answer is about to be read.
        return now + ANSWER_LOOK_S
    timeout_s = attempt.timeout_s + proc.page.extension_of(attempt.id)
    # The ceiling is the type's, but a caller may have given the attempt more from the start.
    timeout_s = min(timeout_s, max(attempt.timeout_s, kind.timeout_s_max or 0.0))
    end = start + timeout_s
    if end <= now:
        if kind.grace_s > 0:
            proc.page.cancel(attempt.id)
            softly = _grace(proc, end, now)
            if softly is not None:
                return softly
            end += kind.grace_s
        proc.cause = "deadline"
        proc.detail = f"its deadline of {timeout_s:g} s had passed"
        proc.overdue_at = end
        return None
    if kind.heartbeat_s < math.inf:
        beat = max(start, proc.page.heartbeat_at()) + kind.heartbeat_s
        if beat <= now:
            proc.cause = "deadline"
            proc.detail = f"no heartbeat had come for {kind.heartbeat_s:g} s"
            proc.overdue_at = beat
            return None
        end = min(end, beat)
    return end


def _end_of_cancelled(proc: ProcHandle, attempt: Attempt, now: float) -> float | None:
    """The grace of a cancelled attempt counts from the cancel, or from its turn."""
    if attempt.cancel_cause == "cancelled" and attempt.kind.grace_s > 0:
        softly = _grace(proc, max(attempt.cancelled_at, proc.attempt_at), now)
        if softly is not None:
            return softly
    proc.cause = attempt.cancel_cause
    proc.overdue_at = now
    return None


def _grace(proc: ProcHandle, start: float, now: float) -> float | None:
    """Inside the grace that began at ``start``: when to look again. Half-way through it, SIGTERM
    for those who have a handler for it; without one it would be a kill before its time."""
    attempt = proc.attempt
    if attempt is None:
        return None
    middle, end = start + attempt.kind.grace_s / 2, start + attempt.kind.grace_s
    if now < middle:
        return middle
    if now >= end:
        return None
    if not attempt.is_terminated:
        attempt.is_terminated = True
        proc.terminate()
    return end
