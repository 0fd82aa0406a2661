"""Actions that hang in every shape, die of every cause, or take more than they should."""

import ctypes
import itertools
import mmap
import os
import re
import signal
import sys
import threading
import time

from fsmv2.supervisor import Action, ActionContext, Limits

FOREVER_S = 3600.0
HANGS_FOR_S = 0.25


class LoopForever(Action, frozen=True):
    timeout_s = HANGS_FOR_S

    def execute(self, ctx: ActionContext) -> None:
        guilty_loop()


def guilty_loop() -> None:
    while True:
        pass


class SleepForever(Action, frozen=True):
    timeout_s = HANGS_FOR_S

    def execute(self, ctx: ActionContext) -> None:
        guilty_sleep()


def guilty_sleep() -> None:
    time.sleep(FOREVER_S)


class SleepBesideThreads(Action, frozen=True):
    """Among more threads than a dump of the proc's own tells."""

    threads: int
    timeout_s = HANGS_FOR_S

    def execute(self, ctx: ActionContext) -> None:
        for _ in range(self.threads):
            threading.Thread(target=time.sleep, args=(FOREVER_S,), daemon=True).start()
        guilty_sleep()


class GiveUp(Action, frozen=True):
    """An extension finds that nothing is right any more, and has the interpreter abort."""

    deep: int = 30

    def execute(self, ctx: ActionContext) -> None:
        print("before it", flush=True)
        guilty_giving_up(self.deep)


def guilty_giving_up(deep: int) -> None:
    if deep:
        guilty_giving_up(deep - 1)
    ctypes.pythonapi._Py_FatalErrorFunc(b"reads", b"register table corrupted")


class LockForever(Action, frozen=True):
    timeout_s = HANGS_FOR_S

    def execute(self, ctx: ActionContext) -> None:
        guilty_lock()


def guilty_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


class MatchForever(Action, frozen=True):
    timeout_s = HANGS_FOR_S

    def execute(self, ctx: ActionContext) -> None:
        guilty_match()


def guilty_match() -> None:
    re.match(r"(a+)+$", "a" * 64 + "b")


class CountInCForever(Action, frozen=True):
    """No byte code runs and no signal is looked for."""

    timeout_s = HANGS_FOR_S

    def execute(self, ctx: ActionContext) -> None:
        guilty_count()


def guilty_count() -> None:
    max(itertools.repeat(1))


class PowerForever(Action, frozen=True):
    timeout_s = HANGS_FOR_S

    def execute(self, ctx: ActionContext) -> None:
        guilty_power()


def guilty_power() -> None:
    number = 3
    for _ in range(40):
        number **= 10_007


class HoldGilInThread(Action, frozen=True):
    """The main thread waits for the interpreter's lock, which C code of another one holds."""

    timeout_s = HANGS_FOR_S

    def execute(self, ctx: ActionContext) -> None:
        threading.Thread(target=guilty_count, daemon=True).start()
        while True:
            pass


class IgnoreTerm(Action, frozen=True):
    timeout_s = HANGS_FOR_S

    def execute(self, ctx: ActionContext) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        guilty_sleep()


class BlockAllSignals(Action, frozen=True):
    timeout_s = HANGS_FOR_S

    def execute(self, ctx: ActionContext) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        guilty_sleep()


class StopMyself(Action, frozen=True):
    timeout_s = HANGS_FOR_S

    def execute(self, ctx: ActionContext) -> None:
        guilty_stop()


def guilty_stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


class ForkOn(Action, frozen=True):
    """Forks ``count`` processes, in new sessions and orphaned; each starts one more as soon as
    one below it has died. The marker file has one line for each."""

    marker: str
    count: int = 20
    timeout_s = HANGS_FOR_S * 4

    def execute(self, ctx: ActionContext) -> None:
        for number in range(self.count):
            if os.fork() == 0:
                os.setsid()
                if number % 2 and os.fork():
                    os._exit(0)
                keep_one_below(self.marker)
        guilty_sleep()


def keep_one_below(marker: str) -> None:
    note(marker)
    while True:
        child = os.fork()
        if child == 0:
            note(marker)
            time.sleep(FOREVER_S)
        os.waitpid(child, 0)


def note(marker: str) -> None:
    fd = os.open(marker, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, b"%d\n" % os.getpid())
    os.close(fd)


class TouchMemory(Action, frozen=True):
    size: int
    timeout_s = 60.0

    def execute(self, ctx: ActionContext) -> None:
        taken = touch(self.size)
        guilty_sleep()
        del taken


class TouchTooMuch(TouchMemory, frozen=True):
    limits = Limits(memory_bytes=64 << 20)


