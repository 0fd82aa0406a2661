"""Starts a proc in a fresh interpreter: for when there is no template to fork it from.

Knows: what a new process must be given.
Does not know: why there is no template.
Invariants: the new process speaks like a forked one, over the same descriptors; the caller's
ends are the only ones left here. Takes some milliseconds here, and some 100 until it is ready.
"""

from __future__ import annotations

import os
import threading
from importlib import import_module
from typing import TYPE_CHECKING

from fsmv2.ipc.codec import encode
from fsmv2.ipc.messages import Fork
from fsmv2.supervisor import processes

if TYPE_CHECKING:
    from fsmv2.supervisor.procs import ProcHandle

SPAWNED_MAIN = "fsmv2.workerproc.spawned:spawned_main"


def run_spawned(*args: object) -> None:
    """The new process's first function. Imports workerproc there, never in the root."""
    module, _, name = SPAWNED_MAIN.partition(":")
    getattr(import_module(module), name)(*args)


def spawn_proc(
    proc: ProcHandle,
    order: Fork,
    search: tuple[str, ...],
    run_folder: str,
    metrics_folder: str | None,
) -> int:
    """Start ``proc``; returns its pid. Raises OSError when the machine cannot."""
    pid = processes.start_unwatched(
        order.name,
        run_spawned,
        encode(order),
        [processes.SentFd(fd) for fd in proc.theirs],
        search,
        run_folder,
        metrics_folder,
        os.getpid() if threading.current_thread() is threading.main_thread() else 0,
    )
    proc.close_theirs()
    return pid
