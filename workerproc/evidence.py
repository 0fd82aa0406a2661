"""Leaves a stack behind: on demand while hanging, by itself while crashing.

Knows: faulthandler's C-level handlers and the shared page's dump area.
Does not know: who asks, or whether the proc is killed next.
Invariants: nothing here needs the GIL, a lock or memory at the moment of need.

How the root learns that a dump is complete: faulthandler writes the stack of all threads into
the page, then chains to the handler installed before it, which is Python's own C-level
handler; that one writes the signal's number to the wake-up descriptor. So a byte there means
the dump is whole, also while C code holds the GIL. An action that replaces the handler or the
descriptor only costs the root its evidence budget.

Later, if the main thread gets back to Python code or sits in a call that signals interrupt, the
handler's Python half runs, marks the page and writes a byte of its own to the same descriptor, so
that the root need not look for the mark: no such mark means that it hangs in C code.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
from types import FrameType

from fsmv2.ipc.page import Page, clear_dump

# Far from the signals that programs use among themselves.
DUMP_SIGNAL = signal.SIGRTMIN + 12
# No signal has this number (64 is the highest).
HEARD_BYTE = b"h"


def install(page_fd: int, woken_fd: int) -> None:
    """Send stack dumps to ``page_fd`` and the word that one is complete to ``woken_fd``."""
    page = Page(page_fd)

    def heard(_signal: int, _frame: FrameType | None) -> None:
        page.hear()
        with contextlib.suppress(OSError):  # full, or closed by the action: the mark is there
            os.write(woken_fd, HEARD_BYTE)

    clear_dump(page_fd)
    os.set_blocking(woken_fd, False)
    # Registered already (by the template, for imports that hang), faulthandler would only change
    # the file, and Python's handler, set next, would stay in its place.
    faulthandler.unregister(DUMP_SIGNAL)
    signal.signal(DUMP_SIGNAL, heard)
    signal.set_wakeup_fd(woken_fd, warn_on_full_buffer=False)
    faulthandler.register(DUMP_SIGNAL, file=page_fd, all_threads=True, chain=True)
    # SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT: dump, then die of the same signal.
    faulthandler.enable(file=page_fd, all_threads=True)
    # The same for a spent CPU limit; chained to the default, which ends the process.
    faulthandler.register(signal.SIGXCPU, file=page_fd, all_threads=True, chain=True)
