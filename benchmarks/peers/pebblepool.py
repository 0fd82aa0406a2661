"""noxdafox's pebble.

Knows: its API, and where it keeps its processes.
Does not know: what is measured.
Invariants: those of `peers.face`.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

from peers import tasks
from peers.executors import value_of_future
from peers.face import PROCS, Peer

LIMIT_S = 60.0  # a limit is what one takes this pool for


class Pebble(Peer):
    name = distribution = "pebble"
    own_limits = True

    def __init__(self) -> None:
        self._pool: Any = None

    def open(self) -> None:
        import pebble

        self._pool = pebble.ProcessPool(max_workers=PROCS)

    def close(self) -> None:
        pool = self._pool  # this may still hang when another one is open already
        pool.stop()
        pool.join()

    def submit(
        self, task: Callable[..., Any], *arguments: Any, limit_s: float | None = None
    ) -> Any:
        try:
            return self._pool.schedule(task, args=arguments, timeout=limit_s)
        except RuntimeError as broken:
            refused: concurrent.futures.Future[Any] = concurrent.futures.Future()
            refused.set_exception(broken)
            return refused

    def value(self, handle: Any, patience_s: float) -> Any:
        return value_of_future(handle, patience_s)

    def nothing(self) -> Any:
        return self._pool.schedule(tasks.nothing, timeout=LIMIT_S)

    def finish(self, handle: Any) -> None:
        handle.result()

    def pids(self) -> list[int]:
        return list(self._pool._pool_manager.worker_manager.workers)
