"""A place for a reply that exists nowhere else any more, found before it is asked for.

Knows: how much a reply may hold, that a disk may be full when it comes.
Does not know: relays, what a reply says.
Invariants: no place, no reply: `place_for` raises `NoRoom` first; a reply that could not be
written as usual goes into the inbox's reserve, whose blocks have been there all the time, and is
tried again for as long as there is time. What is left: a reply larger than the reserve, on a disk
whose free space went during this one request and did not come back; that one is lost, and told.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from fsmv2.communicator.spool import segments
from fsmv2.communicator.spool.disk import DISK, Disk, write_whole

RESERVE = ".reserve"
# Nearly every reply fits. It is made once, and anew after it was used.
RESERVE_BYTES = 4 * 1024 * 1024
# As much as the largest reply the transport takes.
FREE_BYTES_MIN = 64 * 1024 * 1024
RETRY_S = 0.25


class NoRoom(Exception):
    """Too little is free on the inbox's disk for a reply that may come."""


class Place:
    """Where one reply goes. See `place_for`."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._folder = folder
        self._disk = disk
        stem = segments.new_stem(disk.names(folder))
        self._draft = folder / f".{stem}.draft"
        self._target = folder / f"{stem}{segments.REPLY}"
        self._file = disk.create(self._draft)

    def save(self, body: bytes, may_wait: Callable[[], bool]) -> Path:
        """Have ``body`` on disk, durably, and return its path.

        Tried again while ``may_wait`` says so. Raises `OSError`; then it is nowhere.
        """
        try:
            self._file.write(body)
            self._disk.sync(self._file)
            self._file.close()
            self._disk.rename(self._draft, self._target)
        except OSError:
            self.discard()
            self._save_all_the_same(body, may_wait)
        return self._durable(may_wait)

    def discard(self) -> None:
        """Remove what was not saved."""
        with contextlib.suppress(OSError):  # what it could not write it tries again as it closes
            self._file.close()
        with contextlib.suppress(OSError):
            self._disk.unlink(self._draft)

    def _save_all_the_same(self, body: bytes, may_wait: Callable[[], bool]) -> None:
        reserve = self._folder / RESERVE
        while True:
            try:
                if len(body) <= RESERVE_BYTES:
                    self._disk.refill(reserve, body)
                    self._disk.rename(reserve, self._target)
                    return
                self._disk.unlink(reserve)  # its blocks are some of those that are needed
            except OSError:
                pass
            try:
                write_whole(self._disk, self._draft, self._target, body)
            except OSError:
                if not may_wait():
                    raise
            else:
                return
            time.sleep(RETRY_S)

    def _durable(self, may_wait: Callable[[], bool]) -> Path:
        """It is there, and now its name; without that it is there all the same, but for a power
        cut."""
        while True:
            try:
                self._disk.sync_folder(self._folder)
            except OSError:
                if may_wait():
                    time.sleep(RETRY_S)
                    continue
            return self._target


def place_for(folder: Path, disk: Disk = DISK) -> Place:
    """A place for the next reply in ``folder``, made if missing.

    Raises `NoRoom`, and `OSError` for a folder that cannot be written to.
    """
    reserve = folder / RESERVE
    place = Place(folder, disk)
    try:
        if _size(reserve, disk) != RESERVE_BYTES:
            try:
                disk.allocate(reserve, RESERVE_BYTES)
            except OSError as error:
                why = f"cannot set {RESERVE_BYTES} bytes aside there: {error.strerror}"
                raise _no_room(folder, why) from None
        free = disk.free(folder)
        if free < FREE_BYTES_MIN:
            raise _no_room(folder, f"{free} bytes are free, want {FREE_BYTES_MIN} for a reply")
    except BaseException:
        place.discard()
        raise
    return place


def _size(path: Path, disk: Disk) -> int:
    try:
        return disk.size(path)
    except FileNotFoundError:
        return -1


def _no_room(folder: Path, why: str) -> NoRoom:
    return NoRoom(f"no room on the disk of {folder.name!r}: {why} (fsmv2 runbook disk-full)")
