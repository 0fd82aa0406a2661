"""Kills a process with all it started where no kernel group can: freeze, look again, kill.

Knows: signals, who is whose child, orphans that came to us as sub-reaper.
Does not know: procs, groups, when any of it is called for.
Invariants: never waits; each call does a bounded amount of work and says whether it was enough;
a pid is stopped only while it is seen to be below ours, so a stranger is never touched.

Why freeze first: a list of children is reliable only while they are stopped (proc(5)), and
what is stopped cannot fork. Why the process itself dies last, and only when nobody is left
below it: its descendants are found through it; as a sub-reaper it also inherits the ones that
forked twice (PR_SET_CHILD_SUBREAPER, prctl(2)). Why the others die leaves first: the end of a
parent wakes stopped children of another process group with SIGCONT (setpgid(2)); by then each
has its SIGKILL pending and runs no more code of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Collection
from typing import NamedTuple

from fsmv2.ipc.linux import (
    children_of,
    descendants_by_scan,
    descendants_of,
    has_children_lists,
    orphan_of,
    place_of,
)

ROUNDS_MAX = 8
PROCESSES_MAX = 256
LOOK_MAX = 10_000
_OUR_NAMES = "fsmv2."


class Killed(NamedTuple):
    """What a call did: ``pids`` got SIGKILL (zombies are not counted); ``refused`` could not be
    signalled, another user's; ``is_complete``: nobody was left, the process itself included.
    Otherwise it is still there, stopped, and the next call goes on."""

    pids: tuple[int, ...]
    refused: tuple[int, ...]
    is_complete: bool


def kill_tree(
    pid: int,
    *,
    rounds_max: int = ROUNDS_MAX,
    processes_max: int = PROCESSES_MAX,
    known: Collection[int] = (),
    look: Callable[[int, int], list[int]] | None = None,
) -> Killed:
    """SIGKILL ``pid`` and all processes below it, at most ``processes_max`` in a call.

    It looks at most ``rounds_max`` times; a quiet tree needs three looks. ``known`` are
    children of this process that are not to be looked at as orphans of ``pid``: its other
    procs. ``look(pid, limit)`` finds whom to kill, `descendants_of` unless given; for a group
    without ``cgroup.kill`` give ``lambda pid, limit: group.pids()``. Call it again, from a
    timer, while the answer is not complete. ``pid`` must not be reaped before.
    """
    if look is None:
        look = descendants_of if has_children_lists() else descendants_by_scan
    hunt = _Hunt(pid, processes_max, frozenset({*known, pid, os.getpid()}), look)
    _signal(pid, signal.SIGSTOP)
    is_settled = False
    for _ in range(rounds_max):
        if hunt.is_full:
            break
        if hunt.stop_new():
            continue
        if not hunt.kill_stopped():
            # Nobody new since the last ones died: nobody is left who could start another.
            is_settled = not hunt.is_cut
            break
    else:
        is_settled = False
    hunt.kill_stopped()
    if is_settled and not hunt.refused and _signal(pid, signal.SIGKILL):
        hunt.killed.append(pid)
    return Killed(tuple(hunt.killed), tuple(hunt.refused), is_settled and not hunt.refused)


class _Hunt:
    """One call's work: who was stopped, killed, refused."""

    def __init__(
        self,
        pid: int,
        processes_max: int,
        known: frozenset[int],
        look: Callable[[int, int], list[int]],
    ) -> None:
        self._pid = pid
        self._processes_max = processes_max
        self._known = known
        self._look = look
        # Whether there were more than one look shows.
        self.is_cut = False
        self._stopped: list[int] = []
        self._seen: set[int] = set()
        self.killed: list[int] = []
        self.refused: list[int] = []

    @property
    def is_full(self) -> bool:
        """Whether this call's budget of processes is spent."""
        return len(self._seen) >= self._processes_max

    def stop_new(self) -> int:
        """Look, and stop whom we had not seen; how many those were."""
        # All of them, dead ones too: a parent that is stopped does not reap, and those that an
        # earlier call has killed must not take the places of the living.
        found = self._look(self._pid, LOOK_MAX)
        for orphan in adopted_from(self._pid, self._known):
            found += [orphan, *self._look(orphan, LOOK_MAX)]
        self.is_cut = len(found) >= LOOK_MAX
        tree = {self._pid, os.getpid(), *found}
        stopped = 0
        for pid in found:
            if pid in self._seen or pid in self._known or self.is_full:
                continue
            place = place_of(pid)
            if place is None or place.state in "ZX" or place.parent_pid not in tree:
                continue  # dead, or a stranger who got a dead one's pid
            self._seen.add(pid)
            if _signal(pid, signal.SIGSTOP):
                self._stopped.append(pid)
                stopped += 1
            else:
                self.refused.append(pid)
        return stopped

    def kill_stopped(self) -> int:
        """SIGKILL whom we stopped, last found first; how many those were."""
        killed = 0
        for pid in reversed(self._stopped):
            if _signal(pid, signal.SIGKILL):
                self.killed.append(pid)
                killed += 1
        self._stopped.clear()
        return killed


def adopted_from(pid: int, known: Collection[int]) -> list[int]:
    """Children of this process, ``known`` ones aside, that came from ``pid``: of its session,
    with its mark in their environment, or of the same name if that is one of ours."""
    unknown = [child for child in children_of(os.getpid()) if child not in known]
    if not unknown:
        return []
    own = orphan_of(pid).name
    found = []
    for child in unknown:
        orphan = orphan_of(child)
        # Who was forked and never called exec has no mark, but its proc's name.
        if orphan.proc_pid == pid or (own == orphan.name and own.startswith(_OUR_NAMES)):
            found.append(child)
    return found


def _signal(pid: int, number: int) -> bool:
    # A pid below ours cannot be reused here: its parent, which would have to reap it, is
    # stopped, or is us. SIGKILL to one that is gone is told as False.
    with contextlib.suppress(OSError):
        os.kill(pid, number)
        return True
    return False
