"""Births and burials: how many procs there should be, and where each new one goes.

Knows: the template, slots, spares, the wait after failed starts.
Does not know: actions, results.
Invariants: a slot's name is free again only when its proc is reaped (two live writers would
corrupt its metric files); a spare steps in at the deadline or at the kill, never at the reap;
starts that fail in a row are spaced by a growing wait.
"""

from __future__ import annotations

import itertools
import os
import select
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from fsmv2.ipc.channel import READS_MAX
from fsmv2.ipc.messages import Fork, Forked
from fsmv2.supervisor.core import startrate
from fsmv2.supervisor.core.events import (
    ProcStarted,
    StartsThrottled,
)
from fsmv2.supervisor.core.procfsm import ALIVE, ProcEvent, ProcState
from fsmv2.supervisor.kernelgroups.cgroups import NO_GROUPS, ProcGroups
from fsmv2.supervisor.pool.failedstarts import FailedStarts
from fsmv2.supervisor.pool.lanes import QUARANTINE
from fsmv2.supervisor.pool.memoryevents import OomCounters
from fsmv2.supervisor.pool.orphans import Orphans
from fsmv2.supervisor.pool.procs import ProcHandle
from fsmv2.supervisor.pool.spill import scratch_of
from fsmv2.supervisor.pool.templatekeeper import TemplateKeeper
from fsmv2.supervisor.stacks.outsidereader import reader_fault
from fsmv2.supervisor.system.removal import Removal

if TYPE_CHECKING:
    from fsmv2.supervisor.pool.lanes import Lane
    from fsmv2.supervisor.pool.pool import Pool

START_BUDGET_S = 10.0
# A spare has just taken a place, and needs a CPU for that; the next one can wait so long.
NEXT_SPARE_S = 0.003
DIE = "procs die before they say hello"
LOST = "procs are killed or lost before they say hello"
# Starts granted at once beyond the procs that are wanted in the first place.
STARTS_BURST_EXTRA = 20
LAST_SWEEP_S = 2.0
# Between two portions of what a dead proc has left in its folder.
REMOVE_AGAIN_S = 0.005

_pools = itertools.count(1)


