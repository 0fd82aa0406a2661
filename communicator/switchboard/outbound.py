"""Outbound: messages from any thread of this process to the outbox, without waiting for a disk.

Knows: what waits in memory, how many of them make a group, when to count the folder anew.
Does not know: what a message says, when it is pushed.
Invariants: `put` never blocks: it takes the message or raises; what it took is written, in the
order it came, or still waits in memory when `close` says so; ``on_writing`` is called before a
message can be seen on disk, ``on_durable`` when it is there, never before. One thread, whatever
is put.

Groups make themselves: while the disk syncs one, the next gathers. When the disk takes nothing
(full, gone), messages wait and are tried again each second, and `put` raises `SpoolFull` as soon
as memory and folder together hold what the bounds allow.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fsmv2.communicator.spool import Bounds, SpoolFull, Usage, append, encode, segments, usage
from fsmv2.communicator.spool.bounds import check_admitted
from fsmv2.communicator.switchboard.counts import Counts
from fsmv2.communicator.transport.codec import Message

# The push empties the folder unseen: how old the count of it may be.
RECOUNT_S = 0.25
RETRY_S = 1.0


class Closed(Exception):
    """Nothing can be sent any more."""


class _Waiting(NamedTuple):
    line: bytes
    on_durable: Callable[[], None] | None
    on_writing: Callable[[bytes], None] | None

    def __repr__(self) -> str:
        return f"<_Waiting {len(self.line)} bytes>"


class Outbound:
    """The way out through ``folder``. `start` before the first `put` is written."""

    def __init__(
        self, folder: str | Path, bounds: Bounds | None = None, counts: Counts | None = None
    ) -> None:
        self.folder = Path(folder)
        self.bounds = bounds or Bounds()
        self.counts = counts or Counts()
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._taken = self._told = 0
        self._on_disk = Usage()
        self._counted_at = float("-inf")
        self._closing = False
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        present = self.present
        return f"<Outbound {present.messages} messages, {len(self._waiting)} of them in memory>"

    @property
    def present(self) -> Usage:
        """What waits in memory and in the folder, as it was counted last."""
        with self._changed:
            return self._present()

    def put(
        self,
        message: Message,
        *,
        replaceable: bool = False,
        on_durable: Callable[[], None] | None = None,
        on_writing: Callable[[bytes], None] | None = None,
    ) -> None:
        """Take ``message``. Raises `SpoolFull`, `TooLarge` or `Closed`; then it is not taken.

        ``replaceable``: it is a status, see `spool.Policy`. ``on_durable`` is called from the
        writing thread, and before the message can be seen in the outbox ``on_writing``, with its
        line, each time that is tried; they must be quick. As long as that raises `OSError`, the
        message waits, and those behind it.
        """
        line = encode(message)
        with self._changed:
            if self._closing:
                raise Closed("cannot send: the outbound channel is closed")
            more = Usage(1, len(line), 1)
            try:
                check_admitted(
                    f"the outbox {self.folder.name!r}",
                    self.bounds,
                    self._present(),
                    more,
                    replaceable,
                )
            except SpoolFull:
                self.counts.add("refused")
                raise
            self._waiting.append(_Waiting(line, on_durable, on_writing))
            self._bytes += len(line)
            self._taken += 1
            self._changed.notify_all()

    def start(self) -> None:
        """Start the thread that writes. Raises `Closed` after `close`."""
        if self._closing:
            raise Closed("cannot start: the outbound channel is closed, want a new one")
        self._count()
        self._thread = threading.Thread(target=self._run, name="switchboard-writer", daemon=True)
        self._thread.start()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was put is on disk, and told; False: the time was over before."""
        with self._changed:
            last = self._taken
            return self._changed.wait_for(lambda: self._told >= last, timeout_s)

    def close(self, timeout_s: float = 5.0) -> int:
        """`flush`, then end; returns how many messages are in memory only, and lost with it."""
        self.flush(timeout_s)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
        with self._changed:
            return len(self._waiting)

    def _present(self) -> Usage:
        return Usage(
            self._on_disk.messages + len(self._waiting),
            self._on_disk.bytes + self._bytes,
            self._on_disk.files,
        )

    def _run(self) -> None:
        while True:
            with self._changed:
                idle_s = RECOUNT_S if self._on_disk.messages else None
                self._changed.wait_for(lambda: self._waiting or self._closing, idle_s)
                if self._closing:
                    return
                group = self._group()
            if time.monotonic() - self._counted_at >= RECOUNT_S:
                self._count()
            if group and not self._write(group):
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, RETRY_S)

    def _group(self) -> list[_Waiting]:
        """The first that wait, as many as make a segment; they stay where they are."""
        group: list[_Waiting] = []
        size = 0
        for one in self._waiting:
            size += len(one.line)
            if group and (len(group) >= segments.MESSAGES_MAX or size > segments.BYTES_MAX):
                break
            group.append(one)
        return group

    def _write(self, group: list[_Waiting]) -> bool:
        group = group[: self._may_be_written(group)]
        if not group:
            return False
        size = sum(len(one.line) for one in group)
        try:
            append(self.folder, [one.line for one in group], bounds=None)
        except OSError as error:
            self.counts.tell("spool_failures", str(error))
            return False
        except Exception as error:  # ours: tried again, for the thread must go on
            self.counts.tell("faults", f"cannot write messages: {type(error).__name__}")
            return False
        with self._changed:
            for _ in group:
                self._waiting.popleft()
            self._bytes -= size
            messages, total, files = self._on_disk
            self._on_disk = Usage(messages + len(group), total + size, files + 1)
        self.counts.add("spooled", len(group))
        self.counts.add("spool_groups")
        for one in group:
            if one.on_durable is not None:
                self._tell(one.on_durable)
        with self._changed:
            self._told += len(group)
            self._changed.notify_all()
        return True

    def _may_be_written(self, group: list[_Waiting]) -> int:
        """How many of the first; the next one waits, for what must be noted before it cannot be."""
        for number, one in enumerate(group):
            try:
                if one.on_writing is not None:
                    one.on_writing(one.line)
            except OSError as error:
                self.counts.tell("spool_failures", f"cannot keep an answer: {error.strerror}")
                return number
            except BaseException as error:  # ours: it must not stop everybody's messages
                self.counts.tell("faults", f"cannot keep an answer: {type(error).__name__}")
        return len(group)

    def _tell(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except BaseException as error:  # who asks to be told must not stop everybody's messages
            self.counts.tell("faults", f"cannot tell of a message: {type(error).__name__}")

    def _count(self) -> None:
        try:
            counted = usage(self.folder)
        except OSError as error:
            self.counts.tell("spool_failures", f"cannot count the outbox: {error.strerror}")
            return
        with self._changed:
            self._on_disk = counted
            self._counted_at = time.monotonic()
