"""Is told of a proc's death before its pipes end: a thread that sleeps on all procs' lifelines.

Knows: which procs have a lifeline, how the thread is woken.
Does not know: what is done about a death.
Invariants: the thread touches the pool as any other would, and else nothing but pages; a proc
that has no lifeline, or is one too many, is noticed when its channel ends, as any is without this.

For pools whose owner has threads anyway; the supervisor's root has none.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from fsmv2.ipc.lifeline import OWNER_DIED, WAITS_MAX, Word, wait_for_end
from fsmv2.supervisor.core.errors import FsmError

if TYPE_CHECKING:
    from fsmv2.ipc.page import Page
    from fsmv2.supervisor.pool.pool import Pool

AGAIN_S = 0.001


class DeathWatch:
    """Of one pool, from its start to `close`. ``use`` calls a function with the pool, from any
    thread, while nobody else uses it."""

    def __init__(self, pool: Pool, use: Callable[[Callable[[Pool], object]], object]) -> None:
        self._pool = pool
        self._use = use
        self._pages: tuple[Page, ...] = ()
        self._changed = Word(0)
        self._ends = False
        pool.nursery.on_change = self.change
        self._thread: threading.Thread | None = threading.Thread(
            target=self._run, name="fsmv2-deaths", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError:  # no more threads: nobody is told early
            self._thread = pool.nursery.on_change = None

    def change(self) -> None:
        """A proc has come or gone."""
        self._pages = tuple(
            proc.page for proc in self._pool.nursery.procs if proc.ready_at is not None
        )
        self._changed.wake()

    def close(self) -> None:
        """End the thread."""
        self._ends = True
        self._changed.wake()
        if self._thread is not None:
            self._thread.join()
        self._pool.nursery.on_change = None

    def _run(self) -> None:
        _hurry()
        told: tuple[Page, ...] = ()
        while not self._ends:
            changed = self._changed.value
            told = tuple(page for page in told if page in self._pages)
            words = [(self._changed.address, changed)]
            for page in self._pages:
                with contextlib.suppress(ValueError):  # closed meanwhile
                    if page not in told and (word := page.lifeline()):
                        # What has ended since the last round must not be slept on.
                        words.append((page.lifeline_at(), word & ~OWNER_DIED))
            if not wait_for_end(words[:WAITS_MAX]):
                return  # not on this kernel
            # Before the look, which then has seen all of them; others are the next round's.
            ended = tuple(page for page in self._pages if page not in told and _has_ended(page))
            if ended:
                told += ended
                try:
                    self._use(_look)
                except FsmError:
                    return  # the pool is broken, or this is a forked process's copy
            elif changed == self._changed.value:
                time.sleep(AGAIN_S)  # a page went between our look and the wait


def _look(pool: Pool) -> None:
    for proc in list(pool.nursery.procs):
        if proc.ready_at is not None and proc.page.has_let_go():
            pool.dies(proc)


def _hurry() -> None:
    """Let this thread go first, if we may. It is woken on the CPU on which the proc is being taken
    apart, and would wait until that is done: the very time it is there to save. It sleeps but for
    some microseconds a death."""
    with contextlib.suppress(OSError):
        policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(threading.get_native_id(), policy, os.sched_param(1))


def _has_ended(page: Page) -> bool:
    with contextlib.suppress(ValueError):
        return page.has_let_go()
    return False
