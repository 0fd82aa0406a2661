"""Imports modules into the template one at a time, and tells which of them make forking unsafe.

Knows: what a fork does not copy or must not share: threads, sockets, pipes, epolls and the like,
child processes, timers; and what procs must not inherit: signal handlers and masks.
Does not know: who imports the module instead, or when.
Invariants: each module is named before it is imported, so that a hang or a crash has a name;
nothing is imported after an unsafe module, whose threads could act at any time: what is blamed
for a trace is what left it; what a module prints is written out before the next step.
Sources: fork(2), pthread_atfork(3), proc(5).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from typing import NamedTuple

from fsmv2.ipc.linux import children_of, flush_c_streams

# A thread that was joined is in /proc for a moment longer.
SETTLE_S = 0.1
TEXT_CHARS_MAX = 300
# 32 and 33: the C library catches them from the first thread on (signal(7)), joined or not.
_SIGNALS_OF_LIBC = 1 << 31 | 1 << 32


class Traces(NamedTuple):
    """What an import can leave in a process beside modules."""

    threads: int
    fds: frozenset[str]
    children: frozenset[int]
    handlers: dict[int, object]
    dispositions: tuple[str, ...]
    timers: tuple[bool, ...]


def look() -> Traces:
    """Read this process's traces now."""
    return Traces(
        threads=len(os.listdir("/proc/self/task")),
        fds=_shared_fds(),
        children=frozenset(children_of(os.getpid())),
        handlers={number: signal.getsignal(number) for number in signal.valid_signals()},
        dispositions=_dispositions(),
        timers=tuple(
            signal.getitimer(which)[0] > 0
            for which in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
        ),
    )


def misfits(before: Traces, after: Traces) -> str:
    """What was left between two looks, with numbers; empty if nothing that matters."""
    found = []
    if after.threads > before.threads:
        found.append(f"{after.threads} OS threads, {before.threads} before")
    fds = sorted(after.fds - before.fds)
    sockets = sum(fd.startswith("socket:") for fd in fds)
    if sockets:
        had = sum(fd.startswith("socket:") for fd in before.fds)
        found.append(f"{sockets} more open sockets, {had} before")
    others = [fd for fd in fds if not fd.startswith("socket:")]
    if others:
        found.append(f"{len(others)} more that a fork would share: {', '.join(others)}")
    children = after.children - before.children
    if children:
        found.append(f"{len(children)} more child processes, {len(before.children)} before")
    changed = [
        _signal_name(number)
        for number, handler in before.handlers.items()
        if after.handlers.get(number) is not handler and after.handlers.get(number) != handler
    ]
    if changed:
        found.append(f"{len(changed)} more signal handlers: {', '.join(changed)}")
    elif after.dispositions != before.dispositions:
        was, now = " ".join(before.dispositions), " ".join(after.dispositions)
        found.append(f"signals blocked, ignored, caught: {now}, before {was}")
    if after.timers != before.timers:
        found.append("an interval timer runs, none before")
    return "; ".join(found)


def import_all(
    names: Iterable[str], tell: Callable[[str], None]
) -> tuple[dict[str, str], dict[str, str]]:
    """Import ``names`` in order, each told before; stop at the first that is unsafe.

    Returns (failed, unsafe): module to why. A module that raises is only failed: its traces
    count all the same.
    """
    failed: dict[str, str] = {}
    before = look()
    for name in names:
        tell(name)
        why = _import(name)
        if why:
            failed[name] = why[:TEXT_CHARS_MAX]
        left = misfits(before, _settled(before))
        if left:
            return failed, {name: left[:TEXT_CHARS_MAX]}
    return failed, {}


def _import(name: str) -> str:
    """Import ``name``; returns why it failed, or nothing."""
    pid = os.getpid()
    why = ""
    try:
        importlib.import_module(name)
    except BaseException as error:
        why = traceback.format_exception_only(type(error), error)[-1].strip()
        why = why or type(error).__name__
    if os.getpid() != pid:
        os._exit(0)  # a child that the module forked has come back from the import too
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with contextlib.suppress(Exception):
        sys.stderr.flush()
    flush_c_streams()
    return why


def _settled(before: Traces) -> Traces:
    give_up = time.monotonic() + SETTLE_S
    while (after := look()).threads > before.threads and time.monotonic() < give_up:
        time.sleep(0.005)
    return after


def _shared_fds() -> frozenset[str]:
    """What two processes cannot use at a time without harm. An open file of the disk or a device
    is not among them: libraries keep such ones, and read them at a position of their own."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if target.startswith(("socket:", "pipe:", "anon_inode:")):
                found.append(f"{target} as {name}")
    return frozenset(found)


def _dispositions() -> tuple[str, ...]:
    """Masks of blocked, ignored and caught signals: C code changes them behind Python's back."""
    with open("/proc/self/status", "rb") as file:
        return tuple(
            f"{int(line.split()[1], 16) & ~_SIGNALS_OF_LIBC:016x}"
            for line in file
            if line.startswith((b"SigBlk:", b"SigIgn:", b"SigCgt:"))
        )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {int(number)}"
