"""Keeps Ctrl-C out of the few microseconds in which the pool's state is half changed.

Knows: SIGINT's handler.
Does not know: what is sheltered.
Invariants: a SIGINT that comes inside is delivered at the end, to the handler that was set;
outside the main thread, and where no Python handler is set, it does nothing.
"""

from __future__ import annotations

import signal
import threading
from importlib import import_module
from types import TracebackType
from typing import Any

# `signal.signal` turns numbers into enums and back, which costs 4 µs a call; the module below
# it does the same work in 0.3 µs. A leader pays this twice per action.
_signal: Any = import_module("_signal")
_set_handler = _signal.signal
_get_handler = _signal.getsignal
_default = signal.default_int_handler
_get_ident = threading.get_ident
SIGINT = int(signal.SIGINT)


class Shelter:
    """``with Shelter(): …`` in the main thread puts SIGINT off until the block's end.

    Only SIGINT: its default handler raises wherever the main thread happens to be. A handler
    of another signal that raises is the program's own doing, and breaks the pool if it hits.
    Python runs handlers in the main thread only, between two instructions (library reference,
    "signal": Execution of Python signal handlers).
    """

    __slots__ = ("_came", "_previous")

    def __init__(self) -> None:
        self._came = False
        self._previous: Any = None

    def __enter__(self) -> None:
        if _get_ident() != threading.main_thread().ident:
            return
        previous = _get_handler(SIGINT)
        if previous is _default or _may_raise(previous):
            # Raises what is pending before it changes anything, so nothing is to be undone.
            _set_handler(SIGINT, self._note)
            self._previous = previous

    def _note(self, _number: int, _frame: Any) -> None:
        self._came = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        previous = self._previous
        if previous is not None:
            _set_handler(SIGINT, previous)
            if self._came:
                previous(SIGINT, None)


def _may_raise(handler: Any) -> bool:
    # asyncio's `add_signal_handler` sets a handler that does nothing, together with a flag of
    # the kernel's that setting it again would lose.
    return callable(handler) and getattr(handler, "__module__", "") != "asyncio.unix_events"
