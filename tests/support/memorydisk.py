"""A disk in memory that dies between any two steps, or loses what was not synced."""

from __future__ import annotations

import errno
import io
import random
from pathlib import Path
from typing import IO

from fsmv2.communicator.spool.disk import Disk


class Died(BaseException):
    """The process is gone: nothing it would still do happens."""


class _File:
    def __init__(self) -> None:
        self.data = b""
        self.synced = b""


class _Open(io.BytesIO):
    def __init__(self, disk: MemoryDisk, file: _File) -> None:
        super().__init__()
        self._disk = disk
        self.inode = file

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._disk.step()
        self.inode.data += data
        return len(data)


class MemoryDisk(Disk):
    """One folder. ``steps_left`` is how many steps this process may still do, None: any number;
    the step number ``fails_at`` finds no space."""

    def __init__(self) -> None:
        self.steps_left: int | None = None
        self.steps = 0
        self.fails_at: int | None = None
        self._names: dict[str, _File] = {}
        self._durable: dict[str, _File] = {}
        self._log: list[tuple[str, _File | None]] = []

    def step(self) -> None:
        """One more thing that happens, or the end."""
        if self.steps_left is not None:
            if self.steps_left <= 0:
                raise Died
            self.steps_left -= 1
        self.steps += 1
        if self.steps == self.fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    def power_cut(self, rng: random.Random) -> None:
        """Names: as synced, and some of what came after it, in order. Bytes: as synced, or any
        beginning of what was written since."""
        for name, file in self._log[: rng.randint(0, len(self._log))]:
            self._apply(self._durable, name, file)
        self._names = dict(self._durable)
        self._log = []
        for file in self._names.values():
            if file.data != file.synced:
                at = rng.randint(0, len(file.data))
                torn = file.data[:at] + file.synced[at:]
                file.data = file.synced = rng.choice((file.synced, torn))

    @staticmethod
    def _apply(names: dict[str, _File], name: str, file: _File | None) -> None:
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file

    def _set(self, name: str, file: _File | None) -> None:
        self._apply(self._names, name, file)
        self._log.append((name, file))

    def _get(self, path: Path) -> _File:
        try:
            return self._names[path.name]
        except KeyError:
            raise FileNotFoundError(path) from None

    def names(self, folder: Path) -> list[str]:
        return sorted(self._names)

    def size(self, path: Path) -> int:
        return len(self._get(path).data)

    def modified_at(self, path: Path) -> float:
        return 0.0

    def identity(self, path: Path) -> str:
        file = self._get(path)
        return f"{id(file):x}.{len(file.data):x}"

    def read(self, path: Path, bytes_max: int = -1) -> bytes:
        data = self._get(path).data
        return data if bytes_max < 0 else data[:bytes_max]

    def create(self, path: Path) -> IO[bytes]:
        self.step()
        file = _File()
        self._set(path.name, file)
        return _Open(self, file)

    def append(self, path: Path, data: bytes) -> None:
        file = self._get(path)
        for part in (data[: len(data) // 2], data[len(data) // 2 :]):
            self.step()
            file.data += part
        self.step()
        file.synced = file.data

    def jot(self, path: Path, data: bytes) -> None:
        if path.name not in self._names:
            self.step()
            self._set(path.name, _File())
        file = self._get(path)
        for part in (data[: len(data) // 2], data[len(data) // 2 :]):
            self.step()
            file.data += part

    def make_room(self, path: Path, size: int) -> None:
        is_new = path.name not in self._names
        if is_new:
            self.step()
            self._set(path.name, _File())
        file = self._get(path)
        if len(file.data) < size:
            try:
                self.step()
            except OSError:
                if is_new:
                    self._set(path.name, None)
                raise
            file.data = file.data.ljust(size, b"\0")
            self.step()
            file.synced = file.data
        if is_new:
            self.sync_folder(path.parent)

    def may_remove(self, path: Path) -> bool:
        return True

    def empty(self, path: Path) -> None:
        self.step()
        self._get(path).data = b""

    def overwrite(self, path: Path, offset: int, data: bytes) -> None:
        file = self._get(path)
        for part in (data[: len(data) // 2], data[len(data) // 2 :]):
            self.step()
            file.data = file.data[:offset] + part + file.data[offset + len(part) :]
            offset += len(part)
        self.step()
        file.synced = file.data

    def free(self, folder: Path) -> int:
        return 1 << 40

    def allocate(self, path: Path, size: int) -> None:
        self.step()
        file = _File()
        file.data = file.synced = bytes(size)
        self._set(path.name, file)

    def refill(self, path: Path, data: bytes) -> None:
        file = self._get(path)
        for part in (data[: len(data) // 2], data):
            self.step()
            file.data = part + file.data[len(part) :]
        self.step()
        file.data = file.synced = data

    def sync(self, file: IO[bytes]) -> None:
        self.step()
        assert isinstance(file, _Open)
        file.inode.synced = file.inode.data

    def rename(self, path: Path, target: Path) -> None:
        self.step()
        file = self._get(path)
        self._set(target.name, file)
        self._set(path.name, None)

    def place(self, path: Path, target: Path) -> None:
        if target.name not in self._names:
            self.step()
            self._set(target.name, self._get(path))
        self.unlink(path)

    def unlink(self, path: Path) -> None:
        self.step()
        if path.name in self._names:
            self._set(path.name, None)

    def sync_folder(self, folder: Path) -> None:
        self.step()
        for name, file in self._log:
            self._apply(self._durable, name, file)
        self._log = []
