"""Segments: files that hold some messages, one a line, and never change.

Knows: names, their order, how a segment appears, how many messages wait in a folder.
Does not know: which direction a folder is for, who reads it.
Invariants: a segment appears whole or not at all, and is on disk when `publish` returns; names
sort in the order of publishing, also when the clock is set back; no two writers make the same.

A name is ``STAMP-PID-TOKEN.COUNT.BYTES.jsonl``: nanoseconds, the writer, how many messages, how
large. So a folder is counted by reading its names. ``NAME.json`` with one message in it, put there
by somebody else, counts as one. Names with a dot in front hold no messages: drafts (those of
writers that were killed are removed after ten minutes), and notes.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fsmv2.communicator.spool.bounds import FILE_BYTES_MAX, MESSAGE_BYTES_MAX, TooLarge, Usage
from fsmv2.communicator.spool.disk import DISK, Disk, write_whole

MESSAGES_MAX = 100
BYTES_MAX = 4 * 1024 * 1024
DRAFT_S_MAX = 600.0
KEPT_FILES_MAX = 1_000
KEPT_BYTES_MAX = 256 * 1024 * 1024
SEGMENT, SINGLE, REPLY = ".jsonl", ".json", ".reply"
REFUSED, UNREADABLE = ".refused", ".unreadable"


class AsideFull(Exception):
    """So much is kept for people that nothing more is set aside: nothing of it is ever deleted."""


_COUNT = re.compile(r"\.(\d{1,9})\.(\d{1,12})\.jsonl\Z")
_STAMP = re.compile(r"(\d{20})-\d+-[0-9a-f]+[.]")


class _Writer:
    """This process as a writer: its token, and the last stamp it has used."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._token = ""
        self._last = 0
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0

    def stem(self, names: Iterable[str]) -> str:
        """A name that sorts behind ``names`` and behind all that came from here before."""
        newest = max((stamp_of(name) for name in names), default=0)
        with self._lock:
            if self._pid != os.getpid():
                self._pid, self._token = os.getpid(), secrets.token_hex(4)
            self._last = max(time.time_ns(), newest + 1, self._last + 1)
            return f"{self._last:020d}-{self._pid}-{self._token}"


_writer = _Writer()


def stamp_of(name: str) -> int:
    """The stamp in one of our names, 0 in any other."""
    found = _STAMP.match(name)
    return int(found[1]) if found else 0


def new_stem(names: Iterable[str]) -> str:
    """See `_Writer.stem`."""
    return _writer.stem(names)


def count_of(name: str) -> int | None:
    """How many messages a segment holds by its name; None: the name does not say."""
    if name.endswith(SINGLE):
        return 1
    found = _COUNT.search(name)
    return int(found[1]) if found else None


def is_segment(name: str) -> bool:
    """Whether messages wait in a file of that name."""
    return name.endswith((SEGMENT, SINGLE)) and not name.startswith(".")


def segment_names(folder: Path, disk: Disk = DISK) -> list[str]:
    """The segments in ``folder``, oldest first; raises `OSError`."""
    return [name for name in disk.names(folder) if is_segment(name)]


def strangers(folder: str | Path, disk: Disk = DISK) -> list[str]:
    """What is called like a segment in ``folder`` and cannot be read as one: it is passed over."""
    return [name for name in disk.strangers(Path(folder)) if is_segment(name)]


def publish(folder: Path, stem: str, lines: Sequence[bytes], disk: Disk = DISK) -> Path:
    """Have one segment of ``lines`` in ``folder``, on disk. Raises `OSError`; then it is not there
    (where not even it can be removed again, it may be)."""
    data = b"\n".join(lines) + b"\n"
    target = folder / f"{stem}.{len(lines)}.{len(data)}{SEGMENT}"
    write_whole(disk, folder / f".{stem}.draft", target, data)
    try:
        disk.sync_folder(folder)
    except OSError:
        with contextlib.suppress(OSError):  # seen, but not durable: its writer will try again
            disk.unlink(target)
        raise
    return target


def lines_of(data: bytes, name: str) -> list[bytes]:
    """The messages in a file, each as its JSON: all of a ``.json``, a line of a segment."""
    if name.endswith(SINGLE):
        return [data]
    return [line for line in data.split(b"\n") if line]


