"""Removes folders that actions have filled, a bounded number of entries at a time.

Knows: folders that are to go, how far it has come.
Does not know: whose they were, who calls again.
Invariants: no call handles more than ``entries_max`` entries; a tree may be as deep and as wide
as it likes; links are removed, never followed; what cannot be removed is left, never raised.

Not `shutil.rmtree`: it needs a level of Python's recursion and a descriptor for each level (an
action that made a thousand folders in each other ended the root), and does not stop before all
is gone. Each folder inside is moved to the top first, so that no path ever gets longer.
"""

from __future__ import annotations

import contextlib
import os

ENTRIES_MAX = 200


class Removal:
    """Of one run folder. `add` folders, then `go_on` until it says that nothing is left."""

    def __init__(self, run_folder: str, name: str = "removed") -> None:
        """``name`` is that of the folder in ``run_folder`` which holds what is to go."""
        self._bin = os.path.join(run_folder, name)
        self._made = 0
        self._todo: list[str] = []

    def add(self, folder: str) -> bool:
        """Have ``folder`` removed; its name is free at once. False: it is not there, or cannot
        be moved."""
        moved = os.path.join(self._bin, str(self._made))
        with contextlib.suppress(OSError):
            # Its parent's entry in it is changed by the move: rename(2).
            os.chmod(folder, 0o700)
            os.makedirs(self._bin, mode=0o700, exist_ok=True)
            os.rename(folder, moved)
            self._made += 1
            self._todo.append(moved)
            return True
        return False

    def go_on(self, entries_max: int = ENTRIES_MAX) -> bool:
        """Remove up to ``entries_max`` entries, some 10 µs each. Whether something is left."""
        left = entries_max
        while self._todo and left > 0:
            folder = self._todo.pop()
            with contextlib.suppress(OSError):
                left -= self._empty(folder, left)
        return bool(self._todo)

    def _empty(self, folder: str, entries_max: int) -> int:
        """Remove ``folder``, or what there is room for; how many entries that were."""
        removed = 0
        with os.scandir(folder) as entries:
            for entry in entries:
                if removed >= entries_max:
                    self._todo.append(folder)
                    return removed
                removed += 1
                if entry.is_dir(follow_symlinks=False):
                    self.add(entry.path)
                else:
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)
        with contextlib.suppress(OSError):
            os.rmdir(folder)
        return removed + 1
