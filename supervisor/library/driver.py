"""Who drives the pool: the thread that waits for a result if there is one, else our own.

Knows: the lock, who leads, who follows, the background thread.
Does not know: what an action is.
Invariants: the pool is touched under the lock only; nobody waits while holding it; at most one
caller leads, and whoever leads wakes a follower when it leaves, or sees to it that the
background thread looks soon (see `naps`); deadlines are kept whoever leads.

A round trip costs no thread switch this way: the thread that calls `run` gives the action to a
proc itself, polls for the answer itself and takes it. Who follows (another thread leads already)
sleeps on its *seat*, a lock that is released when its result or the lead is there.

The background thread waits on the same descriptor as the leader, without the lead: it takes
that for the moment of a step, and only if no caller has led meanwhile. Else it naps (see `naps`);
while one caller leads on and on, it rests until it is rung.

"Write mine, then read theirs" on both sides makes sure that one sees the other: the leader gives
up the lead, then looks for followers; a follower takes its seat, then looks for a leader.
"""

from __future__ import annotations

import threading
import time
from os import sched_yield as offer_cpu
from typing import TYPE_CHECKING, Any

from fsmv2.supervisor.core.action import Action, action_name
from fsmv2.supervisor.core.errors import FsmError
from fsmv2.supervisor.library.deliveries import (
    NOTHING,
    Deliveries,
    Settled,
    broke_in,
    start_thread,
    wake,
)
from fsmv2.supervisor.library.handles import PENDING, Handle
from fsmv2.supervisor.library.letterbox import Letterbox
from fsmv2.supervisor.library.naps import NEVER, ROW_OF_TERMS, SOON, WAIT_S_MAX, how_long
from fsmv2.supervisor.pool.deathwatch import DeathWatch
from fsmv2.supervisor.pool.kick import Kick
from fsmv2.supervisor.system.shelter import Shelter

if TYPE_CHECKING:
    from fsmv2.supervisor.pool.pool import Pool

# After so many actions left in a row, whoever drives gets the interpreter once: the procs would
# stand idle for the 5 ms that it waits for it otherwise.
TURN_OF = 32

_monotonic = time.monotonic


