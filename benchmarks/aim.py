"""Strikes processes with signals, at the moment they write if it can see that.

    python benchmarks/aim.py     (started by the benchmarks, never by hand)

Reads orders from standard input, one a line: `PID PARENT SIGNAL SECONDS`. It waits at most SECONDS
for a thread of PID to be blocked in a write (0: strike at once), sends the signal and answers
with one line: `hit AT` (it was writing), `blind AT` (struck without seeing it write) or `gone`
(no such process, a zombie, or not a child of PARENT, 0: whoever's). AT is `time.monotonic`.

Knows: /proc/PID/task/TID/syscall (proc(5)); pidfds, so that no other process can be hit.
Does not know: why.
Invariants: a process of its own, so that the interpreter it shoots at cannot hold it up; ends when
its standard input does. Where the kernel does not tell system calls every strike is blind.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import subprocess
import sys
import time
from typing import NamedTuple

# write, writev, sendto, sendmsg. Source: the kernel's asm/unistd_64.h and asm-generic/unistd.h.
_WRITING = {
    "x86_64": (b"1", b"20", b"44", b"46"),
    "aarch64": (b"64", b"66", b"206", b"211"),
}.get(platform.machine(), ())


def is_writing(pid: int) -> bool:
    """Whether a thread of ``pid`` is blocked in a write to something but its standard streams."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return False
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/syscall", "rb", buffering=0) as file:
                words = file.read(128).split()
        except OSError:
            continue
        if len(words) > 2 and words[0] in _WRITING and int(words[1], 16) > 2:
            return True
    return False


def _may_be_struck(pid: int, parent: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, above = file.read().rpartition(b")")[2].split()[:2]
    except OSError:
        return False
    return state not in (b"Z", b"X") and parent in (0, int(above))


def strike(pid: int, parent: int, number: int, aim_s: float) -> str:
    """Carry out one order and give the answer."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return "gone"
    try:
        if not _may_be_struck(pid, parent):
            return "gone"
        seen, give_up = False, time.monotonic() + aim_s
        while aim_s and not (seen := is_writing(pid)) and time.monotonic() < give_up:
            pass  # a write may last microseconds
        signal.pidfd_send_signal(pidfd, number)
        return f"{'hit' if seen else 'blind'} {time.monotonic()}"
    except OSError:
        return "gone"
    finally:
        os.close(pidfd)


class Strike(NamedTuple):
    """What became of an order: ``kind`` hit, blind or gone, and when (monotonic seconds)."""

    kind: str
    at: float


class Aim:
    """The process that strikes, as its user holds it. ``with Aim() as aim:``"""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        # PyDLL keeps the GIL during the call, CDLL would let go of it.
        self._read_with_gil = ctypes.PyDLL(None).read

    def __enter__(self) -> Aim:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # Killed: a process forked meanwhile may hold the other end of its standard input.
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        """Its own process id."""
        return self._process.pid

    def order(
        self, pid: int, number: int, *, parent: int = 0, aim_s: float = 0.0, hold: bool = False
    ) -> Strike:
        """Have ``pid`` struck. With ``hold`` no thread of this interpreter runs meanwhile, so
        that nobody empties the pipe the victim writes into: it is sure to be caught there."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{pid} {parent} {int(number)} {aim_s}\n".encode())
        buffer = ctypes.create_string_buffer(256)
        if hold:
            count = self._read_with_gil(self._process.stdout.fileno(), buffer, 256)
            answer = buffer.raw[: max(0, count)]
        else:
            answer = os.read(self._process.stdout.fileno(), 256)
        if not answer:
            raise OSError("cannot strike: the process for it has ended")
        kind, _, at = answer.decode().strip().partition(" ")
        return Strike(kind, float(at or 0))


def main() -> None:
    """Take orders until standard input ends."""
    while line := sys.stdin.buffer.readline():
        pid, parent, number, aim_s = line.split()
        answer = strike(int(pid), int(parent), int(number), float(aim_s))
        os.write(1, answer.encode() + b"\n")


if __name__ == "__main__":
    main()