class Nursery:
    """All procs of a pool, from the fork order to the burial, and the template behind them."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        options = pool.options
        self.procs: list[ProcHandle] = []
        self.keeper = TemplateKeeper(pool, self)
        self.starts = 0
        self.deaths = 0
        self._slots: list[str] = []
        self._slots_made = 0
        self._serial = 0
        self._alive = 0
        self.failed = FailedStarts(pool)
        self._fork_after = 0.0
        self.count_wanted()
        self._rate = startrate.full(
            options.starts_per_s, self.wanted + STARTS_BURST_EXTRA, time.monotonic()
        )
        self._is_throttled = False
        self._exits: dict[int, tuple[int | None, float]] = {}
        # Several pools may live in one process; none may reap another's procs.
        self._name = f"fsmv2.{next(_pools)}."
        # Told when a proc has said hello, and before one is forgotten.
        self.on_change: Callable[[], None] | None = None
        self.orphans = Orphans(self._name)
        self.groups = NO_GROUPS
        self.oom = OomCounters()
        self._removal = Removal(pool.run_folder)
        self._is_removing = False

    def count_wanted(self) -> None:
        """A lane has another size: count how many procs there should be."""
        lanes = self._pool.lanes.values()
        self.wanted = sum(lane.size for lane in lanes) + self._pool.options.spares

    @property
    def starts_waiting(self) -> int:
        """How many procs are missing and not ordered yet."""
        return max(0, self.wanted - self._alive)

    # --- the template -----------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Start the template. Raises OSError when the machine cannot."""
        if self.groups is NO_GROUPS:
            self.groups = ProcGroups.open(f"{self._name}procs")
            reader_fault()  # proves the layout of stacks, once: 5 ms now instead of at a kill
        try:
            self.keeper.start(now)
        except OSError:
            self.groups.close()
            self.groups = NO_GROUPS
            raise
        self.oom.open()

    def forked(self, reply: Forked, now: float) -> None:
        """The template has made a proc, or could not."""
        proc = next((p for p in self.procs if p.slot == reply.slot), None)
        if proc is None:
            return
        if reply.pid:
            self.learn_pid(proc, reply.pid)
            return
        proc.detail = reply.error
        self._fail_start(now, DIE)
        proc.state = ProcState.DEAD
        self._forget(proc)

    # --- births -----------------------------------------------------------------------------

    @property
    def is_calm(self) -> bool:
        """Whether nothing is missing, so that `tend` has nothing to do and waits for nothing."""
        return self._alive >= self.wanted and self.keeper.is_calm and self.orphans.sweep_at is None

    def next_moment(self) -> float | None:
        """When `tend` has something to do by the clock."""
        if self._pool.closing:
            return None
        if self.is_calm:
            return None
        moments = [self.orphans.sweep_at, self.keeper.next_moment()]
        if self._alive < self.wanted and self.keeper.is_ready:
            moments.append(self._fork_after)
        return min((moment for moment in moments if moment is not None), default=None)

    def tend(self, now: float) -> None:
        """Restart the template, order missing procs. Cheap when nothing is missing."""
        if self.is_calm:
            return
        sweep_at = self.orphans.sweep_at
        if sweep_at is not None and now >= sweep_at:
            self.sweep()
        if self._pool.closing:
            return
        self.keeper.tend(now)
        while self.keeper.is_ready and self._alive < self.wanted and now >= self._fork_after:
            if not self._may_start(now) or not self._order(now):
                return

    def _may_start(self, now: float) -> bool:
        """Spend from the rate of starts; when it is spent, come back when it has refilled."""
        self._rate, granted = startrate.take(self._rate, now)
        if granted:
            self._is_throttled = self._is_throttled and self.starts_waiting > 1
            return True
        self._fork_after = startrate.next_moment(self._rate)
        if not self._is_throttled:
            self._is_throttled = True
            self._pool.on_event(
                StartsThrottled(waiting=self.starts_waiting, per_s=self._rate.per_s)
            )
        return False

    def _order(self, now: float) -> bool:
        if self._slots:
            slot = self._slots.pop()
        else:
            self._slots_made += 1
            slot = f"p{self._slots_made}"
        self._serial += 1
        try:
            proc = ProcHandle(slot, self._serial, now, self._pool.random.random())
        except OSError as error:  # out of descriptors or memory
            self._slots.append(slot)
            self._fail_start(now, f"cannot make a proc's pipes: {error}")
            return False
        proc.group = self.groups.make(slot)
        order = Fork(
            slot=slot,
            name=self.name_of(proc),
            root_pid=os.getpid(),
            group=proc.group.members_path,
            result_bytes_max=self._pool.options.result_bytes_max,
        )
        try:
            pid = self.keeper.order(proc, order)
        except OSError as error:
            pid = None
            self._fail_start(now, f"cannot start a proc: {error}")
        if pid is None:
            proc.close()
            proc.group.remove()
            self._slots.append(slot)
            self._fork_after = max(self._fork_after, now + 0.01)  # its socket is full, or it died
            return False
        self.procs.append(proc)
        self._alive += 1
        pool = self._pool
        pool.poller.watch(proc.channel.read_fd, partial(pool.answers.readable, proc))
        pool.poller.watch(proc.output_fd, partial(pool.answers.output, proc))
        pool.poller.watch(proc.woken_fd, partial(pool.witness.woken, proc))
        pool.deadlines.set(now + START_BUDGET_S, proc, ProcEvent.START_OVERDUE)
        if pid:
            self.learn_pid(proc, pid)
        return True

    def blame_template(self, proc: ProcHandle, now: float) -> None:
        """An order without any answer for so long: the template that had it is stuck."""
        if now - proc.fork_sent_at >= START_BUDGET_S and not self._pool.closing:
            self.keeper.blame(proc.fork_sent_at)

    def try_now(self) -> None:
        """Procs are started in another way: the wait after those that failed is over."""
        self._fork_after = 0.0

    def learn_pid(self, proc: ProcHandle, pid: int) -> None:
        """The proc's pid is known now: watch for its death."""
        if proc.set_pid(pid):
            self._pool.poller.watch(proc.pidfd, partial(self._exited, proc))

    def joined(self, proc: ProcHandle, now: float) -> None:
        """The proc said hello: it fills a gap in a lane, or waits as a spare."""
        proc.ready_at = now
        self.starts += 1
        self.failed.one_started(now)
        self._fork_after = 0.0
        self._pool.on_event(
            ProcStarted(slot=proc.slot, pid=proc.pid, startup_s=now - proc.fork_sent_at)
        )
        self._pool.guard.watch_age(proc, now)
        if self.on_change is not None:
            self.on_change()
        self._pool.dispatcher.warm(proc)
        self._place(proc)

    def _place(self, proc: ProcHandle) -> None:
        # Observations first: without them nothing can be decided at all. Last what is kept apart.
        lanes = [*reversed(self._pool.lanes.values())]
        lanes.sort(key=lambda one: one.name == QUARANTINE)
        for lane in lanes:
            if len(lane.members) < lane.size:
                self._assign(lane, proc)
                return
        proc.lane = None
        self._pool.spares.append(proc)
        if self._alive > self.wanted and not self._pool.closing:
            self._pool.retire(proc, "retired")

    def disband(self, lane: Lane) -> None:
        """``lane`` should have no procs any more: each that is idle goes where one is missing, or
        leaves."""
        while lane.idle:
            proc = lane.idle[-1]
            lane.drop(proc)
            self._place(proc)

    def stand_in(self, overdue: ProcHandle, now: float) -> None:
        """A spare takes the place of a proc that is looked at and will then be killed."""
        lane = self._pool.lanes.get(overdue.lane or "")
        if lane is None or not self._pool.spares or self._pool.closing:
            return
        lane.drop(overdue)
        overdue.lane = None
        overdue.replaced_at = now
        self._assign(lane, self._pool.spares.pop(0))

    def came_back(self, proc: ProcHandle) -> None:
        """It has answered before it was killed; another proc stands in for it meanwhile."""
        proc.replaced_at = None
        proc.detail = proc.worn or self._pool.guard.recycle(proc)
        if proc.detail is not None:
            self._pool.retire(proc, "recycled")
        else:
            self._place(proc)

    def left(self, lane: Lane | None, dying: ProcHandle, now: float) -> None:
        """A proc has left ``lane`` (None: the spares): a spare takes its place at once."""
        self._alive -= 1
        if lane is None:
            if dying in self._pool.spares:  # else a spare stood in for it
                self._pool.spares.remove(dying)
            return
        if self._pool.spares and len(lane.members) < lane.size and not self._pool.closing:
            dying.replaced_at = now
            self._assign(lane, self._pool.spares.pop(0))
            self._fork_after = max(self._fork_after, now + NEXT_SPARE_S)
        elif lane.queue.size:
            self._pool.dispatcher.dispatch(lane)  # what came back from the dying one's pipe

    def _assign(self, lane: Lane, proc: ProcHandle) -> None:
        lane.add(proc)
        self._pool.dispatcher.dispatch(lane)

    # --- deaths -----------------------------------------------------------------------------

    def _exited(self, proc: ProcHandle, _mask: int) -> None:
        ended = proc.reap()
        if ended is None:
            return
        self._exits[proc.serial] = ended
        self._pool.poller.unwatch(proc.pidfd)
        # What it managed to say before it died still counts.
        self._pool.answers.readable(proc, select.EPOLLIN, READS_MAX)
        self._pool.answers.last_output(proc)
        self._pool.happen(proc, ProcEvent.EXITED)

    def exit_of(self, proc: ProcHandle) -> tuple[int | None, float]:
        """Exit code (None: nobody knows it) and CPU seconds of a reaped proc."""
        return self._exits.pop(proc.serial, (None, 0.0))

    def bury(self, proc: ProcHandle, failed_start: bool, by_others: bool) -> None:
        """Forget a dead proc: its descriptors, its folder, its orphans, its slot. ``by_others``:
        somebody else has sent it a SIGKILL, or its order was lost."""
        self.deaths += 1
        if failed_start:
            self._fail_start(time.monotonic(), LOST if by_others else DIE, by_others)
        self.orphans.bury(proc.pid, proc.below)
        # What escaped the kill in the moment of a fork, or came back into the group; of a proc that
        # died by itself, all that it started. Only the group may know them for ours, so the sweeps
        # are told: killed without a sweep to follow, they would stay zombies.
        if not proc.group.is_empty():
            self.orphans.bury(0, proc.group.pids())
            proc.group.kill_or_signal()
        proc.descendants_killed += self.sweep()
        self._forget(proc)

    def _forget(self, proc: ProcHandle) -> None:
        pool = self._pool
        for fd in (proc.channel.read_fd, proc.channel.write_fd, proc.output_fd, proc.woken_fd):
            pool.poller.unwatch(fd)
        if proc.pidfd >= 0:
            pool.poller.unwatch(proc.pidfd)
        if proc.ready_at is None:
            self._alive -= 1
        if proc in self.procs:
            self.procs.remove(proc)
            self._slots.append(proc.slot)
            if self.on_change is not None:
                self.on_change()
        proc.close()
        proc.group.remove()
        pool.deadlines.forget(proc)
        scratch = scratch_of(pool.run_folder, proc)
        if os.path.isdir(scratch):
            self._removal.add(scratch)
            if not self._is_removing:
                self._remove_more()

    def _remove_more(self) -> None:
        self._is_removing = self._removal.go_on()
        if self._is_removing:
            self._pool.deadlines.call(time.monotonic() + REMOVE_AGAIN_S, self._remove_more)

    def _fail_start(self, now: float, reason: str, by_others: bool = False) -> None:
        self._fork_after = now + self.failed.one_failed(now, reason, by_others)

    def name_of(self, proc: ProcHandle) -> str:
        """The name by which the kernel knows the proc."""
        return f"{self._name}{proc.slot}"

    def known_pids(self) -> set[int]:
        """Our own children: procs, living and dying, and the template."""
        return {proc.pid for proc in self.procs} | {self.keeper.pid}

    def sweep(self) -> int:
        """Kill and reap what dead procs left behind; how many were killed now."""
        self.groups.sweep()
        return self.orphans.sweep(self.known_pids(), self._living())

    def reap_orphans(self) -> bool:
        """Reap what living procs left behind and is dead; whether more of it lives."""
        return self.orphans.reap(self.known_pids(), self._living())

    def _living(self) -> set[int]:
        return {proc.pid for proc in self.procs if proc.state in ALIVE}

    def close(self) -> None:
        """End the template; reap what it still forked; forget procs that would not die."""
        self.keeper.close()
        for proc in list(self.procs):
            self._forget(proc)
        give_up = time.monotonic() + LAST_SWEEP_S
        while self.sweep() or self.orphans.sweep_at is not None or self.orphans.has_strays():
            if time.monotonic() > give_up:
                break
            time.sleep(0.005)
        while self._removal.go_on():
            pass
        self.groups.close()
        self.groups = NO_GROUPS
        self.oom.close()
