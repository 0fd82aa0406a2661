"""What has been done already, so that a second delivery of it does nothing.

Knows: the last keys, in memory and in a file of their digests.
Does not know: what a key stands for.
Invariants: a key that `add` has taken is known after any kill; bounded, the oldest are forgotten
first; a torn end of the file costs the keys in it and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from fsmv2.communicator.spool import segments
from fsmv2.communicator.spool.disk import DISK, Disk, write_whole

KEYS_MAX = 10_000
_DIGEST_CHARS = 32


class Journal:
    """A set of texts in ``folder``. Not for several threads or processes at a time."""

    def __init__(self, folder: Path, keys_max: int = KEYS_MAX, disk: Disk = DISK) -> None:
        self._path = folder / ".done"
        self._keys_max = keys_max
        self._disk = disk
        self._known: dict[str, None] = {}
        self._lines = 0
        try:
            data = disk.read(self._path)
        except FileNotFoundError:
            data = b""
        for line in data.decode("ascii", "replace").splitlines():
            if len(line) == _DIGEST_CHARS:
                self._remember(line)
        self._lines = len(data) // (_DIGEST_CHARS + 1)
        self._is_whole = bool(data) and data.endswith(b"\n")

    def __repr__(self) -> str:
        return f"<Journal of {len(self._known)} keys>"

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, key: str) -> bool:
        return _digest(key) in self._known

    def add(self, keys: Iterable[str]) -> None:
        """Know ``keys`` from now on, with one sync. Raises `OSError`; then they may be known."""
        new = [_digest(key) for key in keys]
        if not new:
            return
        for each in new:
            self._remember(each)
        if self._is_whole and self._lines + len(new) <= 2 * self._keys_max:
            self._is_whole = False  # until it has worked: what failed may have left half a line
            self._disk.append(self._path, _text(new))
            self._is_whole = True
            self._lines += len(new)
            return
        stem = segments.new_stem(())
        draft = self._path.with_name(f".{stem}.done.draft")
        write_whole(self._disk, draft, self._path, _text(self._known))
        self._disk.sync_folder(self._path.parent)
        self._lines = len(self._known)
        self._is_whole = True

    def _remember(self, digest: str) -> None:
        self._known.pop(digest, None)
        self._known[digest] = None
        while len(self._known) > self._keys_max:
            del self._known[next(iter(self._known))]


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_CHARS]


def _text(digests: Iterable[str]) -> bytes:
    return "".join(f"{each}\n" for each in digests).encode("ascii")
