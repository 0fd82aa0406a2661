"""Metric values in prometheus-client's multiprocess files, under a slot's identity.

Knows: the file format, the value class, how to prepare, check and give up files.
Does not know: which metrics there are, who exports them, when a slot is handed on.
Invariants: one live writer per identity (the caller hands a slot on only after its former pid
was reaped); a file is never shorter than what is mapped of it; a metric never raises at its
caller: without a file its value lives in this process and the loss is counted.

The format, native byte order, is the one `MultiProcessCollector` reads: ``i32 used | i32 pad``,
then per series ``i32 key length | key padded to 8 bytes | f64 value | f64 timestamp``.
"""

from __future__ import annotations

import gc
import glob
import json
import mmap
import os
import re
import struct
import sys
import threading
import weakref
from array import array
from collections.abc import Sequence
from typing import Any

import prometheus_client.metrics
import prometheus_client.mmap_dict
import prometheus_client.values

FILE_BYTES_MIN = 1 << 14
FILE_BYTES_MAX = 1 << 26
FOLDER_BYTES_MIN = 1 << 20

_HEADER = struct.Struct("i4x")
_LENGTH = struct.Struct("i")
_PAIR_BYTES = 16
_IDENTITY = re.compile(r"[A-Za-z0-9-]+")
_FILE_NAME = re.compile(r"(counter|histogram|summary|gauge_[a-z]+)_[A-Za-z0-9-]+\.db")
# From 3.13 a map can do without a duplicate of its descriptor. Before, freeing a map closes
# that number, and a forked proc that closed what it inherited may have given it to a channel.
_MAP_OPTIONS: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}


class _SlotFile:
    """One mapped file. Gives each series key the index of its value among the file's doubles."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.values: weakref.WeakSet[SlotValue] = weakref.WeakSet()
        self.pid = os.getpid()
        self._indexes: dict[str, int] = {}
        self._used = 0
        if not os.path.exists(path):
            _create(path)
        try:
            self._open()
        except ValueError:
            os.replace(path, f"{path}.bad")
            _create(path)
            self._open()

    def _open(self) -> None:
        size = os.path.getsize(self.path)
        if size < FILE_BYTES_MIN:
            raise ValueError(f"got {size} bytes, want at least {FILE_BYTES_MIN}")
        self._map(size & ~7)
        self._indexes = {key: at // 8 for key, at in _walk(self._mmap)}
        self._used = max(_HEADER.size, _HEADER.unpack_from(self._mmap)[0])

    def _map(self, size: int) -> None:
        fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            # Sparse at the end of a full disk means SIGBUS at a write; this raises instead.
            os.posix_fallocate(fd, 0, size)
            self._mmap = mmap.mmap(fd, size, **_MAP_OPTIONS)
        finally:
            os.close(fd)
        self.cells = memoryview(self._mmap).cast("d")

    def index_of(self, key: str) -> int:
        """Where ``key``'s value is; adds the key. Raises `OSError` when the file cannot grow."""
        found = self._indexes.get(key)
        if found is not None:
            return found
        encoded = key.encode("utf-8")
        length = len(encoded)
        padded = encoded + b" " * (8 - (length + 4) % 8)
        entry = _LENGTH.pack(length) + padded + bytes(_PAIR_BYTES)
        end = self._used + len(entry)
        if end > len(self._mmap):
            self._grow(end)
        self._mmap[self._used : end] = entry
        # The count comes last: a reader or a kill in between sees the entry whole or not at all.
        self._mmap[0:4] = _LENGTH.pack(end)
        self._used = end
        self._indexes[key] = (end - _PAIR_BYTES) // 8
        return self._indexes[key]

    def _grow(self, end: int) -> None:
        size = len(self._mmap)
        while size < end:
            size *= 2
        if size > FILE_BYTES_MAX:
            raise OSError(f"cannot grow {self.path}: want at most {FILE_BYTES_MAX} bytes")
        former = self._mmap
        self._map(size)
        # Both maps show the same pages, so a value that is not moved yet still counts.
        for value in list(self.values):
            value.cells = self.cells
        _retire(former, self.pid)

    def abandon(self) -> None:
        """Give the file up; its values must have been moved before."""
        _retire(self._mmap, self.pid)


_retired: list[mmap.mmap] = []


