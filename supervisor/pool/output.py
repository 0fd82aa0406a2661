"""What a proc writes to its standard output and error: lines, their last few, how many per second.

Knows: bytes in, whole redacted lines out; the tail that a death certificate shows, and the
dump of an interpreter that gives up; a budget.
Does not know: descriptors, attempts, who reads the lines.
Invariants: a line is redacted first and cut to its length afterwards: the other way round a cut
could go through a secret; of a line that does not end only the beginning is told; lines over the
budget are counted, kept in the tail, and not told.
"""

from __future__ import annotations

from collections import deque

from fsmv2.ipc.redact import redact

TAIL_LINES = 20
LINE_CHARS_MAX = 1_000
PARTIAL_BYTES_MAX = 64 * 1024
# What the interpreter writes when it gives up by itself, after it has switched our crash handler
# off. Source: CPython, Py_FatalError.
FATAL = "Fatal Python error: "
FATAL_LINES_MAX = 400
LINES_PER_S = 100.0
LINES_AT_ONCE = 500.0


class Allowance:
    """A budget that refills: ``per_s`` a second, at most ``at_once``."""

    __slots__ = ("_at", "_at_once", "_left", "_per_s", "refused")

    def __init__(self, per_s: float, at_once: float) -> None:
        self._per_s = per_s
        self._at_once = at_once
        self._left = at_once
        self._at = 0.0
        self.refused = 0

    def spend(self, now: float, wanted: int = 1) -> int:
        """Take ``wanted``, or as many as are left; how many. The others are counted."""
        self._left = min(self._at_once, self._left + (now - self._at) * self._per_s)
        self._at = now
        granted = min(wanted, int(self._left))
        self._left -= granted
        self.refused += wanted - granted
        return granted

    def take_refused(self) -> int:
        """How many were refused since this was last asked."""
        refused, self.refused = self.refused, 0
        return refused


class OutputLines:
    """The lines of one proc."""

    __slots__ = ("_allowance", "_before", "_fatal", "_is_endless", "partial", "tail")

    def __init__(self) -> None:
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._fatal: list[str] = []
        self._before: tuple[str, ...] = ()
        self.partial = b""
        self._is_endless = False
        self._allowance = Allowance(LINES_PER_S, LINES_AT_ONCE)

    @property
    def is_between_lines(self) -> bool:
        """Whether no part of a line is waiting for its end."""
        return not (self.partial or self._is_endless)

    @property
    def fatal(self) -> tuple[str, tuple[str, ...]] | None:
        """The dump that the interpreter wrote when it gave up by itself, and the last lines before
        it. None: it has not."""
        return ("\n".join(self._fatal), self._before) if self._fatal else None

    def forget(self) -> None:
        """Who wrote these lines has ended well."""
        self.tail.clear()
        self._fatal, self._before = [], ()

    def _look_for_fatal(self, text: str) -> None:
        if text.startswith(FATAL):
            self._fatal, self._before = [text], tuple(self.tail)
        elif self._fatal and len(self._fatal) < FATAL_LINES_MAX:
            self._fatal.append(text)

    def feed(
        self, data: bytes, secrets: tuple[str, ...], now: float, *, flush: bool = False
    ) -> list[str]:
        """The whole lines of ``data`` that may be told; with ``flush`` also what has no newline
        yet. When lines were left out, the next one that is told says how many."""
        lines = (self.partial + data).split(b"\n")
        if self._is_endless:
            # What is left of a line that was too long: it may begin inside a secret.
            lines[0] = b""
            self._is_endless = len(lines) == 1
        self.partial = lines.pop()
        if flush or len(self.partial) > PARTIAL_BYTES_MAX:
            lines.append(self.partial)
            self.partial = b""
            self._is_endless = not flush
        lines = [line for line in lines if line]
        refused = self._allowance.take_refused()
        granted = self._allowance.spend(now, len(lines))
        told = []
        if refused and granted:
            told.append(f"({refused} lines left out: over {LINES_PER_S:g} lines/s)")
        elif refused:
            self._allowance.refused += refused
        # A proc may write a hundred thousand lines a second. Nobody reads them: only the last
        # ones are looked at, for they explain a death.
        for number in (*range(granted), *range(max(granted, len(lines) - TAIL_LINES), len(lines))):
            text = redact(lines[number].decode("utf-8", "replace"), secrets)[:LINE_CHARS_MAX]
            self._look_for_fatal(text)
            self.tail.append(text)
            if number < granted:
                told.append(text)
        return told
