"""What has been done already, so that a second delivery of it does nothing.

Knows: the last keys, in memory and in a file of their digests.
Does not know: what a key stands for.
Invariants: a key that `add` has taken is known after any kill, one that `jot` has taken after any
but a power cut; bounded, the oldest are forgotten first; a torn end of the file costs the keys in
it and nothing else. Any thread may call; one process at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from fsmv2.communicator.spool import segments
from fsmv2.communicator.spool.disk import DISK, Disk, write_whole

KEYS_MAX = 10_000
DONE = ".done"
_DIGEST_CHARS = 32


class Journal:
    """A set of texts in the file ``name`` of ``folder``, the last ``keys_max``. Raises `OSError`.

    ``reads_all``: it begins with all that is in the file, which are twice as many at most.
    ``before_trim`` is called before the oldest go from the file; what it raises keeps them.
    """

    def __init__(
        self,
        folder: Path,
        keys_max: int = KEYS_MAX,
        disk: Disk = DISK,
        *,
        name: str = DONE,
        reads_all: bool = False,
        before_trim: Callable[[], None] | None = None,
    ) -> None:
        self._path = folder / name
        self._keys_max = keys_max
        self._before_trim = before_trim
        self._disk = disk
        self._lock = threading.Lock()
        self._known: dict[str, None] = {}
        self._jotted: set[str] = set()
        try:
            data = disk.read(self._path)
        except FileNotFoundError:
            data = b""
        for line in data.decode("ascii", "replace").splitlines():
            if len(line) == _DIGEST_CHARS:
                self._known.pop(line, None)
                self._known[line] = None
        if not reads_all:
            self._trim()
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
        with self._lock:
            asked = [_digest(key) for key in keys]
            if not asked:
                return
            for each in asked:
                self._remember(each)
            new = [each for each in asked if each not in self._jotted]
            if self._is_whole and self._lines + len(new) <= 2 * self._keys_max:
                self._is_whole = False  # until it has worked: it may have left half a line
                self._disk.append(self._path, _text(new))  # and what was jotted is synced with it
                self._is_whole = True
                self._lines += len(new)
            else:
                self._write_anew()
            self._jotted.clear()

    def jot(self, key: str) -> None:
        """Know ``key`` from now on, without a sync: a power cut may undo it, a kill cannot. What
        goes wrong goes wrong quietly, `add` makes it good."""
        digest = _digest(key)
        with self._lock, contextlib.suppress(OSError):
            self._remember(digest)
            if self._is_whole and self._lines < 2 * self._keys_max:
                self._is_whole = False
                self._disk.jot(self._path, _text([digest]))
                self._is_whole = True
                self._lines += 1
                self._jotted.add(digest)

    def forget(self, keys: Iterable[str]) -> None:
        """Leave these out when the file is written anew."""
        with self._lock:
            for key in keys:
                self._known.pop(_digest(key), None)

    def forget_known(self, other: Journal) -> None:
        """`forget` all that ``other`` knows."""
        with self._lock:
            for digest in [each for each in self._known if each in other._known]:
                del self._known[digest]

    def tidy(self) -> None:
        """Write the file anew if there is none, or it holds what is forgotten."""
        with self._lock:
            if not self._is_whole or self._lines != len(self._known):
                self._write_anew()

    def _write_anew(self) -> None:
        if self._before_trim is not None:
            self._before_trim()
        stem = segments.new_stem(())
        draft = self._path.with_name(f".{stem}{self._path.name}.draft")
        self._is_whole = False
        write_whole(self._disk, draft, self._path, _text(self._known) or b"\n")
        self._disk.sync_folder(self._path.parent)
        self._lines = len(self._known)
        self._is_whole = True

    def _remember(self, digest: str) -> None:
        self._known.pop(digest, None)
        self._known[digest] = None
        self._trim()

    def _trim(self) -> None:
        while len(self._known) > self._keys_max:
            del self._known[next(iter(self._known))]


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_CHARS]


def _text(digests: Iterable[str]) -> bytes:
    return "".join(f"{each}\n" for each in digests).encode("ascii")
