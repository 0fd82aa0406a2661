"""From what a proc says, or from its death, to the attempt's one result.

Knows: messages from procs, wait statuses, results.
Does not know: lanes' policy, where results go.
Invariants: exactly one result per attempt; an answer that was complete before its proc died
counts; an attempt that never began is given out again, not blamed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fsmv2.ipc.codec import decode
from fsmv2.ipc.frames import PROTOCOL, FrameError
from fsmv2.ipc.messages import Done, FromProc, Hello, Logged, Progress, Raised
from fsmv2.ipc.redact import redact
from fsmv2.supervisor.certificate import Ending, certify, death_verdict, signal_name
from fsmv2.supervisor.core.action import ActionError, ActionResult
from fsmv2.supervisor.core.events import (
    ActionLogged,
    ActionProgressed,
    ProcEnded,
    ProcOutput,
    ResultDropped,
)
from fsmv2.supervisor.core.procfsm import ProcEvent, ProcState

if TYPE_CHECKING:
    from fsmv2.supervisor.attempts import Attempt
    from fsmv2.supervisor.pool import Pool
    from fsmv2.supervisor.procs import ProcHandle

LAST_READS = 16


class Answers:
    """Reads procs' channels and turns what they say, or their deaths, into results."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def readable(self, proc: ProcHandle, _mask: int) -> None:
        """The channel of ``proc`` has something, or has ended."""
        received = proc.channel.receive()
        for body in received.frames:
            try:
                message: FromProc = decode(body, FromProc)
            except FrameError as error:
                return self._lost(proc, f"garbled frame: {error}")
            self._say(proc, message)
        if received.fault is not None:
            return self._lost(proc, str(received.fault))
        if received.closed:
            self._pool.poller.unwatch(proc.channel.read_fd)
            self._pool.happen(proc, ProcEvent.CHANNEL_ENDED)
        return None

    def output(self, proc: ProcHandle, mask: int) -> None:
        """The proc wrote to standard output or error."""
        lines = self._hear_output(proc)
        if not lines and mask & ~1:  # hung up, and nothing left
            self._pool.poller.unwatch(proc.output_fd)

    def last_output(self, proc: ProcHandle) -> None:
        """The proc is dead: read what is left of what it wrote. Bounded, for something it
        started may live on and write to the same pipe."""
        for _ in range(LAST_READS):
            if not self._hear_output(proc):
                break
        self._hear_output(proc, flush=True)

    def _hear_output(self, proc: ProcHandle, flush: bool = False) -> list[str]:
        secrets = proc.attempt.secrets if proc.attempt is not None else ()
        lines = proc.read_output(secrets, flush=flush)
        for line in lines:
            self._pool.on_event(ProcOutput(slot=proc.slot, line=line))
        return lines

    def woken(self, proc: ProcHandle, mask: int) -> None:
        """The proc's stack dump is complete (or it is gone)."""
        if proc.stack_is_complete():
            self._pool.happen(proc, ProcEvent.STACK_CAME)
        elif mask & ~1:
            self._pool.poller.unwatch(proc.woken_fd)

    def _lost(self, proc: ProcHandle, why: str) -> None:
        self._pool.poller.unwatch(proc.channel.read_fd)
        proc.detail = why
        if proc.state is not ProcState.KILLED:
            proc.cause = "channel"
        self._pool.happen(proc, ProcEvent.KILL_ORDERED)

    def _say(self, proc: ProcHandle, message: FromProc) -> None:
        match message:
            case Done() | Raised():
                self._answer(proc, message)
            case Hello():
                if message.protocol != PROTOCOL:
                    return self._lost(
                        proc, f"got protocol {message.protocol}, want protocol {PROTOCOL}"
                    )
                self._pool.nursery.learn_pid(proc, message.pid)
                if proc.state is not ProcState.STARTING:
                    return self._lost(proc, "said hello twice")
                self._pool.happen(proc, ProcEvent.HELLO_CAME)
            case Progress() | Logged():
                self._hear(proc, message)
        return None

    def _hear(self, proc: ProcHandle, message: Progress | Logged) -> None:
        attempt = proc.attempt
        if attempt is None or attempt.id != message.attempt_id:
            return  # a thread that its action left behind
        if isinstance(message, Progress):
            attempt.progress = message.text
            self._pool.on_event(
                ActionProgressed(
                    path=attempt.key,
                    action_type=attempt.name,
                    attempt_id=attempt.id,
                    text=message.text,
                )
            )
            return
        self._pool.on_event(
            ActionLogged(
                path=attempt.key,
                action_type=attempt.name,
                attempt_id=attempt.id,
                record_level=message.level,
                record=message.event,
                fields=message.fields,
            )
        )

    def _answer(self, proc: ProcHandle, message: Done | Raised) -> None:
        attempt = proc.attempt
        if attempt is None or attempt.id != message.attempt_id:
            self._pool.ledger.dropped += 1
            self._pool.on_event(
                ResultDropped(attempt_id=message.attempt_id, reason="not in flight on this proc")
            )
            return
        if proc.state not in (ProcState.BUSY, ProcState.WITNESSING):
            proc.late_answer = message  # it counts, once the proc is known to be dead
            return
        # What it printed belongs to this attempt, and only its secrets can be taken out of it.
        self._hear_output(proc, flush=True)
        self._pool.happen(proc, ProcEvent.ANSWER_CAME)
        proc.cause = None
        self._pool.finish(proc, self._result_of(proc, attempt, message))
        self._pool.idle_again(proc)

    def _result_of(
        self, proc: ProcHandle, attempt: Attempt, message: Done | Raised
    ) -> ActionResult:
        queued_s, ran_s = self._times(proc, attempt)
        if isinstance(message, Raised):
            return ActionResult(
                status="cancelled" if message.cancelled and attempt.cancel_cause else "failed",
                action_type=attempt.name,
                attempt_id=attempt.id,
                error=ActionError(message.kind, message.message, message.traceback),
                queued_s=queued_s,
                ran_s=ran_s,
                ended_at=time.time(),
            )
        try:
            value = decode(message.value, attempt.value_type)
        except FrameError as error:
            return ActionResult(
                status="failed",
                action_type=attempt.name,
                attempt_id=attempt.id,
                error=ActionError(
                    "ResultTypeError",
                    f"{attempt.name}.execute returned something else than its annotation "
                    f"{attempt.value_type!r}: {error}",
                ),
                queued_s=queued_s,
                ran_s=ran_s,
                ended_at=time.time(),
            )
        return ActionResult(
            status="succeeded",
            action_type=attempt.name,
            attempt_id=attempt.id,
            value=value,
            queued_s=queued_s,
            ran_s=ran_s,
            ended_at=time.time(),
        )

    def bury(self, proc: ProcHandle, now: float) -> None:
        """The proc is dead and reaped: give its attempt's result, free everything it had."""
        pool = self._pool
        code, cpu_s = pool.nursery.exit_of(proc)
        proc.keep_stack()
        attempt = proc.attempt
        had_attempt = attempt.id if attempt is not None else None
        if attempt is not None:
            if proc.late_answer is not None and proc.cause != "stop":
                pool.finish(proc, self._result_of(proc, attempt, proc.late_answer))
            elif proc.page.begun()[0] == attempt.id or not pool.put_back(proc):
                pool.finish(proc, self._death_of(proc, attempt, code, cpu_s, now))
            # Its key is free now, or the attempt waits again: somebody may be idle.
            pool.dispatch(pool.lanes[attempt.lane])
        expected = proc.cause is not None and proc.cause != "channel"
        pool.nursery.bury(proc, failed_start=proc.ready_at is None and not expected)
        pool.on_event(
            ProcEnded(
                slot=proc.slot,
                pid=proc.pid,
                verdict=proc.cause if expected and proc.cause else death_verdict(code),
                expected=expected,
                exit_code=code if code is not None and code >= 0 else None,
                signal=signal_name(-code) if code is not None and code < 0 else None,
                attempt_id=had_attempt,
            )
        )

    def _death_of(
        self, proc: ProcHandle, attempt: Attempt, code: int | None, cpu_s: float, now: float
    ) -> ActionResult:
        begun_id, begun_at, begun_cpu_s = proc.page.begun()
        began = begun_id == attempt.id
        queued_s, ran_s = self._times(proc, attempt)
        wall = time.time()
        back_s = None
        if proc.replaced_at is not None and proc.overdue_at is not None:
            back_s = max(0.0, proc.replaced_at - proc.overdue_at)
        status, certificate = certify(
            Ending(
                cause=proc.cause,
                exit_code=code,
                timeout_s=attempt.timeout_s,
                look=proc.look,
                stack=redact(proc.stack, attempt.secrets) if proc.stack else None,
                descendants_killed=proc.descendants_killed,
                log_tail=tuple(proc.log_tail),
                started_at=wall - (now - begun_at) if began else None,
                ended_at=wall,
                cpu_s=max(0.0, cpu_s - begun_cpu_s) if began and cpu_s else None,
                slot_back_s=back_s,
                detail=proc.detail,
            )
        )
        return ActionResult(
            status=status,
            action_type=attempt.name,
            attempt_id=attempt.id,
            certificate=certificate,
            queued_s=queued_s,
            ran_s=ran_s,
            ended_at=wall,
        )

    def _times(self, proc: ProcHandle, attempt: Attempt) -> tuple[float, float]:
        begun_id, begun_at, _cpu_s = proc.page.begun()
        start = begun_at if begun_id == attempt.id else attempt.dispatched_at or 0.0
        return start - attempt.submitted_at, time.monotonic() - start

    def refused(self, attempt: Attempt, error: ActionError) -> ActionResult:
        """The result of an attempt that was not taken."""
        return ActionResult(
            status="refused",
            action_type=attempt.name,
            attempt_id=attempt.id,
            error=error,
            ended_at=time.time(),
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
