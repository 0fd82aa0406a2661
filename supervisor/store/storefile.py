"""What is at a store's path before anybody writes there: nothing, a store of ours, or another's.

Knows: the first bytes of an SQLite file, the mark in the lock beside a store.
Does not know: tables, processes, who asks.
Invariants: it reads, `HEAD_BYTES` of a file at most, and writes nothing but the mark into a lock
of ours; what cannot be told from the first bytes is no refusal: who opens the file looks further.

A file whose first bytes are gone says nothing about itself any more. That it was a store says the
lock beside it, which bears a mark from the first time on that a store was opened there.
"""

from __future__ import annotations

import contextlib
import os
import stat

# In the header of each store; a file made before it was is known by its tables.
APPLICATION_ID = int.from_bytes(b"fsm2", "big")
HEAD_BYTES = 100
_MAGIC = b"SQLite format 3\0"
_ID_AT = slice(68, 72)
_MARK = b"beside a store of fsmv2\n"
FOREIGN = "it is no store of fsmv2, got {got}, want a store's file or a path where none is"


def lock_of(path: str) -> str:
    """The lock beside the store's file."""
    return f"{path}.lock"


def refusal(path: str) -> str:
    """Why no store can be at ``path``, with what is there; empty: as far as its first bytes tell
    one can. What the machine does not let anybody see is left to who opens it."""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    if stat.S_ISDIR(found.st_mode):
        return "got a folder, want a file"
    if not stat.S_ISREG(found.st_mode):
        return "got a device, a pipe or a socket, want a file"
    if found.st_size == 0 or is_marked(path):
        return ""
    try:
        head = _first_bytes(path)
    except OSError:
        return ""
    if not head.startswith(_MAGIC):
        return FOREIGN.format(got=f"a file of {found.st_size} bytes that is no SQLite database")
    if len(head) < HEAD_BYTES:
        return FOREIGN.format(got=f"the first {found.st_size} bytes of an SQLite database")
    if _id_in(head) not in (0, APPLICATION_ID):
        return FOREIGN.format(got="a database of something else")
    return ""


def refusal_of(path: str | None, config: str) -> str:
    """`refusal` of a path that the file ``config`` asks for, or None for no file."""
    if not path:
        return ""
    with contextlib.suppress(OSError):
        if os.path.samefile(path, config):
            return "got the config's own file, want a store's file or a path where none is"
    return refusal(path)


def is_ours(path: str) -> bool:
    """Whether a file that cannot be read as a database is known to have been a store."""
    if is_marked(path):
        return True
    try:
        head = _first_bytes(path)
    except OSError:
        return False
    return head.startswith(_MAGIC) and _id_in(head) == APPLICATION_ID


def is_marked(path: str) -> bool:
    """Whether a store was once open at ``path``, by the lock beside it."""
    try:
        return _first_bytes(lock_of(path)) == _MARK
    except OSError:
        return False


def mark(lock_fd: int) -> None:
    """Say in an empty lock what it is beside. On a full disk it stays unsaid."""
    with contextlib.suppress(OSError):
        if os.fstat(lock_fd).st_size == 0:
            os.pwrite(lock_fd, _MARK, 0)


def _first_bytes(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.read(fd, HEAD_BYTES)
    finally:
        os.close(fd)


def _id_in(head: bytes) -> int:
    return int.from_bytes(head[_ID_AT], "big")
