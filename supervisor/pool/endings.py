"""How attempts end that do not answer: their procs' deaths, and what follows from them.

Knows: dead procs, the results and certificates of what they ran, the row of deaths of a type.
Does not know: messages, who asks for results.
Invariants: exactly one result per attempt; an answer that was complete before its proc died
counts; an attempt that never began is given out again, not blamed; one death costs one attempt.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from fsmv2.ipc.redact import redact
from fsmv2.supervisor.core import quarantine
from fsmv2.supervisor.core.action import ActionResult
from fsmv2.supervisor.core.events import ActionTypeQuarantined, ActionTypeReleased, ProcEnded
from fsmv2.supervisor.pool.attempts import UNBEGUN_MAX
from fsmv2.supervisor.pool.certificate import (
    CANCELLED_FOR,
    Ending,
    certify,
    death_verdict,
    signal_name,
)
from fsmv2.supervisor.pool.lanes import QUARANTINE
from fsmv2.supervisor.pool.procs import without_our_frames

if TYPE_CHECKING:
    from fsmv2.supervisor.pool.attempts import Attempt
    from fsmv2.supervisor.pool.kinds import ActionKind
    from fsmv2.supervisor.pool.pool import Pool
    from fsmv2.supervisor.pool.procs import ProcHandle

# Why the root ends a proc; all but "channel" are by its own will.
EXPECTED = CANCELLED_FOR.keys() | {"deadline", "memory", "processes", "retired", "recycled"}


class Endings:
    """Turns deaths into results."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def bury(self, proc: ProcHandle, now: float) -> None:
        """The proc is dead and reaped: give its attempts' results, free everything it had."""
        pool = self._pool
        code, cpu_s = pool.nursery.exit_of(proc)
        if code == -signal.SIGKILL and proc.killed_at is None:
            # Somebody else was faster, while we still looked at its stack: not our kill.
            proc.cause = proc.detail = None
        proc.keep_stack()
        lanes = {proc.lane: None, **{one.lane.name: None for one in proc.behind}}
        cost: int | None = None
        if proc.attempt is not None:
            lanes[proc.attempt.lane.name] = None
            cost = self._settle(proc, code, cpu_s, now)
        expected = proc.cause in EXPECTED
        # Without a pid it was never made: the order was lost with the template, which is counted
        # as one failure of its own, however many orders it had.
        by_others = not proc.pid or (code == -signal.SIGKILL and proc.killed_at is None)
        pool.nursery.bury(proc, proc.ready_at is None and not expected, by_others)
        pool.on_event(
            ProcEnded(
                slot=proc.slot,
                pid=proc.pid,
                verdict=proc.cause if expected and proc.cause else death_verdict(code),
                expected=expected,
                exit_code=code if code is not None and code >= 0 else None,
                signal=signal_name(-code) if code is not None and code < 0 else None,
                attempt_id=cost,
                reason=proc.detail if proc.cause == "recycled" else None,
            )
        )
        # Keys are free now, or attempts wait again: somebody may be idle.
        for name in lanes:
            if name in pool.lanes:
                pool.dispatcher.dispatch(pool.lanes[name])

    def _settle(self, proc: ProcHandle, code: int | None, cpu_s: float, now: float) -> int | None:
        """What was on the dead proc: begun or not, answered or not. Returns the attempt that its
        death has cost: not the one it was given last, if that begins elsewhere."""
        pool = self._pool
        order = [one for one in (proc.attempt, *proc.behind) if one is not None]
        for attempt in proc.behind:
            attempt.lane.waiting_in_pipes -= 1
        proc.attempt = None
        proc.behind.clear()
        # A proc works in order: what stands before the one begun last was begun too, and its
        # answer is late, or was lost with the channel.
        cost: int | None = None
        again = []
        for attempt in order:
            has_begun = proc.page.has_begun(attempt.id, attempt.place)
            late = proc.late_answers.get(attempt.id)
            if late is not None and proc.cause != "stop":
                result = pool.answers.result_of(proc, attempt, late)
                self.survived(attempt, result)
            elif not has_begun and attempt.unbegun + 1 >= UNBEGUN_MAX:
                result = self._never_began(attempt, proc, code)
            elif has_begun or not self._may_begin_again(attempt):
                result = self._death_of(proc, attempt, code, cpu_s, now)
                self._died(attempt, result)
                if cost is None or has_begun:
                    cost = attempt.id
            else:
                attempt.unbegun += 1
                again.append(attempt)
                continue
            pool.settle(attempt, result)
        for attempt in reversed(again):
            pool.dispatcher.put_back(attempt)
        return cost

    def _may_begin_again(self, attempt: Attempt) -> bool:
        return not self._pool.closing and attempt.cancel_cause is None

    def _never_began(self, attempt: Attempt, proc: ProcHandle, code: int | None) -> ActionResult:
        """Nothing of it has run, so it is not to blame, and whoever asked for it may ask again."""
        verdict = proc.cause or death_verdict(code)
        text = f"{UNBEGUN_MAX} procs died before they began it, the last: {verdict}"
        return self._pool.intake.refusal(attempt.id, attempt.name, "NeverBegan", text)

    def _death_of(
        self, proc: ProcHandle, attempt: Attempt, code: int | None, cpu_s: float, now: float
    ) -> ActionResult:
        pool = self._pool
        begun_id, begun_at, begun_cpu_s = proc.page.begun()
        began = begun_id == attempt.id
        start = begun_at if began else proc.attempt_at
        wall = time.time()
        back_s = None
        if proc.replaced_at is not None and proc.overdue_at is not None:
            back_s = max(0.0, proc.replaced_at - proc.overdue_at)
        stack, log_tail, detail = proc.stack, tuple(proc.output.tail), proc.detail
        if stack is None and code == -signal.SIGABRT and proc.output.fatal is not None:
            text, log_tail = proc.output.fatal
            stack, detail = without_our_frames(text), text.partition("\n")[0]
        status, certificate = certify(
            Ending(
                cause=proc.cause,
                exit_code=code,
                look=proc.look,
                stack=redact(stack, attempt.secrets()) if stack else None,
                descendants_killed=proc.descendants_killed,
                log_tail=log_tail,
                started_at=wall - (now - begun_at) if began else None,
                ended_at=wall,
                cpu_s=max(0.0, cpu_s - begun_cpu_s) if began and cpu_s else None,
                slot_back_s=back_s,
                detail=redact(detail, attempt.secrets()) if detail else None,
                hangs_in_c=proc.hangs_in_c,
                was_killed=proc.killed_at is not None,
                status_lost=proc.status_lost,
                unread=proc.unread,
                oom=pool.nursery.oom.risen(proc.pid, pool.nursery.name_of(proc))
                if proc.cause is None and code == -signal.SIGKILL
                else None,
            )
        )
        return ActionResult(
            status=status,
            action_type=attempt.name,
            attempt_id=attempt.id,
            certificate=certificate,
            queued_s=start - attempt.submitted_at,
            ran_s=now - start,
            ended_at=wall,
        )

    def cancelled_before_start(self, attempt: Attempt) -> ActionResult:
        """The result of an attempt that was cancelled while it waited."""
        return ActionResult(
            status="cancelled",
            action_type=attempt.name,
            attempt_id=attempt.id,
            queued_s=time.monotonic() - attempt.submitted_at,
            ended_at=time.time(),
        )

    # --- a type's row of deaths --------------------------------------------------------------

    def survived(self, attempt: Attempt, result: ActionResult) -> None:
        """An attempt has answered: a row of deaths of its type is over."""
        kind = attempt.kind
        if kind.record is quarantine.CLEAN:
            return
        record = quarantine.survived(kind.record, result.succeeded)
        if kind.record.is_quarantined and not record.is_quarantined:
            self.leave_quarantine(kind, "an attempt succeeded")
        else:
            kind.record = record

    def _died(self, attempt: Attempt, result: ActionResult) -> None:
        pool, kind = self._pool, attempt.kind
        rules = pool.options.quarantine
        if rules is None or kind.reference in pool.options.never_apart:
            return
        before = kind.record
        kind.record = quarantine.died(
            before, result.verdict, time.monotonic(), pool.random.random(), rules
        )
        if kind.record.is_quarantined and not before.is_quarantined:
            self.enter_quarantine(kind)

    # --- quarantine -------------------------------------------------------------------------

    def enter_quarantine(self, kind: ActionKind) -> None:
        """Keep a type apart: one attempt at a time, on a proc of its own, ever more rarely."""
        lane = self._pool.lanes[QUARANTINE]
        lane.size = 1
        self._pool.nursery.count_wanted()
        self._pool.on_event(
            ActionTypeQuarantined(
                action_type=kind.name,
                verdict=kind.record.verdict,
                deaths=len(kind.record.deaths),
                retry_in_s=max(0.0, kind.record.not_before - time.monotonic()),
            )
        )

    def leave_quarantine(self, kind: ActionKind, reason: str) -> None:
        """The type runs like any other again."""
        pool, since = self._pool, kind.record.since
        kind.record = quarantine.CLEAN
        pool.on_event(
            ActionTypeReleased(
                action_type=kind.name,
                reason=reason,
                quarantined_s=time.monotonic() - (since or 0.0),
            )
        )
        pool.dispatcher.free(kind)
        if not any(one.record.is_quarantined for one in pool.kinds.values()):
            lane = pool.lanes[QUARANTINE]
            lane.size = 0
            pool.nursery.count_wanted()
            pool.dispatcher.dispatch(lane)