def groups(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """``lines`` in their order, as many together as make a segment."""
    group: list[bytes] = []
    size = 0
    for line in lines:
        if group and (len(group) >= MESSAGES_MAX or size + len(line) > BYTES_MAX):
            yield group
            group, size = [], 0
        group.append(line)
        size += len(line)
    if group:
        yield group


def read(path: Path, disk: Disk = DISK, *, trusted: bool = False) -> bytes:
    """All that is in a file with messages. Raises `OSError`, and `TooLarge` for one that is not
    read: looked at first, for it may be larger than memory. ``trusted``: one that is as large as
    its name says is read in any case."""
    most = MESSAGE_BYTES_MAX if path.name.endswith((SINGLE, REPLY)) else FILE_BYTES_MAX
    said = _COUNT.search(path.name) if trusted else None
    while True:
        size = disk.size(path)
        if size > most and not (said is not None and int(said[2]) == size):
            raise TooLarge(f"cannot read {path.name!r}: it has {size} bytes, want at most {most}")
        data = disk.read(path, size + 1)  # memory for so many is taken at once
        if len(data) <= size:
            return data


def usage(folder: str | Path, disk: Disk = DISK) -> Usage:
    """What waits in ``folder`` now; raises `OSError`.

    Of a segment that is read in part all is counted. Clears old drafts away.
    """
    return usage_of(Path(folder), disk.names(Path(folder)), disk)


def usage_of(folder: Path, names: Iterable[str], disk: Disk = DISK) -> Usage:
    """`usage` for whoever has the names already."""
    messages = size = files = 0
    for name in names:
        said = _COUNT.search(name)
        try:
            if said is not None:
                count, length = int(said[1]), int(said[2])
            elif name.endswith(SINGLE) and is_segment(name):
                count, length = 1, disk.size(folder / name)
            elif is_segment(name):
                count, length = _counted(folder / name, disk)
            elif name.endswith(REPLY):
                count, length = 0, disk.size(folder / name)
            else:
                if name.endswith(".draft"):
                    _remove_old(folder / name, disk)
                continue
        except FileNotFoundError:
            continue
        messages += count
        size += length
        files += count > 0
    return Usage(messages, size, files)


def _counted(path: Path, disk: Disk) -> tuple[int, int]:
    """Messages and bytes of a segment whose name does not say; of a large one messages are as many
    as there would be if all of it were like its beginning."""
    size = disk.size(path)
    try:
        data = disk.read(path, min(size, BYTES_MAX))
    except PermissionError:
        return 1, size
    count = len(lines_of(data, path.name))
    if len(data) < BYTES_MAX:
        return count, len(data)
    return max(1, count) * size // len(data), size


def keep_aside(path: Path, target: Path, disk: Disk = DISK) -> Path:
    """Rename a file out of the way, durably, keeping it for people."""
    disk.rename(path, target)
    disk.sync_folder(target.parent)
    return target


def check_room_aside(folder: Path, files: int = 1, size: int = 0, disk: Disk = DISK) -> None:
    """Raise `AsideFull` unless so many more files, of so many bytes in all, may be kept aside."""
    kept = [name for name in disk.names(folder) if name.endswith((REFUSED, UNREADABLE))]
    held = sum(_size(folder / name, disk) for name in kept)
    # One that is larger than all the room is kept where nothing else is.
    if len(kept) + files > KEPT_FILES_MAX or (kept and held + size > KEPT_BYTES_MAX):
        raise AsideFull(
            f"cannot set a message aside in {folder.name!r}: {len(kept)} files with {held} bytes "
            f"are kept there, want at most {KEPT_FILES_MAX} and {KEPT_BYTES_MAX}; look at them and "
            "move them away"
        )


def _size(path: Path, disk: Disk) -> int:
    try:
        return disk.size(path)
    except FileNotFoundError:
        return 0


def _remove_old(draft: Path, disk: Disk) -> None:
    if time.time() - disk.modified_at(draft) > DRAFT_S_MAX:
        disk.unlink(draft)
