"""multiprocessing.Pool, and the two that come from it: multiprocess.Pool and billiard.

Knows: their API, and where they keep their processes.
Does not know: what is measured.
Invariants: those of `peers.face`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from peers import tasks
from peers.face import PROCS, Lost, Peer


class _Pool(Peer):
    module: str

    def __init__(self) -> None:
        self._pool: Any = None

    def open(self) -> None:
        self._pool = importlib.import_module(self.module).Pool(PROCS)

    def close(self) -> None:
        pool = self._pool  # this may still hang when another one is open already
        pool.terminate()
        pool.join()

    def submit(
        self, task: Callable[..., Any], *arguments: Any, limit_s: float | None = None
    ) -> Any:
        return self._pool.apply_async(task, arguments)

    def value(self, handle: Any, patience_s: float) -> Any:
        handle.wait(patience_s)
        if not handle.ready():
            raise TimeoutError
        try:
            return handle.get(0)
        except Exception as error:
            raise Lost(type(error).__name__) from None

    def nothing(self) -> Any:
        return self._pool.apply_async(tasks.nothing)

    def finish(self, handle: Any) -> None:
        handle.get()

    def pids(self) -> list[int]:
        return [process.pid for process in list(self._pool._pool) if process.exitcode is None]


class StandardPool(_Pool):
    name, module = "multiprocessing.Pool", "multiprocessing"


class Multiprocess(_Pool):
    name, module, distribution = "multiprocess.Pool", "multiprocess", "multiprocess"


class Billiard(_Pool):
    name = module = distribution = "billiard"
    own_limits = True

    def open(self) -> None:
        # Without a limit of its own it takes those of tasks and does not watch them.
        self._pool = importlib.import_module(self.module).Pool(PROCS, timeout=600)

    def submit(
        self, task: Callable[..., Any], *arguments: Any, limit_s: float | None = None
    ) -> Any:
        return self._pool.apply_async(task, arguments, timeout=limit_s)
