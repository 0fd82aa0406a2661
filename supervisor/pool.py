"""The pool: actions in, exactly one result each out; every proc killable at any moment.

Knows: lanes, the queue of each, deadlines, which proc runs what, when a spare steps in.
Does not know: workers, the tree, why an action runs.
Invariants: I2 one action per proc and one live attempt per key; I6 a killed proc is never
reused; no lock, queue or descriptor is shared by two procs; no call here waits (but `close`).

Single-threaded: whoever owns it polls `fileno()` until `next_moment()` and calls `step`.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from functools import partial

import msgspec

from fsmv2.ipc.codec import encode
from fsmv2.ipc.frames import FRAME_BYTES_MAX, FrameError
from fsmv2.ipc.linux import is_subreaper, set_subreaper
from fsmv2.ipc.messages import Exit, Run
from fsmv2.ipc.redact import secrets_in
from fsmv2.supervisor.answers import Answers
from fsmv2.supervisor.attempts import BEGINS_MAX, Attempt, Ledger
from fsmv2.supervisor.core.action import (
    Action,
    ActionError,
    ActionResult,
    action_name,
    action_reference,
    value_type,
)
from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.events import Event
from fsmv2.supervisor.core.procfsm import ProcEffect, ProcEvent, ProcState, step
from fsmv2.supervisor.core.queue import KeyedQueue
from fsmv2.supervisor.deadlines import Deadlines
from fsmv2.supervisor.nursery import Nursery
from fsmv2.supervisor.poller import WRITABLE, Poller
from fsmv2.supervisor.procs import ProcHandle

PAYLOAD_BYTES_MAX = FRAME_BYTES_MAX - 4096
STACK_BUDGET_S = 0.020
LEAVE_BUDGET_S = 0.050
AFFINITIES_MAX = 10_000

OnResult = Callable[[int, ActionResult], None]
OnEvent = Callable[[Event], None]


class Lane:
    """Procs reserved for one purpose, and what waits for them."""

    __slots__ = ("affinity", "idle", "members", "name", "queue", "size")

    def __init__(self, name: str, size: int, queue: int) -> None:
        self.name = name
        self.size = size
        self.queue: KeyedQueue[Attempt] = KeyedQueue(queue)
        self.members: set[ProcHandle] = set()
        self.idle: list[ProcHandle] = []
        self.affinity: dict[str, ProcHandle] = {}


class Pool:
    """Lanes of procs. ``lanes`` maps a lane's name to its number of procs.

    ``on_result(attempt_id, result)`` is called from `step` (or from `submit`, for a refusal),
    exactly once per attempt. ``preload`` are modules the template imports before it forks.
    """

    def __init__(
        self,
        lanes: dict[str, int],
        *,
        spares: int = 1,
        queue: int = 1_000,
        preload: tuple[str, ...] = (),
        search: tuple[str, ...] = (),
        run_folder: str,
        metrics_folder: str | None = None,
        on_result: OnResult,
        on_event: OnEvent = lambda event: None,
        seed: int | None = None,
    ) -> None:
        self.lanes = {name: Lane(name, size, queue) for name, size in lanes.items()}
        self.spares: list[ProcHandle] = []
        self.ledger = Ledger()
        self.closing = False
        self.on_event = on_event
        self.run_folder = run_folder
        self.random = random.Random(seed)
        self._on_result = on_result
        self.poller = Poller()
        self.deadlines = Deadlines()
        self._was_subreaper = is_subreaper()
        self.answers = Answers(self)
        self.nursery = Nursery(
            self, sum(lanes.values()) + spares, preload, search, run_folder, metrics_folder
        )

    def __repr__(self) -> str:
        lanes = ", ".join(
            f"{lane.name}: {len(lane.members)} procs, {len(lane.idle)} idle, {lane.queue!r}"
            for lane in self.lanes.values()
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
        birth = self.nursery.next_moment()
        if timer is None or birth is None:
            return timer if birth is None else birth
        return min(timer, birth)

    def wait(self, timeout_s: float) -> None:
        """Wait until something happens, at most ``timeout_s``, then `step`."""
        moment = self.next_moment()
        if moment is not None:
            timeout_s = min(timeout_s, moment - time.monotonic())
        self.step(max(0.0, timeout_s))

    def step(self, timeout_s: float = 0.0) -> None:
        """Handle what has happened. Waits only up to ``timeout_s`` for the first of it."""
        self.poller.poll(timeout_s)
        now = time.monotonic()
        self.deadlines.fire(now, self.happen)
        self.nursery.tend(now)

    def close(self, grace_s: float = 1.0) -> None:
        """Refuse new actions, kill what runs, end every process; results are still given.

        Waits at most ``grace_s`` for procs to leave by themselves, then kills them.
        """
        self.closing = True
        for lane in self.lanes.values():
            while (taken := lane.queue.take()) is not None:
                attempt, key = taken
                lane.queue.release(key)
                self._finish(attempt, self.answers.cancelled_before_start(attempt))
        for proc in list(self.nursery.procs):
            if proc.attempt is not None:
                proc.cause = proc.cause or "stop"
                self.happen(proc, ProcEvent.KILL_ORDERED)
            else:
                proc.cause = proc.cause or "retired"
                self.happen(proc, ProcEvent.LEAVE_ORDERED)
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
        lane: str = "actions",
        timeout_s: float | None = None,
        urgent: bool = False,
    ) -> int:
        """Take ``action`` and return its attempt id. Never waits, never raises for a full queue.

        Attempts of one ``key`` run in order, one at a time; "" is a key of its own each time.
        What cannot be run (queue full, payload too large, closing) has the result "refused".
        """
        now = time.monotonic()
        kind = type(action)
        attempt = Attempt(
            self.ledger.next_id(), kind, action_name(kind), "", b"", None, (), key, lane,
            kind.timeout_s if timeout_s is None else timeout_s, kind.grace_s, now,
        )  # fmt: skip
        if not key:
            attempt.key = f"\0{attempt.id}"
        self.ledger.enter(attempt)
        why = self._prepare(attempt, action)
        if why is None:
            queue = self.lanes[lane].queue
            if queue.offer(attempt, attempt.key, urgent):
                self.dispatch(self.lanes[lane])
                return attempt.id
            why = ActionError(
                "QueueFull", f"got {len(queue)} waiting, want at most {queue.capacity}"
            )
        self._finish(attempt, self.answers.refused(attempt, why))
        return attempt.id

    def cancel(self, attempt_id: int, cause: str = "cancelled") -> bool:
        """Have an attempt end: taken from the queue, or told and (after its type's grace) killed.
        False: it has its result already."""
        attempt = self.ledger.get(attempt_id)
        if attempt is None:
            return False
        proc = attempt.proc
        if proc is None:
            if self.lanes[attempt.lane].queue.discard(attempt, attempt.key):
                self._finish(attempt, self.answers.cancelled_before_start(attempt))
            return True
        if attempt.cancel_cause is None:
            attempt.cancel_cause = cause
            proc.page.cancel(attempt.id)
            moment = time.monotonic() + (attempt.grace_s if cause == "cancelled" else 0.0)
            self.deadlines.set(moment, proc, ProcEvent.DEADLINE_PASSED, attempt.id)
        return True

    def in_flight(self, attempt_id: int) -> Attempt | None:
        """The attempt if it has no result yet."""
        return self.ledger.get(attempt_id)

    def _prepare(self, attempt: Attempt, action: Action) -> ActionError | None:
        if self.closing:
            return ActionError("PoolClosed", "cannot run an action: the pool is closing")
        try:
            attempt.reference = action_reference(attempt.kind)
            attempt.value_type = _value_type(attempt.kind)
            attempt.payload = encode(action)
        except (TypeError, OverflowError, RecursionError, ValueError, SpecError) as error:
            return ActionError(type(error).__name__, str(error))
        if len(attempt.payload) > PAYLOAD_BYTES_MAX:
            return ActionError(
                "PayloadTooLarge",
                f"got {len(attempt.payload)} bytes, want at most {PAYLOAD_BYTES_MAX} bytes",
            )
        attempt.secrets = secrets_in(action)
        return None

    def dispatch(self, lane: Lane) -> None:
        """Give waiting attempts to idle procs. The single place where that happens."""
        while lane.idle and not self.closing:
            taken = lane.queue.take()
            if taken is None:
                return
            attempt, key = taken
            proc = lane.affinity.get(key)
            # Back to the proc that holds the key's warm connections, if that costs no waiting.
            if proc is None or proc.state is not ProcState.IDLE or proc.lane != lane.name:
                proc = lane.idle[-1]
            lane.idle.remove(proc)
            self._give(lane, proc, attempt)

    def _give(self, lane: Lane, proc: ProcHandle, attempt: Attempt) -> None:
        now = time.monotonic()
        proc.attempt = attempt
        attempt.proc = proc
        attempt.begins += 1
        attempt.dispatched_at = now
        if len(lane.affinity) >= AFFINITIES_MAX:
            lane.affinity.clear()
        lane.affinity[attempt.key] = proc
        proc.log_tail.clear()
        proc.stack = None
        proc.state, _ = step(proc.state, ProcEvent.ACTION_GIVEN)
        self.deadlines.set(now + attempt.timeout_s, proc, ProcEvent.DEADLINE_PASSED, attempt.id)
        order = Run(attempt.id, attempt.reference, msgspec.Raw(attempt.payload), attempt.timeout_s)
        if not proc.channel.send(encode(order)):
            # It has just died: the kernel will say so, and the attempt goes to another proc.
            return
        if proc.channel.wants_write:
            self.poller.watch(proc.channel.write_fd, partial(self._writable, proc), WRITABLE)

    def finish(self, proc: ProcHandle, result: ActionResult) -> None:
        """The attempt of ``proc`` is over: free its key, give its one result."""
        attempt = proc.attempt
        proc.attempt = None
        if attempt is None:
            return
        attempt.proc = None
        self.lanes[attempt.lane].queue.release(attempt.key)
        self._finish(attempt, result)

    def put_back(self, proc: ProcHandle) -> bool:
        """The proc died before it began its attempt: let another one run it. False: it has been
        given out too often, or the pool is closing."""
        attempt = proc.attempt
        if attempt is None or attempt.begins >= BEGINS_MAX or self.closing or attempt.cancel_cause:
            return False
        proc.attempt = None
        attempt.proc = None
        self.lanes[attempt.lane].queue.put_back(attempt, attempt.key)
        return True

    def _finish(self, attempt: Attempt, result: ActionResult) -> None:
        if self.ledger.close(attempt, result):
            self._on_result(attempt.id, result)

    # --- procs: events in, effects out ------------------------------------------------------

    def happen(self, proc: ProcHandle, event: ProcEvent) -> None:
        """Apply one event to a proc and carry out what the table says."""
        if event is ProcEvent.LEAVE_OVERDUE and proc.cause is None:
            # It lives on without its channel: it closed that itself.
            proc.cause, proc.detail = "channel", "it closed its channel and went on"
        proc.state, effects = step(proc.state, event)
        for effect in effects:
            self._carry_out(proc, effect)

    def _carry_out(self, proc: ProcHandle, effect: ProcEffect) -> None:
        now = time.monotonic()
        match effect:
            case ProcEffect.JOIN_LANE:
                self.nursery.joined(proc, now)
            case ProcEffect.LEAVE_LANE:
                self._leave_lane(proc, now)
            case ProcEffect.TAKE_STACK:
                proc.ask_for_stack()
                self.deadlines.set(now + STACK_BUDGET_S, proc, ProcEvent.STACK_OVERDUE)
            case ProcEffect.KILL:
                proc.keep_stack()
                if proc.pid:
                    proc.kill(now)
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
                wait_s = LEAVE_BUDGET_S if proc.cause != "retired" else 1.0
                self.deadlines.set(now + wait_s, proc, ProcEvent.LEAVE_OVERDUE)
            case ProcEffect.BURY:
                self.answers.bury(proc, now)
            case ProcEffect.ANSWER:
                pass  # the message itself is in hand where the event was made: see Answers

    def _leave_lane(self, proc: ProcHandle, now: float) -> None:
        lane = self.lanes.get(proc.lane or "")
        if lane is not None:
            lane.members.discard(proc)
            if proc in lane.idle:
                lane.idle.remove(proc)
            for key in [key for key, holder in lane.affinity.items() if holder is proc]:
                del lane.affinity[key]
        self.nursery.left(lane, proc, now)

    def idle_again(self, proc: ProcHandle) -> None:
        """The proc has answered: it takes the next attempt of its lane."""
        lane = self.lanes[proc.lane or ""]
        lane.idle.append(proc)
        self.dispatch(lane)

    def _writable(self, proc: ProcHandle, _mask: int) -> None:
        proc.channel.flush()
        if not proc.channel.wants_write:
            self.poller.unwatch(proc.channel.write_fd)


_value_types: dict[type[Action], object] = {}


def _value_type(kind: type[Action]) -> object:
    known = _value_types.get(kind)
    if known is None:
        known = _value_types[kind] = value_type(kind)
    return known
