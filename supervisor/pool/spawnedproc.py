"""Starts a proc in a fresh interpreter: for when there is no template to fork it from.

Knows: what a new process must be given, and the leash that ends it with the root.
Does not know: why there is no template.
Invariants: the new process speaks like a forked one, over the same descriptors; the caller's
ends are the only ones left here. Takes some milliseconds here, and some 100 until it is ready.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from fsmv2.ipc.codec import encode
from fsmv2.ipc.messages import Fork
from fsmv2.supervisor.system import processes

if TYPE_CHECKING:
    from fsmv2.supervisor.pool.procs import ProcHandle

SPAWNED_MAIN = "fsmv2.workerproc.spawned:spawned_main"


class _Leash:
    """A pipe that nobody writes to, for all procs of this process: its end is the root's."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC)


_leash: _Leash | None = None


def spawn_proc(
    proc: ProcHandle,
    order: Fork,
    search: tuple[str, ...],
    run_folder: str,
    metrics_folder: str | None,
) -> int:
    """Start ``proc``; returns its pid. Raises OSError when the machine cannot."""
    global _leash
    if _leash is None or _leash.pid != os.getpid():  # a fork of ours must have its own
        _leash = _Leash()
    pid = processes.start_unwatched(
        order.name,
        processes.Named(SPAWNED_MAIN),
        encode(order),
        [processes.PlainFd(fd) for fd in proc.theirs],
        processes.PlainFd(_leash.read_fd),
        search,
        run_folder,
        metrics_folder,
        os.getpid() if threading.current_thread() is threading.main_thread() else 0,
    )
    proc.close_theirs()
    return pid
