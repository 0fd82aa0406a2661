"""ProcessPoolExecutor of the standard library, and loky's.

Knows: their API, and where they keep their processes.
Does not know: what is measured.
Invariants: those of `peers.face`.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

from peers import tasks
from peers.face import PROCS, Lost, Peer


class _Executor(Peer):
    ends_as_a_whole = True

    def __init__(self) -> None:
        self._executor: Any = None

    def make(self) -> Any:
        """A new executor."""
        raise NotImplementedError

    def open(self) -> None:
        self._executor = self.make()

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def reopen(self) -> None:
        self._executor.shutdown(wait=False)
        self.open()

    def submit(
        self, task: Callable[..., Any], *arguments: Any, limit_s: float | None = None
    ) -> Any:
        try:
            return self._executor.submit(task, *arguments)
        except RuntimeError as broken:  # "cannot schedule new futures", BrokenProcessPool
            refused: concurrent.futures.Future[Any] = concurrent.futures.Future()
            refused.set_exception(broken)
            return refused

    def value(self, handle: Any, patience_s: float) -> Any:
        return value_of_future(handle, patience_s)

    def nothing(self) -> Any:
        return self._executor.submit(tasks.nothing)

    def finish(self, handle: Any) -> None:
        handle.result()

    def pids(self) -> list[int]:
        return list(self._executor._processes or ())


def value_of_future(handle: Any, patience_s: float) -> Any:
    """`Peer.value` for futures: a task's own TimeoutError is not the end of our patience."""
    try:
        error = handle.exception(patience_s)
    except concurrent.futures.CancelledError as cancelled:
        raise Lost("cancelled") from cancelled
    except (TimeoutError, concurrent.futures.TimeoutError):
        raise TimeoutError from None
    if error is not None:
        raise Lost(type(error).__name__)
    return handle.result(0)


class StandardExecutor(_Executor):
    name = "ProcessPoolExecutor"

    def make(self) -> Any:
        return concurrent.futures.ProcessPoolExecutor(PROCS)


class Loky(_Executor):
    name = distribution = "loky"

    def make(self) -> Any:
        import loky

        return loky.ProcessPoolExecutor(PROCS)

    def close(self) -> None:
        self._executor.shutdown(wait=True, kill_workers=True)

    def reopen(self) -> None:
        self._executor.shutdown(wait=False, kill_workers=True)
        self.open()
