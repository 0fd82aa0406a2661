"""Results on their way from the pool to whoever waits for them.

Knows: which handle belongs to which attempt, who sits and waits, why nothing is taken any more.
Does not know: who drives the pool, and when.
Invariants: each handle entered gets one result; it is delivered without the pool's lock, since
those who are told may take any lock of theirs.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from os import sched_yield as offer_cpu
from typing import TYPE_CHECKING, Any

from fsmv2.supervisor.core.action import ActionError, ActionResult
from fsmv2.supervisor.core.errors import FsmError
from fsmv2.supervisor.library.handles import Callbacks, Handle

if TYPE_CHECKING:
    from fsmv2.supervisor.system.shelter import Shelter

FOLLOW_S_MAX = 3600.0
Settled = list[tuple[Handle, ActionResult]]
NOTHING: Settled = []
CLOSED = ("PoolClosed", "cannot run an action: the pool is closed")
NOT_STARTED = ("PoolNotStarted", "cannot use the pool: it was not started; want `with` or start()")


class Deliveries:
    """The half of a `Driver` that has to do with results."""

    def __init__(self) -> None:
        self.callbacks = Callbacks()
        self.state_lock = threading.RLock()  # the last to be taken: nothing is locked under it
        self._open: dict[int, Handle] = {}
        self._settled: Settled = []
        self._leads = 0  # callers that lead: one, and its signal handlers
        self._closing = False
        self._followers: dict[Any, Handle] = {}  # by seat, see `driver`; under state_lock
        # Kind and text of all refusals from now on.
        self._why_not: tuple[str, str] | None = NOT_STARTED
        self._pid = os.getpid()
        self._foreign = False
        _all.add(self)

    def disown(self) -> None:
        """We are in a forked process: the procs are not ours, the locks were left as they were."""
        self._foreign = True
        self._why_not = ("PoolForked", "")
        self.state_lock = threading.RLock()

    def check_ours(self) -> None:
        """Raises `FsmError` in a process that was forked from the pool's."""
        if self._foreign:
            raise FsmError(
                f"cannot use the pool here: its procs belong to process {self._pid}, from which "
                "this one was forked; want a pool made in this process"
            )

    def check_usable(self) -> None:
        """As `check_ours`, and before the pool's start too."""
        self.check_ours()
        if self._why_not is NOT_STARTED:
            raise FsmError(NOT_STARTED[1])

    # --- under the pool's lock ----------------------------------------------------------------

    def on_result(self, attempt_id: int, result: ActionResult) -> None:
        """The pool's side: called in its `step`, `submit`, `cancel` and `close`."""
        handle = self._open.pop(attempt_id, None)
        if handle is not None:  # else it was given up on
            self._settled.append((handle, result))

    def _take_settled(self) -> Settled:
        settled = self._settled
        if settled:
            self._settled = []
        return settled

    def _break(self, error: BaseException) -> None:
        """A bug of ours, or a signal's handler raised in the middle of a step. Nobody may wait
        for ever for what will not come."""
        self._why_not = self._why_not or ("PoolBroken", f"{type(error).__name__}: {error}")
        self._give_up_on_the_open()

    def _take_no_more(self) -> None:
        if self._why_not in (None, NOT_STARTED):
            self._why_not = CLOSED

    def open_handles(self) -> list[Handle]:
        """The handles without a result."""
        return list(self._open.values())

    def _give_up_on_the_open(self) -> None:
        # One by one: a thread that leaves an action in this moment looks after its own handle.
        for attempt_id in list(self._open):
            handle = self._open.pop(attempt_id, None)
            if handle is not None:
                self._settled.append((handle, self._refusal("", attempt_id)))

    # --- without it ---------------------------------------------------------------------------

    def _deliver(self, settled: Settled) -> None:
        """Publish results and wake who waits for them."""
        watched = []
        with self.state_lock:
            for handle, result in settled:
                if handle._made_condition is None:  # noqa: SLF001, see `Handle.settle`
                    handle.publish(result)
                else:
                    watched.append((handle, result))
        for handle, result in watched:
            handle.settle(result)
        if self._followers:
            with self.state_lock:
                for seat, handle in self._followers.items():
                    if handle.done():
                        wake(seat)

    def _refusal(self, action_type: str, attempt_id: int) -> ActionResult:
        kind, text = self._why_not or CLOSED
        return ActionResult(
            status="refused",
            action_type=action_type,
            attempt_id=attempt_id,
            error=ActionError(kind, text),
            ended_at=time.time(),
        )

    # --- those who wait -----------------------------------------------------------------------

    def _sit(self, seat: Any, handle: Handle) -> None:
        """Have ``seat`` released when ``handle`` is done, unless it is already."""
        with self.state_lock:
            self._followers[seat] = handle

    def _stand_up(self, seat: Any) -> None:
        with self.state_lock:
            self._followers.pop(seat, None)

    def _follow(self, handle: Handle, end: float, shelter: Shelter) -> None:
        """Wait until woken: by a result or because the lead is free."""
        seat = threading.Lock()
        seat.acquire()
        try:
            self._sit(seat, handle)
            if handle.done():
                return
            if not (self._leads or self._closing):
                # The driver's own thread is in the middle of a step, for which it needs the
                # interpreter: it would wait for us to be interrupted, 5 ms at each system call.
                offer_cpu()
                return
            wait_s = (
                -1.0 if math.isinf(end) else min(max(0.0, end - time.monotonic()), FOLLOW_S_MAX)
            )
            shelter.wait(seat.acquire, True, wait_s)
        finally:
            self._stand_up(seat)
            self._pass_on()  # we may have been the one that was woken to lead

    def _pass_on(self) -> None:
        """The driver's: see there."""
        raise NotImplementedError

    def _wake_a_follower(self) -> None:
        with self.state_lock:
            for seat in self._followers:
                wake(seat)
                break


def start_thread(run: Callable[[], None], name: str) -> threading.Thread:
    """Start a daemon thread. Raises OSError when there is none to be had."""
    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise OSError(f"cannot start the pool's thread: {error}") from None
    return thread


def wake(lock: Any) -> None:
    """Release ``lock``, on which a thread waits or will."""
    with contextlib.suppress(RuntimeError):  # it was woken before
        lock.release()


def broke_in() -> FsmError:
    """What is raised where the pool is used in the middle of using it."""
    return FsmError(
        "cannot use the pool here: this thread is in the middle of using it, and a finalizer or "
        "a signal's handler broke in; want a done callback or a thread"
    )


_all: weakref.WeakSet[Deliveries] = weakref.WeakSet()


def _disown_all() -> None:
    for each in list(_all):
        each.disown()


os.register_at_fork(after_in_child=_disown_all)
