"""The inbox: what was pulled, until somebody inside has dealt with it.

Knows: that a reply is saved whole before it is read, how it becomes a segment.
Does not know: relays, what a message means.
Invariants: a pull reply is on disk before anything reads it; a reply becomes one segment,
however often a kill interrupts that; nothing goes but by `finish`. One writer and one reader at
a time.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import msgspec

from fsmv2.communicator.spool import segments
from fsmv2.communicator.spool.disk import DISK, Disk
from fsmv2.communicator.transport import codec
from fsmv2.communicator.transport.codec import CodecError, Message

# So often a reply is begun to be unpacked; kills at random moments never hit the same so often.
UNPACKS_MAX = 5
_REPLY = re.compile(r"(.*?)(?:\.begun(\d+))?\.reply", re.DOTALL)


def unpack(reply: Path, disk: Disk = DISK) -> tuple[int, int]:
    """Turn a saved pull reply into an inbox file; return its messages and its unreadable ones.

    May be repeated after a kill at any instruction: the same reply makes the same file. A reply
    with anything unreadable in it is kept as ``NAME.unreadable``. So is, with a `CodecError`, one
    that was begun `UNPACKS_MAX` times and never to the end: for want of memory, say, or because
    each time the process was killed at it. Those behind it are not to wait for it for ever. What
    the disk is to blame for does not count.

    Raises `OSError`, `CodecError`, and what the decoder raises for want of memory.
    """
    stem, begun = _begun(reply.name)
    aside = aside_of(reply)
    if begun >= UNPACKS_MAX:
        segments.keep_aside(reply, aside, disk)
        raise CodecError(
            f"cannot unpack a pull reply: it was begun {begun} times and never to the end, want "
            f"fewer than {UNPACKS_MAX}"
        )
    # By its name, and before anything is tried: a kill counts too.
    trying = reply.with_name(f"{stem}.begun{begun + 1}{segments.REPLY}")
    disk.rename(reply, trying)
    try:
        return _unpack(trying, stem, aside, disk)
    except OSError:
        with contextlib.suppress(OSError):
            disk.rename(trying, reply)
        raise


def aside_of(reply: Path) -> Path:
    """Where a reply is kept that is not, or not in all, one."""
    return reply.with_name(f"{_begun(reply.name)[0]}{segments.UNREADABLE}")


def _begun(name: str) -> tuple[str, int]:
    """What a reply's name begins with, and how often it was begun to be unpacked."""
    found = _REPLY.fullmatch(name)
    return (found[1], int(found[2] or 0)) if found else (name.removesuffix(segments.REPLY), 0)


def _unpack(reply: Path, stem: str, aside: Path, disk: Disk) -> tuple[int, int]:
    try:
        batch = codec.decode_batch(disk.read(reply))
    except CodecError:
        segments.keep_aside(reply, aside, disk)
        raise
    if batch.messages:
        lines = [msgspec.json.encode(codec.encode_message(message)) for message in batch.messages]
        segments.publish(reply.parent, stem, lines, disk)
    if batch.unreadable:
        segments.keep_aside(reply, aside, disk)
    else:
        disk.unlink(reply)
    return len(batch.messages), batch.unreadable


def saved_replies(inbox: str | Path, disk: Disk = DISK) -> list[Path]:
    """Replies that an attempt has saved but not unpacked, oldest first."""
    names = disk.names(Path(inbox))
    return [
        Path(inbox) / name
        for name in names
        if name.endswith(segments.REPLY) and not name.startswith(".")
    ]


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
