"""Runs a command so that nothing of it is left afterwards.

Knows: child sub-reapers (prctl(2)): orphans below this process become its children.
Does not know: what runs.
Invariants: `run_fenced` comes back within its time and a few seconds, and none of the processes
that the command started is alive then, however they tried.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

from fsmv2.ipc.linux import children_of, descendants_of, set_subreaper

LEAVE_S = 1.0  # trackers and the like end by themselves when their pool's process has ended


class Fenced(NamedTuple):
    """``code`` is None when the time was over; ``left`` how many processes had to be killed
    after the command had ended; ``errors`` the end of its standard error."""

    code: int | None
    seconds: float
    left: int
    errors: str


def run_fenced(command: Sequence[str], limit_s: float, folder: str | None = None) -> Fenced:
    """Run ``command`` for at most ``limit_s`` seconds, then end it and all it started.

    ``folder`` is for its temporary files: who is killed does not clean up.
    """
    set_subreaper(True)
    others = set(children_of(os.getpid()))
    began = time.monotonic()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=None if folder is None else {**os.environ, "TMPDIR": folder},
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            left = _end_all(process, others)
        seconds = time.monotonic() - began
        errors.seek(0, os.SEEK_END)
        errors.seek(max(0, errors.tell() - 2000))
        return Fenced(code, seconds, left, errors.read().decode(errors="replace"))


def _end_all(process: subprocess.Popen[bytes], others: set[int]) -> int:
    """Kill the command, give what it leaves behind a moment, then kill that too."""
    if process.poll() is None:
        process.kill()
        process.wait()
    give_up, killed = time.monotonic() + LEAVE_S, set[int]()
    while mine := [pid for pid in children_of(os.getpid()) if pid not in others]:
        if time.monotonic() > give_up:
            for pid in {*mine, *(each for top in mine for each in descendants_of(top))}:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
        for pid in mine:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.01)
    return len(killed)
