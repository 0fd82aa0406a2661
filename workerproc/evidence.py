"""Leaves a stack behind: on demand while hanging, by itself while crashing.

Knows: faulthandler's C-level handlers and the shared page's dump area.
Does not know: who asks, or whether the proc is killed next.
Invariants: nothing here needs the GIL, a lock or memory at the moment of need.

How the root learns that a dump is complete: faulthandler writes the stack of all threads into
the page, then chains to the handler installed before it, which is Python's own C-level
handler; that one writes the signal's number to the wake-up descriptor. So a byte there means
the dump is whole, also while C code holds the GIL. An action that replaces the handler or the
descriptor only costs the root its evidence budget.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from types import FrameType

from fsmv2.ipc.page import clear_dump

# Far from the signals that programs use among themselves.
DUMP_SIGNAL = signal.SIGRTMIN + 12


def _ignore(_signal: int, _frame: FrameType | None) -> None:
    """Python-level half of the handler: nothing is left to do."""


def install(page_fd: int, woken_fd: int) -> None:
    """Send stack dumps to ``page_fd`` and the word that one is complete to ``woken_fd``."""
    clear_dump(page_fd)
    os.set_blocking(woken_fd, False)
    signal.signal(DUMP_SIGNAL, _ignore)
    signal.set_wakeup_fd(woken_fd, warn_on_full_buffer=False)
    faulthandler.register(DUMP_SIGNAL, file=page_fd, all_threads=True, chain=True)
    # SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT: dump, then die of the same signal.
    faulthandler.enable(file=page_fd, all_threads=True)