class TouchTooMuchBelow(Action, frozen=True):
    """A child of the action takes the memory."""

    size: int
    timeout_s = 60.0
    limits = Limits(memory_bytes=64 << 20)

    def execute(self, ctx: ActionContext) -> None:
        taken = touch(self.size if os.fork() == 0 else 0)
        guilty_sleep()
        del taken


def touch(size: int) -> bytearray:
    """Its caller is to keep it: what is let go of is given back before a sample sees it."""
    data = bytearray(size)
    for at in range(0, size, mmap.PAGESIZE):
        data[at] = 1
    return data


class ForkTooMuch(Action, frozen=True):
    timeout_s = 60.0
    limits = Limits(processes=5)

    def execute(self, ctx: ActionContext) -> None:
        for _ in range(15):
            if os.fork() == 0:
                time.sleep(FOREVER_S)
        guilty_sleep()


class TakeAddressSpace(Action, frozen=True):
    limits = Limits(address_space_bytes=1 << 30)

    def execute(self, ctx: ActionContext) -> None:
        bytearray(2 << 30)


class BurnCpu(Action, frozen=True):
    timeout_s = 60.0
    limits = Limits(cpu_s=1)

    def execute(self, ctx: ActionContext) -> None:
        guilty_loop()


class Die(Action, frozen=True):
    """Of a signal, which Python's own handlers do not catch."""

    number: int

    def execute(self, ctx: ActionContext) -> None:
        guilty_death(self.number)


def guilty_death(number: int) -> None:
    print("last words", flush=True)
    os.kill(os.getpid(), number)
    time.sleep(FOREVER_S)


class ReadBeyondFile(Action, frozen=True):
    """A real SIGBUS: the mapped file is shorter than the mapping."""

    def execute(self, ctx: ActionContext) -> None:
        guilty_read()


def guilty_read() -> None:
    fd = os.memfd_create("short")
    os.ftruncate(fd, mmap.PAGESIZE)
    data = mmap.mmap(fd, mmap.PAGESIZE)
    os.ftruncate(fd, 0)
    ctypes.string_at(ctypes.addressof(ctypes.c_char.from_buffer(data)), 1)


class ExitAtOnce(Action, frozen=True):
    code: int

    def execute(self, ctx: ActionContext) -> None:
        os._exit(self.code)


class Flip(Action, frozen=True):
    """Dies while the file ``switch`` exists."""

    switch: str

    def execute(self, ctx: ActionContext) -> str:
        if os.path.exists(self.switch):
            os.kill(os.getpid(), signal.SIGSEGV)
        return "well"


class Large(Action, frozen=True):
    size: int
    timeout_s = 60.0

    def execute(self, ctx: ActionContext) -> bytes:
        return bytes(self.size)


class PrintAll(Action, frozen=True):
    """Never stops printing."""

    timeout_s = 1.0

    def execute(self, ctx: ActionContext) -> None:
        for number in itertools.count():
            print("line", number)


class ReportAll(Action, frozen=True):
    """Never stops to report progress and to log."""

    timeout_s = 1.0

    def execute(self, ctx: ActionContext) -> None:
        for number in itertools.count():
            ctx.progress(f"step {number}")
            ctx.log("step", number=number)


class OneAtATime(Action, frozen=True):
    """Notes begin and end in a file."""

    path: str
    seconds: float = 0.05
    timeout_s = 60.0
    limits = Limits(concurrency=1)

    def execute(self, ctx: ActionContext) -> None:
        begin_and_end(self.path, self.seconds)


def begin_and_end(path: str, seconds: float) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, b"begin\n")
    time.sleep(seconds)
    os.write(fd, b"end\n")
    os.close(fd)


class WhoAmI(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> int:
        return os.getpid()


class BeatThenStop(Action, frozen=True):
    beats: int
    timeout_s = 60.0
    heartbeat_s = 0.4

    def execute(self, ctx: ActionContext) -> None:
        for _ in range(self.beats):
            ctx.heartbeat()
            time.sleep(0.1)
        guilty_sleep()


class BeatToTheEnd(BeatThenStop, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        for _ in range(self.beats):
            ctx.heartbeat()
            time.sleep(0.1)


class ExtendAgain(Action, frozen=True):
    """Needs ``wants_s``, and says so in time."""

    wants_s: float
    timeout_s = 0.3
    timeout_s_max = 2.0

    def execute(self, ctx: ActionContext) -> str:
        began = time.monotonic()
        while time.monotonic() - began < self.wants_s:
            ctx.extend(0.3)
            time.sleep(0.1)
        return "done"


class CatchTerm(Action, frozen=True):
    """Hears nothing of `cancelled`, but has a handler for SIGTERM."""

    timeout_s = HANGS_FOR_S
    grace_s = 20.0

    def execute(self, ctx: ActionContext) -> str:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(7))
        time.sleep(FOREVER_S)
        return "never"
