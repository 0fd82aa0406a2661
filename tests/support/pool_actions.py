"""Actions for tests with real processes."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from fsmv2.supervisor import Action, ActionContext, Secret


class Echo(Action, frozen=True):
    value: int = 0

    def execute(self, ctx: ActionContext) -> int:
        return self.value


class WhoAmI(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> int:
        return os.getpid()


class LeaveDaemons(Action, frozen=True):
    """What it starts ends at once and leaves something behind that ends later."""

    count: int

    def execute(self, ctx: ActionContext) -> None:
        for _ in range(self.count):
            subprocess.run(["sh", "-c", "sleep 0.3 & exit 0"], check=True)


class Sleep(Action, frozen=True):
    seconds: float
    timeout_s = 60.0

    def execute(self, ctx: ActionContext) -> str:
        time.sleep(self.seconds)
        return "slept"


class Spin(Action, frozen=True):
    timeout_s = 0.2

    def execute(self, ctx: ActionContext) -> None:
        def guilty_loop() -> None:
            while True:
                pass

        guilty_loop()


class WaitOnLock(Action, frozen=True):
    timeout_s = 0.2

    def execute(self, ctx: ActionContext) -> None:
        guilty_lock = threading.Lock()
        guilty_lock.acquire()
        guilty_lock.acquire()


class HoldTheGil(Action, frozen=True):
    timeout_s = 0.2

    def execute(self, ctx: ActionContext) -> None:
        re.match(r"(a+)+$", "a" * 64 + "b")


class IgnoreTerm(Action, frozen=True):
    timeout_s = 0.2

    def execute(self, ctx: ActionContext) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(1)


class BlockAllSignals(Action, frozen=True):
    timeout_s = 0.2

    def execute(self, ctx: ActionContext) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        while True:
            time.sleep(1)


class StopMyself(Action, frozen=True):
    timeout_s = 0.2

    def execute(self, ctx: ActionContext) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)


class Segfault(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        print("about to read address 0")
        ctypes.string_at(0)


class Abort(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        os.abort()


class Leave(Action, frozen=True):
    code: int

    def execute(self, ctx: ActionContext) -> None:
        os._exit(self.code)


class KillMyself(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Raise(Action, frozen=True):
    text: str = "boom"

    def execute(self, ctx: ActionContext) -> None:
        raise ValueError(self.text)


class ExitPolitely(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        sys.exit(3)


class ReturnBytes(Action, frozen=True):
    size: int

    def execute(self, ctx: ActionContext) -> bytes:
        return b"x" * self.size


class Carry(Action, frozen=True):
    load: bytes

    def execute(self, ctx: ActionContext) -> int:
        return len(self.load)


class ReturnObject(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> object:
        return object()


class WrongAnnotation(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> int:
        return "not a number"  # type: ignore[return-value]


class TellSecret(Action, frozen=True):
    token: Secret

    def execute(self, ctx: ActionContext) -> Secret:
        print("printed", self.token.reveal())
        ctx.log("logged", text=self.token.reveal())
        ctx.progress(f"at {self.token.reveal()}")
        if self.token.reveal().startswith("crash"):
            ctypes.string_at(0)
        if self.token.reveal().startswith("raise"):
            raise ValueError(f"cannot use {self.token.reveal()}")
        return self.token


class StartGrandchildren(Action, frozen=True):
    """Leaves a child, a grandchild of its own session, and writes their pids to a file."""

    path: str
    timeout_s = 0.7

    def execute(self, ctx: ActionContext) -> None:
        code = (
            "import os, sys, time\n"
            "with open(sys.argv[1], 'a') as file: file.write(f'{os.getpid()}\\n')\n"
            "time.sleep(600)"
        )
        subprocess.Popen([sys.executable, "-c", code, self.path])
        subprocess.Popen([sys.executable, "-c", code, self.path], start_new_session=True)
        time.sleep(600)


class Cooperate(Action, frozen=True):
    timeout_s = 0.2
    grace_s = 20.0

    def execute(self, ctx: ActionContext) -> str:
        while not ctx.cancelled:
            time.sleep(0.005)
        return "cleaned up"


def _mark_running(path: str) -> None:
    with open(path, "w") as file:
        file.write("running")


class Cancellable(Action, frozen=True):
    """Marks a file when it runs, then waits to be told to end."""

    path: str
    grace_s = 20.0
    timeout_s = 60.0

    def execute(self, ctx: ActionContext) -> str:
        _mark_running(self.path)
        while not ctx.cancelled:
            time.sleep(0.005)
        raise InterruptedError("told to end")


class Heed(Action, frozen=True):
    """Marks a file when it runs, then waits to be told that its worker is to stop."""

    path: str
    grace_s = 20.0
    timeout_s = 60.0

    def execute(self, ctx: ActionContext) -> str:
        _mark_running(self.path)
        while not ctx.stopping:
            time.sleep(0.005)
        return "cancelled" if ctx.cancelled else "ended"


class Append(Action, frozen=True):
    """Appends begin and end marks, so that overlap and order can be seen."""

    path: str
    mark: str
    seconds: float = 0.0
    timeout_s = 60.0

    def execute(self, ctx: ActionContext) -> None:
        with open(self.path, "ab", buffering=0) as file:
            file.write(f"+{self.mark}\n".encode())
            time.sleep(self.seconds)
            file.write(f"-{self.mark}\n".encode())


class Flood(Action, frozen=True):
    timeout_s = 0.5

    def execute(self, ctx: ActionContext) -> None:
        while True:
            ctx.progress("x" * 1000)
            print("y" * 1000)


class WriteGarbage(Action, frozen=True):
    """Writes bytes that are no frame onto every pipe it finds but its standard ones."""

    data: bytes

    def execute(self, ctx: ActionContext) -> int:
        for name in os.listdir("/proc/self/fd"):
            fd = int(name)
            if fd <= 2:
                continue
            try:
                if os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):
                    os.set_blocking(fd, False)
                    os.write(fd, self.data)
            except OSError:
                pass
        time.sleep(30)
        return 1


class ForkAndReturn(Action, frozen=True):
    """A forked child that comes back from `execute` must not get into the loop."""

    def execute(self, ctx: ActionContext) -> int:
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
        return pid


class ForkAway(Action, frozen=True):
    """Has a child of the same program, in a session of its own, and sleeps; the file ``path`` says
    both pids."""

    path: str

    def execute(self, ctx: ActionContext) -> None:
        child = os.fork()
        if child == 0:
            os.setsid()
            time.sleep(1000)
            os._exit(0)
        Path(self.path + ".part").write_text(f"{os.getpid()} {child}")
        os.rename(self.path + ".part", self.path)
        time.sleep(1000)


class UseScratch(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> str:
        (ctx.scratch / "file").write_text("x")
        return str(ctx.scratch)


class ShrinkThePage(Action, frozen=True):
    """Tries to take the shared page away from under the root; tells what stopped it."""

    def execute(self, ctx: ActionContext) -> str:
        for name in os.listdir("/proc/self/fd"):
            try:
                if "memfd:fsmv2" in os.readlink(f"/proc/self/fd/{name}"):
                    os.ftruncate(int(name), 0)
                    return "done"
            except PermissionError:
                return "not permitted"
            except OSError:
                continue
        return "no page"


class CloseEverything(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        os.closerange(3, 4096)
        time.sleep(60)


class PrintWithoutNewline(Action, frozen=True):
    token: Secret

    def execute(self, ctx: ActionContext) -> None:
        print("token is", self.token.reveal(), end="")


_C_BUFFER = ctypes.create_string_buffer(4096)


class PrintInC(Action, frozen=True):
    """To libc's own buffer, which is written when it is full, or flushed (setvbuf(3), _IOFBF)."""

    token: Secret

    def execute(self, ctx: ActionContext) -> None:
        libc = ctypes.CDLL(None)
        libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), _C_BUFFER, 0, len(_C_BUFFER))
        libc.printf(b"token is %s\n", self.token.reveal().encode())


class PrintWhen(Action, frozen=True):
    """Has a process of its own print the token once the file ``path`` is there, and ends."""

    token: Secret
    path: str

    def execute(self, ctx: ActionContext) -> None:
        wait = 'while [ ! -e "$0" ]; do sleep 0.01; done; echo "token is $1"'
        subprocess.Popen(["sh", "-c", wait, self.path, self.token.reveal()])


class HoldSecret(Action, frozen=True):
    """Says nothing for an hour."""

    token: Secret
    timeout_s = 3600.0

    def execute(self, ctx: ActionContext) -> None:
        time.sleep(3600.0)
