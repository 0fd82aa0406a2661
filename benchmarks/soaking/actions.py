"""What the soak has its pool do.

Knows: tokens, by which a value is told from any other.
Does not know: kills, accounts.
Invariants: each takes a few milliseconds at most, so one that is over its time was stopped from
outside.
"""

from __future__ import annotations

import array
import os
import signal
import sys
import time

from fsmv2.supervisor import Action, ActionContext

LARGE_BYTES = 900_000  # more than any pipe holds, less than a frame may have


def stamp_of(token: int) -> int:
    """The value that `Stamp` has to give."""
    return token * 7 + 3


def large_of(token: int) -> bytes:
    """The value that `Large` has to give."""
    return token.to_bytes(8, "big") * (LARGE_BYTES // 8)


PID_BYTES = 4


class Told(Action, frozen=True):
    """Says in the file ``pids`` which process runs it, at the place of its token."""

    token: int
    pids: str

    def tell(self) -> None:
        """To be called first. An action that was killed before has no pid there."""
        fd = os.open(self.pids, os.O_WRONLY | os.O_CLOEXEC)
        os.pwrite(fd, os.getpid().to_bytes(PID_BYTES, sys.byteorder), self.token * PID_BYTES)
        os.close(fd)


def pids_of(path: str | os.PathLike[str]) -> list[int]:
    """Token to pid, 0 where none was told."""
    found = array.array("I")
    with open(path, "rb") as file:
        found.frombytes(file.read())
    return found.tolist()


class Stamp(Told, frozen=True):
    """Small in, small out."""

    seconds: float

    def execute(self, ctx: ActionContext) -> int:
        self.tell()
        time.sleep(self.seconds)
        return stamp_of(self.token)


class Parent(Told, frozen=True):
    """Has a child in a session of its own, with this proc's descriptors, and leaves a file behind.
    Ends the child itself, unless it is killed before: then somebody else has to."""

    seconds: float

    def execute(self, ctx: ActionContext) -> int:
        self.tell()
        (ctx.scratch / "left").write_bytes(b"behind")
        child = os.fork()
        if child == 0:
            os.setsid()
            time.sleep(3600)
            os._exit(0)
        time.sleep(self.seconds)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return stamp_of(self.token)


class Large(Told, frozen=True):
    """Small in, large out: there is time to be killed in the middle of the frame."""

    def execute(self, ctx: ActionContext) -> bytes:
        self.tell()
        return large_of(self.token)


class Keyed(Told, frozen=True):
    """Says in its key's file when it begins and when it ends, each with one write."""

    path: str
    serial: int
    seconds: float

    def execute(self, ctx: ActionContext) -> int:
        self.tell()
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.write(fd, f"+{self.serial}\n".encode())
        time.sleep(self.seconds)
        os.write(fd, f"-{self.serial}\n".encode())
        os.close(fd)
        return stamp_of(self.token)
