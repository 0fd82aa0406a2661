"""The template as the root holds it: started, asked to fork, restarted when it dies.

Knows: its control socket, its pidfd, fork orders that wait for it.
Does not know: lanes, actions, what procs are for.
Invariants: its death costs no running proc; fork orders wait until the next one is ready;
nothing here waits.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
from typing import TYPE_CHECKING

from fsmv2.ipc.codec import decode, encode
from fsmv2.ipc.frames import FrameError
from fsmv2.ipc.linux import descendants_of
from fsmv2.ipc.messages import Fork, Forked, FromTemplate, Importing, Preloaded
from fsmv2.supervisor.core.backoff import delay_s
from fsmv2.supervisor.pool.procs import DUMP_SIGNAL
from fsmv2.supervisor.system import processes

if TYPE_CHECKING:
    from fsmv2.supervisor.pool.procs import ProcHandle

REPLY_BYTES_MAX = 64 * 1024
OUTPUT_BYTES_MAX = 64 * 1024
END_S = 1.0
# Of one pool; each costs a start.
EXCLUDED_MAX = 8
# What the template imports before the modules it is told to: the program that uses the pool.
MAIN = "__main__"
TEMPLATE_MAIN = "fsmv2.workerproc.template:template_main"


def run_template(*args: object) -> None:
    """The new process's first function. Imports workerproc there, never in the root."""
    from importlib import import_module

    module, _, name = TEMPLATE_MAIN.partition(":")
    getattr(import_module(module), name)(*args)


class TemplateProcess:
    """One template at a time. ``start`` it; feed ``read_reply`` and ``reap`` from the poll."""

    def __init__(
        self,
        preload: tuple[str, ...],
        search: tuple[str, ...],
        run_folder: str,
        metrics_folder: str | None,
    ) -> None:
        self.preload = preload
        self._search = search
        self._run_folder = run_folder
        self._metrics_folder = metrics_folder
        self.child: processes.Child | None = None
        self.control: socket.socket | None = None
        self.ready = False
        self.started_at = 0.0
        self.failures = 0
        self.retry_at: float | None = None
        self.import_failures: dict[str, str] = {}
        # The module it imports right now (empty: none); those it must not import, and why.
        self.importing = ""
        self.excluded: dict[str, str] = {}
        # What imports started, as seen when it was killed while at it.
        self.below: list[int] = []
        self._passed: set[str] = set()
        self.is_killed = False
        self.output_fd = -1
        self.threads = 1

    @property
    def pid(self) -> int:
        """Its pid; 0 while there is none."""
        return self.child.pid if self.child is not None else 0

    def start(self, now: float) -> None:
        """Start it. Raises OSError when the machine cannot."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(read_fd, False)
        with theirs:
            try:
                self.child = processes.start(
                    "fsmv2-template",
                    run_template,
                    processes.SentFd(theirs.fileno()),
                    processes.SentFd(write_fd),
                    os.getpid(),
                    tuple(name for name in self.preload if name not in self.excluded),
                    self._search,
                    self._run_folder,
                    self._metrics_folder,
                    threading.current_thread() is threading.main_thread(),
                )
            except BaseException:
                ours.close()
                os.close(read_fd)
                raise
            finally:
                os.close(write_fd)
        self._close_output()
        self.output_fd = read_fd
        self.importing = MAIN
        self.is_killed = False
        self.below = []
        self._passed = set()
        ours.setblocking(False)
        self.control = ours
        self.ready = False
        self.started_at = now
        self.retry_at = None

    def fork(self, proc: ProcHandle, order: Fork) -> bool:
        """Order ``proc``. False: not now (not ready, or its socket is full)."""
        if not self.ready or self.control is None:
            return False
        try:
            socket.send_fds(self.control, [encode(order)], proc.theirs)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            return False
        proc.close_theirs()
        return True

    def exclude(self, module: str, why: str) -> dict[str, str]:
        """Leave ``module`` out from the next start on, and with the last that may be tried all
        that come after it; returns which, and why."""
        excluded = {module: why}
        if len(self.excluded) + 1 >= EXCLUDED_MAX:
            late = f"not tried: {EXCLUDED_MAX} modules before it had to be left out"
            known = self._passed | self.excluded.keys() | {module}
            excluded |= {name: late for name in self.preload if name not in known}
        self.excluded |= excluded
        self.import_failures.pop(module, None)
        return excluded

    def is_readable(self) -> bool:
        """Whether it has said something that was not read yet."""
        return self.control is not None and _is_ready(self.control.fileno(), 0.0)

    def ask_for_stack(self) -> None:
        """Have it print its stacks."""
        if self.child is not None:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self.child.pidfd, DUMP_SIGNAL)

    def read_output(self) -> bytes:
        """What it printed, at most 64 KiB at once; nothing when there is nothing now."""
        try:
            return os.read(self.output_fd, OUTPUT_BYTES_MAX) if self.output_fd >= 0 else b""
        except OSError:
            return b""

    def _close_output(self) -> None:
        if self.output_fd >= 0:
            os.close(self.output_fd)
            self.output_fd = -1

    def read_reply(self) -> Importing | Preloaded | Forked | None:
        """The next reply, or None: there is none, or the template is going away."""
        if self.control is None:
            return None
        try:
            data = self.control.recv(REPLY_BYTES_MAX)
        except (BlockingIOError, ConnectionResetError):
            return None
        if not data:
            return None
        try:
            reply: Importing | Preloaded | Forked = decode(data, FromTemplate)
        except FrameError:
            self.kill()
            return None
        if isinstance(reply, Importing):
            self._passed.add(self.importing)
            self.importing = reply.module
        if isinstance(reply, Forked) and reply.pid:
            # Not before: one that gets ready and then hangs in a fork hook is of no use.
            self.failures = 0
        if isinstance(reply, Preloaded):
            self.importing = ""
            self.ready = not reply.unsafe and not self.is_killed
            self.import_failures = reply.failed
            self.threads = reply.threads
        return reply

    def reap(self, now: float, spread: float) -> int | None:
        """The exit code once it is dead (then ``retry_at`` is set), else None."""
        code = self.child.reap() if self.child is not None else None
        if code is None:
            return None
        self._drop()
        self.failures += 1
        self.retry_at = now + delay_s(self.failures, spread, base_s=0.1, max_s=5.0)
        return code

    def failed_to_start(self, now: float, spread: float) -> None:
        """Count a start that raised; ``retry_at`` is set."""
        self.failures += 1
        self.retry_at = now + delay_s(self.failures, spread, base_s=0.1, max_s=5.0)

    def kill(self) -> None:
        """SIGKILL it. It takes no order from now on, though it may be a while until it is dead."""
        if self.child is not None:
            if not self.ready and not self.is_killed:
                self.below = descendants_of(self.child.pid)
            self.child.kill()
        self.is_killed = True
        self.ready = False

    def _drop(self) -> None:
        self.child = None
        self.ready = False
        if self.control is not None:
            self.control.close()
            self.control = None

    def close(self) -> None:
        """End it for good. It may finish the fork it is at, so that no proc is born unknown;
        whatever it does not finish within `END_S` is killed."""
        if self.control is not None:
            with contextlib.suppress(OSError):
                self.control.shutdown(socket.SHUT_WR)
        if self.child is not None:
            if self.ready:
                _is_ready(self.child.pidfd, END_S)
            with contextlib.suppress(OSError):
                self.kill()
            self.child.wait()
        self._drop()
        self._close_output()


def _is_ready(fd: int, timeout_s: float) -> bool:
    # Not `select.select`: that takes no descriptor above 1023.
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))
