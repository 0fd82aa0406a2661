"""The writer as the root holds it: started, fed, listened to, restarted when it dies.

Knows: its pidfd, its two pipes, what is to be sent again after its death.
Does not know: what documents say, the file.
Invariants: the root never touches the disk and never waits for the writer, but at its own start
and end; what was not answered is sent again; the trouble of one incident is told once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from typing import Any

import msgspec

from fsmv2.ipc.channel import Channel
from fsmv2.ipc.codec import decode, encode
from fsmv2.ipc.frames import FRAME_BYTES_MAX, FrameError
from fsmv2.ipc.messages import FromStore, NotSaved, Recall, Saved, StoreReady, StoreShut, Write
from fsmv2.supervisor.core import storeevents
from fsmv2.supervisor.core.backoff import delay_s
from fsmv2.supervisor.core.errors import StartError
from fsmv2.supervisor.core.events import Event
from fsmv2.supervisor.pool.certificate import death_verdict
from fsmv2.supervisor.store.outbox import Outbox
from fsmv2.supervisor.store.protocol import Recalled
from fsmv2.supervisor.system import processes
from fsmv2.supervisor.system.poller import WRITABLE, Poller

WRITER_MAIN = "fsmv2.supervisor.store.writer:write_store"
# An order's bytes go into the pipe at once, where the machine allows it.
PIPE_BYTES = 512 * 1024
# With a path and what an order says besides, it fits into a frame.
DOCUMENT_BYTES_MAX = FRAME_BYTES_MAX - 16 * 1024
SEND_S = 0.05
START_S_MAX = 20.0
ANSWER_S_MAX = 10.0
END_S_MAX = 3.0
RETRY_S_MAX = 30.0
STEADY_S = 60.0


class WriterProcess:
    """One writer at a time. ``arguments`` are the file's path, how many changes its log keeps and
    for how many seconds. ``on_fresh`` is called when a later writer finds that the file holds
    nothing: everything has to be said again."""

    def __init__(
        self,
        arguments: tuple[str, int, float],
        emit: Callable[[Event], None],
        poller: Poller,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._arguments = arguments
        self._emit = emit
        self._poller = poller
        self._now = clock
        self._outbox = Outbox()
        self._child: processes.Child | None = None
        self._channel: Channel | None = None
        self._started_at = 0.0
        self._sent_at = float("-inf")
        self._retry_at: float | None = None
        self._failures = 0
        self._ready = False
        self._shut = ""
        self._trouble_since: float | None = None
        self._trouble = ""
        self._recalls = True
        self._too_large: set[tuple[str, str]] = set()
        self.recalled: dict[str, Recalled] = {}
        self.on_fresh: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<WriterProcess {self.pid} {self._outbox!r}>"

    @property
    def pid(self) -> int:
        """Its pid; 0 while there is none."""
        return self._child.pid if self._child is not None else 0

    @property
    def trouble(self) -> str:
        """Why nothing is saved for now; empty: it is. One death of a writer is none yet."""
        if self._trouble_since is None and self._failures < 2:
            return ""
        return f"{self._trouble}; {len(self._outbox)} unsaved"

    # --- life -------------------------------------------------------------------------------

    def open(self) -> None:
        """Start it and wait until it has said what to go on with. Only at the root's start.

        Raises `StartError` when the file cannot be had.
        """
        try:
            self._start()
        except OSError as error:
            raise StartError(f"cannot start the store's writer: {error}") from None
        give_up = self._now() + START_S_MAX
        while not self._ready and not self._shut and self._child is not None:
            left_s = give_up - self._now()
            if left_s <= 0:
                break
            self._poller.poll(left_s)
        self._recalls = False
        if not self._ready:
            why = self._shut or f"its writer has not opened it within {START_S_MAX:g} s"
            self.close()
            raise StartError(why if self._shut else f"cannot open store {self._file}: {why}")

    @property
    def _file(self) -> str:
        return self._arguments[0]

    def _start(self) -> None:
        orders_read, orders_write = os.pipe2(os.O_CLOEXEC)
        answers_read, answers_write = os.pipe2(os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):
                fcntl.fcntl(orders_write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            child = processes.start(
                "fsmv2-store",
                run_writer,
                processes.SentFd(orders_read),
                processes.SentFd(answers_write),
                *self._arguments,
                self._recalls,
            )
        except BaseException:
            for fd in (orders_write, answers_read):
                os.close(fd)
            raise
        finally:
            for fd in (orders_read, answers_write):
                os.close(fd)
        self._child = child
        self._channel = Channel(answers_read, orders_write)
        self._started_at = self._now()
        self._retry_at = None
        self._poller.watch(answers_read, self._spoke)
        self._poller.watch(child.pidfd, self._ended)

    def _ended(self, _mask: int) -> None:
        child = self._child
        if child is None:
            return
        pidfd = child.pidfd
        code = child.reap()
        if code is None:
            return
        self._spoke(0)  # its last words
        now = self._now()
        self._poller.unwatch(pidfd)
        self._drop_channel()
        self._child = None
        self._ready = False
        self._outbox.take_back()
        if now - self._started_at > STEADY_S:
            self._failures = 0
        self._fail(now)
        if self._recalls:
            return  # at the root's start nobody tries again
        wait_s = (self._retry_at or now) - now
        verdict = death_verdict(code)
        self._emit(storeevents.StoreEnded(pid=child.pid, verdict=verdict, retry_in_s=wait_s))
        self._trouble = f"its writer ended with {verdict}"
        if self._shut:
            self._tell_trouble(self._shut, now)
            self._shut = ""

    def _fail(self, now: float) -> None:
        self._failures += 1
        self._retry_at = now + delay_s(self._failures, 0.0, base_s=0.2, max_s=RETRY_S_MAX)

    def _drop_channel(self) -> None:
        if self._channel is not None:
            self._poller.unwatch(self._channel.read_fd)
            self._poller.unwatch(self._channel.write_fd)
            self._channel.close()
            self._channel = None

    def close(self) -> None:
        """Give it what is left and a moment to save that, then end it. Only at the root's end."""
        give_up = self._now() + END_S_MAX
        while self._ready and len(self._outbox) and self._now() < give_up:
            if self._trouble_since is not None:
                break
            self._sent_at = float("-inf")
            self.tend(self._now())
            self._poller.poll(min(0.1, max(0.0, give_up - self._now())))
        if self._child is not None:
            self._poller.unwatch(self._child.pidfd)
        self._drop_channel()
        if self._child is not None:
            # It ends at its channel's end, after closing the file.
            while self._child.reap() is None:
                if self._now() >= give_up:
                    with contextlib.suppress(OSError):
                        self._child.kill()
                    self._child.wait()
                    break
                time.sleep(0.005)
            self._child = None
        self._retry_at = None

    # --- feeding ----------------------------------------------------------------------------

    def take(self, write: Write) -> None:
        """Have ``write`` saved, soon. One that no frame can carry is refused, and told once."""
        size, key = len(write.document), (write.path, write.role)
        if size <= DOCUMENT_BYTES_MAX:
            self._too_large.discard(key)
            self._outbox.take(write)
        elif key not in self._too_large:
            self._too_large.add(key)
            got = f"got {size} bytes, want at most {DOCUMENT_BYTES_MAX}"
            why = f"{write.path}: cannot keep its {write.role}: {got}; the last that fits stays"
            self._emit(storeevents.StoreRefused(error=why))

    def next_moment(self) -> float | None:
        """When `tend` has something to do at the latest (monotonic seconds)."""
        if self._child is None or self._retry_at is not None:
            return self._retry_at
        if self._outbox.number_out is not None:
            return None if self._trouble_since is not None else self._sent_at + ANSWER_S_MAX
        return self._sent_at + SEND_S if self._ready and len(self._outbox) else None

    def tend(self, now: float) -> None:
        """Send what waits; restart a dead writer when its wait is over."""
        if self._retry_at is not None and now < self._retry_at:
            return
        if self._child is None:
            if self._retry_at is not None:
                try:
                    self._start()
                except OSError as error:
                    self._trouble = f"cannot start its writer: {error}"
                    self._fail(now)
            return
        self._retry_at = None
        if self._outbox.number_out is not None:
            if now - self._sent_at >= ANSWER_S_MAX:
                self._tell_trouble(f"no answer for {ANSWER_S_MAX:g} s", now)
        elif self._ready and self._channel is not None and now - self._sent_at >= SEND_S:
            order = self._outbox.next_order()
            if order is not None:
                self._sent_at = now
                self._channel.send(encode(order))
                self._push(0)

    def _push(self, _mask: int) -> None:
        channel = self._channel
        if channel is None:
            return
        channel.flush()
        if channel.wants_write:
            self._poller.watch(channel.write_fd, self._push, WRITABLE)
        else:
            self._poller.unwatch(channel.write_fd)

    # --- listening --------------------------------------------------------------------------

    def _spoke(self, _mask: int) -> None:
        if self._channel is None or self._child is None:
            return
        received = self._channel.receive()
        fault = received.fault
        try:
            for body in received.frames:
                self._hear(decode(body, FromStore))
        except FrameError as error:
            fault = error
        if fault is not None and not self._channel.is_cut:
            self._child.kill()  # it is not itself any more; a new one will be
        if fault is not None or received.closed:
            self._poller.unwatch(self._channel.read_fd)

    def _hear(self, message: FromStore) -> None:
        now = self._now()
        match message:
            case Recall(path=path, document=raw):
                self.recalled[path] = msgspec.json.decode(raw, type=Recalled)
            case StoreReady():
                self._be_ready(message, now)
            case StoreShut(error=error):
                self._shut = error
            case Saved(number=number, refused=refused):
                self._outbox.saved(number)
                self._failures = 0
                self._end_trouble(now)
                for why in refused:
                    self._emit(storeevents.StoreRefused(error=why))
            case NotSaved(error=error):
                self._outbox.take_back()
                self._fail(now)
                self._tell_trouble(error, now)

    def _be_ready(self, message: StoreReady, now: float) -> None:
        self._ready = True
        if message.moved_to:
            self._emit(
                storeevents.StoreDamaged(
                    file=self._file, reason=message.reason, moved_to=message.moved_to
                )
            )
        self._emit(
            storeevents.StoreOpened(
                pid=message.pid,
                file=self._file,
                recalled=len(self.recalled),
                startup_s=now - self._started_at,
            )
        )
        if message.fresh and not self._recalls:
            self.on_fresh()

    def _tell_trouble(self, error: str, now: float) -> None:
        self._trouble = error
        if self._trouble_since is None:
            self._trouble_since = now
            self._emit(
                storeevents.StoreDegraded(file=self._file, error=error, waiting=len(self._outbox))
            )

    def _end_trouble(self, now: float) -> None:
        if self._trouble_since is not None:
            self._emit(
                storeevents.StoreRecovered(file=self._file, downtime_s=now - self._trouble_since)
            )
            self._trouble_since = None


def run_writer(*args: Any) -> None:
    """The new process's first function. Imports the writer there, and SQLite never in the root."""
    from importlib import import_module

    module, _, name = WRITER_MAIN.partition(":")
    getattr(import_module(module), name)(*args)
