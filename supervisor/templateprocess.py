"""The template as the root holds it: started, asked to fork, replaced when it dies or misbehaves.

Knows: its control socket, its pidfd, what it prints, which module it is importing and since when,
which modules are to be left out.
Does not know: lanes, actions, what procs are for.
Invariants: its death costs no running proc; it forks nothing before all its imports were found
to be safe; a module that hangs, ends or spoils it is left out of the next one, so that each
replacement gets further; nothing here waits.
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
from fsmv2.supervisor import processes
from fsmv2.supervisor.certificate import death_verdict
from fsmv2.supervisor.core.backoff import delay_s
from fsmv2.supervisor.output import OutputLines
from fsmv2.supervisor.procs import DUMP_SIGNAL

if TYPE_CHECKING:
    from fsmv2.supervisor.procs import ProcHandle

REPLY_BYTES_MAX = 64 * 1024
END_S = 1.0
# For one module, and for the start of an interpreter with the program that uses the pool.
IMPORT_S_MAX = 10.0
MAIN_S_MAX = 30.0
STACK_BUDGET_S = 0.05
# Of one template; each costs a start, and one that hangs `IMPORT_S_MAX`.
EXCLUDED_MAX = 8
# In a row, without a single proc forked in between.
FAILURES_MAX = 3
# So many failures make the longest wait there is.
FAILURES_OF_MAIN = 14
# A SIGKILL may have come from outside, so the module is tried once more.
SIGKILLS_MAX = 2
RETRY_S_MAX = 5.0
RETRY_GIVEN_UP_S_MAX = 300.0
# What the template imports before the modules it is told to: the program that uses the pool.
MAIN = "__main__"
TEMPLATE_MAIN = "fsmv2.workerproc.template:template_main"


def run_template(*args: object) -> None:
    """The new process's first function. Imports workerproc there, never in the root."""
    from importlib import import_module

    module, _, name = TEMPLATE_MAIN.partition(":")
    getattr(import_module(module), name)(*args)


