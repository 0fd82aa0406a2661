"""A raw pool and what came of it, driven by the test's own thread."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from fsmv2.supervisor.core.action import Action, ActionResult
from fsmv2.supervisor.core.events import Event
from fsmv2.supervisor.pool.pool import Pool
from fsmv2.supervisor.pool.pooloptions import PoolOptions

PATIENCE_S = 60.0

E = TypeVar("E", bound=Event)


class Driven:
    """Submit, then `until` something is so; each result must come exactly once."""

    def __init__(self, run_folder: str, lanes: dict[str, int], options: PoolOptions) -> None:
        self.results: dict[int, ActionResult] = {}
        self.order: list[int] = []
        self.events: list[Event] = []
        self.pool = Pool(
            lanes,
            options,
            run_folder=run_folder,
            on_result=self._take,
            on_event=self.events.append,
        )
        self.pool.start()

    def _take(self, attempt_id: int, result: ActionResult) -> None:
        assert attempt_id not in self.results, f"a second result of {attempt_id}: {result}"
        self.results[attempt_id] = result
        self.order.append(attempt_id)

    def submit(self, action: Action, **options: Any) -> int:
        """As the pool's."""
        return self.pool.submit(action, **options)

    def run(self, action: Action, **options: Any) -> ActionResult:
        """Submit and wait."""
        return self.result(self.submit(action, **options))

    def result(self, attempt_id: int) -> ActionResult:
        """Wait for one result."""
        self.until(lambda: attempt_id in self.results, f"result of {attempt_id}")
        return self.results[attempt_id]

    def let_expire(self, attempt_id: int) -> None:
        """Have the deadline of an attempt that a proc runs pass now."""
        attempt = self.pool.in_flight(attempt_id)
        assert attempt is not None
        assert attempt.proc is not None
        attempt.timeout_s = 0.0
        self.pool.deadlines.look_again(attempt.proc, time.monotonic())

    def until(self, claim: Callable[[], object], what: str) -> None:
        """Drive the pool until ``claim`` is true."""
        give_up = time.monotonic() + PATIENCE_S
        while not claim():
            assert time.monotonic() < give_up, f"never: {what}; {self.pool!r}"
            self.pool.wait(0.02)

    def drive_for(self, seconds: float) -> None:
        """Let time pass."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.pool.wait(0.02)

    def heard(self, kind: type[E]) -> list[E]:
        """The events of one kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    def wait_ready(self) -> None:
        """Until all procs that are wanted are there."""
        nursery = self.pool.nursery
        self.until(
            lambda: sum(p.ready_at is not None for p in nursery.procs) >= nursery.wanted, "ready"
        )


@contextmanager
def driven(lanes: dict[str, int] | None = None, **options: Any) -> Iterator[Driven]:
    """A pool of two procs, closed at the end, whatever the test does."""
    with tempfile.TemporaryDirectory(prefix="fsmv2-test-") as folder:
        made = Driven(folder, lanes or {"actions": 2}, PoolOptions(**options))
        try:
            yield made
        finally:
            made.pool.close()
