"""The ops process as the root holds it: started, fed, listened to, restarted when it dies.

Knows: its pidfd, its two pipes, the listening socket it is lent.
Does not know: HTTP, pages, what is published, what a command does.
Invariants: the socket is bound here, before anything starts, so that a busy port is found at
once and a restart of the process loses no address; its death never touches a tick; what its
pipe does not take is dropped, for the next publication replaces it; commands are carried out
between ticks, a bounded portion at a time.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from fsmv2.ipc.channel import Channel
from fsmv2.ipc.codec import decode, encode
from fsmv2.ipc.frames import FrameError
from fsmv2.ipc.messages import (
    Command,
    CommandAnswered,
    ExplainWorker,
    FromOps,
    OpsReady,
    Published,
)
from fsmv2.supervisor.core.backoff import delay_s
from fsmv2.supervisor.core.errors import SpecError, StartError
from fsmv2.supervisor.core.events import Event, OpsEnded, OpsStarted
from fsmv2.supervisor.pool.certificate import death_verdict
from fsmv2.supervisor.system import processes
from fsmv2.supervisor.system.poller import Poller

Reply = Callable[[CommandAnswered], None]

BACKLOG = 128
OPS_MAIN = "fsmv2.supervisor.web.server:serve"


def run_ops(*args: Any) -> None:
    """The new process's first function. Imports the server there, never in the root."""
    from importlib import import_module

    module, _, name = OPS_MAIN.partition(":")
    getattr(import_module(module), name)(*args)


def bind(listen: str) -> socket.socket:
    """A listening socket on ``HOST:PORT``.

    Raises `SpecError` for something else than that, `StartError` when it cannot be had.
    """
    host, separator, port_text = listen.rpartition(":")
    host = host.strip("[]")
    if not separator or not port_text.isdigit() or int(port_text) > 65535 or not host:
        raise SpecError(f"cannot listen on {listen!r}: want HOST:PORT, for example 127.0.0.1:8642")
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        family = socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, int(port_text)))
        server.listen(BACKLOG)
    except OSError as error:
        server.close()
        asks = {
            errno.EADDRINUSE: "; is another supervisor running?",
            errno.EADDRNOTAVAIL: "; this machine has no such address,",
        }.get(error.errno or 0, ";")
        raise StartError(
            f"cannot listen on {listen}: {error.strerror or error}{asks} "
            "choose another address with --http HOST:PORT"
        ) from None
    return server


