"""The inbox: what was pulled, until somebody inside has dealt with it.

Knows: which files there are to be read, who reads them.
Does not know: relays, replies, what a message means.
Invariants: one consumer at a time; nothing goes but by `finish`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from fsmv2.communicator.spool import segments
from fsmv2.communicator.spool.disk import DISK, Disk
from fsmv2.communicator.transport import codec
from fsmv2.communicator.transport.codec import Message


class Draft:
    """A file that nobody sees yet. See `writing`."""

    def __init__(self, folder: Path, stem: str, disk: Disk = DISK) -> None:
        self._folder = folder
        self._stem = stem
        self._disk = disk
        self._draft = folder / f".{stem}.draft"
        self.file: IO[bytes] = disk.create(self._draft)
        self.published: Path | None = None

    def publish(self, suffix: str) -> Path:
        """Sync the file, give it its name and sync that too; return its path."""
        self._disk.sync(self.file)
        self.file.close()
        target = self._folder / f"{self._stem}{suffix}"
        self._disk.rename(self._draft, target)
        self._disk.sync_folder(self._folder)
        self.published = target
        return target

    def discard(self) -> None:
        """Close and remove what was not published."""
        with contextlib.suppress(OSError):  # what it could not write it tries again as it closes
            self.file.close()
        if self.published is None:
            self._disk.unlink(self._draft)


@contextlib.contextmanager
def writing(folder: Path, stem: str = "", disk: Disk = DISK) -> Iterator[Draft]:
    """A `Draft` in ``folder``, made if missing; removed unless it was published."""
    draft = Draft(folder, stem or segments.new_stem(disk.names(folder)), disk)
    try:
        yield draft
    finally:
        draft.discard()


def inbox_files(inbox: str | Path, disk: Disk = DISK) -> list[Path]:
    """The inbox's files, oldest first; raises `OSError`."""
    return [Path(inbox) / name for name in segments.segment_names(Path(inbox), disk)]


def read_messages(path: Path, disk: Disk = DISK) -> list[Message]:
    """The messages of one inbox file, in the order the relay sent them.

    Raises `OSError`, and `CodecError` for a file that holds anything else.
    """
    return [codec.decode_message(line) for line in segments.lines_of(disk.read(path), path.name)]


class Claimed(Exception):
    """An inbox that another consumer reads."""


def claim(inbox: str | Path, disk: Disk = DISK) -> IO[bytes]:
    """Be the inbox's one consumer until the returned file is closed, or this process is gone.

    Raises `Claimed`, and `OSError`.
    """
    held = disk.lock(Path(inbox) / ".reader")
    if held is None:
        raise Claimed(
            f"cannot read the inbox {str(inbox)!r}: another consumer reads it, want one at a time"
        )
    return held


def finish(paths: Sequence[Path], disk: Disk = DISK) -> None:
    """All in these files is dealt with: remove them, durably, with one sync. Raises `OSError`."""
    for path in paths:
        disk.unlink(path)
    if paths:
        disk.sync_folder(paths[0].parent)
