"""Whose turn it is: one push of an outbox, and one pull into an inbox, at a time.

Knows: how a folder is claimed for the time of a try, and that a claim ends with its process.
Does not know: relays, what is done in a turn; the inbox's consumer, who has a claim of its own.
Invariants: nothing waits for a turn; the claims of the two are not in each other's way, nor in
the consumer's. So an outbox's is the folder's own lock, which a full disk does not keep from being
taken (pushing is what empties it), and an inbox's is a file, for a folder may be both, of two
communicators.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from fsmv2.communicator.spool.disk import DISK, Disk


class Taken(Exception):
    """Another is at it."""


@contextlib.contextmanager
def pushing(outbox: Path, disk: Disk = DISK) -> Iterator[bool]:
    """Be the one that empties ``outbox``, for the block. False: there is no such folder, so nothing
    to send. Raises `Taken`, and `OSError`."""
    try:
        let_go = disk.lock_folder(outbox, ".pusher")
    except FileNotFoundError:
        yield False
        return
    if let_go is None:
        raise Taken(f"another communicator pushes from {outbox.name!r}, want one at a time")
    try:
        if not disk.may_write(outbox):
            # Learned from the note of a delivery, it would be sent again with each try.
            raise OSError(errno.EROFS, "it may not be written, so no delivery could be noted")
        yield True
    finally:
        let_go()


@contextlib.contextmanager
def pulling(inbox: Path, disk: Disk = DISK) -> Iterator[None]:
    """Be the one that pulls into ``inbox``, made if missing, for the block. Raises `Taken`, and
    `OSError`."""
    held = disk.lock(inbox / ".puller")
    if held is None:
        raise Taken(f"another communicator pulls into {inbox.name!r}, want one at a time")
    with held:
        yield
