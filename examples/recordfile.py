"""Files of numbered records that survive a kill at any instruction.

A file is a sequence of JSON lines with ``seq`` growing by one. Its last whole line says how far
it has come; there is no second place that could disagree. Whoever appends first cuts off what a
killed writer left behind its last newline, then looks at the last number, then adds only what
follows: so an attempt that is run again continues exactly where the killed one stopped.

Knows: the lock, the tail, how to append, how to drop what was passed on.
Does not know: devices, workers, what a record means.
Invariants: numbers in a file have no gap and no double; a reader without the lock sees whole
lines only. Survives the death of any process; after a power cut the last batch may be missing
on disk, and is then fetched again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

TAIL_BYTES = 64 * 1024


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One measured value. ``topic`` is where it goes, empty as it comes from the device."""

    seq: int
    value: float
    topic: str = ""


_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder``'s lock; waits for whoever holds it. Makes the folder if need be.

    The kernel gives the lock back when its holder dies, so a killed attempt blocks nobody.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def last_seq(path: Path) -> int:
    """The number of the last whole record, 0 for a file that is empty or not there.

    Raises ValueError when that line is no record.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            tail = file.read(TAIL_BYTES)
    except FileNotFoundError:
        return 0
    whole, newline, _ = tail.rpartition(b"\n")
    return decode(whole.rpartition(b"\n")[2], path).seq if newline else 0


def decode(line: bytes, source: object) -> Record:
    """``line`` as a record; raises ValueError that names ``source``."""
    try:
        return _decoder.decode(line)
    except msgspec.DecodeError as error:
        raise ValueError(f"cannot read record from {source}: got {line[:80]!r}, {error}") from None


def append(path: Path, records: Sequence[Record]) -> int:
    """Add those of ``records`` that follow the file's last one; returns how many. Wants the lock.

    Raises ValueError when a number is missing between the file and ``records``.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.ftruncate(descriptor, _whole_bytes(descriptor))
        last = last_seq(path)
        lines: list[bytes] = []
        for record in records:
            if record.seq <= last:
                continue
            if record.seq != last + 1:
                raise ValueError(
                    f"cannot append to {path.name}: got record {record.seq}, want {last + 1}"
                )
            last = record.seq
            lines.append(msgspec.json.encode(record) + b"\n")
        rest = memoryview(b"".join(lines))
        os.lseek(descriptor, 0, os.SEEK_END)
        while rest:  # a write may be short: the disk is full, or a signal came
            rest = rest[os.write(descriptor, rest) :]
        if lines:
            os.fsync(descriptor)
        return len(lines)
    finally:
        os.close(descriptor)


def read_after(path: Path, seq: int, most: int) -> list[Record]:
    """At most ``most`` whole records with a number above ``seq``, in order."""
    found: list[Record] = []
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n") or len(found) == most:
                break
            record = decode(line, path)
            if record.seq > seq:
                found.append(record)
    return found


def drop_before(path: Path, seq: int) -> None:
    """Take records below ``seq`` out of the file, in one step. Wants the lock.

    The record ``seq`` itself stays: it tells whoever appends where to go on.
    """
    kept = read_after(path, seq - 1, most=1 << 62)
    beside = path.with_suffix(".new")
    with beside.open("wb") as file:
        file.writelines(msgspec.json.encode(record) + b"\n" for record in kept)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def size_bytes(path: Path) -> int:
    """The file's size, 0 when it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _whole_bytes(descriptor: int) -> int:
    """How much of the file is whole lines."""
    end = os.lseek(descriptor, 0, os.SEEK_END)
    while end:
        start = max(0, end - TAIL_BYTES)
        tail = os.pread(descriptor, end - start, start)
        newline = tail.rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
