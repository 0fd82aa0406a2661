"""Lanes: procs reserved for one purpose, and which waiting attempt goes to which of them.

Knows: lanes, idle and busy procs, warm connections, what may wait in a pipe, what can be taken
back out of it.
Does not know: deadlines' meaning, results, births and deaths.
Invariants: `Dispatcher.dispatch` is the single place where attempts meet procs; an attempt waits
in a pipe only behind short ones and only while no proc is idle; what waits behind a proc that
has stalled is taken back and goes elsewhere; an attempt is on one proc or in one queue.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from fsmv2.ipc.codec import encode
from fsmv2.ipc.frames import pack_frame
from fsmv2.ipc.linux import memory_barrier
from fsmv2.ipc.messages import Order, Run, Warm
from fsmv2.supervisor.core.procfsm import ProcState
from fsmv2.supervisor.core.quarantine import CLEAN
from fsmv2.supervisor.core.queue import KeyedQueue
from fsmv2.supervisor.pool.attempts import Attempt
from fsmv2.supervisor.system.poller import WRITABLE

if TYPE_CHECKING:
    from fsmv2.supervisor.pool.kinds import ActionKind
    from fsmv2.supervisor.pool.pool import Pool
    from fsmv2.supervisor.pool.procs import ProcHandle

PIPELINE_MAX = 64
# No attempt with a longer payload waits in a pipe, so that a pipe always holds them all.
SMALL_BYTES = 512
# How long an attempt may keep others waiting in its proc's pipe.
STALLED_S = 0.005
NEVER = math.inf
AFFINITIES_MAX = 10_000
WARM_MAX = 32
QUARANTINE = "quarantine"
_monotonic = time.monotonic


class Lane:
    """Procs reserved for one purpose, and what waits for them."""

    __slots__ = ("affinity", "idle", "members", "name", "queue", "size", "waiting_in_pipes")

    def __init__(self, name: str, size: int, queue: int) -> None:
        self.name = name
        self.size = size
        self.queue: KeyedQueue[Attempt] = KeyedQueue(queue)
        self.members: dict[ProcHandle, None] = {}
        self.idle: list[ProcHandle] = []
        # The serial of the key's proc, not the proc: a dead one must not be kept for its keys.
        self.affinity: dict[str, int] = {}
        self.waiting_in_pipes = 0

    def add(self, proc: ProcHandle) -> None:
        """``proc`` belongs to this lane from now on, and is idle."""
        proc.lane = self.name
        self.members[proc] = None
        self.idle.append(proc)

    def drop(self, proc: ProcHandle) -> None:
        """``proc`` leaves the lane."""
        self.members.pop(proc, None)
        if proc in self.idle:
            self.idle.remove(proc)

    def pick(self, key: str) -> ProcHandle:
        """Take an idle proc: the one that holds the key's warm connections, if it is idle, else
        the one that was busy last."""
        if key:
            serial = self.affinity.get(key)
            for proc in self.idle if serial is not None else ():
                if proc.serial == serial:
                    self.idle.remove(proc)
                    return proc
        return self.idle.pop()

    def remember(self, key: str, proc: ProcHandle) -> None:
        """``proc`` holds the warm connections of ``key``."""
        if len(self.affinity) >= AFFINITIES_MAX:
            self.affinity.clear()
        self.affinity[key] = proc.serial


class Dispatcher:
    """Gives waiting attempts to procs, and takes back what waits in vain."""

    def __init__(self, pool: Pool, pipeline: int) -> None:
        self._pool = pool
        self._behind_max = min(pipeline, PIPELINE_MAX) - 1

    def dispatch(self, lane: Lane) -> None:
        """Give what waits in ``lane`` to its procs, as far as that goes."""
        if self._pool.closing:
            return
        if lane.name == QUARANTINE:
            for kind in list(self._pool.kinds.values()):
                self.try_quarantined(kind)
            if lane.idle and not lane.size:
                self._pool.nursery.disband(lane)
            return
        queue = lane.queue
        while lane.idle:
            if not queue.size and not self._take_back_for_the_idle(lane):
                return
            taken = queue.take()
            if taken is None:
                return
            attempt, key = taken
            if attempt.kind.is_full:
                self._hold(attempt)
                continue
            self.give(lane.pick(key), attempt, _monotonic())
        if queue.size and lane.waiting_in_pipes < self._behind_max * len(lane.members):
            self._fill_pipes(lane)

    def has_room(self, lane: Lane) -> bool:
        """Whether the pipes of the lane's procs could take one more attempt."""
        return lane.waiting_in_pipes < self._behind_max * len(lane.members)

    def give(self, proc: ProcHandle, attempt: Attempt, now: float) -> None:
        """``attempt`` is the next that ``proc`` runs, and the only one."""
        proc.attempt = attempt
        proc.attempt_at = now
        proc.stack = None
        proc.state = ProcState.BUSY  # the table's row (idle, action_given)
        if attempt.is_told_of_stop:
            proc.page.tell_of_stop(attempt.id)
        run = self._run_of(proc, (attempt,))
        pool, kind = self._pool, attempt.kind
        guard = pool.guard
        if kind.is_guarded or proc.processes_max is not None:
            guard.watch()
            if proc.processes_max != kind.limits.processes:
                guard.limit_processes(proc, kind.limits.processes)
        self._send(proc, pack_frame(encode(run)))
        # The rest while the proc is at it already.
        if now + attempt.timeout_s < proc.deadline_at or kind.heartbeat_s < NEVER:
            pool.deadlines.watch(proc, attempt, now)
        if not guard.is_awake:
            guard.be_awake()

    def _run_of(self, proc: ProcHandle, attempts: Sequence[Attempt]) -> Run:
        """Note that ``attempts`` go to ``proc``; what to send it."""
        pool, place = self._pool, proc.orders
        orders: list[Order] = []
        for attempt in attempts:
            kind = attempt.kind
            kind.running += 1
            attempt.proc = proc
            attempt.place = place = place + 1
            if attempt.key:
                attempt.lane.remember(attempt.key, proc)
            orders.append((attempt.id, kind.reference, attempt.payload, attempt.timeout_s))
        first = proc.orders + 1
        proc.orders = place
        return Run(first, orders, len(pool.ledger.open) < pool.cpus)

    def _send(self, proc: ProcHandle, frames: bytes) -> None:
        channel = proc.channel
        # False: it has just died. The kernel will say so, and the attempt goes to another proc.
        if channel.send_frames(frames) and channel.unsent:
            self._pool.poller.watch(channel.write_fd, partial(self._writable, proc), WRITABLE)

    def _writable(self, proc: ProcHandle, _mask: int) -> None:
        proc.channel.flush()
        if not proc.channel.wants_write:
            self._pool.poller.unwatch(proc.channel.write_fd)

    def next_of(self, proc: ProcHandle, now: float) -> None:
        """The attempt of ``proc`` is over: what waits behind it has its turn."""
        attempt = proc.behind.popleft()
        attempt.lane.waiting_in_pipes -= 1
        self.turn_of(proc, attempt, now)

    def turn_of(self, proc: ProcHandle, attempt: Attempt, now: float) -> None:
        """``attempt`` does not wait behind another one any more."""
        proc.attempt = attempt
        proc.attempt_at = now
        if attempt.is_told_of_stop:
            proc.page.tell_of_stop(attempt.id)
        if (
            now + attempt.timeout_s < proc.deadline_at
            or attempt.cancel_cause is not None
            or attempt.kind.heartbeat_s < NEVER
        ):
            self._pool.deadlines.watch(proc, attempt, now)

    def warm(self, proc: ProcHandle) -> None:
        """Have a new proc import what others have run: what it is given first is what waited for
        a killed one's place. Only what was seen to be importable in a proc."""
        proven = [kind for kind in self._pool.kinds.values() if kind.is_proven]
        for kind in proven[-WARM_MAX:]:
            self._send(proc, pack_frame(encode(Warm(kind.reference))))

    def proven(self, kind: ActionKind) -> None:
        """An attempt of ``kind`` has answered for the first time: the spares import it too."""
        kind.prove()
        for proc in self._pool.spares:
            self._send(proc, pack_frame(encode(Warm(kind.reference))))

    # --- in the pipes -----------------------------------------------------------------------

    def _fill_pipes(self, lane: Lane) -> None:
        """Let short attempts wait in the pipes of procs that run short ones."""
        for proc in lane.members:
            attempt = proc.attempt
            if (
                attempt is not None
                and proc.state is ProcState.BUSY
                and attempt.kind.may_wait_in_pipe
                and attempt.cancel_cause is None
                and proc.stalled_on is None
                and proc.revokes
                and not proc.channel.wants_write
            ):
                depth = attempt.kind.depth(self._behind_max)
                # Half empty, so that orders go out several at a time.
                if 2 * len(proc.behind) <= depth:
                    self._fill_pipe(lane, proc, depth - len(proc.behind))

    def _fill_pipe(self, lane: Lane, proc: ProcHandle, room: int) -> None:
        queue = lane.queue
        short = queue.take_several(room)
        for number, attempt in enumerate(short):
            kind = attempt.kind
            if kind.flows and kind.record is CLEAN and len(attempt.payload) <= SMALL_BYTES:
                continue
            if not _may_wait(attempt, short[:number]):
                for other in reversed(short[number:]):
                    queue.put_back(other, other.key, other.urgent)
                del short[number:]
                break
        if short:
            proc.behind.extend(short)
            lane.waiting_in_pipes += len(short)
            if not proc.is_watched:
                self._watch_for_a_stall(proc)
            self._send(proc, pack_frame(encode(self._run_of(proc, short))))

    def _watch_for_a_stall(self, proc: ProcHandle) -> None:
        # One look at a time: filled and emptied a thousand times, a pipe is not watched by as many.
        proc.is_watched = True
        moment = _monotonic() + STALLED_S
        self._pool.deadlines.call(moment, partial(self._look_for_a_stall, proc, proc.attempt))

    def _look_for_a_stall(self, proc: ProcHandle, then: Attempt | None) -> None:
        proc.is_watched = False
        if not proc.behind or proc.attempt is None:
            return
        if proc.attempt is not then:
            self._watch_for_a_stall(proc)
            return
        proc.stalled_on = proc.attempt
        lane = self.take_back(proc)
        if lane is not None:
            self.dispatch(lane)

    def _take_back_for_the_idle(self, lane: Lane) -> bool:
        """A proc is idle and nothing waits but behind others: share it out anew."""
        if not lane.waiting_in_pipes:
            return False
        most = max(lane.members, key=lambda proc: len(proc.behind))
        before = lane.queue.size
        if len(most.behind) >= 2:
            self.take_back(most)
        return lane.queue.size > before

    def take_back(self, proc: ProcHandle) -> Lane | None:
        """Take what ``proc`` has not begun back to the head of its queue. Returns the lane if
        anything came back. One that is just beginning stays; if it is not run after all, the
        proc will say so: see `skipped`."""
        behind = proc.behind
        if not behind or not proc.revokes or proc.state is ProcState.DEAD:
            return None
        # The page has one range. What was revoked before, and not passed by the proc yet, stays in
        # it; so may what was given since: if that has not begun, it is skipped as well.
        proc.revoked_from = proc.revoked_from or behind[0].place
        proc.revoked_end = proc.orders + 1
        proc.page.revoke(proc.revoked_from, proc.revoked_end)
        memory_barrier()
        begun_place = proc.page.begun_place()
        lane = None
        while behind and behind[-1].place > begun_place:
            attempt = behind.pop()
            attempt.lane.waiting_in_pipes -= 1
            lane = self.put_back(attempt)
        return lane

    def skipped(self, proc: ProcHandle, attempt_id: int, place: int) -> bool:
        """The proc found the order revoked: it has not begun it, and never will. False: the
        attempt is elsewhere by now."""
        if place + 1 == proc.revoked_end:
            proc.revoked_from = 0  # it has passed all of them
        for attempt in (proc.attempt, *proc.behind):
            if attempt is not None and attempt.id == attempt_id and attempt.place == place:
                break
        else:
            return False
        if attempt is proc.attempt:
            proc.attempt = None
            if proc.behind:
                self.next_of(proc, _monotonic())
        else:
            proc.behind.remove(attempt)
            attempt.lane.waiting_in_pipes -= 1
        self.put_back(attempt)
        return True

    def put_back(self, attempt: Attempt) -> Lane:
        """``attempt`` was given to a proc and never begun: it is the next of its lane, unless it
        should not begin any more."""
        lane: Lane = attempt.lane
        if self._pool.closing or attempt.cancel_cause is not None:
            self._pool.settle(attempt, self._pool.endings.cancelled_before_start(attempt))
            return lane
        attempt.proc = None
        attempt.kind.running -= 1
        lane.queue.put_back(attempt, attempt.key, attempt.urgent)
        return lane

    # --- held back --------------------------------------------------------------------------

    def _hold(self, attempt: Attempt) -> None:
        """Its type may not run another one now; its key stays taken, so order is kept."""
        attempt.is_held = True
        attempt.lane.queue.held += 1
        attempt.kind.held.append(attempt)
        if attempt.kind.record.is_quarantined:
            self.try_quarantined(attempt.kind)

    def unhold(self, attempt: Attempt) -> None:
        """It is held back no more; the caller has taken it out of its type's list."""
        attempt.is_held = False
        attempt.lane.queue.held -= 1

    def free(self, kind: ActionKind) -> None:
        """The type may run another attempt: those held back take their turn again."""
        if kind.record.is_quarantined:
            self.try_quarantined(kind)
            return
        room = len(kind.held)
        if kind.concurrency is not None:
            room = max(0, min(room, kind.concurrency - kind.running))
        lanes = {}
        for attempt in reversed([kind.held.popleft() for _ in range(room)]):
            self.unhold(attempt)
            attempt.lane.queue.put_back(attempt, attempt.key, attempt.urgent)
            lanes[attempt.lane.name] = attempt.lane
        for lane in lanes.values():
            self.dispatch(lane)

    def try_quarantined(self, kind: ActionKind) -> None:
        """Give one attempt of a quarantined type to the proc kept for such, when its wait is
        over; until then, come back at that moment."""
        pool = self._pool
        solo = pool.lanes.get(QUARANTINE)
        if pool.closing or solo is None or not kind.held or kind.running:
            return
        now = _monotonic()
        if kind.record.not_before > now:
            moment = kind.record.not_before
            if kind.wakes_at != moment:  # one look for all that are submitted until then
                kind.wakes_at = moment
                pool.deadlines.call(moment, partial(self.try_quarantined, kind))
            return
        if solo.idle:
            attempt = kind.held.popleft()
            self.unhold(attempt)
            self.give(solo.idle.pop(), attempt, now)


def _may_wait(attempt: Attempt, ahead: Sequence[Attempt]) -> bool:
    """Whether ``attempt`` may wait in a pipe behind what runs, and ``ahead``."""
    kind = attempt.kind
    if (
        not kind.may_wait_in_pipe
        or len(attempt.payload) > SMALL_BYTES
        or kind.record.is_quarantined
    ):
        return False
    running = kind.running + sum(other.kind is kind for other in ahead)
    return kind.concurrency is None or running < kind.concurrency
