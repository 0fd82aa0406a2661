"""Inbound: what was pulled, one message at a time, until each is dealt with.

Knows: which files are begun, how many messages of each are still open.
Does not know: what a message says, who deals with it.
Invariants: messages come in the order of the inbox; a file goes when all in it are done, so that
what was not done at a kill comes again; at most ``window`` messages are open at a time, the rest
stays on disk. No thread of its own: `receive` and `sweep` are for one thread, `Incoming.done` for
any, and never touches the disk.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fsmv2.communicator.spool import TooLarge, finish, inbox_files, segments, usage
from fsmv2.communicator.switchboard.counts import Counts
from fsmv2.communicator.transport import codec
from fsmv2.communicator.transport.codec import CodecError, Message

WINDOW = 1_000
# So often a message is begun to be read, or routed; then it is given up.
TRIES_MAX = 5
# The folder is looked at so often: in a conversation, and when nothing has come for a while.
LIVELY_S = 2.0
LIVELY_POLL_S = 0.005
IDLE_POLL_S = 0.05


class Incoming:
    """One message. Call `done` when it has been dealt with; until then it may come again.
    ``name`` is its place in the inbox, the same in every life."""

    __slots__ = ("_done", "_keep", "message", "name")

    def __init__(
        self, message: Message, done: Callable[[], None], name: str, keep: Callable[[], None]
    ) -> None:
        self.message = message
        self.name = name
        self._done: Callable[[], None] | None = done
        self._keep = keep

    def __repr__(self) -> str:
        return f"<Incoming {self.message!r}>"

    def done(self) -> None:
        """It need not come again. A second call does nothing."""
        done, self._done = self._done, None
        if done is not None:
            done()

    def set_aside(self) -> None:
        """`done`, but its file is kept for people."""
        self._keep()
        self.done()


class _File:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.open = 1  # the reader's own, until it has read to the end
        self.has_unreadable = False
        self.lines: deque[bytes] = deque()
        self.begun = 0  # lines that were read
        self.tries = 0  # of the next one

    def keep(self) -> None:
        self.has_unreadable = True

    def pass_on(self) -> None:
        self.lines.popleft()
        self.begun += 1
        self.tries = 0


class Inbound:
    """The way in through ``folder``."""

    def __init__(
        self,
        folder: str | Path,
        counts: Counts | None = None,
        *,
        window: int = WINDOW,
    ) -> None:
        self.folder = Path(folder)
        self.counts = counts or Counts()
        self._window = window
        self._lively_until = 0.0
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._open = 0
        self._begun: set[Path] = set()
        self._finished: list[_File] = []
        self._ahead: deque[Path] = deque()
        self._file: _File | None = None

    def __repr__(self) -> str:
        return f"<Inbound {self._open} open>"

    @property
    def open(self) -> int:
        """How many messages were received and are not done."""
        return self._open

    def stats(self) -> tuple[int, int]:
        """How many messages may be open at a time, and how many wait, the open ones included."""
        return self._window, usage(self.folder).messages

    def wake(self) -> None:
        """Have a `receive` that waits look now."""
        self._woken.set()

    def receive(self, timeout_s: float = 0.0) -> Incoming | None:
        """The next message; None when none has come within ``timeout_s`` seconds, when the window
        is full, or after `wake`. Raises `OSError`, and whatever keeps the next one from being
        read, as too little memory: it stays the next one, and is kept aside after `TRIES_MAX`."""
        ends_at = time.monotonic() + timeout_s
        while True:
            if self._open < self._window:
                found = self._next_message() or self._next_file()
                if found is not None:
                    self.counts.add("received")
                    self._lively_until = time.monotonic() + LIVELY_S
                    return found
            now = time.monotonic()
            poll_s = LIVELY_POLL_S if now < self._lively_until else IDLE_POLL_S
            if now >= ends_at or self._woken.wait(min(ends_at - now, poll_s)):
                self._woken.clear()
                return None

    def sweep(self) -> int:
        """Remove files in which all is done, with one sync; how many. Raises `OSError`."""
        with self._lock:
            finished = list(self._finished)
        for file in finished:
            if file.has_unreadable:
                kept = file.path.with_name(f"{file.path.name}{segments.UNREADABLE}")
                with contextlib.suppress(FileNotFoundError):  # a sweep before has got that far
                    segments.keep_aside(file.path, kept)
                file.has_unreadable = False
        finish([file.path for file in finished])
        with self._lock:
            del self._finished[: len(finished)]
        self._begun -= {file.path for file in finished}
        return len(finished)

    def _next_file(self) -> Incoming | None:
        if not self._ahead:
            self._ahead.extend(path for path in inbox_files(self.folder) if path not in self._begun)
        while self._ahead:
            path = self._ahead.popleft()
            if path in self._begun:
                continue
            self._begun.add(path)
            self._read(path)
            found = self._next_message()
            if found is not None:
                return found
        return None

    def _read(self, path: Path) -> None:
        lines: list[bytes] = []
        why = ""
        try:
            lines = segments.lines_of(segments.read(path, trusted=True), path.name)
        except FileNotFoundError:
            self._begun.discard(path)
            return
        except TooLarge as error:
            why = str(error)
        except (OSError, MemoryError):
            # It is still the next one: what is newer must not overtake it.
            self._begun.discard(path)
            self._ahead.clear()
            raise
        self._file = _File(path)
        self._file.lines.extend(lines)
        if why:
            self._file.keep()
            self.counts.tell("unreadable", why)

    def _next_message(self) -> Incoming | None:
        file = self._file
        if file is None:
            return None
        while file.lines:
            message = self._decode(file)
            name = f"{file.path.name}#{file.begun}"
            file.pass_on()
            if message is not None:
                with self._lock:
                    file.open += 1
                    self._open += 1
                return Incoming(message, partial(self._done, file), name, file.keep)
        self._file = None
        self._release(file)
        return None

    def _decode(self, file: _File) -> Message | None:
        """The next message of it; None: it is none."""
        try:
            return codec.decode_message(file.lines[0])
        except CodecError as error:
            why = str(error)
        except Exception as error:  # no memory, or an error of ours
            file.tries += 1
            if file.tries < TRIES_MAX:
                raise
            why = f"cannot read a message after {TRIES_MAX} tries: {type(error).__name__}"
        file.keep()
        self.counts.tell("unreadable", why)
        return None

    def _done(self, file: _File) -> None:
        with self._lock:
            self._open -= 1
        self._release(file)

    def _release(self, file: _File) -> None:
        with self._lock:
            file.open -= 1
            if file.open == 0:
                self._finished.append(file)