def _retire(former: mmap.mmap, pid: int) -> None:
    if pid != os.getpid():
        _retired.append(former)  # never freed: see _MAP_OPTIONS; a process forks from us once


class SlotValue:
    """A metric value in the file of the present identity: prometheus-client's value port.

    240 ns an `inc`: no lock and no look at the identity. One thread at a time may change a
    value; two may lose an increment, never corrupt the file.
    """

    __slots__ = ("__weakref__", "cells", "index", "key", "prefix")
    _multiprocess = True

    def __init__(
        self,
        typ: str,
        metric_name: str,
        name: str,
        labelnames: Sequence[str],
        labelvalues: Sequence[str],
        help_text: str,
        multiprocess_mode: str = "",
        **_: Any,
    ) -> None:
        self.prefix = f"{typ}_{multiprocess_mode}" if typ == "gauge" else typ
        self.key = prometheus_client.mmap_dict.mmap_key(
            metric_name, name, list(labelnames), list(labelvalues), help_text
        )
        self.cells: Any = None
        self.index = 0
        with _lock:
            _place(self)
            _values.add(self)

    def inc(self, amount: float) -> None:
        """Add ``amount``."""
        self.cells[self.index] += amount

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Set the value and the moment it is of, in seconds since the epoch."""
        cells, index = self.cells, self.index
        cells[index] = value
        cells[index + 1] = timestamp or 0.0

    def get(self) -> float:
        """The value."""
        return float(self.cells[self.index])

    def set_exemplar(self, exemplar: Any) -> None:
        """Nothing: the files have no place for exemplars."""

    def get_exemplar(self) -> None:
        """None, see `set_exemplar`."""


_lock = threading.RLock()
_values: weakref.WeakSet[SlotValue] = weakref.WeakSet()
_files: dict[str, _SlotFile] = {}
_identity = ""
_folder = ""
_dropped = 0


def _place(value: SlotValue) -> None:
    """Point ``value`` at its cell in the file, or at one of its own when there is no file."""
    global _dropped
    value.index = 0
    if not _folder:  # announced, not installed yet
        value.cells = array("d", (0.0, 0.0))
        return
    try:
        file = _files.get(value.prefix)
        if file is None:
            path = os.path.join(_folder, f"{value.prefix}_{_identity}.db")
            file = _files[value.prefix] = _SlotFile(path)
        # The index first: adding a key may map the file anew.
        value.index = file.index_of(value.key)
        value.cells = file.cells
        file.values.add(value)
    except (OSError, ValueError):
        # A full disk or a folder that went away costs numbers, never the process.
        _dropped += 1
        value.cells = array("d", (0.0, 0.0))
        value.index = 0


def announce() -> None:
    """Have metrics created from now on wait for `install`; until then their values stay in
    this process. For whoever imports modules that create metrics before it has a folder."""
    if prometheus_client.values.ValueClass is not SlotValue:
        prometheus_client.values.ValueClass = SlotValue


def install(identity: str, folder: str) -> None:
    """Make every metric of this process write to ``identity``'s files in ``folder``.

    Call it before the first metric is created: raises `RuntimeError` naming one that was, and
    `ValueError` for an unusable identity. Calling it again moves all metrics.
    """
    global _folder
    _check_identity(identity)
    early = _metric_made_before()
    if early is not None:
        raise RuntimeError(
            f"cannot install metric files in {folder}: got metric {early!r} created before, "
            "want install() before any metric is created"
        )
    with _lock:
        _folder = folder
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        prometheus_client.values.ValueClass = SlotValue
        _move_to(identity)


def set_identity(identity: str) -> None:
    """Move every metric of this process to ``identity``'s files, going on from the numbers in
    them. A forked proc calls it once, before it touches a metric."""
    _check_identity(identity)
    with _lock:
        _move_to(identity)


def dropped_values() -> int:
    """How many times a metric value found no file and stayed inside this process."""
    return _dropped


def _move_to(identity: str) -> None:
    global _identity
    former = list(_files.values())
    _files.clear()
    _identity = identity
    for value in list(_values):
        _place(value)
    for file in former:
        file.abandon()


def _check_identity(identity: str) -> None:
    if not _IDENTITY.fullmatch(identity):
        # The reader takes what stands between '_' and '.db' for the process.
        raise ValueError(
            f"cannot use metric identity {identity!r}: want letters, digits and '-' only"
        )


def _metric_made_before() -> str | None:
    base = prometheus_client.metrics.MetricWrapperBase
    # A search through all objects, once per process: metrics in registries of their own are
    # found in no list.
    for found in gc.get_objects():
        if not issubclass(type(found), base):
            continue
        fields = vars(found)
        held = fields.get("_sum", fields.get("_value"))
        if held is not None and hasattr(held, "inc") and not isinstance(held, SlotValue):
            return str(fields.get("_name", type(found).__name__))
    return None


# --- files ----------------------------------------------------------------------------------


def _create(path: str) -> None:
    # Under another name until it is whole: an empty .db file breaks every stock reader.
    made = f"{path}.new"
    fd = os.open(made, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, FILE_BYTES_MIN)
        os.pwrite(fd, _HEADER.pack(_HEADER.size), 0)
        os.rename(made, path)
    except OSError:
        os.unlink(made)
        raise
    finally:
        os.close(fd)


def _walk(data: bytes | mmap.mmap) -> list[tuple[str, int]]:
    """Each key in ``data`` and the place of its value; raises `ValueError` for a bad file."""
    if len(data) < _HEADER.size:
        raise ValueError(f"got {len(data)} bytes, want at least {_HEADER.size}")
    used = _HEADER.unpack_from(data)[0]
    if used != 0 and not _HEADER.size <= used <= len(data):
        raise ValueError(f"got {used} bytes used of {len(data)}")
    found = []
    at = _HEADER.size
    while at < used:
        if at + _LENGTH.size > used:
            raise ValueError(f"got an entry cut at byte {at}")
        length = _LENGTH.unpack_from(data, at)[0]
        value_at = at + _LENGTH.size + length + (8 - (length + 4) % 8)
        if length <= 0 or value_at + _PAIR_BYTES > used:
            raise ValueError(f"got an entry of {length} bytes at byte {at}")
        key = data[at + _LENGTH.size : at + _LENGTH.size + length].decode("utf-8")
        found.append((key, value_at))
        at = value_at + _PAIR_BYTES
    return found


def _check_key(key: str) -> None:
    parts = json.loads(key)
    fine = isinstance(parts, list) and len(parts) == 4
    if not fine or not isinstance(parts[2], dict) or not isinstance(parts[0], str):
        raise ValueError(f"got key {key[:80]!r}")


def check_file(path: str) -> bool:
    """True when ``path`` is a metric file that a reader can walk.

    A bad one is renamed to ``*.bad`` and False comes back; so does a file that is not there.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError:
        return False
    try:
        for key, _ in _walk(data):
            _check_key(key)
    except (ValueError, RecursionError):
        try:
            os.replace(path, f"{path}.bad")
        except OSError:
            return False
        return False
    return True


