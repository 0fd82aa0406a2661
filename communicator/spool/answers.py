"""Answers on their way to the outbox, kept so that a kill cannot leave open whether and how
something was answered.

Knows: the last answers that are not known to have arrived, in memory and in a file.
Does not know: what an answer says, who asked.
Invariants: an answer that `keep` has taken is there after a kill, whole, until it is dropped;
after a power cut it is there whole or not at all. Bounded by who keeps them: the file is emptied
when none is kept, and written anew when it has grown beyond `FILE_BYTES_MAX`. Any thread may
call; one process at a time.
"""

from __future__ import annotations

import contextlib
import threading
import zlib
from collections.abc import Iterable
from pathlib import Path

from fsmv2.communicator.spool import segments
from fsmv2.communicator.spool.disk import DISK, Disk, write_whole

FILE_BYTES_MAX = 1024 * 1024


class Answers:
    """The file ``.answers`` of ``folder``; begins with what is in it. Raises `OSError`."""

    def __init__(self, folder: Path, disk: Disk = DISK) -> None:
        self._path = folder / ".answers"
        self._disk = disk
        self._lock = threading.Lock()
        self._kept: dict[str, bytes] = {}
        try:
            data = disk.read(self._path)
        except FileNotFoundError:
            data = b""
        self._size = len(data)
        self._is_whole = not data or data.endswith(b"\n")
        for each in data.split(b"\n"):
            sum_, _, text = each.partition(b" ")
            if sum_ == _sum(text):
                key, _, line = text.partition(b" ")
                self._kept[key.decode("ascii")] = line

    def __repr__(self) -> str:
        return f"<Answers {len(self._kept)} kept>"

    def lines(self) -> list[bytes]:
        """All that are kept, oldest first."""
        with self._lock:
            return list(self._kept.values())

    def keep(self, key: str, line: bytes) -> None:
        """Keep ``line`` under ``key``, without a sync. Raises `OSError`: not kept, try again."""
        with self._lock:
            name = _name(key)
            if name in self._kept and self._is_whole:
                return  # else it may not be on disk: its first try has failed
            self._kept[name] = line
            if not self._is_whole:
                self._write_anew()
                return
            self._is_whole = False  # until it has worked: it may have left half a line
            added = _text(name, line)
            self._disk.jot(self._path, added)
            self._is_whole = True
            self._size += len(added)

    def drop(self, keys: Iterable[str]) -> None:
        """These have arrived. What goes wrong goes wrong quietly: they are known to have."""
        with self._lock, contextlib.suppress(OSError):
            for key in keys:
                self._kept.pop(_name(key), None)
            if not self._kept and self._size:
                self._empty()
            elif self._size > FILE_BYTES_MAX:
                self._write_anew()

    def drop_all(self) -> None:
        """All have arrived."""
        with self._lock:
            self._kept.clear()
            if self._size:
                self._empty()

    def _empty(self) -> None:
        """Nobody is to find old answers there. Without a sync: what comes back of it is done."""
        self._disk.empty(self._path)
        self._size = 0
        self._is_whole = True

    def _write_anew(self) -> None:
        self._is_whole = False
        draft = self._path.with_name(f".{segments.new_stem(())}.answers.draft")
        data = b"".join(_text(name, line) for name, line in self._kept.items())
        write_whole(self._disk, draft, self._path, data)
        self._size = len(data)
        self._is_whole = True


def _name(key: str) -> str:
    return key.encode("utf-8", "surrogatepass").hex()


def _sum(text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(text)


def _text(name: str, line: bytes) -> bytes:
    text = name.encode("ascii") + b" " + line
    return _sum(text) + b" " + text + b"\n"
