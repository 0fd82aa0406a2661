"""The shapes of a hang, as actions.

Knows: ways never to come back.
Does not know: who kills them, what is measured.
Invariants: what hangs is in a function whose name begins with ``guilty_``, and no other action
here calls it, so that a stack that names it is the right one. The fork bomb has a bound of its
own, besides its limit: this machine survives it also where nobody holds limits.
"""

from __future__ import annotations

import collections
import itertools
import mmap
import os
import re
import signal
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

from fsmv2.supervisor import Action, ActionContext, Limits

FOREVER_S = 3600.0
TIMEOUT_S = 0.05
BOMBS, REFORKS_MAX = 12, 20
PROCESSES_MAX = 4 * BOMBS


class Nothing(Action, frozen=True):
    """What runs next on the slot: tells when it began, in seconds since the epoch."""

    def execute(self, ctx: ActionContext) -> float:
        return time.time()


class Hang(Action, frozen=True):
    """``size`` is for those that take something: bytes of memory."""

    marker: str = ""
    size: int = 0
    timeout_s = TIMEOUT_S


class Loop(Hang, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        guilty_loop()


def guilty_loop() -> None:
    while True:
        pass


class Sleep(Hang, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        guilty_sleep()


def guilty_sleep() -> None:
    time.sleep(FOREVER_S)


class Lock(Hang, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        guilty_lock()


def guilty_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


class Regex(Hang, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        guilty_regex()


def guilty_regex() -> None:
    re.match(r"(a+)+$", "a" * 64 + "b")


class Power(Hang, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        guilty_power()


def guilty_power() -> None:
    number = 3
    while True:
        number **= 10_007


class HoldGil(Hang, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        guilty_gil()


def guilty_gil() -> None:
    collections.deque(itertools.repeat(None), maxlen=0)


class IgnoreTerm(Hang, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        guilty_noterm()


def guilty_noterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(FOREVER_S)


class BlockSignals(Hang, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        guilty_block()


def guilty_block() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(FOREVER_S)


class Stop(Hang, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        guilty_stop()


def guilty_stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(FOREVER_S)


class ForkBomb(Hang, frozen=True):
    """Processes in sessions of their own, half of them orphans, that replace what is killed
    below them. The file ``marker`` has one pid a line."""

    timeout_s = 0.4
    limits = Limits(processes=PROCESSES_MAX)

    def execute(self, ctx: ActionContext) -> None:
        guilty_bomb(self.marker)


def guilty_bomb(marker: str) -> None:
    for number in range(BOMBS):
        if os.fork() == 0:
            os.setsid()
            if number % 2 and os.fork():
                os._exit(0)
            _keep_one_below(marker)
    time.sleep(FOREVER_S)


def _keep_one_below(marker: str) -> None:
    _note(marker)
    for _ in range(REFORKS_MAX):
        child = os.fork()
        if child == 0:
            _note(marker)
            time.sleep(FOREVER_S)
        os.waitpid(child, 0)
    os._exit(0)


def _note(marker: str) -> None:
    fd = os.open(marker, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.write(fd, b"%d\n" % os.getpid())
    os.close(fd)


class Memory(Hang, frozen=True):
    """Resident: each page is written to."""

    timeout_s = 1.0

    def execute(self, ctx: ActionContext) -> None:
        guilty_memory(self.size)


def guilty_memory(size: int) -> None:
    data = bytearray(size)
    for at in range(0, size, mmap.PAGESIZE):
        data[at] = 1
    time.sleep(FOREVER_S)


class Shape(NamedTuple):
    """One row: the action, the function its stack has to name, whether user space can answer
    for itself (if not, the stack has to be read from outside)."""

    action: type[Hang]
    guilty: str
    can_answer: bool = True


SHAPES: Mapping[str, Shape] = {
    "Python loop": Shape(Loop, "guilty_loop"),
    "sleep": Shape(Sleep, "guilty_sleep"),
    "lock": Shape(Lock, "guilty_lock"),
    "C loop: regex": Shape(Regex, "guilty_regex"),
    "C loop: big-int power": Shape(Power, "guilty_power"),
    "C holds the GIL": Shape(HoldGil, "guilty_gil"),
    "SIGTERM ignored": Shape(IgnoreTerm, "guilty_noterm"),
    "all signals blocked": Shape(BlockSignals, "guilty_block", can_answer=False),
    "stopped": Shape(Stop, "guilty_stop", can_answer=False),
    "fork bomb": Shape(ForkBomb, "guilty_bomb"),
    "huge memory": Shape(Memory, "guilty_memory"),
}
