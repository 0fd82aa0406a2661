"""Orphans that come to the root as sub-reaper: killed when their proc is dead, reaped when they
are dead themselves.

Knows: which children of the root are procs, whose mark or session an unknown one carries.
Does not know: lanes, attempts, what the orphans were for.
Invariants: only processes that carry our mark or belong to a proc's session are touched, and
killed only once their proc is dead; the host's own children, and those of other pools, are left
alone; one sweep looks at `LOOKS_MAX` of them, and says when it has to go on.

An action may leave daemons behind that go on while its proc does. When they end they are reaped
all the same (`reap`): a process that has nothing but this supervisor reaps what nobody else knows,
as the first process of a container has to. In somebody else's process a dead one has no mark left
to be known by, so only those are reaped that were seen alive, or are of a proc's session.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable

from fsmv2.ipc.linux import children_of, orphan_of, place_of

SWEEP_AGAIN_S = 0.05
# A look costs some 20 to 100 µs; a proc may have left ten thousand of them.
LOOKS_MAX = 300
SWEEP_ON_S = 0.005
REAPS_MAX = 3_000
BURIED_MAX = 1_000


class Orphans:
    """The sweeper of one pool. ``name`` begins the names of all its procs."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._buried: deque[int] = deque(maxlen=BURIED_MAX)
        self._doomed: set[int] = set()
        # Seen alive with the mark of a proc that lives.
        self._adopted: set[int] = set()
        # Found dead with a proc's name, whose pid nobody has told us yet.
        self._untold: set[int] = set()
        # Children that the last sweep has not come to.
        self._left: list[int] = []
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
        children = {pid: None for pid in children_of(os.getpid()) if pid not in known}
        # Killed with their proc: once dead they are ours to reap, unless their own parent lives.
        elsewhere = [pid for pid in self._doomed if pid not in children]
        self._doomed.difference_update(pid for pid in elsewhere[:LOOKS_MAX] if self._is_over(pid))
        theirs = living | set(self._buried)
        for pid in self._next_of(children):
            if pid in self._buried:
                theirs = theirs - {pid} | living
                # A dead proc's number, given out anew: what bears it now is the host's.
                self._buried = deque((one for one in self._buried if one != pid), BURIED_MAX)
            orphan = orphan_of(pid)
            ours = pid in self._doomed or orphan.proc_pid in theirs
            if orphan.is_zombie:
                # A proc that died before anybody told us its pid still bears its name.
                if ours or self.owns_process or orphan.name.startswith(self._name):
                    self._bury_one(pid)
            elif ours and orphan.proc_pid not in living:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
                self._doomed.add(pid)
        if self._left:
            self.sweep_at = time.monotonic() + SWEEP_ON_S
        elif self._doomed:
            self.sweep_at = time.monotonic() + SWEEP_AGAIN_S
        return killed

    def reap(self, known: set[int], living: set[int]) -> bool:
        """Reap orphans that have ended, also while their procs live; whether there are more that
        will end. ``known`` and ``living`` as for `sweep`."""
        known = known | self.known_pids()
        if self.owns_process:
            self._reap_unknown(known)
            return any(pid not in known for pid in children_of(os.getpid()))
        theirs = living | set(self._buried)
        children = [pid for pid in children_of(os.getpid()) if pid not in known]
        self._adopted.intersection_update(children)
        for pid in children[:LOOKS_MAX]:
            orphan = orphan_of(pid)
            if pid not in self._adopted and orphan.proc_pid not in theirs:
                continue
            if orphan.is_zombie:
                self._bury_one(pid)
            else:
                self._adopted.add(pid)
        return bool(self._adopted)

    def _reap_unknown(self, known: set[int]) -> None:
        # With a proc's name: its exit status is wanted, and the template says in a moment who it
        # is. One that was found so before, a look ago, is nobody's.
        untold, self._untold = self._untold, set()

        def is_nobodys(pid: int) -> bool:
            if pid in known:
                return False
            if pid in untold or not orphan_of(pid).name.startswith(self._name):
                return True
            self._untold.add(pid)
            return False

        for _ in range(REAPS_MAX):
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            if not is_nobodys(found.si_pid):
                break  # the kernel names no other before that one is reaped
            self._bury_one(found.si_pid)
        for pid in children_of(os.getpid())[:LOOKS_MAX]:
            place = place_of(pid)
            if place is not None and place.state == "Z" and is_nobodys(pid):
                self._bury_one(pid)

    def _bury_one(self, pid: int) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        self._doomed.discard(pid)
        self._adopted.discard(pid)

    def _is_over(self, pid: int) -> bool:
        """Whether a doomed one that is no child of ours needs nobody: it is gone, or dead with a
        parent that lives on. One that dies itself leaves it to us in a moment, or has done so since
        our children were read."""
        place = place_of(pid)
        if place is None:
            return True
        ours_soon = self._doomed | {os.getpid()}
        return place.state == "Z" and place.parent_pid not in ours_soon

    def _next_of(self, children: dict[int, None]) -> list[int]:
        """Whom this sweep looks at: first those the last one had not come to. If that is all it
        was called for, whom it has looked at already is not looked at again."""
        is_going_on = self.sweep_at is not None and time.monotonic() >= self.sweep_at
        self.sweep_at = None
        todo = [pid for pid in self._left if pid in children]
        if not (todo and is_going_on):
            todo = [*dict.fromkeys((*todo, *children))]
        self._left = todo[LOOKS_MAX:]
        return todo[:LOOKS_MAX]

    def has_strays(self) -> bool:
        """Whether a proc lives that was forked while its handle was being forgotten. It finds
        its channel closed and leaves; it only has to be reaped."""
        return any(orphan_of(pid).name.startswith(self._name) for pid in children_of(os.getpid()))
