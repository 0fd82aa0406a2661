"""Actions held to limits, and actions that tell what limits they see."""

import errno
import logging
import mmap
import os
import resource
import threading
import time

from fsmv2.supervisor import Action, ActionContext, Limits, Secret

SOFT = ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_NOFILE", "RLIMIT_NPROC")


class TellLimits(Action, frozen=True):
    """Soft limits by name, and the niceness; whether the proc is the same is for the pid."""

    def execute(self, ctx: ActionContext) -> dict[str, int]:
        told = {name: resource.getrlimit(getattr(resource, name))[0] for name in SOFT}
        return told | {"niceness": os.getpriority(os.PRIO_PROCESS, 0), "pid": os.getpid()}


class TellLimited(TellLimits, frozen=True):
    limits = Limits(address_space_bytes=4 << 30, cpu_s=5, open_files=10)


class OpenFiles(Action, frozen=True):
    """Opens files until it may not; returns how many it got and the error's name."""

    limits = Limits(open_files=7)

    def execute(self, ctx: ActionContext) -> tuple[int, str]:
        files: list[int] = []
        try:
            while len(files) < 100:
                files.append(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            return len(files), errno.errorcode[error.errno or 0]
        finally:
            for fd in files:
                os.close(fd)
        return len(files), "no error"


class OpenTooMany(Action, frozen=True):
    limits = Limits(open_files=0)

    def execute(self, ctx: ActionContext) -> None:
        with open(os.devnull):
            pass


class FillMemory(Action, frozen=True):
    """Uses up its address space to the last page and keeps it while the error travels."""

    limits = Limits(address_space_bytes=1 << 30)

    def execute(self, ctx: ActionContext) -> None:
        kept: list[bytearray] = []
        size = 1 << 26
        while size >= 4096:
            try:
                kept.append(bytearray(size))
            except MemoryError:
                size //= 2
        raise MemoryError(len(kept))


class TooLittleSpace(Action, frozen=True):
    """Less than any proc has before the action begins."""

    limits = Limits(address_space_bytes=1 << 20)

    def execute(self, ctx: ActionContext) -> None:
        raise AssertionError("it was run")


class Nice(Action, frozen=True):
    limits = Limits(niceness=7)

    def execute(self, ctx: ActionContext) -> tuple[int, int]:
        return os.getpriority(os.PRIO_PROCESS, 0), os.getpid()


class GiveUpPrivileges(Action, frozen=True):
    """As an ordinary user's, the niceness cannot be lowered again."""

    limits = Limits(niceness=7)

    def execute(self, ctx: ActionContext) -> int:
        resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
        if os.getuid() == 0:
            os.setresuid(65534, 65534, 65534)
        return os.getpid()


class BurnInBursts(Action, frozen=True):
    """Less than the limit each, more than that over several attempts of one proc."""

    limits = Limits(cpu_s=1)

    def execute(self, ctx: ActionContext) -> float:
        began = time.process_time()
        while time.process_time() < began + 0.4:
            pass
        return time.process_time()


class RaiseInLimits(Action, frozen=True):
    limits = Limits(cpu_s=5, open_files=3)

    def execute(self, ctx: ActionContext) -> None:
        raise ValueError("within limits")


class LogLibrary(Action, frozen=True):
    """A library of the action logs; ``token`` must never be seen."""

    token: Secret
    count: int = 1

    def execute(self, ctx: ActionContext) -> None:
        logger = logging.getLogger("some.library")
        logger.setLevel(logging.DEBUG)
        logger.info("not worth the way")
        for number in range(self.count):
            logger.warning("warned %d about %s", number, self.token.reveal())
        try:
            raise KeyError("lost")
        except KeyError:
            logger.exception("failed")


class LogAfterwards(Action, frozen=True):
    """Leaves a thread that waits for the file ``go`` and then moves and logs for its attempt."""

    go: str
    heartbeat_s = 60.0
    timeout_s_max = 600.0

    def execute(self, ctx: ActionContext) -> None:
        def later() -> None:
            while not os.path.exists(self.go):
                time.sleep(0.01)
            ctx.heartbeat()
            told = ctx.extend(100.0)
            with open(f"{self.go}.done", "w") as file:
                file.write(str(told))

        threading.Thread(target=later, daemon=True).start()


class WaitFor(Action, frozen=True):
    """Asks for 20 s more at the start, then waits for the file."""

    path: str
    timeout_s = 60.0
    timeout_s_max = 600.0

    def execute(self, ctx: ActionContext) -> float:
        ctx.extend(20.0)
        while not os.path.exists(self.path):
            time.sleep(0.01)
        return ctx.deadline_s


class ExtendBadly(Action, frozen=True):
    """What `extend` says to each of these; no ceiling, so nothing is ever added."""

    def execute(self, ctx: ActionContext) -> list[str]:
        told = []
        for bad in (-1, float("nan"), float("inf"), "5", True):
            try:
                ctx.extend(bad)  # type: ignore[arg-type]
            except ValueError as error:
                told.append(str(error))
        before = ctx.deadline_s
        told.append(f"added {ctx.extend(10.0) > before}")
        return told


class ExtendTo(Action, frozen=True):
    """Asks for ``seconds``; returns the seconds left before and after, and those it took."""

    seconds: float
    timeout_s = 50.0
    timeout_s_max = 80.0

    def execute(self, ctx: ActionContext) -> tuple[float, float, float, float]:
        began = time.monotonic()
        before = ctx.deadline_s
        after = ctx.extend(self.seconds)
        took = time.monotonic() - began
        return before, after, ctx.deadline_s, took


class ShareMemory(Action, frozen=True):
    """Forks processes that have its pages and write none of them; they are all resident."""

    size: int
    processes: int
    seconds: float
    timeout_s = 60.0
    limits = Limits(memory_bytes=256 << 20)

    def execute(self, ctx: ActionContext) -> int:
        data = bytearray(self.size)
        for at in range(0, self.size, mmap.PAGESIZE):
            data[at] = 1
        pids = []
        for _ in range(self.processes):
            pid = os.fork()
            if pid == 0:
                time.sleep(self.seconds)
                os._exit(0)
            pids.append(pid)
        return sum(os.waitpid(pid, 0)[1] == 0 for pid in pids)