class TemplateProcess:
    """One template at a time. ``start`` it; feed ``read_reply``, ``read_output`` and ``reap``
    from the poll, ``look_at_import`` from the clock.

    ``excluded`` maps modules that are left out to why. ``given_up`` says why no template can be
    kept alive (empty: there is hope): procs must be started in another way meanwhile, but it is
    tried again now and then.
    """

    def __init__(
        self,
        preload: tuple[str, ...],
        search: tuple[str, ...],
        run_folder: str,
        metrics_folder: str | None,
    ) -> None:
        self._preload = preload
        self._search = search
        self._run_folder = run_folder
        self._metrics_folder = metrics_folder
        self.child: processes.Child | None = None
        self.control: socket.socket | None = None
        self.output_fd = -1
        self.ready = False
        self.started_at = 0.0
        self.failures = 0
        self.retry_at: float | None = None
        self.import_failures: dict[str, str] = {}
        self.threads = 1
        self.excluded: dict[str, str] = {}
        self.given_up = ""
        # What it started itself, as seen when it was killed while it imported.
        self.below: list[int] = []
        self._untold: dict[str, str] = {}
        self._importing = ""
        self._passed: set[str] = set()
        self._sigkills: dict[str, int] = {}
        self._overdue_at: float | None = None
        self._was_asked = False
        # Why it was killed by us, if it was.
        self._blamed = ""
        self._output = OutputLines()
        self._last_line = self._frame = ""
        self._gets_further = False

    def __repr__(self) -> str:
        doing = f"imports {self._importing}" if self._importing else "not ready"
        return f"<template pid={self.pid} {'ready' if self.ready else doing}>"

    @property
    def pid(self) -> int:
        """Its pid; 0 while there is none."""
        return self.child.pid if self.child is not None else 0

    @property
    def next_moment(self) -> float | None:
        """When to `start` it again, or to `look_at_import`; None: nothing by the clock."""
        return self.retry_at if self.child is None else self._overdue_at

    def start(self, now: float) -> None:
        """Start it. Raises OSError when the machine cannot."""
        self.retry_at = None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        output_read, output_write = os.pipe2(os.O_CLOEXEC)
        try:
            self.child = processes.start(
                "fsmv2-template",
                run_template,
                processes.SentFd(theirs.fileno()),
                processes.SentFd(output_write),
                os.getpid(),
                tuple(name for name in self._preload if name not in self.excluded),
                self._search,
                self._run_folder,
                self._metrics_folder,
                threading.current_thread() is threading.main_thread(),
            )
        except BaseException:
            ours.close()
            os.close(output_read)
            raise
        finally:
            theirs.close()
            os.close(output_write)
        ours.setblocking(False)
        os.set_blocking(output_read, False)
        self.control, self.output_fd = ours, output_read
        self.started_at = now
        self._importing, self._overdue_at = MAIN, now + MAIN_S_MAX
        self._was_asked = self.ready = False
        self._blamed = self._frame = self._last_line = ""
        self._gets_further = False
        self._passed = set()
        self.below = []

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

    # --- what it says -----------------------------------------------------------------------

    def read_reply(self, now: float) -> Importing | Preloaded | Forked | None:
        """The next reply, or None: there is none, or the template is going away. After a
        `Preloaded`, ``ready`` says whether it is of use."""
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
        match reply:
            case Importing(module=module):
                self._passed.add(self._importing)
                self._importing, self._overdue_at = module, now + IMPORT_S_MAX
            case Preloaded():
                self._preloaded(reply)
            case Forked(pid=pid) if pid:
                self.failures = 0
                self.given_up = ""
        return reply

    def _preloaded(self, reply: Preloaded) -> None:
        self._importing, self._overdue_at = "", None
        self.import_failures = reply.failed
        self.threads = reply.threads
        for module, why in reply.unsafe.items():
            self._exclude(module, why)
        if reply.unsafe:
            self.kill()
        else:
            self.ready = True

    def read_output(self, now: float, *, flush: bool = False) -> tuple[list[str], bool]:
        """Lines that imports have printed since the last look, no more than a budget of them;
        and whether there may be more to read now."""
        data = b""
        if self.output_fd >= 0:
            with contextlib.suppress(BlockingIOError):
                data = os.read(self.output_fd, 1 << 16)
        lines = self._output.feed(data, (), now, flush=flush)
        for line in lines:
            # The main thread's innermost frame: its stack is the one faulthandler writes last.
            if self._last_line.endswith("(most recent call first):"):
                self._frame = line.strip()
            self._last_line = line
        return lines, bool(data)

    def take_excluded(self) -> dict[str, str]:
        """Modules that were left out since this was last asked, and why."""
        untold, self._untold = self._untold, {}
        return untold

    # --- what is done about it --------------------------------------------------------------

    def look_at_import(self, now: float) -> None:
        """Kill it if the import at hand takes too long; its stack is asked for first."""
        if self.child is None or self._overdue_at is None or now < self._overdue_at:
            return
        if self.control is not None and _is_readable(self.control):
            return  # it has said something: it was we who were late
        if not self._was_asked and self._importing != MAIN:  # no handler is there before
            self._was_asked = True
            self._overdue_at = now + STACK_BUDGET_S
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self.child.pidfd, DUMP_SIGNAL)
            return
        limit_s = MAIN_S_MAX if self._importing == MAIN else IMPORT_S_MAX
        self._blamed = f"its import took more than {limit_s:g} s"
        self.kill()

    def reap(self, now: float, spread: float) -> int | None:
        """The exit code once it is dead (then ``retry_at`` is set), else None."""
        code = self.child.reap() if self.child is not None else None
        if code is None:
            return None
        at_fault = self._importing
        if at_fault and not self._may_be_innocent(at_fault, code):
            why = self._blamed or f"its import ended the process: {death_verdict(code)}"
            self._exclude(at_fault, f"{why}; {self._frame}" if self._frame else why)
        self._drop()
        if self._gets_further:
            self.retry_at = now
        else:
            self.failed_to_start(now, spread, death_verdict(code))
        return code

    def _may_be_innocent(self, module: str, code: int) -> bool:
        if module == MAIN:
            return not self._blamed  # anything may have gone wrong before it
        if code != -signal.SIGKILL or self._blamed:
            return False
        self._sigkills[module] = self._sigkills.get(module, 0) + 1
        return self._sigkills[module] < SIGKILLS_MAX

    def _exclude(self, module: str, why: str) -> None:
        if module == MAIN:
            self.given_up = f"the program that uses the pool cannot be imported safely: {why}"
            self.failures = max(self.failures, FAILURES_OF_MAIN)
            return
        excluded = {module: why}
        if len(self.excluded) + 1 >= EXCLUDED_MAX:
            late = f"not tried: {EXCLUDED_MAX} modules before it had to be left out"
            excluded |= {
                name: late
                for name in self._preload
                if name not in self._passed | self.excluded.keys() | {module}
            }
        self._gets_further = True
        self.excluded |= excluded
        self._untold |= excluded

    def failed_to_start(self, now: float, spread: float, how: str) -> None:
        """Count a start that raised or came to nothing; ``retry_at`` is set."""
        self.failures += 1
        if self.failures >= FAILURES_MAX and not self.given_up:
            self.given_up = f"it ended {self.failures} times in a row, at last so: {how}"
        max_s = RETRY_GIVEN_UP_S_MAX if self.given_up else RETRY_S_MAX
        self.retry_at = now + delay_s(self.failures, spread, base_s=0.1, max_s=max_s)

    def kill(self) -> None:
        """SIGKILL it. What an import has started is in ``below`` for whoever sweeps."""
        self._overdue_at = None
        if self.child is not None:
            if not self.ready:
                self.below = descendants_of(self.child.pid)
            self.child.kill()

    def _drop(self) -> None:
        self.child = None
        self.ready = False
        self._overdue_at = None
        if self.control is not None:
            self.control.close()
            self.control = None
        if self.output_fd >= 0:
            os.close(self.output_fd)
            self.output_fd = -1

    def close(self) -> None:
        """End it for good. It may finish the fork it is at, so that no proc is born unknown;
        whatever it does not finish within `END_S` is killed. The control socket stays readable
        for its last words; whoever reads them closes it."""
        if self.control is not None:
            with contextlib.suppress(OSError):
                self.control.shutdown(socket.SHUT_WR)
        if self.child is not None:
            if self.ready:
                poll = select.poll()
                poll.register(self.child.pidfd, select.POLLIN)
                poll.poll(END_S * 1000)
            with contextlib.suppress(OSError):
                self.kill()
            self.child.wait()
            self.child = None
        if self.output_fd >= 0:
            os.close(self.output_fd)
            self.output_fd = -1
        self.ready = False
        self.retry_at = None


def _is_readable(control: socket.socket) -> bool:
    poll = select.poll()
    poll.register(control.fileno(), select.POLLIN)
    return bool(poll.poll(0))
