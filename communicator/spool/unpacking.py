"""Saved pull replies, and how one becomes a file of the inbox.

Knows: that a reply is saved whole before it is read, how often one was begun to be unpacked.
Does not know: relays, what a message means, who reads the inbox.
Invariants: a pull reply is on disk before anything reads it; a reply becomes one segment, however
often a kill interrupts that; it goes when its segment is there, or is kept for people. One at a
time.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import msgspec

from fsmv2.communicator.spool import segments
from fsmv2.communicator.spool.bounds import TooLarge
from fsmv2.communicator.spool.disk import DISK, Disk
from fsmv2.communicator.transport import codec
from fsmv2.communicator.transport.codec import CodecError

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
        batch = codec.decode_batch(segments.read(reply, disk))
    except CodecError:
        segments.keep_aside(reply, aside, disk)
        raise
    except TooLarge as error:  # none that was pulled
        segments.keep_aside(reply, aside, disk)
        raise CodecError(str(error)) from None
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
