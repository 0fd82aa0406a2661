"""What the pools are given to do: plain functions that any process can import.

Knows: marks, files in which a task says when it began and in which process.
Does not know: which pool runs it.
Invariants: every task that is going to be killed has marked its begin before it hangs. Times are
`time.monotonic`, which all processes of a Linux machine share (clock_gettime(2)).
"""

from __future__ import annotations

import collections
import itertools
import os
import signal
import struct
import time
from typing import NamedTuple

_MARK = struct.Struct("<dq")


class Mark(NamedTuple):
    """When a task began (monotonic seconds) and the process that runs it."""

    at: float
    pid: int


def mark(path: str) -> None:
    """Say in ``path`` that this process is here now."""
    now = time.monotonic()  # to make a file takes a while
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.write(fd, _MARK.pack(now, os.getpid()))
    os.close(fd)


def read_mark(path: str) -> Mark | None:
    """What was said in ``path``, None if nothing yet."""
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError:
        return None
    return Mark(*_MARK.unpack(text)) if len(text) == _MARK.size else None


def nothing() -> None:
    """The empty task."""


def echo(value: int) -> int:
    """Give back what came."""
    return value


def hold(path: str, fifo: str) -> str:
    """Keep a slot until a byte can be read from ``fifo``."""
    mark(path)
    with open(fifo, "rb", buffering=0) as file:
        file.read(1)
    return "held"


def sleeping(path: str) -> None:
    """Be busy with nothing for ten minutes."""
    mark(path)
    time.sleep(600)


def guilty_loop(path: str) -> None:
    """A Python loop without an end."""
    mark(path)
    while True:
        pass


def guilty_noterm(path: str) -> None:
    """Blocked in the kernel, SIGTERM ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    mark(path)
    while True:
        time.sleep(60)


def guilty_gil(path: str) -> None:
    """A loop in C without an end that never lets go of the GIL."""
    mark(path)
    collections.deque(itertools.repeat(None), maxlen=0)


def large(path: str, size: int) -> bytes:
    """A result that no pipe holds at once; leaves time to get ready for it."""
    mark(path)
    time.sleep(0.05)
    return b"x" * size


def brief(seconds: float, size: int) -> bytes:
    """A little time and a result of ``size`` bytes: ordinary traffic."""
    time.sleep(seconds)
    return b"x" * size
