"""`Handle`: one submitted action as a future, for threads and for asyncio.

Knows: how its result is published, who waits for it from outside and how each is told.
Does not know: the pool; it asks its driver to wait, to cancel and to kill.
Invariants: a result is published once; no waiter is lost between its look at the state and
its wait; no code of the user runs in the thread that drives the pool.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, cast

from fsmv2.supervisor.core.action import ActionResult, DeathCertificate
from fsmv2.supervisor.pool.spill import SpilledValue, load

if TYPE_CHECKING:
    from fsmv2.supervisor.library.driver import Driver

# The words of concurrent.futures for a future's state; its functions compare with them.
PENDING, FINISHED, CANCELLED = "PENDING", "FINISHED", "CANCELLED_AND_NOTIFIED"
CALLBACKS_S_MAX = 5.0
_log = logging.getLogger("concurrent.futures")


def check_timeout(timeout: float) -> None:
    """Raise `ValueError` for NaN: no moment is later than that, so the wait would never be over."""
    if timeout != timeout:
        raise ValueError(
            f"cannot wait: got timeout {timeout!r}, want seconds, or None for no limit"
        )


class Handle(Future[Any]):
    """One submitted action: a `concurrent.futures.Future` of its `ActionResult`.

    Works with `concurrent.futures.wait` and `as_completed`, `asyncio.wrap_future` and plain
    ``await handle`` in any running loop. Differences to other futures, all because a result
    never raises for the action's own fate: `exception` is always None; a cancelled handle is
    never in the state "cancelled", its result is one with status "cancelled". Done callbacks
    run in a thread of their own, one after the other, so that none can delay a deadline.
    In a process forked from the pool's, everything that would wait raises `FsmError`.
    """

    # `Future.__init__` is not called: it makes a condition and two lists, which cost more than
    # all the rest of a submission and are needed only where somebody waits from outside.
    _settled: ActionResult | None = None
    attempt_id: int = 0

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        # What is read of every handle is its own: the interpreter finds it three times as fast.
        self._state: str = PENDING
        self._made_condition: threading.Condition | None = None
        # Whether the value is still to be made of what the pool gave: see `_load`.
        self._is_laden = False

    def __repr__(self) -> str:
        settled = self._settled
        return f"<{type(self).__name__} {self.attempt_id} {settled.status if settled else 'open'}>"

    # --- asking -----------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether the result is there."""
        return self._state is not PENDING

    def running(self) -> bool:
        """Whether a proc is at work on it. False while it waits, and once it has its result."""
        return self._state is PENDING and self._driver.is_running(self)

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the `ActionResult`, at most ``timeout`` seconds (None: as long as it takes).

        Never raises for the action's own fate; raises `TimeoutError` when the wait is over, at once
        for a negative ``timeout``, and `ValueError` for NaN. A large value is read here, about 1 ms
        a MiB, when it is asked for the first time.
        """
        return self.outcome(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait like `result`; always None, since how the action ended is in the result."""
        self.outcome(timeout)
        return None

    @property
    def certificate(self) -> DeathCertificate | None:
        """Why the attempt was ended or died; None until it is done, or where it ended by itself."""
        settled = self._settled
        return settled.certificate if settled is not None else None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait like `result`, and leave the value unread. False: the wait is over."""
        if timeout is not None:
            check_timeout(timeout)
        return self._state is not PENDING or self._driver.wait_for(self, timeout)

    def outcome(self, timeout: float | None = None) -> ActionResult:
        """The `ActionResult`, also where a subclass makes `result` something else."""
        if timeout is not None:
            check_timeout(timeout)
        if self._state is PENDING and not self._driver.wait_for(self, timeout):
            raise TimeoutError(
                f"attempt {self.attempt_id} has no result after {timeout:g} s; it goes on"
            )
        if self._is_laden:
            self._load_once()
        settled = self._settled
        assert settled is not None
        return settled

    def _load_once(self) -> None:
        with self._condition:  # two threads may ask for it at the same time
            if self._is_laden and self._settled is not None:
                self._settled = self._load(self._settled)
                self._is_laden = False  # before the next one is let in: the file is gone

    def _load(self, result: ActionResult) -> ActionResult:
        """Make of what the pool gave what the caller gets; in the caller's thread."""
        return load(result)

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait in the running asyncio loop. Cancelling the task that awaits ends its wait, not
        the action: others may wait for it too. Call `cancel` to end the action."""
        if self._state is PENDING:
            import asyncio  # here, since whoever awaits has it, and nobody else needs it

            self._driver.check_ours()
            loop = asyncio.get_running_loop()
            told: asyncio.Future[None] = loop.create_future()
            waiter = LoopWaiter(loop, told)
            with self._condition:
                waits = self._state is PENDING
                if waits:
                    self._waiters.append(cast(Any, waiter))
            if waits:
                try:
                    yield from told
                finally:
                    with self._condition:
                        self._waiters.remove(cast(Any, waiter))
        return self.result(0)

    # --- ending -----------------------------------------------------------------------------

    def cancel(self) -> bool:
        """Have it end: dequeued, or told and then killed after its type's ``grace_s``.

        False: it has its result already. Returns at once; the result comes when it has ended.
        """
        return self._driver.cancel(self, "cancelled")

    def kill(self) -> bool:
        """Have it end at once, without grace; the certificate says that the caller did it.

        False: it has its result already.
        """
        return self._driver.cancel(self, "operator")

    # --- being told -------------------------------------------------------------------------

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        """What the functions of concurrent.futures lock and wait on, made on first use."""
        with self._driver.state_lock:
            condition = self._made_condition
            if condition is None:
                condition = threading.Condition()
                self._waiters = []
                self._done_callbacks: list[Callable[[Any], object]] = []
                self._made_condition = condition
        return condition

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call ``fn(handle)`` once the result is there: at once, in this thread, if it is."""
        with self._condition:
            if self._state is PENDING:
                self._done_callbacks.append(fn)
                return
        call_back(self, (fn,))

    def settle(self, result: ActionResult) -> None:
        """The driver's side: here is the result. Harmless twice. Not under the pool's lock, for
        waiters hold conditions when they ask for it.

        The race to exclude: a waiter makes the condition and looks at the state, we set the
        state and look for a condition. Both happen under ``state_lock``: either the condition
        was there first, then the state changes with the condition held, as for any future; or
        the state was, then whoever asks for the condition finds it final.
        """
        with self._driver.state_lock:
            condition = self._made_condition
            if condition is None:
                self.publish(result)
                return
        callbacks: list[Callable[[Any], object]] = []
        with condition:
            if self.publish(result):
                for waiter in list(self._waiters):
                    self._tell(waiter)
                condition.notify_all()
                callbacks, self._done_callbacks = self._done_callbacks, []
        if callbacks:
            self._driver.callbacks.put(self, callbacks)

    def publish(self, result: ActionResult) -> bool:
        """The half of `settle` that is under ``state_lock`` or the condition. False: it is done
        already."""
        if self._state is not PENDING:
            return False
        self._settled = result
        if result.value.__class__ is SpilledValue:
            self._is_laden = True
        self._state = FINISHED  # last: it tells
        return True

    def _tell(self, waiter: Any) -> None:
        waiter.add_result(self)


