"""What dead procs leave behind: orphans that come to the root as sub-reaper, killed and reaped.

Knows: which children of the root are procs, whose mark or session an unknown one carries.
Does not know: lanes, attempts, what the orphans were for.
Invariants: only processes that carry our mark or belong to a proc's session are touched, and
only once their proc is dead; the host's own children, and those of other pools, are left alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable

from fsmv2.ipc.linux import children_of, is_alive, orphan_of

SWEEP_AGAIN_S = 0.05
BURIED_MAX = 1_000


class Orphans:
    """The sweeper of one pool. ``name`` begins the names of all its procs."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._buried: deque[int] = deque(maxlen=BURIED_MAX)
        self._doomed: set[int] = set()
        self.sweep_at: float | None = None
        # The host's own children, which a sweep must leave alone; the supervisor sets both.
        self.known_pids: Callable[[], set[int]] = set
        self.owns_process = False

    def bury(self, pid: int, below: Iterable[int]) -> None:
        """A proc is dead; ``below`` are its descendants, killed with it."""
        if pid:
            self._buried.append(pid)
        self._doomed.update(below)

    def sweep(self, known: set[int], living: set[int]) -> int:
        """Kill and reap what dead procs left behind. ``known`` are our own children, ``living``
        the procs among them that are alive. Returns how many were killed now."""
        known = known | self.known_pids()
        killed = 0
        self.sweep_at = None
        children = children_of(os.getpid())
        # Killed with their proc: once dead they are ours to reap, unless their own parent lives.
        self._doomed = {pid for pid in self._doomed if pid in children or is_alive(pid)}
        for pid in children:
            if pid in known:
                continue
            if pid in self._buried:
                # A dead proc's number, given out anew: what bears it now is the host's.
                self._buried = deque((one for one in self._buried if one != pid), BURIED_MAX)
            orphan = orphan_of(pid)
            ours = pid in self._doomed or orphan.proc_pid in living | set(self._buried)
            if orphan.is_zombie:
                # A proc that died before anybody told us its pid still bears its name.
                if ours or self.owns_process or orphan.name.startswith(self._name):
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)
                    self._doomed.discard(pid)
            elif ours and orphan.proc_pid not in living:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
                self._doomed.add(pid)
        if self._doomed:
            self.sweep_at = time.monotonic() + SWEEP_AGAIN_S
        return killed

    def has_strays(self) -> bool:
        """Whether a proc lives that was forked while its handle was being forgotten. It finds
        its channel closed and leaves; it only has to be reaped."""
        return any(orphan_of(pid).name.startswith(self._name) for pid in children_of(os.getpid()))
