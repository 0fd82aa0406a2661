"""Takes the stack of a proc that is about to be killed, from inside or from outside.

Knows: the dump signal and its two halves, signs that a proc cannot answer, the outside reader.
Does not know: why the proc is killed, what the certificate says.
Invariants: evidence has a budget, and the kill goes ahead when it is spent; nothing here waits;
reading from outside holds up the root for 10 ms at a time, and for half of the time at most,
however many procs die at one moment; that a proc hangs in C code is said only of one that was
seen to run, or to sleep, without coming to its handler.

The dump signal's handler has two halves. The C half writes the stacks, whatever Python does.
The Python half runs when the main thread gets back to Python code, or sits in a call that
signals interrupt. If only the C half has run, the main thread hangs in C code, holds no GIL, or
the machine is busy: which of these is told by the CPU time it has had since.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from fsmv2.supervisor.core.procfsm import ProcEvent, ProcState
from fsmv2.supervisor.pool.certificate import main_thread_cpu_now_s, signs_of
from fsmv2.supervisor.pool.procs import (
    CURRENT_THREAD,
    DUMP_SIGNAL,
    FROM_OUTSIDE,
    without_our_frames,
)
from fsmv2.supervisor.stacks.outsidereader import read_stacks

if TYPE_CHECKING:
    from fsmv2.supervisor.pool.attempts import Attempt
    from fsmv2.supervisor.pool.pool import Pool
    from fsmv2.supervisor.pool.procs import ProcHandle

STACK_BUDGET_S = 0.020
# For reading from outside: of all procs together, refilled by the time that passes. One that
# cannot be read now is tried again until its time for evidence is over; then its certificate
# says so.
READER_BUDGET_S = 0.010
READ_S_MIN = 0.002
READ_SOON_S = 0.0003
READ_AGAIN_S = 0.002
UNREAD = "its stack was not read from outside: the budget was spent on other procs"
# When the root looks whether Python code has run since the dump. A thread that sleeps is looked
# at when one that waits for the GIL would have got it (sys.getswitchinterval: 5 ms).
ECHO_LOOKS_S = (0.002, 0.004, 0.006, 0.010, 0.014, 0.018)
SLEEPS_AFTER_S = 0.006
# CPU time without coming to a handler that makes sure: Python code looks for one at least at
# each call and each jump back. Time on the clock says nothing, and neither does the letter "R":
# on a busy machine a Python loop waits its turn with it for tens of milliseconds, and a virtual
# machine's CPU may stand still while the clock goes on (both seen).
SURE_CPU_S = 0.0003


class _Silence(NamedTuple):
    """Since when the Python half of the handler has not run, and the CPU seconds the main thread
    had had by then."""

    proc: ProcHandle
    attempt: Attempt | None
    since: float
    cpu_s: float | None


class Witness:
    """Evidence for the procs of one pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._reader_left_s = READER_BUDGET_S
        self._reader_left_at = 0.0

    def ask(self, proc: ProcHandle, now: float) -> None:
        """Ask ``proc`` for its stack; `STACK_CAME`, `ECHO_OVERDUE` or `STACK_OVERDUE` follows."""
        proc.forget_stack()
        proc.asked_at = now
        signs = signs_of(proc.pid)
        if signs.is_stopped or signs.blocks(DUMP_SIGNAL):
            # It will not answer, so do not wait.
            proc.silence = (
                "it is stopped" if signs.is_stopped else "it blocks the signal that asks for it"
            )
            # Not in this step: a spare has just been woken that stands in for it.
            soon = partial(self._read_soon, proc, proc.attempt)
            self._pool.deadlines.call(now + READ_SOON_S, soon)
        else:
            proc.ask_for_stack()
        self._happen_at(now + STACK_BUDGET_S, proc, ProcEvent.STACK_OVERDUE)

    def _happen_at(self, moment: float, proc: ProcHandle, event: ProcEvent) -> None:
        """Unless ``proc`` was asked once more by then: that attempt has a time of its own."""
        asked_at = proc.asked_at

        def happen() -> None:
            if proc.asked_at == asked_at:
                self._pool.happen(proc, event)

        self._pool.deadlines.call(moment, happen, proc)

    def woken(self, proc: ProcHandle, mask: int) -> None:
        """One half of the dump signal's handler has run in ``proc``, or both (or it is gone)."""
        dumped = proc.read_wakeups()
        if proc.state is not ProcState.WITNESSING:
            if mask & ~1:
                self._pool.poller.unwatch(proc.woken_fd)
            return
        proc.is_dumped = proc.is_dumped or dumped
        if not proc.is_dumped:
            return
        if proc.has_echoed():
            self._pool.happen(proc, ProcEvent.STACK_CAME)
        elif dumped:
            cpu_s = main_thread_cpu_now_s(proc.pid)
            self._look_later(_Silence(proc, proc.attempt, time.monotonic(), cpu_s), 0)

    def _look_later(self, silence: _Silence, number: int) -> None:
        moment = silence.since + ECHO_LOOKS_S[number]
        self._pool.deadlines.call(moment, partial(self._look_for_echo, silence, number))

    def _look_for_echo(self, silence: _Silence, number: int) -> None:
        proc, cpu_s = silence.proc, silence.cpu_s
        if proc.state is not ProcState.WITNESSING or proc.attempt is not silence.attempt:
            return
        if proc.has_echoed():
            self._pool.happen(proc, ProcEvent.STACK_CAME)
            return
        had = main_thread_cpu_now_s(proc.pid)
        how = None
        if had is not None and cpu_s is not None and had - cpu_s >= SURE_CPU_S:
            how = f"had {(had - cpu_s) * 1000:.1f} ms of CPU"
        elif ECHO_LOOKS_S[number] >= SLEEPS_AFTER_S and signs_of(proc.pid).state in "SD":
            how = f"did not wake up for {(time.monotonic() - silence.since) * 1000:.1f} ms"
        if how is not None:
            proc.hangs_in_c = (
                f"after the stack was taken, its main thread {how} and came to no Python code "
                "(/proc/PID/status, schedstat)"
            )
        if how is not None or number + 1 == len(ECHO_LOOKS_S):
            self._pool.happen(proc, ProcEvent.ECHO_OVERDUE)
        else:
            self._look_later(silence, number + 1)

    def make_do(self, proc: ProcHandle) -> None:
        """The proc is killed next: without a stack of its own, or with one that lacks the main
        thread, read it from outside. A dump has the newest 100 threads."""
        proc.keep_stack()
        told = proc.stack or ""
        if told.startswith(FROM_OUTSIDE) or CURRENT_THREAD in told:
            return
        if proc.attempt is not None and proc.cause != "stop":
            if proc.stack is not None:
                proc.silence = "its own dump had more threads than it could tell"
            self._read_from_outside(proc)

    def _read_soon(self, proc: ProcHandle, attempt: Attempt | None) -> None:
        if proc.state is not ProcState.WITNESSING or proc.attempt is not attempt:
            return
        is_done = self._read_from_outside(proc)
        now = time.monotonic()
        if is_done:
            self._pool.deadlines.set(now, proc, ProcEvent.STACK_CAME)
        else:
            self._pool.deadlines.call(now + READ_AGAIN_S, partial(self._read_soon, proc, attempt))

    def _read_from_outside(self, proc: ProcHandle) -> bool:
        """Whether it was tried; not when the time for that is spent."""
        if not proc.anchor:
            return True
        began = time.monotonic()
        passed_s = began - self._reader_left_at
        budget_s = min(READER_BUDGET_S, self._reader_left_s + passed_s)
        self._reader_left_at, self._reader_left_s = began, budget_s
        if budget_s < READ_S_MIN:
            proc.unread = UNREAD
            return False
        stack = read_stacks(proc.pid, proc.anchor, budget_s)
        # Less than nothing is left when it took longer: that is made up for, too. And nothing was
        # refilled meanwhile.
        self._reader_left_at = time.monotonic()
        self._reader_left_s -= self._reader_left_at - began
        proc.unread = None
        # Short of time, it may know of threads and of no frame: what the proc told is worth more.
        if stack and (proc.stack is None or '  File "' in stack.partition("\n\n")[0]):
            proc.stack = f"{FROM_OUTSIDE}: {proc.silence})\n{without_our_frames(stack)}"
        return True
