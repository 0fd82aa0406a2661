"""The inbox: what was pulled, until somebody inside has dealt with it.

Knows: which files there are to be read, who reads them.
Does not know: relays, replies, what a message means.
Invariants: one consumer at a time; nothing goes but by `finish`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO

from fsmv2.communicator.spool import segments
from fsmv2.communicator.spool.bounds import TooLarge
from fsmv2.communicator.spool.disk import DISK, Disk
from fsmv2.communicator.transport import codec
from fsmv2.communicator.transport.codec import CodecError, Message


def inbox_files(inbox: str | Path, disk: Disk = DISK) -> list[Path]:
    """The inbox's files, oldest first; raises `OSError`."""
    return [Path(inbox) / name for name in segments.segment_names(Path(inbox), disk)]


def read_messages(path: Path, disk: Disk = DISK) -> list[Message]:
    """The messages of one inbox file, in the order the relay sent them.

    Raises `OSError`, and `CodecError` for a file that holds anything else.
    """
    try:
        data = segments.read(path, disk, trusted=True)
    except TooLarge as error:
        raise CodecError(str(error)) from None
    return [codec.decode_message(line) for line in segments.lines_of(data, path.name)]


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
