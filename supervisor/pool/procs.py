"""One proc as the root holds it: its descriptors, and what can be done to it.

Knows: pipes, the shared page, the pidfd, signals, reaping.
Does not know: lanes, queues, when any of it is called for.
Invariants: each descriptor is closed exactly once; a pid is signalled only before it is
reaped, so never a stranger's; nothing here waits.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import signal
import termios
from collections import deque
from collections.abc import Collection, Container, Iterable
from typing import TYPE_CHECKING

from fsmv2.ipc.channel import Channel
from fsmv2.ipc.linux import descendants_of
from fsmv2.ipc.page import Page, clear_dump, create_page, read_dump
from fsmv2.supervisor.core.procfsm import ProcState
from fsmv2.supervisor.kernelgroups.cgroups import NO_GROUPS
from fsmv2.supervisor.pool.certificate import LastLook, look_at, signs_of
from fsmv2.supervisor.pool.descendants import Trail, kill_tree
from fsmv2.supervisor.pool.output import Allowance, OutputLines

if TYPE_CHECKING:
    from fsmv2.ipc.messages import Answer
    from fsmv2.supervisor.pool.attempts import Attempt

# Progress and log records a proc may send; what is more is not listened to for a while.
CHATTER_PER_S = 2_000.0
CHATTER_AT_ONCE = 5_000.0
# Processes below a proc that one look at it finds one by one.
BELOW_MAX = 200
# The signal of workerproc.evidence, named again: the shell may not import workerproc.
DUMP_SIGNAL = signal.SIGRTMIN + 12
# The thread that got a signal, in a dump; a proc's main thread gets that one.
CURRENT_THREAD = "Current thread 0x"
# How a stack begins that was not dumped by the proc.
FROM_OUTSIDE = "(read from outside"
STATUS_TAKEN = "its exit status was taken by another waiter of this process"
SIGCHLD_IGNORED = "its exit status was not kept: this process ignores SIGCHLD"
_NO_BYTES = bytes(4)
# While a proc is asked for its stack. Only a privileged root can raise it so far.
RAISED_NICENESS = -5


class ProcHandle:
    """The root's side of one proc, from the fork order to the reaping."""

    __slots__ = (
        "_kept_fd",
        "_trail",
        "actions",
        "anchor",
        "asked_at",
        "attempt",
        "attempt_at",
        "behind",
        "below",
        "cause",
        "channel",
        "chatter",
        "deadline_at",
        "descendants_killed",
        "detail",
        "echoes",
        "fork_sent_at",
        "group",
        "hangs_in_c",
        "hid",
        "is_dumped",
        "is_dying",
        "is_reaped",
        "is_watched",
        "killed_at",
        "lane",
        "late_answers",
        "look",
        "niceness",
        "orders",
        "output",
        "output_fd",
        "overdue_at",
        "page",
        "page_fd",
        "pid",
        "pidfd",
        "processes_max",
        "ready_at",
        "replaced_at",
        "revoked_end",
        "revoked_from",
        "revokes",
        "serial",
        "silence",
        "slot",
        "spread",
        "stack",
        "stalled_on",
        "state",
        "status_lost",
        "theirs",
        "unread",
        "woken_fd",
        "worn",
    )  # fmt: skip

    def __init__(self, slot: str, serial: int, now: float, spread: float = 0.0) -> None:
        self.slot = slot
        self.serial = serial
        self.state = ProcState.STARTING
        self.lane: str | None = None
        self.attempt: Attempt | None = None
        # When ``attempt`` was given or, if it waited in the pipe, when its turn had come.
        self.attempt_at = 0.0
        # What waits in the pipe behind it, in order.
        self.behind: deque[Attempt] = deque()
        # The attempt that keeps those behind it waiting for too long.
        self.stalled_on: Attempt | None = None
        self.is_watched = False
        # Whether the kernel is about to end it.
        self.is_dying = False
        # The last attempt it has answered that may hide something: what that one started, or left
        # behind in a thread, may print it much later.
        self.hid: Attempt | None = None
        # Whether it says hello that an order can be revoked, and how many it was given.
        self.revokes = False
        self.orders = 0
        # The range of orders on the page; from 0: none that it may still have to look at.
        self.revoked_from = 0
        self.revoked_end = 0
        self.deadline_at = math.inf
        self.actions = 0
        self.spread = spread
        # How many processes the kernel lets it have below it.
        self.processes_max: int | None = None
        # Why it should not run another action.
        self.worn: str | None = None
        # By attempt; they count once it is known to be dead.
        self.late_answers: dict[int, Answer] = {}
        self.cause: str | None = None
        self.detail: str | None = None
        self.look = LastLook()
        self.asked_at = 0.0
        # What it had before it was asked for its stack; None: nothing was changed.
        self.niceness: int | None = None
        self.stack: str | None = None
        self.group = NO_GROUPS.make("")
        self.echoes = 0
        self.anchor = 0
        self.is_dumped = False
        # Why its stack had to be read from outside.
        self.silence = "it was not asked"
        # Why not even that was done.
        self.unread: str | None = None
        self.hangs_in_c: str | None = None
        self.descendants_killed = 0
        self.below: list[int] = []
        self._trail = Trail()
        # Why nobody knows how it ended.
        self.status_lost: str | None = None
        self.overdue_at: float | None = None
        self.killed_at: float | None = None
        self.replaced_at: float | None = None
        self.fork_sent_at = now
        self.ready_at: float | None = None
        self.pid = 0
        self.is_reaped = False  # from then on its pid may be a stranger's
        self.pidfd = -1
        self.output = OutputLines()
        self.chatter = Allowance(CHATTER_PER_S, CHATTER_AT_ONCE)
        self._open_pipes()

    def _open_pipes(self) -> None:
        fds: list[int] = []
        try:
            for flags in (0, 0, os.O_NONBLOCK, 0):
                fds += os.pipe2(os.O_CLOEXEC | flags)
            self.page_fd = create_page(f"fsmv2-{self.slot}")
            fds.append(self.page_fd)
            fds.append(os.dup(self.page_fd))
            fds.append(os.dup(self.page_fd))
            self.page = Page(self.page_fd)
        except OSError:  # no descriptor is free, or no memory
            for fd in fds:
                os.close(fd)
            raise
        (run_read, run_write, result_read, result_write, self.woken_fd, woken_write,
            self.output_fd, output_write, _, their_page, self._kept_fd) = fds  # fmt: skip
        os.set_blocking(self.output_fd, False)
        self.channel = Channel(result_read, run_write)
        # In the order of ipc.messages.PROC_FDS; closed here once the template has them.
        self.theirs = [run_read, result_write, their_page, woken_write, output_write]

    def __repr__(self) -> str:
        doing = f" {self.attempt.name}#{self.attempt.id}" if self.attempt else ""
        return f"<proc {self.slot} pid={self.pid} {self.state} lane={self.lane}{doing}>"

    def close_theirs(self) -> None:
        """Close our copies of the proc's ends, or its death would give no end of stream."""
        for fd in self.theirs:
            os.close(fd)
        self.theirs = []

    def set_pid(self, pid: int) -> bool:
        """Learn the pid (from the template or from its hello, whichever is first) and open the
        pidfd. False: known already, or it is gone without a trace."""
        if self.pid or pid <= 0:
            return False
        # A descriptor was kept for this: without it, its death would be seen by nobody.
        self._give_up_kept_fd()
        try:
            # Works on a zombie too, and nobody but us can reap it.
            self.pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        self.pid = pid
        return True

    def _give_up_kept_fd(self) -> None:
        if self._kept_fd >= 0:
            os.close(self._kept_fd)
            self._kept_fd = -1

    def forget_stack(self) -> None:
        """What was dumped before is of another attempt."""
        self.echoes = self.page.heard()
        self.is_dumped = False
        self.silence = "it did not answer"
        self.hangs_in_c = self.stack = self.unread = None
        with contextlib.suppress(OSError):
            clear_dump(self.page_fd)

    def ask_for_stack(self) -> None:
        """Raise its priority, so that a starved proc can answer, and ask for a stack dump."""
        with contextlib.suppress(OSError):
            niceness = os.getpriority(os.PRIO_PROCESS, self.pid)
            if niceness > RAISED_NICENESS:
                os.setpriority(os.PRIO_PROCESS, self.pid, RAISED_NICENESS)
                self.niceness = niceness
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self.pidfd, DUMP_SIGNAL)

    def lower_again(self) -> None:
        """It is not killed after all: give back the priority that `ask_for_stack` has raised."""
        niceness, self.niceness = self.niceness, None
        if niceness is not None:
            with contextlib.suppress(OSError):
                # Any other value is the proc's own, that has lifted its action's limit since.
                if os.getpriority(os.PRIO_PROCESS, self.pid) == RAISED_NICENESS:
                    os.setpriority(os.PRIO_PROCESS, self.pid, niceness)

    def read_wakeups(self) -> bool:
        """Read all that is in the wake-up pipe. Whether the word is there that a dump is whole."""
        try:
            return DUMP_SIGNAL in os.read(self.woken_fd, 4096)
        except BlockingIOError:
            return False

    def has_echoed(self) -> bool:
        """Whether Python code has run in the proc since it was asked for its stack: the half of
        the signal's handler that is Python. If only the C-level half has, it hangs in C."""
        return self.page.heard() != self.echoes

    def keep_stack(self) -> None:
        """Keep what was dumped, also by a crash handler of the proc's own."""
        with contextlib.suppress(OSError):
            text = read_dump(self.page_fd)
            # One without the main thread is worth less than what was read from outside since.
            if text and (self.stack is None or CURRENT_THREAD in text):
                self.stack = without_our_frames(text)

    def terminate(self) -> None:
        """SIGTERM, if the proc has a handler for it."""
        if signs_of(self.pid).catches(signal.SIGTERM):
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGTERM)

    def kill(self, now: float, known: Collection[int]) -> bool:
        """Take a last look, then SIGKILL the proc and everything below it. ``known`` are the
        root's own children. False: there are so many that it is not complete, see `kill_more`."""
        if self.pidfd < 0:
            return True
        self.look = look_at(self.pid)
        self.killed_at = now
        if self.group.can_kill:
            # Before the kill: afterwards they have another parent. The group's list costs the same
            # for one and for thousands; who is of root may have moved himself out of it.
            members = self.group.pids()
            seen = descendants_of(self.pid, BELOW_MAX)
            if self.group.kill():
                for pid in {*seen}.difference(members):
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
                self._note_killed((*seen, *members))
                self.kill_alone()
                return True
        return self.kill_more(known)

    def _note_killed(self, pids: Iterable[int]) -> None:
        noted = {*self.below, self.pid}
        new = [pid for pid in dict.fromkeys(pids) if pid not in noted]
        self.below += new
        self.descendants_killed += len(new)

    def kill_more(self, known: Collection[int]) -> bool:
        """Go on with a kill that was not complete; whether it is now."""
        # A group without cgroup.kill still knows its members, daemons among them.
        look = self._look_below if self.group.is_made else None
        killed = kill_tree(self.pid, known=known, look=look, trail=self._trail)
        self._note_killed(killed.pids)
        return killed.is_complete

    def look_below(self, limit: int = BELOW_MAX) -> list[int]:
        """The processes below the proc, ``limit`` of them at most, and those of its group."""
        return self._look_below(self.pid, limit, ())

    def _look_below(self, pid: int, limit: int, skip: Container[int]) -> list[int]:
        found = (*descendants_of(pid, limit, skip), *self.group.pids())
        return [each for each in dict.fromkeys(found) if each != self.pid and each not in skip]

    def kill_alone(self) -> None:
        """SIGKILL the proc itself; what it started is left to the sweeps after its death."""
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def reap(self) -> tuple[int | None, float] | None:
        """Exit code (negative: the signal) and CPU seconds of its whole life; None: it lives. The
        code is None when its status is lost: ``status_lost`` says how. Source: wait(2)."""
        try:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        except ChildProcessError:
            if self._exists():
                return None  # dead, and its parent, between the template and it, lives yet
            self.status_lost = (
                SIGCHLD_IGNORED
                if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
                else STATUS_TAKEN
            )
            self.is_reaped = True
            return None, 0.0
        if pid == 0:
            return None
        self.is_reaped = True
        return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime

    def _exists(self) -> bool:
        try:
            signal.pidfd_send_signal(self.pidfd, 0)
        except ProcessLookupError:
            return False
        return True

    def has_output(self) -> bool:
        """Whether `read_output` would find something. Cheaper than to look: ioctl_pipe(2)."""
        fd = self.output_fd
        return fd >= 0 and fcntl.ioctl(fd, termios.FIONREAD, _NO_BYTES) != _NO_BYTES

    def read_output(self) -> bytes:
        """What the proc wrote to standard output or error, at most 64 KiB at once."""
        try:
            return os.read(self.output_fd, 1 << 16)
        except OSError:  # nothing there now
            return b""

    def close(self) -> None:
        """Close every descriptor. Safe to call twice."""
        self.close_theirs()
        self._give_up_kept_fd()
        self.channel.close()
        with contextlib.suppress(BufferError, ValueError):
            self.page.close()
        for name in ("woken_fd", "output_fd", "page_fd", "pidfd"):
            fd = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)


def without_our_frames(dump: str) -> str:
    """A stack dump without the frames of the proc's own loop, which every stack ends with and
    which say nothing about the action."""
    kept: list[str] = []
    ours = False
    for line in dump.splitlines():
        if line.startswith("Extension modules:"):
            continue
        ours = bool(line.strip()) and (ours or '/workerproc/proc.py", line' in line)
        if not ours:
            kept.append(line)
    return "\n".join(kept).strip("\n")
