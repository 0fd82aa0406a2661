"""What this machine lets a pool do, tried out, and what is done where it does not.

Knows: each facility of the kernel that a kill, its evidence or its cause depends on.
Does not know: pools; nothing that runs is looked at.
Invariants: each line says what was read or tried; nothing is left behind, nothing raises for
what the machine lacks. For `fsmv2 doctor`; takes some tens of milliseconds.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable

import msgspec

from fsmv2.ipc.lifeline import Word, wait_for_end
from fsmv2.ipc.linux import (
    has_children_lists,
    is_subreaper,
    memory_barrier,
    register_for_barriers,
    set_subreaper,
)
from fsmv2.supervisor.kernelgroups.cgroupplaces import read_text
from fsmv2.supervisor.kernelgroups.cgroups import ProcGroups
from fsmv2.supervisor.pool.memoryevents import OomCounters, memory_limit
from fsmv2.supervisor.stacks.outsidereader import reader_capability

ROOM_BYTES_WANTED = 64 << 20
FDS_WANTED = 1024
WAIT_S_MAX = 1.0


class Capability(msgspec.Struct, frozen=True):
    """One facility: whether it is there, what was read or tried, and what is done without it."""

    name: str
    there: bool
    read: str
    instead: str


def capabilities() -> list[Capability]:
    """All of them, in the order in which a kill needs them. Never raises."""
    groups = ProcGroups.open("doctor", clears=False)
    try:
        return [
            *(tried(name, tries, instead) for name, tries, instead in _TRIES),
            Capability(
                "kernel groups",
                groups.can_kill,
                groups.path if groups.can_kill else groups.why_not,
                "what an action started is found and killed one by one, frozen first",
            ),
            Capability(
                "process limits",
                groups.can_limit,
                groups.limit_path if groups.can_limit else groups.why_not,
                "processes are counted 20 times a second and the action is killed over its limit",
            ),
        ]
    finally:
        groups.close()


def tried(name: str, tries: Callable[[], tuple[bool, str]], instead: str) -> Capability:
    """The answer of a probe, which gives yes or no and what it has read; no if it raises."""
    try:
        there, read = tries()
    except Exception as error:  # a probe meets what nobody has thought of
        there, read = False, f"{type(error).__name__}: {error}"
    return Capability(name, there, read, instead)


def _pidfd() -> tuple[bool, str]:
    fd = os.pidfd_open(os.getpid())
    try:
        signal.pidfd_send_signal(fd, 0)
    finally:
        os.close(fd)
    return True, "pidfd_open and pidfd_send_signal on this process"


def _adoption() -> tuple[bool, str]:
    was = is_subreaper()
    set_subreaper(True)
    try:
        return is_subreaper(), "prctl(PR_SET_CHILD_SUBREAPER)"
    finally:
        set_subreaper(was)


def _children() -> tuple[bool, str]:
    return has_children_lists(), "/proc/PID/task/TID/children"


def _barriers() -> tuple[bool, str]:
    there = register_for_barriers() and memory_barrier()
    return there, "membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED)"


def _early_deaths() -> tuple[bool, str]:
    # Another value than the word has: told at once, where the call is known and allowed.
    word = Word(0)
    return wait_for_end([(word.address, 1)]), "futex_waitv"


def _priority() -> tuple[bool, str]:
    # Asked for, not tried: what is lowered here could stay so.
    lowest = 20 - resource.getrlimit(resource.RLIMIT_NICE)[0]
    effective = int(read_text("/proc/self/status").partition("CapEff:")[2].split()[0], 16)
    there = bool(effective >> 23 & 1) or lowest <= -5
    return there, f"CAP_SYS_NICE in CapEff {effective:x}, RLIMIT_NICE allows {lowest} at best"


def _oom() -> tuple[bool, str]:
    counters = OomCounters().open()
    try:
        limit = memory_limit()
        bound = f"limit {limit} bytes" if limit is not None else "no limit"
        return counters.is_sure, f"{counters.source}; {bound}"
    finally:
        counters.close()


def _room() -> tuple[bool, str]:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    return free >= ROOM_BYTES_WANTED, f"{free} bytes free in {folder}"


def _descriptors() -> tuple[bool, str]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft >= FDS_WANTED, f"RLIMIT_NOFILE {soft}, at most {hard}"


def _wait_channels() -> tuple[bool, str]:
    # Of one that waits: a kernel that hides them says 0, as of one that runs.
    gate = threading.Event()
    waits = threading.Thread(target=gate.wait, daemon=True)
    waits.start()
    give_up = time.monotonic() + WAIT_S_MAX
    file = f"/proc/self/task/{waits.native_id}/wchan"
    while (channel := read_text(file)) in ("", "0") and time.monotonic() < give_up:
        time.sleep(0.001)
    gate.set()
    waits.join()
    return channel not in ("", "0"), f"/proc/PID/wchan says {channel!r} of a thread that waits"


def _quick_crashes() -> tuple[bool, str]:
    # A pattern that begins with | is a program, which no limit keeps from being fed: core(5).
    pattern = read_text("/proc/sys/kernel/core_pattern").strip()
    soft, _ = resource.getrlimit(resource.RLIMIT_CORE)
    told = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
    there = soft == 0 and not pattern.startswith("|")
    return there, f"RLIMIT_CORE {told}, core_pattern {pattern!r}"


_TRIES: tuple[tuple[str, Callable[[], tuple[bool, str]], str], ...] = (
    ("process descriptors", _pidfd, "nothing: fsmv2 needs Linux 5.3"),
    ("adoption of orphans", _adoption, "nothing: fsmv2 needs Linux 3.4"),
    ("lists of children", _children, "all of /proc is read for what an action started"),
    (
        "early word of deaths",
        _early_deaths,
        "a library's pool sees a proc's end when the kernel has freed its memory, not before",
    ),
    ("higher priority", _priority, "a starved proc is asked for its stack at its own priority"),
    ("stacks from outside", reader_capability, "a stopped proc's certificate has no stack"),
    ("wait channels", _wait_channels, "a certificate does not say what the kernel waited for"),
    ("out-of-memory counters", _oom, "a kill by the kernel looks like one by somebody else"),
    ("memory barriers", _barriers, "one action at a time is with a proc, none waits in its pipe"),
    ("room for results", _room, "a result over 1 MiB is a failure when there is no room for it"),
    (
        "quick crashes",
        _quick_crashes,
        "a crashed proc counts as dead when the kernel has written its core dump",
    ),
    ("open files", _descriptors, "a pool takes about 10 descriptors a proc"),
)


def as_text(found: list[Capability]) -> str:
    """For people: a line each, and below what is missing what is done instead."""
    width = max(len(one.name) for one in found)
    lines = []
    for one in found:
        lines.append(f"{'yes' if one.there else 'no ':3}  {one.name:{width}}  {one.read}")
        if not one.there:
            lines.append(f"     {'':{width}}  instead: {one.instead}")
    return "\n".join(lines)