class LoopWaiter:
    """What `Handle.__await__` puts beside the waiters of concurrent.futures."""

    def __init__(self, loop: Any, told: Any) -> None:
        self._loop = loop
        self._told = told

    def add_result(self, _future: object) -> None:
        """The result is there."""
        try:
            self._loop.call_soon_threadsafe(self._tell)
        except RuntimeError:
            return  # the loop was closed: nobody awaits there any more

    add_exception = add_cancelled = add_result

    def _tell(self) -> None:
        if not self._told.done():
            self._told.set_result(None)


def call_back(handle: Handle, callbacks: tuple[Callable[[Any], object], ...]) -> None:
    """Call each with ``handle``. What one raises is logged, as concurrent.futures does."""
    for callback in callbacks:
        try:
            callback(handle)
        except Exception:
            _log.exception("exception calling callback for %r", handle)


class Callbacks:
    """The thread that calls done callbacks, started when the first is due."""

    def __init__(self) -> None:
        self._due: queue.SimpleQueue[tuple[Handle, list[Callable[[Any], object]]] | None] = (
            queue.SimpleQueue()
        )
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._ended = False

    def put(self, handle: Handle, callbacks: list[Callable[[Any], object]]) -> None:
        """Have ``callbacks`` called, in order, after all that were put before."""
        with self._lock:
            if self._thread is None and not self._ended:
                thread = threading.Thread(target=self._run, name="fsmv2-callbacks", daemon=True)
                try:
                    thread.start()
                    self._thread = thread
                except RuntimeError:  # no more threads, or the interpreter ends
                    self._ended = True
            if not self._ended:
                self._due.put((handle, callbacks))
                return
        call_back(handle, tuple(callbacks))

    def end(self) -> None:
        """Let what was put be called, at most `CALLBACKS_S_MAX` seconds, and end the thread."""
        with self._lock:
            self._ended = True
            thread = self._thread
            self._due.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(CALLBACKS_S_MAX)

    def _run(self) -> None:
        while (due := self._due.get()) is not None:
            handle, callbacks = due
            call_back(handle, tuple(callbacks))
            del due, handle, callbacks  # while it waits, it must keep nothing alive
