"""Standard output that nobody takes: a full disk, a reader that went away.

Knows: the descriptor, what became of what was written.
Does not know: what is written, by which command.
Invariants: a command runs to its end whatever becomes of its output, for what it did is done; what
could not be written is told once, at the end; a reader that went away has had what it wanted.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Callable
from typing import Any, NoReturn

CANNOT_WRITE = 3


class StopCode(SystemExit):
    """The end of a supervisor that ran: its code stands, whatever became of the summary."""


class Output(io.RawIOBase):
    """Bytes to ``fd``; after the first that cannot be written (`fault`) they are dropped."""

    def __init__(self, fd: int, is_terminal: bool) -> None:
        self._fd = fd
        self._is_terminal = is_terminal
        self.fault: OSError | None = None

    def writable(self) -> bool:
        """Yes."""
        return True

    def isatty(self) -> bool:
        """What the descriptor was at the start."""
        return self._is_terminal

    def fileno(self) -> int:
        """The descriptor, which is not closed with this."""
        return self._fd

    def write(self, data: Any, /) -> int:
        """Never raises OSError."""
        while self.fault is None:
            try:
                return os.write(self._fd, data)
            except BlockingIOError:
                select.select([], [self._fd], [])
            except OSError as error:
                self.fault = error
        return len(data)


def run_with_output(run: Callable[[], object]) -> NoReturn:
    """Run a command line, and end with its code, or the one that says its output is lost."""
    text = sys.stdout
    if text is None:  # closed: there is none to lose
        run()
        sys.exit(0)
    text.flush()
    raw = Output(text.fileno(), text.isatty())
    sys.stdout = shown = io.TextIOWrapper(
        io.BufferedWriter(raw),
        text.encoding,
        text.errors,
        line_buffering=getattr(text, "line_buffering", False),
        write_through=getattr(text, "write_through", False),
    )
    try:
        run()
        end = SystemExit(0)
    except SystemExit as ended:
        end = ended
    finally:
        shown.flush()
        fault = raw.fault
        if fault is not None and fault.errno != errno.EPIPE:
            with contextlib.suppress(OSError):  # it may be the same full disk
                print(f"fsmv2: cannot write to standard output: {fault.strerror}", file=sys.stderr)
    if fault is not None and fault.errno != errno.EPIPE and not isinstance(end, StopCode):
        sys.exit(end.code or CANNOT_WRITE)
    raise end
