"""How often something was begun that may end the process, and was not ended.

Knows: what is begun at present and how often it was, in memory and in a file.
Does not know: what is tried, how often is too often.
Invariants: what `begin` was told to note is known after a kill, until `end`; a power cut may undo
it. Bounded by what is in the folder: what names a file that is gone is forgotten at the next start.
For one thread.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from fsmv2.communicator.spool import segments
from fsmv2.communicator.spool.disk import DISK, Disk, write_whole

FILE_BYTES_MAX = 1024 * 1024


class Tries:
    """The file ``.tries`` of ``folder``; begins with what is in it. Raises `OSError`.

    A name is ``FILE#NUMBER``, the place of what is tried in a file of that folder.
    """

    def __init__(self, folder: Path, disk: Disk = DISK) -> None:
        self._path = folder / ".tries"
        self._disk = disk
        self._begun: dict[str, int] = {}
        try:
            data = disk.read(self._path)
        except FileNotFoundError:
            data = b""
        self._size = len(data)
        here = set(disk.names(folder)) if data else set()
        for line in os.fsdecode(data).split("\n")[:-1]:  # behind the last: torn
            name = line[1:]
            if line.startswith("-"):
                self._begun.pop(name, None)
            elif name.rpartition("#")[0] in here:
                self._begun[name] = self._begun.get(name, 0) + 1
        if data:
            with contextlib.suppress(OSError):
                self._write_anew()

    def __repr__(self) -> str:
        return f"<Tries of {len(self._begun)}>"

    def begin(self, name: str, *, noted: bool) -> int:
        """It is tried; how often it was by now. ``noted``: on disk too. What goes wrong there
        goes wrong quietly."""
        number = self._begun[name] = self._begun.get(name, 0) + 1
        if noted:
            self._jot(f"+{name}\n")
        return number

    def end(self, name: str) -> None:
        """It need not be tried again."""
        if self._begun.pop(name, None) is None or not self._size:
            return
        if self._begun:
            self._jot(f"-{name}\n")
            return
        with contextlib.suppress(OSError):
            self._disk.empty(self._path)
            self._size = 0

    def _jot(self, line: str) -> None:
        with contextlib.suppress(OSError):
            if self._size > FILE_BYTES_MAX:
                self._write_anew()
            data = os.fsencode(line)
            self._size += len(data)
            self._disk.jot(self._path, data)

    def _write_anew(self) -> None:
        draft = self._path.with_name(f".{segments.new_stem(())}.tries.draft")
        text = "".join(f"+{name}\n" * number for name, number in self._begun.items())
        data = os.fsencode(text)
        write_whole(self._disk, draft, self._path, data)
        self._size = len(data)
