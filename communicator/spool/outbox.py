"""The outbox: messages on their way to the relay.

Knows: how messages come in (in groups, one segment and one sync for each), which are next, what
has been delivered so far.
Does not know: relays, when anything is sent.
Invariants: a message is on disk when `append` or `post` returns, or it is not there at all; it
goes only through `acknowledge`, or through `set_aside`, which keeps it for people; messages of
one writer keep their order. Any number of writers, one reader at a time.

What was delivered of a segment that is not used up yet stands in ``.acked``: its name and a
number, the last two of them. The file is made before the first message and only ever overwritten,
so that a full disk cannot keep a delivery from being noted, and have it made again and again. Nor
may anything else: what could not be noted, or removed, `check_forgettable` keeps from being sent. A
kill between a delivery and its note repeats what was in flight, and nothing more. Names that are
not ours may come again: such a note also says of which file it is.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from fsmv2.communicator.spool import segments
from fsmv2.communicator.spool.bounds import (
    FILE_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    Bounds,
    TooLarge,
    Usage,
    check_admitted,
)
from fsmv2.communicator.spool.disk import DISK, Disk, write_whole
from fsmv2.communicator.transport import codec
from fsmv2.communicator.transport.codec import CodecError, Message

STATUS = "status"
DEFAULT_BOUNDS = Bounds()
_ACKED = ".acked"
# Longer than any file name, two numbers and an identity.
_NOTE_BYTES = 512
_BLANK = (b" " * (_NOTE_BYTES - 1) + b"\n") * 2


class Outgoing(msgspec.Struct, frozen=True):
    """One message of the outbox: the segment that holds it and its place in there. ``begun``:
    messages before it in the segment are delivered, so the segment goes first."""

    path: Path
    index: int
    count: int
    message: Message
    size: int
    disk: Disk = DISK
    identity: str = ""
    begun: bool = False

    @property
    def mark(self) -> str:
        """What tells this message from any other, also from one in a file of the same name."""
        name = self.path.name.encode("ascii", "backslashreplace").decode("ascii")
        return f"{name}#{self.index} {self.identity}"

    def is_within(self, last: tuple[str, int]) -> bool:
        """Whether it comes no later than the message with this file name and place in it."""
        name = self.path.name
        if name != last[0]:
            return self.begun or name < last[0]
        return self.index <= last[1]

    def __repr__(self) -> str:
        return f"<Outgoing {self.path.name} [{self.index}], {self.size} bytes>"


def encode(message: Message) -> bytes:
    """A message as a segment holds it; raises `TooLarge`."""
    line = msgspec.json.encode(codec.encode_message(message))
    if len(line) > MESSAGE_BYTES_MAX:
        raise TooLarge(
            f"cannot spool a message: it has {len(line)} bytes, want at most {MESSAGE_BYTES_MAX}"
        )
    return line


def post(
    outbox: str | Path,
    *,
    email: str,
    message_type: str,
    payload: Any,
    trace_id: str = "",
    bounds: Bounds = DEFAULT_BOUNDS,
) -> Path:
    """Put one message into ``outbox`` and return its file; it is on disk when this returns.

    A disk sync each: for many messages `append`, or `switchboard.outbound.Outbound`. Raises
    `SpoolFull`, `TooLarge`, `OSError`, and `CodecError` for a payload that no message can carry;
    then it is not there.
    """
    content = codec.encode_content(message_type, payload)
    line = encode(Message(email=email, content=content, trace_id=trace_id))
    return append(outbox, [line], bounds=bounds, replaceable=message_type == STATUS)


def append(
    outbox: str | Path,
    lines: Sequence[bytes],
    *,
    bounds: Bounds | None = DEFAULT_BOUNDS,
    replaceable: bool = False,
    disk: Disk = DISK,
) -> Path:
    """Put a group of encoded messages into ``outbox``, all of them or none, with one sync.

    Raises `SpoolFull` and `OSError`, and `ValueError` for a group that is empty or has more than
    `segments.MESSAGES_MAX` messages or, as `TooLarge`, than `FILE_BYTES_MAX` bytes.
    ``replaceable``: they are statuses, see `bounds.Policy`. ``bounds`` None: whoever
    calls has counted what is there.
    """
    if not 1 <= len(lines) <= segments.MESSAGES_MAX:
        raise ValueError(
            f"cannot spool a group: got {len(lines)} messages, want 1 to {segments.MESSAGES_MAX}"
        )
    size = sum(map(len, lines))
    if size > FILE_BYTES_MAX - len(lines):
        raise TooLarge(f"cannot spool a group: it has {size} bytes, want under {FILE_BYTES_MAX}")
    folder = Path(outbox)
    names = disk.names(folder)
    if bounds is not None:
        present = segments.usage_of(folder, names, disk)
        more = Usage(len(lines), size, 1)
        check_admitted(f"the outbox {folder.name!r}", bounds, present, more, replaceable)
    try:
        stem = segments.new_stem(names)
        if _ACKED not in names:
            _first_note(folder, stem, disk)
        return segments.publish(folder, stem, lines, disk)
    except OSError as error:
        text = f"cannot spool {len(lines)} messages: {error.strerror}, none of them was kept"
        raise OSError(error.errno, text, str(folder)) from error


def outgoing(
    outbox: str | Path,
    messages_max: int,
    bytes_max: int,
    disk: Disk = DISK,
    *,
    behind: tuple[str, int] | None = None,
) -> tuple[list[Outgoing], int, int]:
    """The next messages of ``outbox``, how many wait in all, and how many were set aside.

    At least one message is taken however large it is. ``behind``: those up to the message with
    this file name and place in it are passed over, and the next ones taken. What is no message is
    kept for people as ``NAME.refused``, in its turn, and never tried again. Raises `OSError`,
    `AsideFull` and, with all as it was, `MemoryError`.
    """
    folder = Path(outbox)
    names = segments.segment_names(folder, disk)
    _, acked, acked_name, _ = _last_note(folder, disk)
    if acked_name in names:  # begun: it goes first, also when a slow writer came in before it
        names.remove(acked_name)
        names.insert(0, acked_name)
    waiting = sum(segments.count_of(name) or 1 for name in names)
    waiting -= acked if acked_name in names else 0
    taken: list[Outgoing] = []
    size = refused = 0
    for name in names:
        begin = acked if name == acked_name else 0
        if behind is not None and name != behind[0] and (begin or name < behind[0]):
            continue
        for one in _read(folder / name, begin, disk):
            if taken and (len(taken) >= messages_max or size + one.size > bytes_max):
                return taken, waiting, refused
            if behind is not None and name == behind[0] and one.index <= behind[1]:
                continue
            if isinstance(one, _Unreadable):
                if behind is not None:
                    continue
                if taken:  # first what comes before it
                    return taken, waiting, refused
                _set_aside(one.at, one.line)
                refused += 1
                waiting -= 1
                continue
            taken.append(one)
            size += one.size
        if len(taken) >= messages_max:
            break
    return taken, waiting, refused


def check_forgettable(taken: Sequence[Outgoing]) -> None:
    """Raise `OSError` where `acknowledge` would, for a reason that stays: before they are sent, for
    they would be sent again with each try."""
    folder, disk = taken[0].path.parent, taken[0].disk
    for path in dict.fromkeys(each.path for each in taken):
        if not disk.may_remove(path):
            text = (
                f"{path.name!r} could not be removed once it is delivered: {folder.name!r} is "
                "sticky and both are another user's, want a folder or a file of this one's"
            )
            raise OSError(errno.EPERM, text)
    try:
        disk.make_room(folder / _ACKED, 2 * _NOTE_BYTES)
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if is_full and taken[-1].index == taken[-1].count - 1:
            return  # needs no note, and makes room
        raise _not_noted(folder, error) from error


def _not_noted(folder: Path, error: OSError) -> OSError:
    text = (
        f"no delivery can be noted in {f'{folder.name}/{_ACKED}'!r}: {error.strerror}, want a file "
        f"that may be read and written, of {2 * _NOTE_BYTES} bytes"
    )
    return OSError(error.errno, text)


def acknowledge(taken: Sequence[Outgoing]) -> None:
    """The relay has them: forget them. ``taken`` are the first that wait, in their order.

    Durable when it returns, with one sync, or two where a segment is not used up.
    Raises `OSError`; then some of them may still be there.
    """
    if not taken:
        return
    folder, disk = taken[0].path.parent, taken[0].disk
    used_up = [each for each in taken if each.index == each.count - 1]
    for each in used_up:
        if _is_still(each):
            disk.unlink(each.path)
    if used_up:
        # Before the note: it would put its segment ahead of one that comes back.
        disk.sync_folder(folder)
    last = taken[-1]
    if last.index < last.count - 1:
        _note(folder, last.path.name, last.identity, last.index + 1, disk)


def _is_still(one: Outgoing) -> bool:
    """Whether its file is the one it was read from: one that has taken its place is not sent."""
    try:
        return one.disk.identity(one.path) == one.identity
    except FileNotFoundError:
        return False


def set_aside(one: Outgoing) -> Path:
    """Take the first message that waits out of the way, keeping it for people.

    Returns the file that holds it now, ``NAME.refused``. Raises `OSError`, and `AsideFull`.
    """
    return _set_aside(one, msgspec.json.encode(codec.encode_message(one.message)))


class _Unreadable(msgspec.Struct, frozen=True):
    at: Outgoing
    line: bytes

    def __repr__(self) -> str:
        return f"<_Unreadable {self.index} of {self.at.count}, {self.size} bytes>"

    @property
    def index(self) -> int:
        return self.at.index

    @property
    def size(self) -> int:
        return self.at.size


def _read(path: Path, begin: int, disk: Disk) -> Iterator[Outgoing | _Unreadable]:
    try:
        identity = disk.identity(path)  # before it is read: what comes in between is no more known
        data = segments.read(path, disk)
    except FileNotFoundError:
        return
    except PermissionError:
        return  # somebody else's: it must not hold up everybody; see `segments.strangers`
    except TooLarge:
        size = disk.size(path)
        yield _Unreadable(Outgoing(path, 0, 1, Message(), size, disk, identity), b"")  # all of it
        return
    lines = segments.lines_of(data, path.name)
    if begin >= len(lines):  # used up, or empty: a kill came before its removal
        disk.unlink(path)
    for index, line in enumerate(lines[begin:], begin):
        try:
            if len(line) > MESSAGE_BYTES_MAX:
                raise CodecError("too large")
            message = codec.decode_message(line)
            yield Outgoing(path, index, len(lines), message, len(line), disk, identity, begin > 0)
        except CodecError:
            yield _Unreadable(
                Outgoing(path, index, len(lines), Message(), len(line), disk, identity), line
            )


def _set_aside(one: Outgoing, line: bytes) -> Path:
    path, disk = one.path, one.disk
    segments.check_room_aside(path.parent, 1, max(one.size, len(line)), disk)
    if one.count == 1 and _is_still(one):
        return segments.keep_aside(path, _unused(path, path.name, None, disk), disk)
    if not line:
        return path  # it was not read, and another one has its place
    # The same name after a kill: it is kept once.
    kept = _unused(path, f"{path.name}-{one.index}", line, disk)
    write_whole(disk, path.with_name(f".{kept.name}.draft"), kept, line)
    disk.sync_folder(path.parent)
    acknowledge([one])
    return kept


def _unused(path: Path, stem: str, line: bytes | None, disk: Disk) -> Path:
    """A name to keep it under that no other has: a file of the same name may be kept there."""
    for number in itertools.count():
        kept = path.with_name(f"{stem}{f'-again{number}' if number else ''}{segments.REFUSED}")
        try:
            if line is None:
                disk.identity(kept)
            elif disk.read(kept, len(line) + 1) == line:
                break
        except FileNotFoundError:
            break
        except OSError:
            continue  # whatever it is, it is there
    return kept


def _first_note(folder: Path, stem: str, disk: Disk) -> None:
    """Notes that say nothing, unless there are some by now."""
    draft = folder / f".{stem}.acked.draft"
    with disk.create(draft) as file:
        file.write(_BLANK)
        disk.sync(file)
    disk.place(draft, folder / _ACKED)


def _note(folder: Path, name: str, identity: str, number: int, disk: Disk) -> None:
    """Write over the older of the two notes: while it is half written the other one holds."""
    turn = _last_note(folder, disk).turn + 1
    whose = "" if segments.stamp_of(name) else f"@{identity}"
    text = f"{turn} {number}{whose} ".encode() + os.fsencode(name)
    note = (f"{zlib.crc32(text):08x} ".encode() + text).ljust(_NOTE_BYTES - 1) + b"\n"
    offset = turn % 2 * _NOTE_BYTES
    try:
        disk.overwrite(folder / _ACKED, offset, note)
    except FileNotFoundError:
        both = _BLANK[:offset] + note + _BLANK[offset + _NOTE_BYTES :]
        write_whole(disk, folder / f"{_ACKED}.draft", folder / _ACKED, both)
        disk.sync_folder(folder)


class _Note(NamedTuple):
    turn: int = 0
    number: int = 0
    name: str = ""
    identity: str = ""


def _last_note(folder: Path, disk: Disk) -> _Note:
    """The segment that is read in part, and how many of its messages are delivered."""
    try:
        data = disk.read(folder / _ACKED, 2 * _NOTE_BYTES)
    except FileNotFoundError:
        return _Note()
    except OSError as error:
        raise _not_noted(folder, error) from error
    note = max(_read_note(data[:_NOTE_BYTES]), _read_note(data[_NOTE_BYTES:]))
    if note.identity:
        with contextlib.suppress(FileNotFoundError):
            if disk.identity(folder / note.name) != note.identity:
                return _Note(note.turn)  # another file by now
    return note


def _read_note(data: bytes) -> _Note:
    sum_, _, text = data.rstrip().partition(b" ")
    try:
        if int(sum_, 16) != zlib.crc32(text):
            return _Note()
        turn, number, name = text.split(b" ", 2)
        number, _, identity = number.partition(b"@")
        return _Note(int(turn), int(number), os.fsdecode(name), identity.decode())
    except ValueError:
        return _Note()