def readable_files(folder: str) -> list[str]:
    """The metric files in ``folder`` a collector may be given: rightly named, not empty."""
    found = []
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "*.db"))):
        try:
            if _FILE_NAME.fullmatch(os.path.basename(path)) and os.path.getsize(path) >= 8:
                found.append(path)
        except OSError:
            continue  # a slot's live gauges may go at any moment
    return found


def release(identity: str, folder: str) -> None:
    """Remove ``identity``'s live gauges: its process is dead and reaped. Counters stay."""
    _check_identity(identity)
    pattern = os.path.join(glob.escape(folder), f"gauge_live*_{identity}.db")
    for path in glob.glob(pattern):
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue


def prepare_folder(folder: str) -> None:
    """Create ``folder``, remove the ``*.db`` files of former runs, and try it out.

    Raises `OSError`: "cannot use metrics folder …: got …, want …".
    """
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for path in glob.glob(os.path.join(glob.escape(folder), "*.db")):
            os.unlink(path)
        probe = os.path.join(folder, f"probe-{os.getpid()}")
        fd = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, FOLDER_BYTES_MIN)
        finally:
            os.close(fd)
            os.unlink(probe)
    except OSError as error:
        refused = OSError(
            f"cannot use metrics folder {folder}: got {error.strerror or error}, want a folder "
            f"that can be written and has {FOLDER_BYTES_MIN >> 20} MiB free"
        )
        refused.errno = error.errno
        raise refused from None
