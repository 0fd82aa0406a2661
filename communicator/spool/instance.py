"""Which instance the last login was for, beside the inbox, for whoever reads that.

Knows: the file of it.
Does not know: logins, messages.
Invariants: who reads sees one UUID whole, or an empty text where none was left; nothing is left
for an empty one, because that means "unchanged". Any number of readers.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from fsmv2.communicator.spool import segments
from fsmv2.communicator.spool.disk import DISK, Disk, write_whole

INSTANCE = ".instance"
CHARS_MAX = 200


def leave_instance(inbox: Path, uuid: str, disk: Disk = DISK) -> None:
    """Have ``uuid`` stand beside ``inbox``. What goes wrong goes wrong quietly: it is tried again
    with the next pull."""
    data = uuid.encode("utf-8", "replace")
    if not 0 < len(data) <= CHARS_MAX:
        return
    with contextlib.suppress(OSError):
        path = inbox / INSTANCE
        if _read(path, disk) != data:
            draft = inbox / f".{segments.new_stem(())}{INSTANCE}.draft"
            write_whole(disk, draft, path, data)


def instance_of(inbox: Path, disk: Disk = DISK) -> str:
    """The UUID that was left last; empty: none. Raises `OSError`."""
    data = _read(inbox / INSTANCE, disk)
    text = data.decode("utf-8", "replace")
    return text if len(data) <= CHARS_MAX and text.isprintable() else ""


def _read(path: Path, disk: Disk) -> bytes:
    try:
        return disk.read(path, CHARS_MAX + 1)
    except FileNotFoundError:
        return b""
