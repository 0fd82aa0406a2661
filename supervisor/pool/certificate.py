"""Reads what /proc says of a proc that is about to be killed, and writes its certificate.

Knows: /proc files of one pid, wait statuses, verdicts.
Does not know: pipes, the pool, when to kill.
Invariants: never guesses: a figure that could not be read is None; nothing here waits.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import NamedTuple

import msgspec

from fsmv2.supervisor.core.action import DeathCertificate, Status

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PF_EXITING = 0x4


class LastLook(msgspec.Struct, frozen=True):
    """What was read of a living proc: its scheduler state letter, the kernel function it
    sleeps in, CPU seconds and peak resident bytes since its start."""

    state: str | None = None
    wait_channel: str | None = None
    cpu_s: float | None = None
    peak_memory_bytes: int | None = None


def look_at(pid: int) -> LastLook:
    """Read /proc of ``pid`` now. Fields stay None where the files cannot be read."""
    state = wait_channel = cpu_s = peak = None
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name in brackets may hold anything, so count from its end.
            fields = file.read().rpartition(b")")[2].split()
        state = fields[0].decode()
        cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/wchan", "rb") as file:
            wait_channel = file.read().decode("ascii", "replace") or None
        if wait_channel == "0":
            wait_channel = None
    # Not ru_maxrss: that figure is inherited from the process it was forked from.
    with (
        contextlib.suppress(OSError, ValueError, IndexError),
        open(f"/proc/{pid}/status", "rb") as f,
    ):
        for line in f:
            if line.startswith(b"VmHWM:"):
                peak = int(line.split()[1]) * 1024
                break
    return LastLook(state, wait_channel, cpu_s, peak)


class Signs(NamedTuple):
    """How a process stands towards signals: its scheduler state letter ("?" when it could not be
    read), and the bit masks of signals that its main thread blocks and that it catches."""

    state: str = "?"
    blocked: int = 0
    caught: int = 0

    @property
    def is_stopped(self) -> bool:
        """By a signal or a debugger."""
        return self.state in "Tt"

    def blocks(self, number: int) -> bool:
        """Whether the main thread blocks signal ``number``."""
        return bool(self.blocked >> (number - 1) & 1)

    def catches(self, number: int) -> bool:
        """Whether there is a handler for signal ``number``."""
        return bool(self.caught >> (number - 1) & 1)


def signs_of(pid: int) -> Signs:
    """Read /proc/PID/status of ``pid`` now. Source: proc(5)."""
    read: dict[bytes, bytes] = {}
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", "rb") as file:
        read = dict(line.split(b":", 1) for line in file if b":" in line)
    try:
        return Signs(
            read[b"State"].split()[0].decode(),
            int(read[b"SigBlk"], 16),
            int(read[b"SigCgt"], 16),
        )
    except (KeyError, IndexError, ValueError):
        return Signs()


def is_exiting(pid: int) -> bool:
    """Whether the kernel is taking the process apart, or has and is about to report it. Source:
    proc(5), stat's fields "flags" and "num_threads", and PF_EXITING of the kernel's sched.h."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read(1024).rpartition(b")")[2].split()
        if fields[0] == b"Z":
            return int(fields[17]) <= 1  # else its main thread has ended and the others live on
        return int(fields[6]) & _PF_EXITING != 0
    except (OSError, ValueError, IndexError):
        return False


