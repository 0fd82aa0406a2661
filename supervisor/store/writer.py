"""The writer: the one process that writes the store's file.

Knows: its two pipes, the file, a lock beside it, when to compact.
Does not know: the tree, what documents mean, who reads.
Invariants: an order is answered after its commit and never before; two writers never have one
file, the lock sees to that; it ends with its root, by its channel's end, after the order it has
begun; what the machine refuses is answered and never ends it, a damaged file does: the next
writer moves it aside.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import time
from collections.abc import Callable

import msgspec

from fsmv2.ipc.codec import decode, encode
from fsmv2.ipc.frames import FrameBuffer, FrameError, pack_frame
from fsmv2.ipc.messages import FromStore, NotSaved, Recall, Save, Saved, StoreReady, StoreShut
from fsmv2.supervisor.core.errors import StartError
from fsmv2.supervisor.store.protocol import StoreConflict
from fsmv2.supervisor.store.sqlite import DamagedError, SaveError, SqliteStore, move_aside
from fsmv2.supervisor.store.storefile import FOREIGN, is_ours, lock_of, mark, refusal

READ_BYTES = 1 << 16
COMPACT_S = 60.0
# A killed root's writer may still have an order to finish.
LOCK_WAIT_S = 5.0
LOCK_LOOK_S = 0.02
SHUT, DAMAGED, BAD_FRAME = 1, 2, 3


def write_store(
    read_fd: int, say_fd: int, path: str, keep: int, keep_s: float, recalls: bool
) -> None:
    """Write the store in the file ``path`` until ``read_fd`` ends. Takes both descriptors over.

    The log of changes keeps the newest ``keep`` entries, for ``keep_s`` seconds at most. With
    ``recalls`` it first says what a new root goes on with.
    """
    # They come to the whole group of a terminal; when it is over is the root's decision.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    say = _Voice(say_fd)
    try:
        lock, store, ready = take_file(path, time.time())
    except (StartError, OSError) as error:
        say(StoreShut(str(error)))
        raise SystemExit(SHUT) from None
    try:
        if recalls:
            for worker, recalled in store.resume().items():
                say(Recall(worker, msgspec.json.encode(recalled)))
        say(ready)
        ours = _inode(path)

        def look() -> None:
            if _inode(path) != ours:
                raise _GoneError(f"store {path} was removed or replaced while it was open")

        _serve(read_fd, say, store, look, lambda: store.compact(keep, time.time() - keep_s))
    except _GoneError as error:
        say(StoreShut(str(error)))
        raise SystemExit(SHUT) from None
    except DamagedError:
        raise SystemExit(DAMAGED) from None
    except FrameError:
        raise SystemExit(BAD_FRAME) from None
    finally:
        store.close()
        os.close(lock)


def take_file(path: str, wall: float) -> tuple[int, SqliteStore, StoreReady]:
    """Lock the file ``path`` for life and open it; the first of what it gives is the lock's
    descriptor. Raises `StartError`, with nothing moved of what is no store, and nothing left."""
    refused = refusal(path)
    if refused:
        raise StartError(f"cannot open store {path}: {refused}")
    lock, is_new = _lock(path)
    try:
        store, ready = open_store(path, wall)
    except BaseException:
        if is_new:
            _remove(lock_of(path))
        os.close(lock)
        raise
    mark(lock)
    return lock, store, ready


def open_store(path: str, wall: float) -> tuple[SqliteStore, StoreReady]:
    """Open the file, and move it aside first where it is a damaged store. ``wall``: seconds since
    the epoch. Raises `StartError`."""
    origin = int(wall * 1e6)
    reason = moved_to = ""
    try:
        store = _open_or_make(path, origin)
    except DamagedError as error:
        reason = str(error)
        if not (error.is_ours or is_ours(path)):
            got = FOREIGN.format(got=f"a file that SQLite cannot read ({reason})")
            raise StartError(f"cannot open store {path}: {got}") from None
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(wall))
        try:
            moved_to = move_aside(path, stamp)
            store = _open_or_make(path, origin)
        except (DamagedError, OSError) as second:
            raise StartError(
                f"cannot open store {path}: {reason}; nor move it aside: {second}"
            ) from None
    return store, StoreReady(os.getpid(), store.is_empty, moved_to, reason)


def _open_or_make(path: str, origin: int) -> SqliteStore:
    """A file that could not be made whole, as on a full disk, is removed again."""
    was_there = os.path.lexists(path)
    try:
        return SqliteStore(path, origin)
    except BaseException:
        if not was_there:
            for ending in ("", "-journal", "-wal", "-shm"):
                _remove(path + ending)
        raise


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _lock(path: str) -> tuple[int, bool]:
    """A lock held for life, in a file of its own: the database's may be moved aside; and whether
    that file is new. Raises `StartError` when another process keeps it, or it cannot be."""
    give_up = time.monotonic() + LOCK_WAIT_S
    while True:
        fd, is_new = _open_lock(path)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who could not open a store removes the lock it has made: then it is none any more.
            if _inode(lock_of(path)) == _inode(fd):
                return fd, is_new
        os.close(fd)
        if time.monotonic() >= give_up:
            raise StartError(
                f"cannot open store {path}: another process writes it; want one supervisor a file"
            )
        time.sleep(LOCK_LOOK_S)


def _open_lock(path: str) -> tuple[int, bool]:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        try:
            return os.open(lock_of(path), flags | os.O_EXCL, 0o600), True
        except FileExistsError:
            return os.open(lock_of(path), flags, 0o600), False
    except OSError as error:
        folder = os.path.dirname(path)
        raise StartError(
            f"cannot open store {path}: {error.strerror}: {lock_of(path)}; want store.path in a "
            f"folder that exists and can be written: {folder}"
        ) from None


class _GoneError(Exception):
    """What is written now would be in no file that anybody can open."""


def _inode(path: str | int) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class _Voice:
    """Says things to the root. When nobody listens any more, the channel's end will tell."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __call__(self, message: FromStore) -> None:
        frame = memoryview(pack_frame(encode(message)))
        with contextlib.suppress(BrokenPipeError):
            while frame:
                frame = frame[os.write(self._fd, frame) :]


def _serve(
    read_fd: int,
    say: Callable[[FromStore], None],
    store: SqliteStore,
    look: Callable[[], None],
    compact: Callable[[], int],
) -> None:
    buffer = FrameBuffer()
    compact_at = 0.0
    while True:
        if time.monotonic() >= compact_at:
            with contextlib.suppress(SaveError):  # the next order will say so
                compact()
            compact_at = time.monotonic() + COMPACT_S
        readable, _, _ = select.select([read_fd], [], [], compact_at - time.monotonic())
        if not readable:
            continue
        data = os.read(read_fd, READ_BYTES)
        if not data:
            return
        for body in buffer.feed(data):
            look()
            say(_carry_out(decode(body, Save), store))
        if buffer.fault is not None:
            raise buffer.fault


def _carry_out(order: Save, store: SqliteStore) -> Saved | NotSaved:
    try:
        store.save(order.writes)
    except StoreConflict as conflict:
        return Saved(order.number, conflict.refused[:10])
    except SaveError as error:
        return NotSaved(order.number, str(error))
    return Saved(order.number)
