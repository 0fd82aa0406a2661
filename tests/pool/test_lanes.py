"""What a lane remembers, and how often it looks at what is in quarantine."""

from __future__ import annotations

import gc
import math
import tempfile
import weakref
from types import SimpleNamespace
from typing import Any

from fsmv2.supervisor import Action, ActionContext
from fsmv2.supervisor.core.quarantine import Record
from fsmv2.supervisor.pool.lanes import Lane
from fsmv2.supervisor.pool.pool import Pool
from fsmv2.supervisor.pool.pooloptions import PoolOptions


class Nothing(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        """Never run."""


class Stub:
    """As much of a proc as a lane looks at."""

    def __init__(self, serial: int) -> None:
        self.serial = serial
        self.lane: str | None = None


def test_a_key_goes_back_to_the_proc_that_ran_it_last_if_that_is_idle() -> None:
    """Else to whoever is idle."""
    lane = Lane("actions", 2, 10)
    first, second = procs = [Stub(1), Stub(2)]
    for proc in procs:
        lane.add(proc)  # type: ignore[arg-type]
    lane.remember("a", first)  # type: ignore[arg-type]
    assert lane.pick("a") is first
    assert lane.pick("a") is second


def test_a_dead_proc_is_not_kept_for_the_keys_it_ran() -> None:
    """It may hold a stack of some 100 KiB, and there may be thousands of keys."""
    lane = Lane("actions", 1, 10)
    proc = Stub(1)
    lane.add(proc)  # type: ignore[arg-type]
    lane.remember("a", proc)  # type: ignore[arg-type]
    lane.drop(proc)  # type: ignore[arg-type]
    seen = weakref.ref(proc)
    del proc
    gc.collect()
    assert seen() is None


def test_one_timer_looks_at_a_quarantined_type_however_many_wait() -> None:
    """They are submitted faster than its wait ends."""
    with tempfile.TemporaryDirectory() as folder:
        options = PoolOptions()
        pool = Pool({"actions": 1}, options, run_folder=folder, on_result=lambda *_: None)
        kind = pool.kinds[Nothing]
        kind.record = Record(since=0.0, not_before=math.inf)
        waiting: Any = SimpleNamespace(kind=kind, lane=pool.lanes["actions"], is_held=False)
        for _ in range(100):
            pool.dispatcher._hold(waiting)
        assert len(kind.held) == 100
        assert len(pool.deadlines) == 1
        pool.nursery.oom.close()
        pool.poller.close()