def address_of(server: socket.socket) -> str:
    """``http://HOST:PORT`` of a listening socket."""
    host, port = server.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class OpsProcess:
    """One ops process at a time, fed and watched from the root's loop."""

    def __init__(
        self,
        server: socket.socket,
        metrics_folder: str,
        name: str,
        emit: Callable[[Event], None],
        poller: Poller,
        token_digest: bytes = b"",
        store_file: str = "",
    ) -> None:
        self._server = server
        self._metrics_folder = metrics_folder
        self._name = name
        self._emit = emit
        self._poller = poller
        self._token_digest = token_digest
        self._store_file = store_file
        # Whoever carries out commands, or answers questions, puts itself here; until then nobody.
        self.on_command: Callable[[Command, Reply], None] | None = None
        self.on_question: Callable[[ExplainWorker, Reply], None] | None = None
        self._child: processes.Child | None = None
        self._channel: Channel | None = None
        self._started_at = 0.0
        self._failures = 0
        self.ready = False
        self.retry_at: float | None = None
        self.dropped = 0
        self._now: Callable[[], float] = lambda: 0.0

    @property
    def pid(self) -> int:
        """Its pid; 0 while there is none."""
        return self._child.pid if self._child is not None else 0

    def start(self, clock: Callable[[], float]) -> None:
        """Start it. Raises OSError when the machine cannot."""
        self._now = clock
        feed_read, feed_write = os.pipe2(os.O_CLOEXEC)
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
        try:
            child = processes.start(
                "fsmv2-ops",
                run_ops,
                processes.SentFd(feed_read),
                processes.SentFd(ready_write),
                processes.SentFd(self._server.fileno()),
                self._metrics_folder,
                os.getpid(),
                self._name,
                self._token_digest,
                self._store_file,
            )
        except BaseException:
            for fd in (feed_write, ready_read):
                os.close(fd)
            raise
        finally:
            for fd in (feed_read, ready_write):
                os.close(fd)
        self._child = child
        self._channel = Channel(ready_read, feed_write)
        self._started_at = clock()
        self.retry_at = None
        self._poller.watch(ready_read, self._spoke)
        self._poller.watch(child.pidfd, self._ended)

    def publish(self, topic: str, body: bytes) -> bool:
        """Send a finished JSON document; dropped (and counted) when it cannot be taken now.
        True: it is on its way."""
        channel = self._channel
        if channel is None:
            return False
        try:
            if channel.wants_write:
                channel.flush()
            sent = channel.send(encode(Published(topic, body)))
        except FrameError:
            sent = False
        self.dropped += not sent
        return sent

    def tend(self, now: float, spread: float) -> None:
        """Push on what the pipe did not take; restart a dead process when its wait is over."""
        if self._channel is not None and self._channel.wants_write:
            self._channel.flush()
        if self._child is None and self.retry_at is not None and now >= self.retry_at:
            try:
                self.start(self._now)
            except OSError:
                self._failures += 1
                self.retry_at = now + delay_s(self._failures, spread, base_s=0.2, max_s=30.0)

    def _spoke(self, _mask: int) -> None:
        if self._channel is None or self._child is None:
            return
        received = self._channel.receive(reads_max=1)
        fault = received.fault
        try:
            for body in received.frames:
                self._hear(decode(body, FromOps), self._child.pid)
        except FrameError as error:
            fault = error
        if fault is not None:
            self._child.kill()  # it is not itself any more; a new one will be
        if fault is not None or received.closed:
            self._poller.unwatch(self._channel.read_fd)

    def _hear(self, message: FromOps, pid: int) -> None:
        if isinstance(message, ExplainWorker):
            if self.on_question is not None and self._channel is not None:
                self.on_question(message, partial(self._answer, self._channel))
        elif not isinstance(message, OpsReady):
            if self.on_command is not None and self._channel is not None:
                self.on_command(message, partial(self._answer, self._channel))
        elif not self.ready:
            self.ready = True
            self._emit(
                OpsStarted(
                    pid=pid,
                    address=address_of(self._server),
                    startup_s=self._now() - self._started_at,
                )
            )

    def _answer(self, asked_by: Channel, answer: CommandAnswered) -> None:
        # One that was started since knows another command by this number.
        if asked_by is self._channel:
            # Not taken: the queue is full, whoever asked is told that no answer came.
            asked_by.send(encode(answer))

    def _ended(self, _mask: int) -> None:
        child = self._child
        if child is None:
            return
        pidfd = child.pidfd
        code = child.reap()
        if code is None:
            return
        now = self._now()
        if now - self._started_at > 60.0:
            self._failures = 0
        self._failures += 1
        self._poller.unwatch(pidfd)
        self._drop_channel()
        self._child = None
        self.ready = False
        wait_s = delay_s(self._failures, 0.0, base_s=0.2, max_s=30.0)
        self.retry_at = now + wait_s
        self._emit(OpsEnded(pid=child.pid, verdict=death_verdict(code), retry_in_s=wait_s))

    def _drop_channel(self) -> None:
        if self._channel is not None:
            self._poller.unwatch(self._channel.read_fd)
            self._channel.close()
            self._channel = None

    def close(self) -> None:
        """End it: its pipe ends, then it is killed and reaped."""
        if self._child is not None:
            self._poller.unwatch(self._child.pidfd)
        self._drop_channel()
        if self._child is not None:
            with contextlib.suppress(OSError):
                self._child.kill()
            self._child.wait()
            self._child = None
        self.retry_at = None
