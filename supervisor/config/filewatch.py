"""Notices that a file was changed, by looking at it.

Knows: what tells one content of a file from another without reading it.
Does not know: what the file holds.
Invariants: a file that is still being written is not told: two looks in a row must see the same;
a file that is missing is not told until it is back; each change is told once. A look is one
stat(2), for a file on a local disk.
"""

from __future__ import annotations

import os

LOOK_S = 1.0
Mark = tuple[int, int, int]


def mark_of(path: str) -> Mark | None:
    """What tells this content of the file from another; None: there is no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class FileWatch:
    """Call `look` every `LOOK_S` seconds. ``known`` is the mark of what has been read."""

    def __init__(self, path: str, known: Mark | None) -> None:
        self.path = path
        self.known = known
        self._last = known

    def take(self) -> None:
        """The file is being read now: what it holds is known."""
        self.known = self._last = mark_of(self.path)

    def look(self) -> bool:
        """Whether the file has changed since it was last read, and holds still."""
        last, self._last = self._last, mark_of(self.path)
        return self._last is not None and self._last == last and self._last != self.known
