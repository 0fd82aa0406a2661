"""Kills a process with all it started where no kernel group can: freeze, look again, kill.

Knows: signals, who is whose child, orphans that came to us as sub-reaper.
Does not know: procs, groups, when any of it is called for.
Invariants: never waits; each call does a bounded amount of work and says whether it was enough;
one that was not enough has left fewer for the next; a pid is stopped only while it is seen to be
below ours, so a stranger is never touched.

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
from collections.abc import Callable, Collection, Container
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
# In one call: processes stopped and killed, and processes looked at. The latter costs 20 to 120 µs
# for each, and the root stands still meanwhile: with 10,000 of them, for a second.
PROCESSES_MAX = 128
LOOKS_MAX = 300
_OUR_NAMES = "fsmv2."


class Killed(NamedTuple):
    """What a call did: ``pids`` got SIGKILL (zombies are not counted); ``refused`` could not be
    signalled, another user's; ``is_complete``: nobody was left, the process itself included.
    Otherwise it is still there, stopped, and the next call goes on."""

    pids: tuple[int, ...]
    refused: tuple[int, ...]
    is_complete: bool


class Trail:
    """What a kill has found out so far, for its next call: ``passed`` need no further look (the
    dead that their stopped parents do not reap, and strangers); ``killed`` got their SIGKILL while
    they were stopped, and run no more code of their own, whenever they die."""

    __slots__ = ("killed", "passed")

    def __init__(self) -> None:
        self.passed: set[int] = set()
        self.killed: set[int] = set()


Look = Callable[[int, int, Container[int]], list[int]]


def kill_tree(
    pid: int,
    *,
    processes_max: int = PROCESSES_MAX,
    known: Collection[int] = (),
    look: Look | None = None,
    trail: Trail | None = None,
) -> Killed:
    """SIGKILL ``pid`` and all processes below it, at most ``processes_max`` in a call, which
    looks at `LOOKS_MAX` of them at most.

    A quiet tree is looked at three times. ``known`` are children of this process that are not to
    be looked at as orphans of ``pid``: its other procs. ``look(pid, limit, skip)`` finds whom to
    kill, `descendants_of` unless given; for a group without ``cgroup.kill`` give one that tells
    the group's pids. Call it again, from a timer, while the answer is not complete, with the same
    ``trail``. ``pid`` must not be reaped before.
    """
    if look is None:
        look = descendants_of if has_children_lists() else descendants_by_scan
    hunt = _Hunt(pid, frozenset({*known, pid, os.getpid()}), look, trail or Trail())
    hunt.processes_max = processes_max
    _signal(pid, signal.SIGSTOP)
    is_settled = False
    for _ in range(ROUNDS_MAX):
        if hunt.is_full:
            break
        if hunt.stop_new():
            continue
        if not hunt.kill_stopped():
            # Nobody new since the last ones died: nobody is left who could start another.
            is_settled = not hunt.is_cut
            break
    hunt.kill_stopped()
    if is_settled and not hunt.refused and _signal(pid, signal.SIGKILL):
        hunt.killed.append(pid)
    return Killed(tuple(hunt.killed), tuple(hunt.refused), is_settled and not hunt.refused)


class _Hunt:
    """One call's work: who was stopped, killed, refused."""

    def __init__(self, pid: int, known: frozenset[int], look: Look, trail: Trail) -> None:
        self._pid = pid
        self._known = known
        self._look = look
        self._trail = trail
        self.processes_max = PROCESSES_MAX
        self._looks_left = LOOKS_MAX
        # Whether there may be somebody who was not looked at.
        self.is_cut = False
        self._stopped: list[int] = []
        self._seen: set[int] = set()
        self.killed: list[int] = []
        self.refused: list[int] = []

    @property
    def is_full(self) -> bool:
        """Whether this call's budget of processes is spent."""
        return len(self._seen) >= self.processes_max

    def stop_new(self) -> int:
        """Look, and stop whom we had not seen; how many those were."""
        found = self._below(self._pid)
        for orphan in self._adopted():
            found += [orphan, *self._below(orphan)]
        tree = {self._pid, os.getpid(), *found}
        stopped = 0
        for pid in found:
            if pid in self._seen or pid in self._known or self.is_full:
                continue
            place = place_of(pid)
            if place is not None and place.state in "ZX":
                # Nobody is below it (they have another parent by now), and it stays: a parent that
                # is stopped does not reap. It must not take the place of the living next time.
                self._trail.passed.add(pid)
                continue
            if place is None or place.parent_pid not in tree or pid in self._trail.killed:
                continue  # gone, a stranger who got a dead one's pid, or dying
            self._seen.add(pid)
            if _signal(pid, signal.SIGSTOP):
                self._stopped.append(pid)
                stopped += 1
            else:
                self.refused.append(pid)
        return stopped

    def _below(self, pid: int) -> list[int]:
        limit = self._looks_left
        found = self._look(pid, limit, self._trail.passed)[:limit] if limit > 0 else []
        self._spend(len(found))
        return found

    def _adopted(self) -> list[int]:
        """Children of this process that came from ours and were not below it any more."""
        skip = {*self._known, *self._trail.passed}
        unknown = [child for child in children_of(os.getpid()) if child not in skip]
        unknown = unknown[: max(0, self._looks_left)]
        self._spend(len(unknown))
        found = adopted_from(self._pid, unknown)
        # The host's own children: they do not become ours later.
        self._trail.passed.update({*unknown}.difference(found))
        return found

    def _spend(self, looks: int) -> None:
        self._looks_left -= looks
        self.is_cut |= self._looks_left <= 0

    def kill_stopped(self) -> int:
        """SIGKILL whom we stopped, last found first; how many those were."""
        killed = 0
        for pid in reversed(self._stopped):
            if _signal(pid, signal.SIGKILL):
                self.killed.append(pid)
                killed += 1
        self._trail.killed.update(self._stopped)
        self._stopped.clear()
        return killed


def adopted_from(pid: int, children: Collection[int]) -> list[int]:
    """Those ``children`` of this process that came from ``pid``: of its session, with its mark in
    their environment, or of the same name if that is one of ours."""
    if not children:
        return []
    own = orphan_of(pid).name
    found = []
    for child in children:
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
