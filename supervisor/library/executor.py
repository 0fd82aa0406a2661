"""`KillableExecutor`: `concurrent.futures.ProcessPoolExecutor` whose calls can be killed.

Knows: the Executor interface, how a call's end becomes an exception.
Does not know: procs, dill.
Invariants: a future raises what its call raised; a call that times out or crashes ends alone,
and the executor goes on; after `shutdown` nothing is taken and nothing is lost.
"""

from __future__ import annotations

import concurrent.futures
import os
import threading
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from fsmv2.supervisor.core.action import ActionFailed, ActionResult
from fsmv2.supervisor.core.recycling import Recycling
from fsmv2.supervisor.library.actionpool import ActionPool
from fsmv2.supervisor.library.callables import Call, Outcome, UnlimitedCall, pack
from fsmv2.supervisor.library.callhandles import CallHandle
from fsmv2.supervisor.library.handles import CANCELLED, FINISHED

QUEUE = 1_000_000


class CallTimedOut(ActionFailed, TimeoutError):
    """The call was killed at its deadline. ``result`` has the certificate, with the stack."""


class CallCrashed(ActionFailed, BrokenProcessPool):
    """The call's proc died under it; only this call is lost. ``result`` has the certificate."""


class CallRefused(ActionFailed, RuntimeError):
    """The call was not run: queue full, or too much to send. ``result`` says why."""


class CallFuture(CallHandle):
    """The future of a call: `result` returns its value or raises, like any executor's.

    `cancel` and `kill` end a running call too; `outcome` has the `ActionResult`, whatever it is.
    """

    def result(self, timeout: float | None = None) -> Any:
        """The call's value, or raise: what it raised, `CallTimedOut`, `CallCrashed`,
        `CallRefused`, `concurrent.futures.CancelledError`; `TimeoutError` when the wait of
        ``timeout`` seconds is over."""
        outcome = self.outcome(timeout)
        error = self._error_of(outcome)
        if error is None:
            return outcome.value
        try:
            raise error
        finally:
            del error, outcome  # the traceback refers to this frame: no cycle with the error

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What `result` would raise, or None. Raises `CancelledError` like it."""
        error = self._error_of(self.outcome(timeout))
        if isinstance(error, concurrent.futures.CancelledError):
            raise error
        return error

    def _error_of(self, outcome: ActionResult) -> BaseException | None:
        match outcome.status:
            case "succeeded":
                return None
            case "timed_out":
                return CallTimedOut(outcome)
            case "crashed":
                return CallCrashed(outcome)
            case "cancelled":
                return concurrent.futures.CancelledError()
            case "failed":
                return self.error or ActionFailed(outcome)
            case _:
                return CallRefused(outcome)

    def _final_state(self, result: ActionResult) -> str:
        return CANCELLED if result.status == "cancelled" else FINISHED

    def _tell(self, waiter: Any) -> None:
        settled = self._settled
        assert settled is not None
        value = settled.value
        if settled.status == "cancelled":
            waiter.add_cancelled(self)
        elif settled.status == "succeeded" and not (
            isinstance(value, Outcome) and value.error is not None
        ):
            waiter.add_result(self)
        else:
            waiter.add_exception(self)


class KillableExecutor(concurrent.futures.Executor):
    """An executor of processes with limits per call: ``KillableExecutor(4, timeout_s=10)``.

    Takes the place of `ProcessPoolExecutor`; what differs: a call that runs longer than
    ``timeout_s`` seconds (None: a day) is killed with everything it started and raises
    `CallTimedOut`; a call that crashes raises `CallCrashed`, which is a `BrokenProcessPool`, and
    all others go on; `Future.cancel` ends a running call too; functions need not be importable.
    A proc runs ``initializer(*initargs)`` before its first call, in that call's time; what that
    raises, the call raises. ``options`` are those of `ActionPool`. For trusted input only, see
    `ActionPool.call`. Raises OSError when the machine cannot start processes.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        timeout_s: float | None = None,
        **options: Any,
    ) -> None:
        if mp_context is not None:
            raise ValueError(
                f"cannot use mp_context {mp_context!r}: procs are forked from a clean template; "
                "want start_method='spawn' for fresh interpreters"
            )
        if max_workers is not None and max_workers <= 0:
            raise ValueError(f"cannot use max_workers {max_workers!r}: want more than 0")
        if max_tasks_per_child is not None and not _is_count(max_tasks_per_child):
            raise ValueError(
                f"cannot use max_tasks_per_child {max_tasks_per_child!r}: want a whole number, "
                "1 or more"
            )
        if initializer is not None and not callable(initializer):
            raise TypeError(f"cannot use initializer {initializer!r}: want a callable")
        if max_tasks_per_child is not None:
            options["recycling"] = Recycling(actions=max_tasks_per_child, spread=0.0)
        options.setdefault("queue", QUEUE)
        self._setup = pack("initializer", initializer, initargs) if initializer else b""
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._is_shut = False
        self._pid = os.getpid()
        self._pool = ActionPool(max_workers, callables=True, **options)
        self._pool.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> CallFuture:
        """Have ``fn(*args, **kwargs)`` run. Raises `SpecError` if it cannot be sent, RuntimeError
        after `shutdown`."""
        return self.submit_limited(self._timeout_s, fn, args, kwargs)

    def submit_limited(
        self,
        timeout_s: float | None,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> CallFuture:
        """`submit` with a limit of its own, in seconds (None: a day)."""
        kind = UnlimitedCall if timeout_s is None else Call
        action = kind(pack(f"call of {fn!r}", fn, args, kwargs), self._setup)
        with self._lock:
            if self._is_shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            return self._pool.submit_as(
                lambda driver: CallFuture(driver, fn), action, timeout_s=timeout_s
            )

    def limited(self, *, timeout_s: float | None) -> Limited:
        """The same executor with another limit per call, in seconds: ``executor.limited(
        timeout_s=2).submit(fn)``."""
        return Limited(self, timeout_s)

    def statistics(self) -> dict[str, Any]:
        """See `ActionPool.statistics`."""
        return self._pool.statistics()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end the processes when those taken are done. ``wait``: return
        then; else a thread waits for it. ``cancel_futures``: what does not run yet is cancelled.
        Does nothing in a process forked from the executor's."""
        if self._pid != os.getpid():
            return
        with self._lock:
            self._is_shut = True
        if cancel_futures:
            for future in self._pool.open_handles():
                if not future.running():
                    future.cancel()
        if wait:
            self._end()
        else:
            threading.Thread(target=self._end, name="fsmv2-shutdown").start()

    def _end(self) -> None:
        for future in self._pool.open_handles():
            future.wait()
        self._pool.close()


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


class Limited(concurrent.futures.Executor):
    """A view of a `KillableExecutor` whose calls have another limit."""

    def __init__(self, executor: KillableExecutor, timeout_s: float | None) -> None:
        self._executor = executor
        self._timeout_s = timeout_s

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> CallFuture:
        """See `KillableExecutor.submit`."""
        return self._executor.submit_limited(self._timeout_s, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Does nothing: shut the executor down that this is a view of."""
