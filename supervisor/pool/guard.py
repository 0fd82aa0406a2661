"""Watches what procs use: the memory and process limits of action types, and when to recycle.

Knows: how much memory a proc has, the limits of what it runs, the pool's recycling.
Does not know: how a proc is killed.
Invariants: sampled only while an action with such a limit is at work; a sample costs some
microseconds a process, of `LOOK_MAX` a proc at most, and waits for nothing. The kernel's own
killer picks its victim by size; a limit of ours, crossed first, ends the action that asked for it
and nobody else.

Memory is sampled as what is resident (proc(5), statm), which is cheap and counts a page that
several processes have once for each: those of the template, and all that a process had when it
was forked. So before a kill their shares are read (Pss), which is dear: see `memoryshare`.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from fsmv2.ipc.linux import DESCENDANTS_MAX
from fsmv2.supervisor.core import recycling
from fsmv2.supervisor.core.counting import several
from fsmv2.supervisor.core.procfsm import ProcEvent, ProcState
from fsmv2.supervisor.pool.memoryshare import Share, resident_bytes

if TYPE_CHECKING:
    from fsmv2.supervisor.pool.attempts import Attempt
    from fsmv2.supervisor.pool.pool import Pool
    from fsmv2.supervisor.pool.procs import ProcHandle

SAMPLE_S = 0.05
LOOK_S = 1.0
# A sample of many processes takes longer: at most a tenth of the root's time goes into them.
REST_PER_LOOK = 10.0
# Of one sample, for reading shares; what was not read is read by the next ones.
SHARE_BUDGET_S = 0.010
# Processes below a proc that are looked at one by one; beyond, its kernel group counts.
LOOK_MAX = 200


class Guard:
    """Samples the procs of one pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._is_sampling = False
        # By attempt, of those that were found over their limit by what is resident.
        self._shares: dict[int, Share] = {}
        self._share_until_s: float | None = None
        self.is_awake = False

    def be_awake(self) -> None:
        """Something is at work: look around every `LOOK_S` until nothing is. The OOM killer's
        counters are noted, so that a rise is about the death that follows it; what actions have
        left behind is reaped."""
        self.is_awake = True
        self._pool.deadlines.call(time.monotonic() + LOOK_S, self._look_around)

    def _look_around(self) -> None:
        self._pool.nursery.oom.look()
        has_orphans = self._pool.nursery.reap_orphans()
        if has_orphans or len(self._pool.ledger):
            self.be_awake()
        else:
            self.is_awake = False

    def watch(self) -> None:
        """An action with a memory or process limit has been given out: sample until it ends."""
        if not self._is_sampling:
            self._is_sampling = True
            self._pool.deadlines.call(time.monotonic() + SAMPLE_S, self._sample)

    def _sample(self) -> None:
        began = time.monotonic()
        guarded = set()
        self._share_until_s = None
        for proc in list(self._pool.nursery.procs):
            attempt = proc.attempt
            if attempt is None or not attempt.kind.is_guarded:
                continue
            if proc.state is ProcState.BUSY:
                self._look(proc)
            guarded.add(attempt.id)
        self._shares = {each: share for each, share in self._shares.items() if each in guarded}
        self._is_sampling = bool(guarded)
        if guarded:
            now = time.monotonic()
            wait_s = max(SAMPLE_S, (now - began) * REST_PER_LOOK)
            self._pool.deadlines.call(now + wait_s, self._sample)

    def _look(self, proc: ProcHandle) -> None:
        attempt = proc.attempt
        if attempt is None:
            return
        limits = attempt.kind.limits
        below = proc.look_below(self._looks(proc, limits.processes))
        cause = detail = None
        if limits.memory_bytes is not None:
            detail = self._too_much_memory(attempt, (proc.pid, *below), limits.memory_bytes)
            cause = "memory" if detail else None
        if cause is None and limits.processes is not None and len(below) > limits.processes:
            cause = "processes"
            detail = (
                f"{len(below)} processes were below it, its limit is {limits.processes} "
                f"(/proc, read every {SAMPLE_S:g} s)"
            )
        if cause is not None:
            proc.cause, proc.detail = cause, detail
            proc.overdue_at = time.monotonic()
            self._pool.happen(proc, ProcEvent.DEADLINE_PASSED)

    @staticmethod
    def _looks(proc: ProcHandle, processes: int | None) -> int:
        if processes is None or proc.group.is_made:
            return LOOK_MAX
        return max(LOOK_MAX, min(processes + 1, DESCENDANTS_MAX))

    def _too_much_memory(
        self, attempt: Attempt, pids: tuple[int, ...], limit_bytes: int
    ) -> str | None:
        sizes = {pid: size for pid in pids[:LOOK_MAX] if (size := resident_bytes(pid)) is not None}
        if sum(sizes.values()) <= limit_bytes:
            return None
        if self._share_until_s is None:
            self._share_until_s = time.monotonic() + SHARE_BUDGET_S
        share = self._shares.setdefault(attempt.id, Share()).over(
            sizes, limit_bytes, self._share_until_s
        )
        if share is None:
            return None
        return (
            f"{share} bytes, its limit is {limit_bytes} bytes (its share of the "
            f"{sum(sizes.values())} bytes resident in "
            f"{several(len(sizes), 'process', 'processes')}: /proc/PID/statm, read every "
            f"{SAMPLE_S:g} s, and the Pss of smaps_rollup)"
        )

    def limit_processes(self, proc: ProcHandle, wanted: int | None) -> None:
        """Have the kernel hold ``proc`` to so many processes below it where it can, so that a
        fork bomb is over before the next sample."""
        if proc.group.limit_processes(None if wanted is None else wanted + 1):
            proc.processes_max = wanted

    # --- recycling --------------------------------------------------------------------------

    def recycle(self, proc: ProcHandle) -> str | None:
        """Why ``proc``, which has just become idle, is to be replaced; None: it goes on."""
        rules = self._pool.options.recycling
        return recycling.due(
            rules,
            proc.spread,
            actions=proc.actions,
            seconds=time.monotonic() - (proc.ready_at or 0.0),
            memory_bytes=resident_bytes(proc.pid) if rules.memory_bytes is not None else None,
        )

    def watch_age(self, proc: ProcHandle, now: float) -> None:
        """``proc`` has joined: look at it again when it is old enough to be replaced."""
        age_s = recycling.oldest_s(self._pool.options.recycling, proc.spread)
        if age_s is not None:
            self._pool.deadlines.call(now + age_s, partial(self._grown_old, proc), proc)

    def _grown_old(self, proc: ProcHandle) -> None:
        """If it is busy, it is looked at when it has answered."""
        if proc.state is ProcState.IDLE and not self._pool.closing:
            why = self.recycle(proc)
            if why is not None:
                proc.detail = why
                self._pool.retire(proc, "recycled")
