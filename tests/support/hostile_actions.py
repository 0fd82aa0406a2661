"""Actions that turn on the pool, for `tests/proc/test_hostile_actions.py`."""

import mmap
import os
import struct
import sys
import time
from typing import Any

from fsmv2.supervisor import Action, ActionContext


class Lawless(Exception):
    def __str__(self) -> str:
        raise SystemExit(5)


class NamelessType(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise SystemExit(6)


class Nameless(Exception, metaclass=NamelessType):
    pass


class LawlessText(str):
    def __getitem__(self, _part: Any) -> str:
        raise SystemExit(7)


class OddlySaid(Exception):
    def __str__(self) -> str:
        return LawlessText("odd")


class RaiseWhat(Action, frozen=True):
    """Raises what is hard to tell of."""

    what: str

    def execute(self, ctx: ActionContext) -> None:
        match self.what:
            case "lone surrogate":
                raise ValueError("no file \udcff")
            case "long name":
                raise type("X" * 2_000_000, (Exception,), {})("long")
            case "text that exits":
                raise Lawless
            case "name that exits":
                raise Nameless
            case "text of a class":
                raise OddlySaid


class ExitWhenFlushed:
    def flush(self) -> None:
        raise SystemExit(8)


class ReplaceOutput(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> str:
        sys.stdout = ExitWhenFlushed()  # type: ignore[assignment]
        return "done"


class ForgeBegin(Action, frozen=True):
    """Writes ``moment`` where the root reads when it began."""

    timeout_s = 0.3
    moment: float

    def execute(self, ctx: ActionContext) -> None:
        for name in os.listdir("/proc/self/fd"):
            try:
                is_page = "memfd:fsmv2" in os.readlink(f"/proc/self/fd/{name}")
            except OSError:
                continue
            if is_page:
                with mmap.mmap(int(name), 4096) as page:
                    page[8:16] = struct.pack("d", self.moment)
                break
        time.sleep(60)


class CutAFrame(Action, frozen=True):
    """Begins a frame in every pipe, and hangs."""

    timeout_s = 0.3

    def execute(self, ctx: ActionContext) -> None:
        for fd in range(3, 64):
            try:
                if "pipe:" in os.readlink(f"/proc/self/fd/{fd}"):
                    os.write(fd, struct.pack("<BI", 1, 1000))
            except OSError:
                continue
        time.sleep(60)


class CloseEverything(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        os.closerange(0, 1000)
        time.sleep(60)


class DigDeep(Action, frozen=True):
    """Leaves folders in folders, more than Python's stack is deep."""

    timeout_s = 60.0

    def execute(self, ctx: ActionContext) -> None:
        os.makedirs(ctx.scratch, exist_ok=True)
        os.chdir(ctx.scratch)
        for _ in range(1_500):
            os.mkdir("d")
            os.chdir("d")
        os._exit(3)
