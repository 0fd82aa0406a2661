"""How simulated procs live and die, and how their attempts end.

Knows: lanes, procs, keys, deadlines, kills, faults.
Does not know: who submits; real time.
Invariants: I2, I6 (see `simprocs`); each attempt gets exactly one result, what comes later is
dropped and counted; I10, chance comes from the seed and the attempt's number.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, cast

from fsmv2.supervisor.core import events
from fsmv2.supervisor.core.action import ActionError, ActionResult, DeathCertificate, Status
from fsmv2.supervisor.pool.attempts import UNBEGUN_MAX
from fsmv2.supervisor.pool.certificate import CANCELLED_FOR
from fsmv2.supervisor.pool.failedstarts import FailedStarts
from fsmv2.supervisor.testing.answers import carry_out
from fsmv2.supervisor.testing.clock import ManualClock
from fsmv2.supervisor.testing.faultplan import CALM, OF_ATTEMPTS, FaultPlan
from fsmv2.supervisor.testing.simprocs import SimAttempt, SimLane, SimProc, SimState

if TYPE_CHECKING:
    from fsmv2.supervisor.pool.pool import Pool

SHORTEST_S = 0.001  # of an attempt, on average
START_S = 0.010  # of a proc
REAP_S = 0.002  # from a kill to the result, at least
REAP_S_MAX = 0.500  # of one that has much memory to free; one in ten, where there are faults
NOT_WILLED = frozenset({None, "channel"})

OnResult = Callable[[int, ActionResult], None]
OnEvent = Callable[[events.Event], None]


class SimLife:
    """Everything of a `SimPool` but its port."""

    def __init__(
        self,
        lanes: Mapping[str, int],
        *,
        clock: ManualClock,
        seed: int,
        faults: FaultPlan,
        spares: int,
        queue: int,
        on_result: OnResult,
        on_event: OnEvent,
        note: Callable[[str], None],
    ) -> None:
        self.clock = clock
        self.faults = faults
        self.on_event = on_event
        self.random = random.Random(f"{seed}/pool")
        self.lanes = {name: SimLane(name, size, queue) for name, size in lanes.items()}
        self.open: dict[int, SimAttempt] = {}
        self.dropped = 0
        self.closing = False
        self.ordered_faults: list[str] = []
        self.no_starts_until = -math.inf
        self.failed = FailedStarts(cast("Pool", self))
        self._tell = on_result
        self._note = note
        self._seed = seed
        self._ticket = itertools.count()
        self._numbers = itertools.count(1)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._spares: list[SimProc] = []
        self._wanted = sum(lanes.values()) + spares
        self._living = 0
        self._start_missing()

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {len(self.open)} open, {self._living} procs, "
            f"{len(self._spares)} spare>"
        )

    # --- time -------------------------------------------------------------------------------

    def next_moment(self) -> float | None:
        """When `step` must be called (monotonic seconds)."""
        return self._heap[0][0] if self._heap else None

    def step(self) -> None:
        """Handle what is due at the clock's moment."""
        while self._heap and self._heap[0][0] <= self.clock.now:
            heapq.heappop(self._heap)[2]()

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        if seconds < math.inf:
            heapq.heappush(self._heap, (self.clock.now + seconds, next(self._ticket), call))

    # --- procs ------------------------------------------------------------------------------

    def _start_missing(self) -> None:
        while self._living < self._wanted and not self.closing:
            self._living += 1
            self.after(START_S, partial(self._started, SimProc(next(self._numbers))))

    def _started(self, proc: SimProc) -> None:
        if self.closing:
            return
        if self.clock.now < self.no_starts_until:
            wait_s = self.failed.one_failed(self.clock.now, "simulated")
            self.after(wait_s, partial(self._started, proc))
            return
        self.failed.one_started(self.clock.now)
        proc.state = SimState.IDLE
        self._join(proc)

    def _join(self, proc: SimProc) -> None:
        """An idle proc goes where one is missing, else it is a spare."""
        for lane in self.lanes.values():
            if len(lane.members) < lane.size:
                proc.lane = lane
                lane.members.append(proc)
                lane.idle.append(proc)
                self.dispatch(lane)
                return
        self._spares.append(proc)

    def _leave(self, proc: SimProc) -> None:
        """It is out of its lane, and a spare is in its place: at the kill, not at the reap."""
        if proc.lane is None:
            return
        proc.lane.members.remove(proc)
        if proc in proc.lane.idle:
            proc.lane.idle.remove(proc)
        proc.lane = None
        if self._spares:
            self._join(self._spares.pop(0))

    def dispatch(self, lane: SimLane) -> None:
        while lane.idle:
            taken = lane.queue.take()
            if taken is None:
                return
            self._begin(lane.idle.pop(0), taken[0])

    def _begin(self, proc: SimProc, attempt: SimAttempt) -> None:
        chance = random.Random(f"{self._seed}/{attempt.id}/{attempt.begins}")
        if self.ordered_faults:
            fault: str | None = self.ordered_faults.pop(0)
        else:
            fault = self.faults.of(OF_ATTEMPTS, chance)
        proc.take(attempt)
        attempt.lane.began(attempt.key)
        attempt.begins += 1
        attempt.dispatched_at = self.clock.now
        if fault is not None:
            self._note(f"fault: {fault} for attempt {attempt.id} on proc {proc.number}")
        takes_s = attempt.answer.duration_of(attempt.action)
        if takes_s is None:
            takes_s = SHORTEST_S * (0.5 + chance.random())
        end_s = attempt.timeout_s + attempt.grace_s
        match fault:
            case "dies_before":
                self.after(SHORTEST_S, partial(self._dies_unbegun, proc, attempt))
                return
            case "dies_during":
                die_s = chance.random() * min(takes_s, end_s)
                self.after(die_s, partial(self._dies, proc, attempt, "killed_from_outside"))
            case "hangs":
                takes_s = math.inf
            case "late":
                takes_s = end_s + REAP_S / 2
        if takes_s <= end_s or fault == "late":
            self.after(takes_s, partial(self._work_done, proc, attempt, fault))
        self.after(attempt.timeout_s, partial(self.tell_to_end, proc, attempt, "deadline"))
        if attempt.is_told_of_stop:
            self.heed_stop(attempt)

    # --- how attempts end -------------------------------------------------------------------

    def _is_at(self, proc: SimProc, attempt: SimAttempt) -> bool:
        return proc.attempt is attempt and proc.state is SimState.BUSY

    def _work_done(self, proc: SimProc, attempt: SimAttempt, fault: str | None) -> None:
        # A dead one does no more, but may have answered while it was looked at before its kill.
        is_late = fault == "late" and proc.state is SimState.KILLED
        if proc.attempt is not attempt or not (is_late or proc.state is SimState.BUSY):
            return
        if attempt.answer.crashes is not None:
            self._dies(proc, attempt, attempt.answer.crashes)
            return
        got = carry_out(attempt.answer, attempt.action)
        now, wall = self.clock.now, self.clock.wall
        if isinstance(got, ActionError):
            result = attempt.result("failed", now, wall, error=got)
        else:
            result = attempt.result("succeeded", now, wall, value=got)
        if is_late:
            proc.late = result
        elif fault == "result_lost":
            self._dies(proc, attempt, "killed_from_outside")
        elif fault == "garbled":
            self.kill(proc, attempt, "channel", "garbled frame: simulated")
        else:
            self._answered(proc, attempt, result)
            if fault == "dies_after":
                self._dies(proc, None, "killed_from_outside")

    def _answered(self, proc: SimProc, attempt: SimAttempt, result: ActionResult) -> None:
        proc.attempt = None
        proc.state = SimState.IDLE
        if proc.lane is not None:
            proc.lane.idle.append(proc)
        self._settle(attempt, result)

    def heed_stop(self, attempt: SimAttempt) -> None:
        stops_s = attempt.answer.stops_s
        if attempt.proc is not None and stops_s is not None:
            self.after(stops_s, partial(self._work_done, attempt.proc, attempt, None))

    def tell_to_end(self, proc: SimProc, attempt: SimAttempt, cause: str) -> None:
        """Its time is up, or it is cancelled: it has its grace, if it has one."""
        if not self._is_at(proc, attempt):
            return
        grace_s = attempt.grace_s
        detail = f"its deadline of {attempt.timeout_s:g} s had passed"
        if grace_s <= 0:
            self.kill(proc, attempt, cause, detail)
            return
        gives_up_s = attempt.answer.gives_up_s
        if gives_up_s is not None and gives_up_s <= grace_s:
            self.after(gives_up_s, partial(self._gives_up, proc, attempt))
        self.after(grace_s, partial(self._overdue, proc, attempt, cause, detail))

    def _overdue(self, proc: SimProc, attempt: SimAttempt, cause: str, detail: str) -> None:
        if self._is_at(proc, attempt):
            self.kill(proc, attempt, cause, detail)

    def _gives_up(self, proc: SimProc, attempt: SimAttempt) -> None:
        if self._is_at(proc, attempt):
            status: Status = "cancelled" if attempt.cancel_cause else "failed"
            error = ActionError("InterruptedError", "told to end")
            now, wall = self.clock.now, self.clock.wall
            self._answered(proc, attempt, attempt.result(status, now, wall, error=error))

    def kill(self, proc: SimProc, attempt: SimAttempt, cause: str, detail: str) -> None:
        if not self._is_at(proc, attempt):
            return
        proc.cause, proc.detail = cause, detail or None
        proc.state = SimState.KILLED
        self._leave(proc)
        self.after(self._reap_s(proc), partial(self.reap, proc))

    def _dies(self, proc: SimProc, attempt: SimAttempt | None, verdict: str) -> None:
        """By itself, or somebody else's doing."""
        if proc.attempt is attempt and proc.state in (SimState.BUSY, SimState.IDLE):
            proc.verdict = verdict
            proc.state = SimState.KILLED
            self._leave(proc)
            self.after(self._reap_s(proc), partial(self.reap, proc))

    def _dies_unbegun(self, proc: SimProc, attempt: SimAttempt) -> None:
        if not self._is_at(proc, attempt):
            return
        proc.attempt = attempt.proc = None
        self._dies(proc, None, "killed_from_outside")
        if attempt.begins >= UNBEGUN_MAX:
            why = f"{UNBEGUN_MAX} procs died before they began it, the last: killed_from_outside"
            error = ActionError("NeverBegan", why)
            now, wall = self.clock.now, self.clock.wall
            self._settle(attempt, attempt.result("refused", now, wall, error=error))
            return
        attempt.lane.ended(attempt.key)
        attempt.lane.queue.put_back(attempt, attempt.key, attempt.urgent)
        self.dispatch(attempt.lane)

    def _reap_s(self, proc: SimProc) -> float:
        chance = random.Random(f"{self._seed}/reap/{proc.number}")
        is_slow = self.faults is not CALM and chance.random() < 0.1
        return chance.uniform(REAP_S, REAP_S_MAX) if is_slow else REAP_S

    def reap(self, proc: SimProc) -> None:
        if proc.state is not SimState.KILLED:
            return
        proc.state = SimState.DEAD
        self._living -= 1
        self._start_missing()
        attempt, proc.attempt = proc.attempt, None
        is_expected = proc.cause not in NOT_WILLED
        self.on_event(
            events.ProcEnded(
                slot=f"p{proc.number}",
                pid=proc.number,
                verdict=(proc.cause or "") if is_expected else proc.verdict or "SIGKILL",
                expected=is_expected,
                attempt_id=attempt.id if attempt is not None else None,
            )
        )
        if attempt is None:
            return
        if proc.late is not None and proc.cause != "stop":
            self._settle(attempt, proc.late)
            return
        status, verdict, sent_by = _ending(proc)
        certificate = DeathCertificate(
            verdict=verdict,
            signal="SIGKILL" if not verdict.startswith(("crashed:", "exited:")) else None,
            sent_by=sent_by,
            detail=proc.detail,
            started_at=self.clock.wall - (self.clock.now - attempt.dispatched_at),
            ended_at=self.clock.wall,
        )
        now, wall = self.clock.now, self.clock.wall
        self._settle(attempt, attempt.result(status, now, wall, certificate=certificate))

    def _settle(self, attempt: SimAttempt, result: ActionResult) -> None:
        attempt.proc = None
        attempt.lane.ended(attempt.key)
        attempt.lane.queue.release(attempt.key)
        self.conclude(attempt, result)
        self.dispatch(attempt.lane)

    def conclude(self, attempt: SimAttempt, result: ActionResult) -> None:
        if self.open.pop(attempt.id, None) is None:
            self.dropped += 1
            return
        self._tell(attempt.id, result)


def _ending(proc: SimProc) -> tuple[Status, str, str | None]:
    """Status, verdict and who did it, as `certificate.certify` has them."""
    match proc.cause:
        case "deadline":
            return "timed_out", "timed_out", f"the root: {proc.detail}"
        case "channel":
            return "crashed", "lost_channel", "the root: its channel was lost"
        case str(cause) if cause in CANCELLED_FOR:
            return "cancelled", "cancelled", f"the root: {CANCELLED_FOR[cause]}"
    return "crashed", proc.verdict, "not this root; the kernel does not tell who"
