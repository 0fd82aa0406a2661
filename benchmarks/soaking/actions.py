"""What the soak has its pool do.

Knows: tokens, by which a value is told from any other.
Does not know: kills, accounts.
Invariants: each takes a few milliseconds at most, so one that is over its time was stopped from
outside.
"""

from __future__ import annotations

import os
import signal
import time

from fsmv2.supervisor import Action, ActionContext

LARGE_BYTES = 900_000  # more than any pipe holds, less than a frame may have


def stamp_of(token: int) -> int:
    """The value that `Stamp` has to give."""
    return token * 7 + 3


def large_of(token: int) -> bytes:
    """The value that `Large` has to give."""
    return token.to_bytes(8, "big") * (LARGE_BYTES // 8)


class Stamp(Action, frozen=True):
    """Small in, small out."""

    token: int
    seconds: float

    def execute(self, ctx: ActionContext) -> int:
        time.sleep(self.seconds)
        return stamp_of(self.token)


class Parent(Action, frozen=True):
    """Has a child in a session of its own, with this proc's descriptors, and leaves a file behind.
    Ends the child itself, unless it is killed before: then somebody else has to."""

    token: int
    seconds: float

    def execute(self, ctx: ActionContext) -> int:
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


class Large(Action, frozen=True):
    """Small in, large out: there is time to be killed in the middle of the frame."""

    token: int

    def execute(self, ctx: ActionContext) -> bytes:
        return large_of(self.token)


class Keyed(Action, frozen=True):
    """Says in its key's file when it begins and when it ends, each with one write."""

    token: int
    path: str
    serial: int
    seconds: float

    def execute(self, ctx: ActionContext) -> int:
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.write(fd, f"+{self.serial}\n".encode())
        time.sleep(self.seconds)
        os.write(fd, f"-{self.serial}\n".encode())
        os.close(fd)
        return stamp_of(self.token)
