"""The pool: actions in, exactly one result each out; every proc killable at any moment.

Knows: attempts from submit to result, the effects of the procs' table, what is reported.
Does not know: workers, the tree, why an action runs.
Invariants: I2 one action at work per proc and one live attempt per key; I6 a killed proc is
never reused; no lock, queue or descriptor is shared by two procs; no call here waits (but
`close`).

Single-threaded: whoever owns it polls `fileno()` until `next_moment()` and calls `step`.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable
from functools import partial

from fsmv2.ipc.codec import encode
from fsmv2.ipc.frames import FrameError
from fsmv2.ipc.linux import is_subreaper, set_subreaper
from fsmv2.ipc.messages import Exit
from fsmv2.supervisor.core import recycling
from fsmv2.supervisor.core.action import Action, ActionResult
from fsmv2.supervisor.core.events import Event
from fsmv2.supervisor.core.procfsm import ALIVE, ProcEffect, ProcEvent, ProcState, step
from fsmv2.supervisor.pool.answers import Answers
from fsmv2.supervisor.pool.attempts import Attempt, Ledger
from fsmv2.supervisor.pool.certificate import is_exiting
from fsmv2.supervisor.pool.deadlines import Deadlines
from fsmv2.supervisor.pool.endings import Endings
from fsmv2.supervisor.pool.guard import Guard
from fsmv2.supervisor.pool.intake import Intake
from fsmv2.supervisor.pool.kinds import Kinds
from fsmv2.supervisor.pool.lanes import QUARANTINE, Dispatcher, Lane
from fsmv2.supervisor.pool.nursery import Nursery
from fsmv2.supervisor.pool.pooloptions import PoolOptions, check_lane_names
from fsmv2.supervisor.pool.procs import ProcHandle
from fsmv2.supervisor.pool.witness import Witness
from fsmv2.supervisor.system.poller import READABLE, Poller

LEAVE_BUDGET_S = 0.050
RETIRE_BUDGET_S = 1.0
# A proc that has started more processes than one look can stop is looked at again.
KILL_AGAIN_S = 0.002
KILL_TRIES_MAX = 200

OnResult = Callable[[int, ActionResult], None]
OnEvent = Callable[[Event], None]

_monotonic = time.monotonic


class Pool:
    """Lanes of procs. ``lanes`` maps a lane's name to its number of procs.

    ``on_result(attempt_id, result)`` is called from `step` (or from `submit`, for a refusal),
    exactly once per attempt; a large value is still in its file, see `spill.load`.
    """

    def __init__(
        self,
        lanes: dict[str, int],
        options: PoolOptions,
        *,
        run_folder: str,
        metrics_folder: str | None = None,
        on_result: OnResult,
        on_event: OnEvent = lambda event: None,
    ) -> None:
        check_lane_names(lanes)
        self.options = options
        self.lanes = {name: Lane(name, size, options.queue) for name, size in lanes.items()}
        self.kinds = Kinds(dict(self.lanes), options.graces)
        # Empty until an action type is kept apart.
        self.lanes[QUARANTINE] = Lane(QUARANTINE, 0, options.queue)
        self.spares: list[ProcHandle] = []
        self.ledger = Ledger()
        # While fewer attempts are open, a CPU is left for each side to wait awake: `BusyWait`.
        self.cpus = len(os.sched_getaffinity(0))
        self.closing = False
        self.on_event = on_event
        self._recycles = options.recycling != recycling.NEVER
        self.run_folder = run_folder
        self.metrics_folder = metrics_folder
        self.random = random.Random()
        self.tell = on_result
        self.poller = Poller()
        self.deadlines = Deadlines()
        self._was_subreaper = is_subreaper()
        self.intake = Intake(self)
        self.dispatcher = Dispatcher(self, options.pipeline)
        self.guard = Guard(self)
        self.answers = Answers(self)
        self.witness = Witness(self)
        self.endings = Endings(self)
        self.nursery = Nursery(self)

    def __repr__(self) -> str:
        lanes = ", ".join(
            f"{lane.name}: {len(lane.members)} procs, {len(lane.idle)} idle, {lane.queue!r}"
            for lane in self.lanes.values()
            if lane.size
        )
        return f"<Pool {lanes}; {len(self.spares)} spare>"

    # --- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the template. Procs follow as `step` is called. Raises OSError."""
        set_subreaper(True)  # so that procs, forked twice, become our children
        self.nursery.start(time.monotonic())

    def fileno(self) -> int:
        """A descriptor that is readable when `step` has something to do."""
        return self.poller.fileno()

    def next_moment(self) -> float | None:
        """When `step` must be called even if nothing is readable (monotonic seconds)."""
        timer = self.deadlines.next_moment()
        birth = None if self.nursery.is_calm else self.nursery.next_moment()
        if birth is None:
            return timer
        return birth if timer is None else min(timer, birth)

    def wait(self, timeout_s: float) -> None:
        """Wait until something happens, at most ``timeout_s``, then `step`."""
        moment = self.next_moment()
        if moment is not None:
            timeout_s = min(timeout_s, moment - time.monotonic())
        self.step(max(0.0, timeout_s))

    def step(self, timeout_s: float = 0.0) -> None:
        """Handle what has happened. Waits only up to ``timeout_s`` for the first of it."""
        self.react(self.poller.collect(timeout_s))

    def react(self, ready: list[tuple[int, int]]) -> float | None:
        """`step` with what `poller.collect` gave, for an owner that waits there by itself. Gives
        what `next_moment` would."""
        self.poller.handle(ready)
        now = _monotonic()
        heap = self.deadlines.heap
        if heap and heap[0][0] <= now:
            self.deadlines.fire(now, self.happen)
        if self.nursery.is_calm:
            heap = self.deadlines.heap
            return heap[0][0] if heap else None
        self.nursery.tend(now)
        return self.next_moment()

    def close(self, grace_s: float = 1.0) -> None:
        """Refuse new actions, kill what runs, end every process; results are still given.

        Waits at most ``grace_s`` for procs to leave by themselves, then kills them.
        """
        self.closing = True
        for attempt in self.ledger:
            if attempt.proc is None:
                self._take_out(attempt)
                self.conclude(attempt, self.endings.cancelled_before_start(attempt))
        for proc in list(self.nursery.procs):
            if proc.attempt is not None:
                proc.cause = proc.cause or "stop"
                self.happen(proc, ProcEvent.KILL_ORDERED)
            else:
                self.retire(proc, "retired")
        give_up = time.monotonic() + grace_s
        while self.nursery.procs and time.monotonic() < give_up:
            self.wait(0.05)
        for proc in list(self.nursery.procs):
            self.happen(proc, ProcEvent.KILL_ORDERED)
        give_up = time.monotonic() + 5.0
        while self.nursery.procs and time.monotonic() < give_up:
            self.wait(0.05)
        self.nursery.close()
        self.poller.close()
        if not self._was_subreaper:
            set_subreaper(False)

    # --- actions ----------------------------------------------------------------------------

    def submit(
        self,
        action: Action,
        *,
        key: str = "",
        lane: str | None = None,
        timeout_s: float | None = None,
        urgent: bool = False,
    ) -> int:
        """Take ``action`` and return its attempt id. Never waits, never raises for a full queue.

        Attempts of one ``key`` run in order, one at a time; "" is no key. ``lane`` and
        ``timeout_s`` replace the type's own. What cannot be run (queue full, payload too large,
        unknown lane, closing) has the result "refused".
        """
        return self.intake.submit(action, key, lane, timeout_s, urgent)

    def cancel(self, attempt_id: int, cause: str = "cancelled") -> bool:
        """Have an attempt end: taken from the queue, or told and (after its type's grace) killed.
        any ``cause`` but "cancelled": killed at once. False: it has its result already."""
        attempt = self.ledger.get(attempt_id)
        if attempt is None:
            return False
        proc = attempt.proc
        if proc is not None and proc.attempt is not attempt:
            self.dispatcher.take_back(proc)
        if attempt.proc is None:
            self._take_out(attempt)
            self.conclude(attempt, self.endings.cancelled_before_start(attempt))
            self.dispatcher.free(attempt.kind)  # it may have come back from a proc, its place free
            for lane in self.lanes.values():
                self.dispatcher.dispatch(lane)
            return True
        if attempt.cancel_cause in (None, "cancelled") and attempt.cancel_cause != cause:
            now = time.monotonic()
            attempt.cancel_cause = cause
            attempt.cancelled_at = now
            proc.page.cancel(attempt.id)
            if proc.attempt is attempt:
                self.deadlines.look_again(proc, now)
        return True

    def tell_of_stop(self, attempt_id: int) -> None:
        """Have an attempt know that its worker is to stop, see `ActionContext.stopping`."""
        if (attempt := self.ledger.get(attempt_id)) is not None:
            attempt.tell_of_stop()

    def release(self, action_type: str) -> bool:
        """An operator's word that a quarantined action type may run again like any other.
        False: none of that name (or reference, ``module:name``) is in quarantine. Raises
        `SpecError` when several are."""
        found = self.kinds.quarantined_as(action_type)
        for kind in found:
            self.endings.leave_quarantine(kind, "an operator released it")
        return bool(found)

    def in_flight(self, attempt_id: int) -> Attempt | None:
        """The attempt if it has no result yet."""
        return self.ledger.get(attempt_id)

    def _take_out(self, attempt: Attempt) -> None:
        """Take a waiting attempt out of wherever it waits."""
        if attempt.is_held:
            attempt.kind.held.remove(attempt)
            self.dispatcher.unhold(attempt)
            attempt.lane.queue.release(attempt.key)
        else:
            attempt.lane.queue.discard(attempt, attempt.key)

    def refuse_waiting(self, kind: str, text: str) -> None:
        """Refuse what waits for a proc, and until one is there what is submitted."""
        for attempt in self.ledger:
            if attempt.proc is None:
                self._take_out(attempt)
                result = self.intake.refusal(attempt.id, attempt.name, kind, text)
                self.conclude(attempt, result)

    # --- results ----------------------------------------------------------------------------

    def finish(self, proc: ProcHandle, attempt: Attempt, result: ActionResult) -> None:
        """``attempt`` of ``proc`` is over: its key is free, its result is given, what waits
        behind it in the pipe has its turn."""
        proc.attempt = proc.stalled_on = None
        if proc.behind:
            self.dispatcher.next_of(proc, time.monotonic())
        self.settle(attempt, result)

    def settle(self, attempt: Attempt, result: ActionResult) -> None:
        """Give the one result of an attempt that was on a proc; its key is free."""
        kind = attempt.kind
        attempt.proc = None
        kind.running -= 1
        if attempt.key:
            attempt.lane.queue.release(attempt.key)
        if self.ledger.close(attempt, result):
            self.tell(attempt.id, result)
        if kind.held:
            self.dispatcher.free(kind)

    def conclude(self, attempt: Attempt, result: ActionResult) -> None:
        """Give the attempt its one result; a second one is dropped and counted."""
        if self.ledger.close(attempt, result):
            self.tell(attempt.id, result)

    # --- procs: events in, effects out ------------------------------------------------------

    def happen(self, proc: ProcHandle, event: ProcEvent) -> None:
        """Apply one event to a proc and carry out what the table says."""
        if event is ProcEvent.LEAVE_OVERDUE and is_exiting(proc.pid):
            # It is dead, and the kernel has much memory of it to free.
            self.deadlines.set(_monotonic() + LEAVE_BUDGET_S, proc, ProcEvent.LEAVE_OVERDUE)
            return
        if event is ProcEvent.LEAVE_OVERDUE and proc.cause is None:
            # It lives on without its channel: it closed that itself.
            proc.cause, proc.detail = "channel", "it closed its channel and went on"
        proc.state, effects = step(proc.state, event)
        for effect in effects:
            if effect is not ProcEffect.ANSWER:  # the message is in hand where it came: Answers
                self._carry_out(proc, effect)

    def dies(self, proc: ProcHandle) -> None:
        """The kernel is about to end ``proc``; what it has said until now still counts."""
        proc.is_dying = True
        if proc.state in ALIVE:
            self.answers.readable(proc, READABLE)
        if proc.state in ALIVE:
            self.happen(proc, ProcEvent.CHANNEL_ENDED)

    def retire(self, proc: ProcHandle, cause: str) -> None:
        """Have an idle proc leave by itself."""
        proc.cause = proc.cause or cause
        self.happen(proc, ProcEvent.LEAVE_ORDERED)

    def _carry_out(self, proc: ProcHandle, effect: ProcEffect) -> None:
        now = time.monotonic()
        match effect:
            case ProcEffect.JOIN_LANE:
                self.nursery.joined(proc, now)
            case ProcEffect.LEAVE_LANE:
                self._leave_lane(proc, now)
            case ProcEffect.STAND_IN:
                # Nobody waits behind it while it is looked at.
                lane = self.dispatcher.take_back(proc)
                self.nursery.stand_in(proc, now)
                if lane is not None:
                    self.dispatcher.dispatch(lane)
            case ProcEffect.TAKE_STACK:
                self.witness.ask(proc, now)
            case ProcEffect.KILL if proc.is_reaped:
                pass  # its last words were no frames: nobody is left to be killed
            case ProcEffect.KILL:
                self.witness.make_do(proc)
                if proc.pid:
                    if not proc.kill(now, self.nursery.known_pids()):
                        self._kill_more_soon(proc, KILL_TRIES_MAX)
                else:
                    # Never forked (the template died with the order), or nobody told us: then
                    # it finds its pipes closed and leaves by itself.
                    self.nursery.blame_template(proc, now)
                    self.happen(proc, ProcEvent.EXITED)
            case ProcEffect.SAY_EXIT:
                with contextlib.suppress(FrameError):
                    proc.channel.send(encode(Exit()))
            case ProcEffect.WAIT_TO_LEAVE:
                # A dying proc closes its files a moment before the kernel reports its death.
                willed = proc.cause in ("retired", "recycled")
                wait_s = RETIRE_BUDGET_S if willed else LEAVE_BUDGET_S
                self.deadlines.set(now + wait_s, proc, ProcEvent.LEAVE_OVERDUE)
            case ProcEffect.BURY:
                self.endings.bury(proc, now)

    def _kill_more_soon(self, proc: ProcHandle, tries: int) -> None:
        self.deadlines.call(time.monotonic() + KILL_AGAIN_S, partial(self._kill_more, proc, tries))

    def _kill_more(self, proc: ProcHandle, tries: int) -> None:
        """It has started more processes than one look could stop."""
        if proc.state is not ProcState.KILLED:
            return
        if not proc.kill_more(self.nursery.known_pids()):
            if tries:
                self._kill_more_soon(proc, tries - 1)
            else:
                proc.kill_alone()

    def _leave_lane(self, proc: ProcHandle, now: float) -> None:
        lane = self.lanes.get(proc.lane or "")
        if lane is not None:
            lane.drop(proc)
        # What it has not begun goes elsewhere now, not when the kernel has freed its memory.
        self.dispatcher.take_back(proc)
        self.nursery.left(lane, proc, now)

    def has_room(self, proc: ProcHandle) -> None:
        """The proc has answered something: it takes what waits, or, with nothing more to do, is
        idle or makes room for a new one."""
        if proc.attempt is None and proc.state is ProcState.BUSY:
            proc.state = ProcState.IDLE
        lane = self.lanes.get(proc.lane) if proc.lane is not None else None
        if lane is None or lane.name == QUARANTINE:
            # What it has answered is another lane's: the next of its key may go there.
            for other in self.lanes.values():
                if other.queue.size:
                    self.dispatcher.dispatch(other)
        if lane is None:
            if proc.state is ProcState.IDLE:
                self.nursery.came_back(proc)
            return
        if proc.state is ProcState.IDLE:
            lane.idle.append(proc)
            if proc.worn is not None or self._recycles:
                why = proc.worn or self.guard.recycle(proc)
                if why is not None:
                    proc.detail = why
                    self.retire(proc, "recycled")
        if lane.queue.size or lane.waiting_in_pipes or lane.name == QUARANTINE:
            self.dispatcher.dispatch(lane)
