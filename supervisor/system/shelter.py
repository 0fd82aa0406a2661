"""Keeps Ctrl-C out of the microseconds in which the pool's state is half changed.

Knows: SIGINT's handler.
Does not know: what is sheltered.
Invariants: a SIGINT that comes inside is delivered, to the handler that was set: at once while
`Shelter.wait` waits, else at the end; outside the main thread, and where no Python handler is
set, it does nothing.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from importlib import import_module
from types import TracebackType
from typing import Any, Self

# `signal.signal` turns numbers into enums and back, which costs 4 µs a call; the module below
# it does the same work in 0.3 µs. Each action pays for this twice.
_signal: Any = import_module("_signal")
_set_handler = _signal.signal
_get_handler = _signal.getsignal
_get_ident = threading.get_ident
_main_ident = threading.main_thread().ident
_default = signal.default_int_handler
SIGINT = int(signal.SIGINT)


class Shelter:
    """``with Shelter() as shelter: … shelter.wait(poll, 1.0) …`` in the main thread lets SIGINT
    through while it waits and nowhere else.

    Only SIGINT: its default handler raises wherever the main thread happens to be. A handler
    of another signal that raises is the program's own doing, and may break the pool.
    Python runs handlers in the main thread only, between two instructions (library reference,
    "signal": Execution of Python signal handlers).
    """

    __slots__ = ("_came", "_previous", "_waits")

    def __init__(self) -> None:
        self._came = False
        self._waits = False
        self._previous: Any = None

    def __enter__(self) -> Self:
        if _get_ident() == _main_ident:
            previous = _get_handler(SIGINT)
            if previous is _default or _may_raise(previous):
                # Raises what is pending before it changes anything: nothing is to be undone.
                _set_handler(SIGINT, self._on_signal)
                self._previous = previous
        return self

    def wait(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call ``function``, which waits and changes nothing of ours."""
        if self._previous is None:
            return function(*args)
        self._waits = True
        try:
            if self._came:
                self._came = False
                self._on_signal(SIGINT, None)
            return function(*args)
        finally:
            self._waits = False

    def _on_signal(self, number: int, frame: Any) -> None:
        if not self._waits:
            self._came = True
            return
        self._waits = False  # a second one must not hit what is done about the first
        self._previous(number, frame)
        self._waits = True  # it did not raise, so the wait goes on

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


def _in_a_forked_process() -> None:
    global _main_ident
    _main_ident = _get_ident()  # the thread that forked is the only one, and the main one


# threading's own hook does the same for `main_thread`, which costs more to ask each time.
os.register_at_fork(after_in_child=_in_a_forked_process)
