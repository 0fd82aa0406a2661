"""Is told of a proc's death before its pipes end: a thread that sleeps on all procs' lifelines.

Knows: which procs have a lifeline, how the thread is woken.
Does not know: what is done about a death.
Invariants: the thread touches nothing but pages and its own list; a proc that has none, or is one
too many, is noticed when its channel ends, as is every proc without this.

For pools whose owner has threads anyway; the supervisor's root has none.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING

from fsmv2.ipc.lifeline import WAITS_MAX, Word, wait_for_end

if TYPE_CHECKING:
    from fsmv2.ipc.page import Page
    from fsmv2.supervisor.pool import Pool

AGAIN_S = 0.001


class DeathWatch:
    """Of one pool, from its start to `close`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._pages: tuple[Page, ...] = ()
        self._changed = Word(0)
        self._ends = False
        pool.poller.watch(self._fd, self._look)
        pool.nursery.on_change = self.change
        self._thread = threading.Thread(target=self._run, name="fsmv2-deaths", daemon=True)
        self._thread.start()

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
        self._thread.join()
        self._pool.nursery.on_change = None
        self._pool.poller.unwatch(self._fd)
        os.close(self._fd)

    # --- in the pool's thread -----------------------------------------------------------------

    def _look(self, _mask: int) -> None:
        os.eventfd_read(self._fd)
        for proc in list(self._pool.nursery.procs):
            if proc.ready_at is not None and proc.page.has_let_go():
                self._pool.dies(proc)

    # --- in its own ---------------------------------------------------------------------------

    def _run(self) -> None:
        _hurry()
        told: tuple[Page, ...] = ()
        while not self._ends:
            changed = self._changed.value
            told = tuple(page for page in told if page in self._pages)
            words = [(self._changed.address, changed)]
            for page in self._pages:
                with contextlib.suppress(ValueError):  # closed meanwhile
                    if page not in told and page.lifeline():
                        words.append((page.lifeline_at(), page.lifeline()))
            if not wait_for_end(words[:WAITS_MAX]):
                return  # not on this kernel
            if changed == self._changed.value:
                # A proc ends. First tell it; and be out of the way while that is heard.
                os.eventfd_write(self._fd, 1)
                time.sleep(AGAIN_S)
            told += tuple(page for page in self._pages if page not in told and _has_ended(page))


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
