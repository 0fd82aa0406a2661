"""How much memory processes have to themselves: what they share is counted once, in parts.

Knows: the sums of proc(5)'s smaps_rollup, what a look at them costs.
Does not know: procs, limits' reasons, who is killed.
Invariants: no read waits for the process that is read; a call reads until its moment, and one
process more, the rest with the next call; what cannot be read counts as all that is resident.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from fsmv2.supervisor.stacks.processmemory import could_wait

# Between two counts of the same processes, unless they have grown by what was missing meanwhile.
AGAIN_S = 0.5
REST_PER_COUNT = 20.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pid: int, proc: str = "/proc") -> int | None:
    """The resident memory of ``pid``, what it shares included, or None when it cannot be read.
    ``proc`` is where procfs is mounted. Source: proc(5), statm."""
    try:
        with open(f"{proc}/{pid}/statm", "rb", buffering=0) as file:
            return int(file.read(256).split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return None


def share_bytes(pid: int) -> int | None:
    """The resident memory of ``pid``, each page divided by the number of processes that have it
    (Pss). None when it cannot be read: before Linux 4.14, another user's process, or one whose
    address space may be locked just now (the read would wait for it).

    Dear: the kernel walks the page tables, about 20 ms for each GiB. Source: proc(5).
    """
    if could_wait(pid):
        return None
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb", buffering=0) as file:
            for line in file.read(4096).splitlines():
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


class Share:
    """The share of one proc and all it started, counted when their resident memory is over a
    limit: processes that were forked from each other, or from the template, have most of their
    pages in common, and the sum of what is resident counts those once for each."""

    def __init__(self) -> None:
        self._todo: list[int] = []
        self._total = 0
        self._again_at = 0.0
        self._again_above = 0

    def over(self, sizes: Mapping[int, int], limit_bytes: int, until_s: float) -> int | None:
        """The share in bytes once it is known to be over ``limit_bytes``; None: it is not, or is
        not known yet, since it was ``until_s`` (`time.monotonic`). ``sizes`` is what is resident
        by pid, more than the limit in sum."""
        began = time.monotonic()
        resident = sum(sizes.values())
        if not self._todo:
            if began < self._again_at and resident < self._again_above:
                return None
            self._todo = sorted(sizes, key=lambda pid: sizes[pid])
            self._total = 0
        while self._todo:
            if time.monotonic() >= until_s:
                return None
            pid = self._todo.pop()
            share = share_bytes(pid)
            self._total += (resident_bytes(pid) or 0) if share is None else share
            if self._total > limit_bytes:
                self._todo.clear()
                return self._total
        now = time.monotonic()
        # Pages that were shared may become their own, and nothing resident grows by that.
        self._again_at = now + max(AGAIN_S, (now - began) * REST_PER_COUNT)
        self._again_above = resident + limit_bytes - self._total
        return None