def main_thread_cpu_now_s(pid: int) -> float | None:
    """CPU seconds of the main thread of ``pid`` up to this moment; None where the kernel keeps no
    such figure.

    What /proc tells is that of the kernel's last tick or switch, up to 10 ms ago. The kernel
    brings it up to date when a thread's scheduling policy is changed, so it is changed and
    changed back; where that is not allowed, the older figure is told. Sources: sched(7), the
    kernel's sched-stats.rst and update_curr().
    """
    with contextlib.suppress(OSError):
        policy, parameters = os.sched_getscheduler(pid), os.sched_param(0)
        if policy == os.SCHED_OTHER:
            os.sched_setscheduler(pid, os.SCHED_BATCH, parameters)
            os.sched_setscheduler(pid, policy, parameters)
    try:
        with open(f"/proc/{pid}/schedstat", "rb", buffering=0) as file:
            return int(file.read(64).split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return None


# Why an attempt that was to go on is ended, and how that is told.
CANCELLED_FOR = {
    "cancelled": "it was cancelled",
    "operator": "an operator killed it",
    "stop": "the pool was stopped",
    "restarted": "what had asked for it was begun anew",
    "memory_pressure": "the machine is short of memory",
    "recalled": "the machine is in trouble",
}


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known when a proc has been reaped with an attempt in flight.

    ``cause`` is why the root killed it: "deadline", "channel", "memory", "processes", one of
    `CANCELLED_FOR`, or None when it did not. ``exit_code`` is as Python gives it: negative
    for a signal; None: nobody knows, and ``status_lost`` says why, ``was_killed`` whether the root
    had sent its SIGKILL. ``hangs_in_c`` and ``oom`` say what was read that makes it sure,
    ``unread`` why there is no stack.
    """

    cause: str | None
    exit_code: int | None
    look: LastLook
    stack: str | None
    descendants_killed: int
    log_tail: tuple[str, ...]
    started_at: float | None
    ended_at: float
    cpu_s: float | None
    slot_back_s: float | None
    detail: str | None
    hangs_in_c: str | None = None
    oom: str | None = None
    was_killed: bool = False
    status_lost: str | None = None
    unread: str | None = None


def certify(ending: Ending) -> tuple[Status, DeathCertificate]:
    """The status and the certificate of an attempt that did not end by itself."""
    status, verdict, sent_by = _verdict(ending)
    code = ending.exit_code
    why = ending.hangs_in_c or ending.oom or ending.detail
    said = (why, None if ending.stack else ending.unread, ending.status_lost)
    return status, DeathCertificate(
        verdict=verdict,
        signal=signal_name(-code) if code is not None and code < 0 else None,
        exit_code=code if code is not None and code >= 0 else None,
        sent_by=sent_by,
        stack=ending.stack,
        wait_channel=ending.look.wait_channel,
        cpu_s=ending.cpu_s,
        peak_memory_bytes=ending.look.peak_memory_bytes,
        descendants_killed=ending.descendants_killed,
        log_tail=ending.log_tail,
        started_at=ending.started_at,
        ended_at=ending.ended_at,
        slot_back_s=ending.slot_back_s,
        detail="; ".join(each for each in said if each) or None,
    )


def _verdict(ending: Ending) -> tuple[Status, str, str | None]:
    # With the status lost: it did not answer, and our SIGKILL was sent. Whether that ended it or it
    # was faster is what nobody knows, so no signal is told.
    is_unknown = ending.exit_code is None and ending.status_lost is not None
    killed = ending.exit_code == -signal.SIGKILL or (is_unknown and ending.was_killed)
    match ending.cause:
        case "deadline" if killed:
            who = f"the root: {ending.detail}"
            if ending.look.state in ("T", "t"):
                return "timed_out", "stopped_process", who
            verdict = "hung_in_c" if ending.hangs_in_c else "timed_out"
            return "timed_out", verdict, who
        case "memory" if killed:
            return "crashed", "out_of_memory", f"the root's memory guard: {ending.detail}"
        case "processes" if killed:
            return "crashed", "too_many_processes", f"the root's process guard: {ending.detail}"
        case "channel" if killed:
            return "crashed", "lost_channel", "the root: its channel was lost"
        case str(cause) if killed and cause in CANCELLED_FOR:
            return "cancelled", "cancelled", f"the root: {CANCELLED_FOR[cause]}"
    if ending.oom is not None and ending.exit_code == -signal.SIGKILL:
        return "crashed", "out_of_memory", f"the kernel's OOM killer: {ending.oom}"
    who_else = None
    if ending.exit_code == -signal.SIGKILL:
        who_else = "not this root; the kernel does not tell who"
    if ending.exit_code == -signal.SIGXCPU:
        who_else = "the kernel: its limit of CPU seconds was spent (RLIMIT_CPU)"
    return "crashed", death_verdict(ending.exit_code), who_else


def death_verdict(code: int | None) -> str:
    """The verdict on a process that ended without our doing."""
    if code is None:
        return "lost_channel"
    if code == -signal.SIGKILL:
        return "killed_from_outside"
    if code < 0:
        return f"crashed:{signal_name(-code)}"
    return f"exited:{code}"


def signal_name(number: int) -> str:
    """SIGSEGV for 11; SIG57 for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