class Driver(Deliveries):
    """Drives ``pool``, which is used through it only from then on. Not started yet."""

    def __init__(self) -> None:
        super().__init__()
        self.is_closed = False
        self._make_locks()
        self._inside = False
        self._terms = 0  # how many led before
        # Up to when whoever drives may wait; and up to when the background thread does.
        self._looks_at = NEVER
        self._thread_looks_at = SOON
        self._thread: threading.Thread | None = None
        self._thread_rests = False
        self._thread_naps = False  # for long
        self._kick = Kick()

    def _make_locks(self) -> None:
        # Re-entrant, so that a signal's handler that uses the pool never waits for the very
        # thread it interrupted.
        self._lock = threading.RLock()
        self._lead = threading.RLock()
        self._close_lock = threading.RLock()
        self._alarm = threading.Lock()
        self._alarm.acquire()

    def start(self, pool: Pool) -> None:
        """Drive ``pool``, whose ``on_result`` must be this driver's. Raises OSError."""
        self._kick.open()
        self._pool = pool
        self._letterbox = Letterbox(pool, self._open)
        self._death_watch = DeathWatch(pool, self.change)
        pool.poller.watch(self._kick.fd, self._kicked_awake)
        self._looks_at = SOON  # whatever is due already
        self._why_not = None
        try:
            self._thread = start_thread(self._run, "fsmv2-pool")
        except OSError:
            self._death_watch.close()
            raise

    @property
    def is_started(self) -> bool:
        """Whether `start` was called."""
        return self._thread is not None

    # --- what callers ask -------------------------------------------------------------------

    def leave(self, handle: Handle, action: Action, key: str, timeout_s: float | None) -> bool:
        """Leave ``action`` for whoever drives: see `Letterbox`. False: `submit` it instead."""
        if self._why_not is not None or not self._letterbox.leave(handle, action, key, timeout_s):
            return False
        if not self._kick.is_given:
            self._kick.give()
        elif not len(self._letterbox.left) % TURN_OF:
            offer_cpu()
        if self._thread_naps:
            wake(self._alarm)
        # Another thread may have changed it meanwhile.
        return self._why_not is None or not self._letterbox.take_back(handle)  # type: ignore[unreachable]

    def submit(self, handle: Handle, action: Action, key: str, timeout_s: float | None) -> None:
        """Give ``action`` to the pool; ``handle`` gets its result. Inside a `Shelter`."""
        self.give(handle, action, key, timeout_s)
        if self._thread_naps:
            wake(self._alarm)

    def give(self, handle: Handle, action: Action, key: str, timeout_s: float | None) -> None:
        """`submit` for who will `wait_for` it in any case."""
        if self._why_not is None:
            with self._lock:
                settled = self._submit(handle, action, key, timeout_s)
        else:  # at once, though whoever closes holds the lock
            self.check_usable()
            settled = [(handle, self._refusal(action_name(type(action)), 0))]
        if settled:
            self._deliver(settled)

    def _submit(self, handle: Handle, action: Action, key: str, timeout_s: float | None) -> Settled:
        if self._why_not is not None:
            return [(handle, self._refusal(action_name(type(action)), 0))]
        if self._inside:
            raise broke_in()
        self._inside = True
        try:
            pool = self._pool
            if self._letterbox.left:
                self._letterbox.empty()
            kind = pool.kinds[type(action)]  # raises for what cannot work
            handle.attempt_id = attempt_id = pool.ledger.next_id()
            self._open[attempt_id] = handle
            pool.intake.encode(attempt_id, kind, action, key, None, timeout_s)
            # All that a submission can bring forward is a deadline.
            heap = pool.deadlines.heap
            if heap and heap[0][0] < self._looks_at:
                self._looks_at = heap[0][0]
                self._kick.give()
            return self._take_settled() if self._settled else NOTHING
        finally:
            self._inside = False

    def cancel(self, handle: Handle, cause: str) -> bool:
        """See `Handle.cancel` and `Handle.kill`."""
        if handle.done():
            return False
        self.check_ours()
        if self._closing:
            return True  # that is about to happen anyway
        number = handle.attempt_id
        return bool(self.change(lambda pool: number in self._open and pool.cancel(number, cause)))

    def is_running(self, handle: Handle) -> bool:
        """See `Handle.running`."""
        self.check_ours()
        with Shelter(), self._lock:
            attempt = self._pool.in_flight(handle.attempt_id)
            proc = attempt.proc if attempt is not None else None
            return proc is not None and proc.attempt is attempt

    def wait_for(
        self, handle: Handle, timeout_s: float | None, shelter: Shelter | None = None
    ) -> bool:
        """Wait until ``handle`` is done: lead if nobody does, else follow. False: time is over.

        ``shelter`` is the one that the caller is in, if it is.
        """
        if shelter is None:
            with Shelter() as shelter:
                return self.wait_for(handle, timeout_s, shelter)
        if self._foreign:
            self.check_ours()
        end = NEVER if timeout_s is None else _monotonic() + timeout_s
        while handle._state is PENDING:  # noqa: SLF001, the fastest look there is
            if self._why_not is None and self._lead.acquire(blocking=False):
                self._leads += 1
                try:
                    self._drive(handle, end, shelter)
                finally:
                    # Also when Ctrl-C broke off the wait: the lead must not go with us.
                    self._terms += 1
                    self._leads -= 1
                    self._lead.release()
                    self._pass_on()
            else:
                self._follow(handle, end, shelter)
            if end != NEVER and _monotonic() >= end:
                break
        return handle.done()

    def _drive(self, handle: Handle, end: float, shelter: Shelter) -> None:
        """Poll and step until ``handle`` is done, the time is over, or the pool closes."""
        pool = self._pool
        collect_soon, open_attempts = pool.poller.collect_soon, pool.ledger.open
        while handle._state is PENDING and self._why_not is None:  # noqa: SLF001
            now = _monotonic()
            wait_s = min(self._looks_at, end) - now
            try:
                ready = shelter.wait(
                    collect_soon, min(max(0.0, wait_s), WAIT_S_MAX), len(open_attempts) < pool.cpus
                )
            except (OSError, ValueError):
                if self._closing:
                    return  # a signal's handler closed the pool meanwhile
                raise
            self._react(ready)
            if end != NEVER and _monotonic() >= end:
                return

    def _pass_on(self) -> None:
        """Nobody may lead now: wake one that can, or make sure that the thread looks in time."""
        if self._leads:
            return
        if self._followers:
            self._wake_a_follower()
        if self._thread_rests or (self._thread_naps and self._open):
            wake(self._alarm)
        elif self._looks_at < self._thread_looks_at:
            with self._lock:
                self._kick.give()

    # --- the background thread ----------------------------------------------------------------

    def _run(self) -> None:
        seen = self._terms
        while self._why_not is None:
            if self._leads or seen != self._terms:
                seen = self._rest(seen)
                continue
            # First the worst, so that no earlier moment that comes up in between is missed.
            self._thread_looks_at = NEVER
            self._thread_looks_at = moment = self._looks_at
            wait_s = 0.0 if self._leads else min(max(0.0, moment - _monotonic()), WAIT_S_MAX)
            ready = self._pool.poller.collect(wait_s)
            self._thread_looks_at = SOON
            if seen == self._terms and self._lead.acquire(blocking=False):
                try:
                    # Nobody has led meanwhile, so what was ready is still as it was.
                    if seen == self._terms:
                        self._react(ready)
                finally:
                    self._lead.release()
                    self._pass_on()

    def _rest(self, seen: int) -> int:
        """Callers drive. Sleep a little; untimed if one led all the time since the last look.
        Returns how many had led before."""
        terms = self._terms
        self._thread_rests = terms == seen
        stays = self._thread_rests and self._leads > 0
        is_row = terms - seen >= ROW_OF_TERMS
        self._thread_naps = is_row  # first this, then the look: who submits does it the other way
        # What the leader itself waits for is no reason to look.
        has_more = len(self._open) > min(self._leads, 1) or bool(self._letterbox.left)
        self._thread_naps = is_row and not has_more
        nap_s = how_long(is_row, has_more)
        self._alarm.acquire(timeout=-1 if stays else nap_s)
        self._thread_rests = self._thread_naps = False
        return terms

    # --- the pool, under the lock -------------------------------------------------------------

    def _enter(self) -> None:
        if self._inside:
            raise broke_in()
        self._inside = True

    def _react(self, ready: list[tuple[int, int]]) -> None:
        settled = NOTHING
        try:
            with self._lock:
                if self._inside:
                    raise broke_in()
                self._inside = True
                try:
                    if self._why_not is None:
                        pool = self._pool
                        moment = pool.react(ready)
                        # After it, since the kick is taken there: what is left from then on
                        # kicks anew.
                        if self._letterbox.left:
                            self._letterbox.empty()
                            moment = pool.next_moment()
                        self._looks_at = NEVER if moment is None else moment
                except BaseException as error:
                    self._break(error)
                    raise
                finally:
                    self._inside = False
                    settled = self._take_settled()
        finally:
            if settled:
                self._deliver(settled)

    def _kicked_awake(self, _mask: int) -> None:
        self._kick.take()

    def _look_sooner(self) -> None:
        moment = self._pool.next_moment()
        if moment is not None and moment < self._looks_at:
            self._looks_at = moment
            self._kick.give()
        if self._thread_naps:
            wake(self._alarm)

    # --- trouble and the end ------------------------------------------------------------------

    def change(self, function: Any) -> Any:
        """``function(pool)``, under the lock, where it may give results and work."""
        self.check_usable()
        settled = NOTHING
        with Shelter():
            try:
                with self._lock:
                    self._enter()
                    try:
                        self._letterbox.empty()
                        answer = function(self._pool)
                        self._look_sooner()
                    except FsmError:
                        raise  # a refusal
                    except BaseException as error:
                        self._break(error)
                        raise
                    finally:
                        self._inside = False
                        settled = self._take_settled()
            finally:
                self._deliver(settled)
            if settled and self._leads:  # who leads may wait for one of these
                self._kick.give()
        return answer

    def look(self, function: Any) -> Any:
        """``function(pool)``, under the lock; also from a handler that breaks in."""
        self.check_usable()
        with Shelter(), self._lock:
            if self._inside or self._why_not is not None:
                return function(self._pool)
            self._inside = True
            try:
                self._letterbox.empty()
                return function(self._pool)
            finally:
                self._inside = False

    def disown(self) -> None:
        """We are in a forked process."""
        super().disown()
        self._make_locks()

    def close(self) -> None:
        """End everything: what is open gets its result. A second caller waits for the first."""
        if self._foreign:
            return
        with Shelter(), self._close_lock:
            if self.is_closed:
                return
            # Not even where nothing is half changed: the threads that end here may wait for it.
            if self._lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001
                raise broke_in()
            with self._lock:
                self._closing = True
                self._take_no_more()
                self._kick.give()
            wake(self._alarm)
            with self._lead:  # the leader leaves when it has seen that
                if self._thread is not None:
                    self._thread.join()
                    self._death_watch.close()  # not under the lock, for which it may wait
                    self._end_the_pool()
                with self._lock:
                    self.is_closed = True
                    self._kick.close()
            self.callbacks.end()

    def _end_the_pool(self) -> None:
        with self._lock:
            self._enter()
            try:
                self._letterbox.empty()
                self._pool.close()
            finally:
                self._inside = False
                self._give_up_on_the_open()
                settled = self._take_settled()
        self._deliver(settled)
