"""Starts a proc in an interpreter of its own, where no template can be kept alive.

Knows: what such a proc is told, the leash that ends it with the root.
Does not know: when procs are started, what becomes of them.
Invariants: the pid is the root's own child from the beginning, and only the root waits for it;
starting one never waits for it to run.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from fsmv2.ipc.messages import Fork
from fsmv2.supervisor import processes

if TYPE_CHECKING:
    from fsmv2.supervisor.procs import ProcHandle

SPAWNED_MAIN = "fsmv2.workerproc.spawned:spawned_main"


class Spawner:
    """Starts procs one by one. ``search`` are folders added to their module path, scratch
    folders go to ``run_folder``, metric files to ``metrics_folder`` (None: no metrics)."""

    def __init__(
        self, search: tuple[str, ...], run_folder: str, metrics_folder: str | None
    ) -> None:
        self._search = search
        self._run_folder = run_folder
        self._metrics_folder = metrics_folder
        # Nothing is ever written to it: its end is the root's.
        self._leash_read, self._leash_write = os.pipe2(os.O_CLOEXEC)

    def start(self, proc: ProcHandle, order: Fork) -> int:
        """Start ``proc`` and close our copies of its descriptors; returns its pid.

        Takes as long as a fork and an exec; the proc says hello when its interpreter is up,
        some 100 ms later. Raises OSError when the machine cannot; ``proc`` is unchanged then.
        """
        pid = processes.start_unlisted(
            order.name,
            processes.Named(SPAWNED_MAIN),
            order.slot,
            order.name,
            order.root_pid,
            order.group,
            order.result_bytes_max,
            tuple(processes.PlainFd(fd) for fd in proc.theirs),
            processes.PlainFd(self._leash_read),
            self._search,
            self._run_folder,
            self._metrics_folder,
            threading.current_thread() is threading.main_thread(),
        )
        proc.close_theirs()
        return pid

    def close(self) -> None:
        """Let go of the leash: procs that still live are killed by the kernel."""
        os.close(self._leash_read)
        os.close(self._leash_write)
