"""fsmv2's ActionPool.

Knows: its public API.
Does not know: its inside, what is measured.
Invariants: those of `peers.face`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from fsmv2.supervisor import Action, ActionContext, ActionPool
from peers.face import PROCS, Lost, Peer

LIMIT_S = 600.0


class Nothing(Action, frozen=True):
    """The empty action."""

    def execute(self, ctx: ActionContext) -> None:
        return None


class Task(Action, frozen=True):
    """A function of `peers.tasks` by name."""

    name: str
    arguments: tuple[Any, ...]

    def execute(self, ctx: ActionContext) -> Any:
        return getattr(importlib.import_module("peers.tasks"), self.name)(*self.arguments)


class Ours(Peer):
    """``spares`` and ``pipeline`` as in `ActionPool`; None: as it comes."""

    name = "fsmv2"
    own_limits = True

    def __init__(self, spares: int | None = None, pipeline: int | None = None) -> None:
        self._options: dict[str, Any] = {"queue": 50_000, "preload": ("peers.ours", "peers.tasks")}
        if spares is not None:
            self._options["spares"] = spares
        if pipeline is not None:
            self._options["pipeline"] = pipeline
        self._pool: Any = None

    def open(self) -> None:
        self._pool = ActionPool(procs=PROCS, **self._options)
        self._pool.start()

    def close(self) -> None:
        self._pool.close()

    def submit(
        self, task: Callable[..., Any], *arguments: Any, limit_s: float | None = None
    ) -> Any:
        return self._pool.submit(Task(task.__name__, arguments), timeout_s=limit_s or LIMIT_S)

    def value(self, handle: Any, patience_s: float) -> Any:
        result = handle.result(patience_s)
        if not result.succeeded:
            raise Lost(result.verdict)
        return result.value

    def nothing(self) -> Any:
        return self._pool.submit(Nothing())

    def finish(self, handle: Any) -> None:
        handle.result()

    def pids(self) -> list[int]:
        procs = self._pool.statistics()["procs"]
        return [proc["pid"] for proc in procs if proc["state"] in ("idle", "busy")]
