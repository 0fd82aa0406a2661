"""The few things that are done to files, each of them one step that happens or does not.

Knows: what must be synced so that a power cut cannot undo it: a file's bytes before its name, a
name by its folder.
Does not know: messages, names' meaning, when something is done.
Invariants: no other module of the spool touches the disk, so that a test can put a disk here
that dies between any two steps, or forgets what was not synced; what is written to is a regular
file of the folder itself: no link is followed, no pipe is waited for. What is made is private,
but for those who may write to its folder: they share it (see `_share`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO
from weakref import WeakSet

# A lock of flock(2) is that of the open file, which a forked child shares: it would outlive us.
_held: WeakSet[IO[bytes]] = WeakSet()
# So often another process comes in between two steps of ours; then it is an error.
_RACES_MAX = 5
_CAP_FOWNER = 1 << 3


def _let_go() -> None:
    for file in list(_held):
        with contextlib.suppress(OSError, ValueError):
            file.close()


os.register_at_fork(after_in_child=_let_go)


class Disk:
    """The real one. All of it raises `OSError`."""

    def names(self, folder: Path) -> list[str]:
        """The names of the files in ``folder``, sorted; none where there is no folder. What is no
        file (a folder, a link, a pipe) is none of ours, see `strangers`."""
        return self._names(folder, files=True)

    def strangers(self, folder: Path) -> list[str]:
        """The names in ``folder`` of what is no file, or may not be read."""
        unreadable = [name for name in self.names(folder) if not os.access(folder / name, os.R_OK)]
        return sorted(self._names(folder, files=False) + unreadable)

    def _names(self, folder: Path, files: bool) -> list[str]:
        try:
            with os.scandir(folder) as entries:
                return sorted(
                    entry.name for entry in entries if entry.is_file(follow_symlinks=False) is files
                )
        except FileNotFoundError:
            return []

    def size(self, path: Path) -> int:
        """Bytes of a file."""
        return path.lstat().st_size

    def modified_at(self, path: Path) -> float:
        """Seconds since the epoch."""
        return path.lstat().st_mtime

    def identity(self, path: Path) -> str:
        """What tells a file from another that gets its name, or its inode, and from what it was
        before it was written anew."""
        found = path.stat(follow_symlinks=False)
        return f"{found.st_dev:x}.{found.st_ino:x}.{found.st_mtime_ns:x}.{found.st_size:x}"

    def read(self, path: Path, bytes_max: int = -1) -> bytes:
        """What is in a file, at most ``bytes_max`` bytes of it. Never waits for a pipe's writer,
        should one have taken the file's place."""
        with open(path, "rb", opener=_open_at_once) as file:
            return file.read(bytes_max) or b""

    def create(self, path: Path) -> IO[bytes]:
        """A new file to write, in place of one of that name; makes its folder if need be."""
        return os.fdopen(self._new(path), "wb")

    def append(self, path: Path, data: bytes) -> None:
        """Add to the end of a file, durably but for the name of a new one."""
        with os.fdopen(_open_or_make(path, os.O_WRONLY | os.O_APPEND)[0], "ab") as file:
            file.write(data)
            self.sync(file)

    def jot(self, path: Path, data: bytes) -> None:
        """Add to the end of a file. A power cut may undo it, a kill cannot."""
        handle = _open_or_make(path, os.O_WRONLY | os.O_APPEND)[0]
        with os.fdopen(handle, "ab", buffering=0) as file:
            file.write(data)

    def empty(self, path: Path) -> None:
        """Take all out of a file. A power cut may undo it, a kill cannot."""
        handle = _open(path, os.O_WRONLY)
        try:
            os.truncate(handle, 0)
        finally:
            os.close(handle)

    def make_room(self, path: Path, size: int) -> None:
        """Have `overwrite` work in the first ``size`` bytes of a file, made if missing, durably."""
        handle, is_new = _open_or_make(path, os.O_RDWR)
        try:
            present = os.fstat(handle).st_size
            if present < size:
                os.pwrite(handle, bytes(size - present), present)
                os.fsync(handle)
            if is_new:
                self.sync_folder(path.parent)
        except OSError:
            if is_new:  # without room it would only keep others from making one with
                with contextlib.suppress(OSError):
                    path.unlink()
            raise
        finally:
            os.close(handle)

    def overwrite(self, path: Path, offset: int, data: bytes) -> None:
        """Replace bytes in the middle of a file, durably. Takes no space, so that it works on a
        full disk too. A power cut may leave any part of it."""
        with os.fdopen(_open(path, os.O_RDWR), "r+b") as file:
            file.seek(offset)
            file.write(data)
            self.sync(file)

    def free(self, folder: Path) -> int:
        """Bytes that may still be written where ``folder`` is; 0 where no more files may be."""
        found = os.statvfs(folder)
        return 0 if found.f_files and not found.f_favail else found.f_bavail * found.f_frsize

    def allocate(self, path: Path, size: int) -> None:
        """A file of ``size`` bytes whose space is there; without it there is no such file."""
        try:
            with self.create(path) as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            raise

    def refill(self, path: Path, data: bytes) -> None:
        """Make ``data`` all that is in an allocated file, durably. Takes no space."""
        with os.fdopen(_open(path, os.O_RDWR), "r+b") as file:
            file.write(data)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())

    def sync(self, file: IO[bytes]) -> None:
        """Make durable what was written to an open file."""
        file.flush()
        os.fdatasync(file.fileno())

    def rename(self, path: Path, target: Path) -> None:
        """Give a file another name, in place of the one that had it."""
        path.replace(target)

    def place(self, path: Path, target: Path) -> None:
        """`rename`, unless something has that name: then ``path`` just goes. Where there are no
        hard links it goes in any case."""
        with contextlib.suppress(OSError):
            os.link(path, target)
        path.unlink(missing_ok=True)

    def unlink(self, path: Path) -> None:
        """Remove a file; one that is gone already is fine."""
        path.unlink(missing_ok=True)

    def may_write(self, folder: Path) -> bool:
        """Whether something may be changed in ``folder``: not where it is mounted read-only."""
        return os.access(folder, os.W_OK | os.X_OK, effective_ids=True)

    def may_remove(self, path: Path) -> bool:
        """Whether a file may leave its folder, if that `may_write`: not where the folder is sticky
        (like /tmp) and both are another user's."""
        folder = path.parent.stat()
        try:
            owners = {folder.st_uid, path.lstat().st_uid}
        except FileNotFoundError:
            return True
        is_sticky = folder.st_mode & stat.S_ISVTX
        return not is_sticky or os.geteuid() in owners or _may_act_as_owner()

    def lock(self, path: Path) -> IO[bytes] | None:
        """Hold the lock of that name until the file that is returned is closed, or we are gone;
        None: somebody else holds it. What is in it stays."""
        self._make(path.parent)
        try:
            file = os.fdopen(_open_or_make(path, os.O_RDWR)[0], "r+b")
        except OSError as error:
            text = f"cannot lock {path.name!r}: {error.strerror}, want a file that may be written"
            raise OSError(error.errno, text) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except BaseException:
            file.close()
            raise
        _held.add(file)
        return file

    def lock_folder(self, folder: Path, name: str) -> Callable[[], None] | None:
        """`lock` of the folder itself: takes no space and leaves nothing there. Call what is
        returned to let go. Where folders have no locks (NFS) it is the lock of ``name`` in it."""
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError as error:
            os.close(handle)
            if error.errno != errno.EBADF:
                raise
            file = self.lock(folder / name)
            return None if file is None else file.close
        return partial(os.close, handle)

    def sync_folder(self, folder: Path) -> None:
        """Make the names in ``folder`` durable."""
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _make(self, folder: Path) -> None:
        """Make ``folder`` and what is above it, durably."""
        if folder.is_dir():
            return
        self._make(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        self.sync_folder(folder.parent)

    def _new(self, path: Path) -> int:
        for _ in range(_RACES_MAX):
            try:
                return _make_file(path, os.O_WRONLY)
            except FileNotFoundError:
                self._make(path.parent)
            except FileExistsError:
                path.unlink(missing_ok=True)
        return _make_file(path, os.O_WRONLY)


def _open_at_once(path: str | Path, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW, 0o600)


def _open(path: Path, flags: int) -> int:
    """A regular file that is there, to write to."""
    try:
        handle = _open_at_once(path, flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise _no_file(path) from error
        raise
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise _no_file(path)


def _no_file(path: Path) -> OSError:
    return OSError(errno.EINVAL, f"{path.name!r} is a link, a pipe or a folder, no regular file")


def _open_or_make(path: Path, flags: int) -> tuple[int, bool]:
    """`_open`, or a new file where none is; and whether it is new."""
    for _ in range(_RACES_MAX):
        with contextlib.suppress(FileNotFoundError):
            return _open(path, flags), False
        with contextlib.suppress(FileExistsError):
            return _make_file(path, flags), True
    return _open(path, flags), False


def _make_file(path: Path, flags: int) -> int:
    handle = _open_at_once(path, flags | os.O_CREAT | os.O_EXCL)
    # A file system without owners or modes has none to set.
    with contextlib.suppress(OSError):
        _share(handle, path.parent)
    return handle


def _may_act_as_owner() -> bool:
    """Root may, unless a container took that from it."""
    with open("/proc/self/status", "rb") as status:
        found = next((line for line in status if line.startswith(b"CapEff:")), b"CapEff: 0")
    return bool(int(found.split()[1], 16) & _CAP_FOWNER)


def _share(handle: int, folder: Path) -> None:
    """Let a file of ours that is new be read and written by those who may write to ``folder``: its
    group if the folder's may, everybody if everybody may. What root makes is the folder's owner's.
    Who may only look into the folder does not see what is in its files."""
    found, mine = folder.stat(), os.fstat(handle)
    mode = 0o600
    if found.st_mode & stat.S_IWGRP:
        with contextlib.suppress(PermissionError):  # not a member: then its group is not to read it
            if found.st_gid != mine.st_gid:
                os.fchown(handle, -1, found.st_gid)
            mode |= 0o060
    if found.st_mode & stat.S_IWOTH:
        mode |= 0o066
    if mode != stat.S_IMODE(mine.st_mode):
        os.fchmod(handle, mode)
    if os.geteuid() == 0 and found.st_uid != mine.st_uid:
        os.fchown(handle, found.st_uid, -1)


DISK = Disk()


def write_whole(disk: Disk, draft: Path, target: Path, data: bytes) -> None:
    """Have ``data`` under ``target``, whole or not at all. The folder is not synced yet.

    Raises `OSError`; then ``draft`` is gone again and ``target`` is as it was.
    """
    file = disk.create(draft)
    try:
        try:
            file.write(data)
            disk.sync(file)
        finally:
            file.close()
        disk.rename(draft, target)
    except OSError:
        with contextlib.suppress(OSError):
            disk.unlink(draft)
        raise
