"""`ActionPool`: the pool as a library, usable from any thread.

Knows: one driver thread, a lock, handles that wait.
Does not know: the tree.
Invariants: deadlines are kept whether or not anybody waits for a result; leaving the ``with``
block ends every process. The supervisor's root does not use this class: it owns a `Pool` and
has neither threads nor locks.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import tempfile
import threading
import time
from types import TracebackType
from typing import Any, Self

from fsmv2.supervisor.core.action import Action, ActionError, ActionResult, check_action_type
from fsmv2.supervisor.core.errors import FsmError
from fsmv2.supervisor.pool import Pool, PoolOptions
from fsmv2.supervisor.poolstatistics import pool_statistics
from fsmv2.supervisor.settings import default_procs


class Handle:
    """One submitted action. `result` waits; `cancel` ends it."""

    __slots__ = ("_done", "_pool", "_result", "attempt_id")

    def __init__(self, pool: ActionPool) -> None:
        self._pool = pool
        self._done = threading.Event()
        self._result: ActionResult | None = None
        self.attempt_id = 0

    def __repr__(self) -> str:
        return f"<Handle {self.attempt_id} {self._result.status if self._result else 'open'}>"

    def done(self) -> bool:
        """Whether the result is there."""
        return self._result is not None

    def result(self, timeout_s: float | None = None) -> ActionResult:
        """Wait for the result, at most ``timeout_s`` seconds (None: as long as it takes).

        Never raises for the action's own fate; raises `TimeoutError` when the wait is over.
        """
        if self._result is None and not self._done.wait(timeout_s):
            raise TimeoutError(
                f"attempt {self.attempt_id} has no result after {timeout_s:g} s; it goes on"
            )
        assert self._result is not None
        return self._result

    def cancel(self) -> bool:
        """Have it end: dequeued, or told and then killed. False: it has its result already."""
        return self._pool.cancel(self)

    def settle(self, result: ActionResult) -> None:
        """The pool's side: here is the result."""
        self._result = result
        self._done.set()


class ActionPool:
    """Runs actions in killable processes. ``with ActionPool(procs=2) as pool: …``

    ``procs`` is how many actions run at a time, ``spares`` how many warm processes wait to take
    the place of a killed one, ``queue`` how many actions may wait. Raises OSError when the
    machine cannot start processes. Action classes must be importable: define them in a module,
    or in a script whose start is guarded by ``if __name__ == "__main__":``.
    """

    def __init__(
        self,
        procs: int | None = None,
        *,
        spares: int = 1,
        queue: int = 10_000,
        preload: tuple[str, ...] = (),
    ) -> None:
        self._folder = tempfile.mkdtemp(prefix="fsmv2-pool-")
        self._lock = threading.RLock()
        self._handles: dict[int, Handle] = {}
        self._early: dict[int, ActionResult] = {}
        self._pool = Pool(
            {"actions": default_procs() if procs is None else procs},
            PoolOptions(spares=spares, queue=queue, preload=preload),
            run_folder=self._folder,
            on_result=self._on_result,
        )
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._driver: threading.Thread | None = None
        self._closed = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ActionPool {self._pool!r}>"

    def start(self) -> None:
        """Start the processes. Called by ``with``."""
        if self._driver is not None or self._closed:
            raise FsmError("cannot start the pool: it was started before")
        self._pool.start()
        self._driver = threading.Thread(target=self._drive, name="fsmv2-pool", daemon=True)
        self._driver.start()

    def submit(self, action: Action, *, key: str = "", timeout_s: float | None = None) -> Handle:
        """Take ``action`` and return its handle at once.

        Actions of one ``key`` run in order, one at a time. ``timeout_s`` replaces the type's
        own. Raises `SpecError` for an action type that cannot work; a full queue is no
        exception but a result with status "refused".
        """
        check_action_type(type(action))
        handle = Handle(self)
        with self._lock:
            before = self._pool.next_moment()
            attempt_id = self._pool.submit(action, key=key, timeout_s=timeout_s)
            handle.attempt_id = attempt_id
            early = self._early.pop(attempt_id, None)
            if early is None:
                self._handles[attempt_id] = handle
            after = self._pool.next_moment()
        if early is not None:
            handle.settle(early)
        elif after is not None and (before is None or after < before):
            os.eventfd_write(self._wake_fd, 1)  # the driver waits for a later moment
        return handle

    def run(self, action: Action, *, key: str = "", timeout_s: float | None = None) -> ActionResult:
        """`submit` and wait for the result."""
        return self.submit(action, key=key, timeout_s=timeout_s).result()

    def cancel(self, handle: Handle) -> bool:
        """See `Handle.cancel`."""
        with self._lock:
            cancelled = self._pool.cancel(handle.attempt_id)
        os.eventfd_write(self._wake_fd, 1)
        return cancelled

    def statistics(self) -> dict[str, Any]:
        """Counts and procs as plain data."""
        with self._lock:
            return pool_statistics(self._pool)

    def close(self) -> None:
        """End everything: what runs is killed and gets the result "cancelled"."""
        if self._closed:
            return
        self._closed = True
        if self._driver is not None:
            os.eventfd_write(self._wake_fd, 1)
            self._driver.join()
            with self._lock:
                self._pool.close()
        with contextlib.suppress(OSError):
            os.close(self._wake_fd)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _on_result(self, attempt_id: int, result: ActionResult) -> None:
        handle = self._handles.pop(attempt_id, None)
        if handle is None:
            self._early[attempt_id] = result  # refused before its handle was known
        else:
            handle.settle(result)

    def _drive(self) -> None:
        try:
            self._drive_until_closed()
        except BaseException as error:
            # A bug of ours. Nobody may wait for ever for what will not come.
            self._closed = True
            why = ActionError("PoolBroken", f"{type(error).__name__}: {error}")
            for attempt_id, handle in list(self._handles.items()):
                handle.settle(
                    ActionResult(status="refused", action_type="", attempt_id=attempt_id, error=why)
                )
            raise

    def _drive_until_closed(self) -> None:
        poller = select.poll()
        poller.register(self._pool.fileno(), select.POLLIN)
        poller.register(self._wake_fd, select.POLLIN)
        while not self._closed:
            with self._lock:
                self._pool.step()
                moment = self._pool.next_moment()
            # Waiting is done without the lock, so that submitting never waits for it.
            wait_s = 3600.0 if moment is None else max(0.0, moment - time.monotonic())
            for fd, _mask in poller.poll(wait_s * 1000):
                if fd == self._wake_fd:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(self._wake_fd)
