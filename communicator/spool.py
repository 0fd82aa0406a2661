"""The two folders a communicator works between: messages as files.

Knows: names and order of files, how a file becomes durable before it becomes visible.
Does not know: relays, transports, when anything is sent.
Invariants: a file appears whole or not at all (written aside, synced, renamed); an outbox file
goes only through `Outgoing.delete` or by being set aside; a pull reply is on disk before
anything reads it. One communicator per folder; producers and consumers may be any process.

Outbox: one ``NAME.json`` per message, sent in the order of the names. Inbox: one ``NAME.jsonl``
per pull, one message per line; the consumer deletes what it has dealt with. This is the thin
spool: it has no size limit of its own and no index.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from fsmv2.communicator.transport import codec
from fsmv2.communicator.transport.codec import CodecError, Message

MESSAGE_FILE_BYTES_MAX = 64 * 1024 * 1024


class Outgoing(msgspec.Struct, frozen=True):
    """One message of the outbox and the file that holds it."""

    path: Path
    message: Message
    size: int

    def __repr__(self) -> str:
        return f"<Outgoing {self.path.name}, {self.size} bytes>"

    def delete(self) -> None:
        """The relay has it: forget it. A file that is gone already is fine."""
        self.path.unlink(missing_ok=True)


def post(
    outbox: str | Path, *, email: str, message_type: str, payload: Any, trace_id: str = ""
) -> Path:
    """Put one message into ``outbox`` and return its file; it is on disk when this returns.

    Raises `OSError` when it cannot be written.
    """
    content = codec.encode_content(message_type, payload)
    message = Message(email=email, content=content, trace_id=trace_id)
    body = msgspec.json.encode(codec.encode_message(message))
    with writing(Path(outbox), _stamp()) as draft:
        draft.file.write(body)
        return draft.publish(".json")


def outgoing(outbox: Path, messages_max: int, bytes_max: int) -> tuple[list[Outgoing], int, int]:
    """The next messages of ``outbox``, how many files wait in all, and how many were set aside.

    At least one message is taken however large it is. A file that is no message is renamed to
    ``NAME.refused``: kept for people, never tried again. Raises `OSError`.
    """
    names = _names(outbox, ".json")
    taken: list[Outgoing] = []
    size = refused = 0
    for name in names:
        if len(taken) >= messages_max or (taken and size >= bytes_max):
            break
        path = outbox / name
        try:
            data = _read_bounded(path)
            message = codec.decode_message(data)
        except FileNotFoundError:
            continue
        except CodecError:
            set_aside(path)
            refused += 1
            continue
        taken.append(Outgoing(path, message, len(data)))
        size += len(data)
    return taken, len(names) - refused, refused


def set_aside(path: Path) -> Path:
    """Rename an outbox file out of the way, keeping it for people."""
    target = path.with_name(path.name + ".refused")
    path.replace(target)
    return target


def inbox_files(inbox: str | Path) -> list[Path]:
    """The inbox's files, oldest first; raises `OSError`."""
    return [Path(inbox) / name for name in _names(Path(inbox), ".jsonl")]


def read_messages(path: Path) -> list[Message]:
    """The messages of one inbox file, in the order the relay sent them.

    Raises `OSError`, and `CodecError` for a file this module has not written.
    """
    return [codec.decode_message(line) for line in path.read_bytes().splitlines()]


class Draft:
    """A file that nobody sees yet. See `writing`."""

    def __init__(self, folder: Path, stem: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._stem = stem
        self._draft = folder / f".{stem}.{os.getpid()}.draft"
        self.file: IO[bytes] = self._draft.open("wb")
        self.published: Path | None = None

    def publish(self, suffix: str) -> Path:
        """Sync the file, give it its name and sync that too; return its path."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        target = self._folder / f"{self._stem}{suffix}"
        self._draft.replace(target)
        sync_folder(self._folder)
        self.published = target
        return target

    def discard(self) -> None:
        """Close and remove what was not published."""
        self.file.close()
        if self.published is None:
            self._draft.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(folder: Path, stem: str = "") -> Iterator[Draft]:
    """A `Draft` in ``folder``, made if missing; removed unless it was published."""
    draft = Draft(folder, stem or _stamp())
    try:
        yield draft
    finally:
        draft.discard()


def unpack(reply: Path) -> tuple[int, int]:
    """Turn a saved pull reply into an inbox file; return its messages and its unreadable ones.

    May be repeated after a kill at any instruction: the same reply makes the same file. A reply
    with anything unreadable in it is kept as ``NAME.unreadable``.
    """
    stem = reply.name.removesuffix(".reply")
    try:
        batch = codec.decode_batch(reply.read_bytes())
    except CodecError:
        reply.replace(reply.with_name(f"{stem}.unreadable"))
        raise
    if batch.messages:
        lines = [msgspec.json.encode(codec.encode_message(message)) for message in batch.messages]
        with writing(reply.parent, stem) as draft:
            draft.file.write(b"\n".join(lines) + b"\n")
            draft.publish(".jsonl")
    if batch.unreadable:
        reply.replace(reply.with_name(f"{stem}.unreadable"))
    else:
        reply.unlink(missing_ok=True)
    return len(batch.messages), batch.unreadable


def saved_replies(inbox: Path) -> list[Path]:
    """Replies that a killed attempt has saved but not unpacked, oldest first."""
    return [inbox / name for name in _names(inbox, ".reply")]


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable; raises `OSError`."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _names(folder: Path, suffix: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            found = [entry.name for entry in entries if entry.name.endswith(suffix)]
    except FileNotFoundError:
        return []
    return sorted(name for name in found if not name.startswith("."))


def _read_bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MESSAGE_FILE_BYTES_MAX + 1)
    if len(data) > MESSAGE_FILE_BYTES_MAX:
        raise CodecError(
            f"cannot send {path.name}: it has more than {MESSAGE_FILE_BYTES_MAX} bytes"
        )
    return data


def _stamp() -> str:
    """A file name that sorts by time and is one process's own."""
    return f"{time.time_ns():020d}-{os.getpid()}"
