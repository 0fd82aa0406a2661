"""Who drives the pool: one thread at a time, the one that waits for a result if there is one.

Knows: the lock, the leader, the seats of those who wait, the background thread.
Does not know: what an action is.
Invariants: whoever polls is the leader, and there is at most one; nobody waits while holding
the lock; a leader that leaves hands over to another waiter, else the background thread looks
within `NAP_S`, and at once where somebody could notice; deadlines are kept whoever leads.

A round trip costs no thread switch this way: the thread that calls `run` gives the action to a
proc itself and polls for the answer itself. The background thread must not be woken by each of
a thousand calls in a row, nor may it miss what happens between them: it sleeps `NAP_S` as long
as leaders come and go, untimed while one leader stays, and leads itself when none comes.
"""

from __future__ import annotations

import os
import select
import threading
import time
import weakref
from typing import TYPE_CHECKING

from fsmv2.supervisor.core.action import Action, ActionError, ActionResult, action_name
from fsmv2.supervisor.core.errors import FsmError
from fsmv2.supervisor.handles import PENDING, Callbacks, Handle, Seat, forked_away
from fsmv2.supervisor.shelter import Shelter

if TYPE_CHECKING:
    from fsmv2.supervisor.pool import Pool

NAP_S = 0.001
POLL_S_MAX = 3600.0
NEVER = float("inf")

_monotonic = time.monotonic


class Driver:
    """Drives a `Pool`, which must be used through it only once it was given."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.state_lock = threading.RLock()  # the last to be taken: nothing is locked under it
        self.callbacks = Callbacks()
        self.watched = 0  # open handles of which somebody will be told; under state_lock
        self._lock = threading.RLock()
        self._inside = False
        self._open: dict[int, Handle] = {}
        self._early: dict[int, ActionResult] = {}
        self._settled: list[tuple[Handle, ActionResult]] = []
        self._leader: Seat | None = None
        self._seats: dict[Seat, None] = {}
        self._terms = 0
        self._why_not: tuple[str, str] | None = None  # kind and text of all refusals from now on
        self._closing = False
        self._foreign = False
        # When the leader, or the napping thread, looks again by itself.
        self._looks_again = NEVER
        self._thread: threading.Thread | None = None
        self._thread_sleeps = False
        self._thread_rests = False
        self._alarm = threading.Lock()
        self._alarm.acquire()
        self._kicked = False
        self._kick_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._kick_fd, select.EPOLLIN)
        _drivers.add(self)

    def take(self, pool: Pool) -> None:
        """Drive ``pool`` from now on. Its ``on_result`` must be this driver's."""
        self._pool = pool
        self._epoll.register(pool.fileno(), select.EPOLLIN)

    def start(self) -> None:
        """Start the background thread."""
        self._thread = threading.Thread(target=self._run, name="fsmv2-pool", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """How many handles have no result yet."""
        return len(self._open)

    def handles(self) -> list[Handle]:
        """The handles without a result."""
        with Shelter(), self._lock:
            return list(self._open.values())

    # --- what callers ask -------------------------------------------------------------------

    def submit(
        self, handle: Handle, action: Action, key: str, timeout_s: float | None, seat: Seat | None
    ) -> None:
        """Give ``action`` to the pool; ``handle`` gets its result. With ``seat``, that seat leads
        afterwards if nobody does: its thread waits for the handle next."""
        settled: list[tuple[Handle, ActionResult]] = []
        with Shelter():
            with self._lock:
                if self._why_not is None:
                    settled = self._submit(handle, action, key, timeout_s, seat)
                else:
                    settled = [(handle, self._refusal(action_name(type(action)), 0))]
            if settled:
                self._deliver(settled)

    def _submit(
        self, handle: Handle, action: Action, key: str, timeout_s: float | None, seat: Seat | None
    ) -> list[tuple[Handle, ActionResult]]:
        self._enter()
        try:
            attempt_id = self._pool.submit(action, key=key, timeout_s=timeout_s)
            handle.attempt_id = attempt_id
            if self._early:
                early = self._early.pop(attempt_id, None)
                if early is not None:
                    self._settled.append((handle, early))
                    return self._take_settled()
            self._open[attempt_id] = handle
            if seat is not None and self._leader is None:
                self._lead_from_now(seat)
            else:
                moment = self._pool.next_moment()
                if moment is not None and moment < self._looks_again:
                    self._wake()
            return self._take_settled()
        finally:
            self._inside = False

    def cancel(self, handle: Handle, cause: str) -> bool:
        """See `Handle.cancel` and `Handle.kill`."""
        if handle.done():
            return False
        self._check_ours(handle)
        if self._closing:
            return True  # that is about to happen anyway
        with Shelter():
            with self._lock:
                if handle.attempt_id not in self._open:
                    return False
                self._enter()
                try:
                    cancelled = self._pool.cancel(handle.attempt_id, cause)
                    moment = self._pool.next_moment()
                    if moment is not None and moment < self._looks_again:
                        self._wake()
                    settled = self._take_settled()
                finally:
                    self._inside = False
            self._deliver(settled)
        return cancelled

    def is_running(self, handle: Handle) -> bool:
        """See `Handle.running`."""
        with Shelter(), self._lock:
            attempt = self._pool.in_flight(handle.attempt_id)
            return attempt is not None and attempt.proc is not None

    def attend(self, handle: Handle) -> None:
        """Somebody will wait for ``handle`` without leading: no time for naps. Takes no lock,
        since the caller may hold any number of handles' conditions."""
        self._check_ours(handle)
        # `watched` was counted before this look, and a nap is announced before `watched` is
        # looked at: one of the two sees the other. Missed, it would cost `NAP_S`.
        if self._thread_sleeps and self._leader is None:
            self._ring()

    def wait_for(self, handle: Handle, timeout_s: float | None, seat: Seat | None = None) -> bool:
        """Wait until ``handle`` is done: lead if nobody does, else follow. False: time is over.

        ``seat`` is one that `submit` was given.
        """
        end = NEVER if timeout_s is None else _monotonic() + timeout_s
        seat = seat or Seat()
        try:
            while handle._state is PENDING:  # noqa: SLF001, the fastest look there is
                self._check_ours(handle)
                if self._leader is seat or self._sits(seat, handle):
                    if self._lead(seat, handle, end):
                        return True
                else:
                    seat.wait(
                        -1 if end == NEVER else min(max(0.0, end - _monotonic()), POLL_S_MAX)
                    )
                if _monotonic() >= end:
                    return handle.done()
            return True
        finally:
            # Also when the wait was broken off by Ctrl-C: the lead must not leave with us.
            if seat.involved or self._leader is seat:
                self._stand_up(seat, handle)

    def _sits(self, seat: Seat, handle: Handle) -> bool:
        """Take the lead, or follow. Returns whether ``seat`` leads."""
        if self._closing:  # whoever closes leads to the end, holding the lock
            self._follow(seat, handle)
            return False
        with Shelter(), self._lock:
            if self._inside:
                self._enter()  # raises
            if seat in self._seats or self._leader is seat:
                return self._leader is seat
            # Without a place among the open ones, its result is just being delivered.
            is_open = handle.attempt_id in self._open
            if is_open and self._leader is None and not self._closing:
                self._lead_from_now(seat)
                return True
            if self._follow(seat, handle) and is_open:
                self._seats[seat] = None
            return False

    def _follow(self, seat: Seat, handle: Handle) -> bool:
        if not seat.involved:
            seat.follow()
        handle.unfollow(seat)
        if handle.follow(seat):
            return True
        seat.wake()
        return False

    def _stand_up(self, seat: Seat, handle: Handle | None) -> None:
        with Shelter():
            if handle is not None:
                handle.unfollow(seat)
            if self._closing and self._leader is not seat:
                return
            with self._lock:
                self._seats.pop(seat, None)
                if self._leader is seat:
                    self._pass_on()

    # --- leading ----------------------------------------------------------------------------

    def _lead_from_now(self, seat: Seat) -> None:
        self._leader = seat
        self._looks_again = self._pool.next_moment() or NEVER

    def _lead(self, seat: Seat, handle: Handle | None, end: float) -> bool:
        """Poll and step until ``handle`` has its result (True), or the time is over, or the pool
        closes. The background thread, without a handle, leads until it may nap."""
        epoll = self._epoll
        while True:
            # Unlocked; what makes the moment earlier also kicks us.
            wait_s = min(self._looks_again, end) - _monotonic()
            epoll.poll(0 if wait_s < 0 else min(wait_s, POLL_S_MAX))
            with Shelter():
                with self._lock:
                    if self._leader is not seat:
                        return False
                    done, leaves, settled = self._look(handle, end)
                waited_for = self._deliver(settled)
            if leaves:
                return done
            if handle is None and waited_for and not self._seats and not self.watched:
                return False  # its waiter will come again, and lead: nap meanwhile

    def _look(
        self, handle: Handle | None, end: float
    ) -> tuple[bool, bool, list[tuple[Handle, ActionResult]]]:
        """Step, and leave if there is no more to lead for: done, left, what was settled."""
        self._enter()
        try:
            if self._kicked:
                os.eventfd_read(self._kick_fd)
                self._kicked = False
            if not self._closing:
                self._pool.step()
        except BaseException as error:
            self._break(error)
            self._pass_on()
            self._deliver(self._take_settled())
            raise
        finally:
            self._inside = False
        done = handle is not None and handle.attempt_id not in self._open
        # Done, its result is in our hands or about to be delivered by the leader before us.
        leaves = done or self._closing or (end != NEVER and _monotonic() >= end)
        if leaves:
            self._pass_on()
        else:
            self._looks_again = self._pool.next_moment() or NEVER
        return done, leaves, self._take_settled()

    def _pass_on(self) -> None:
        """The leader leaves: another waiter leads, or the background thread looks soon."""
        self._terms += 1
        if self._seats:
            heir = next(iter(self._seats))
            del self._seats[heir]
            self._lead_from_now(heir)
            heir.wake()
            return
        self._leader = None
        moment = self._pool.next_moment()
        self._looks_again = _monotonic() + NAP_S
        if (
            self._thread_rests
            or self._closing
            or (self.watched and self._open)
            or (moment is not None and moment < self._looks_again)
        ):
            self._ring()

    # --- the background thread ----------------------------------------------------------------

    def _run(self) -> None:
        seen = -1
        while True:
            seat = Seat()
            with self._lock:
                if self._closing or self._why_not is not None:
                    return
                seen, nap_s = self._nap_or_lead(seat, seen)
            if nap_s != 0:
                self._alarm.acquire(timeout=nap_s)
                self._thread_sleeps = self._thread_rests = False
                continue
            try:
                self._lead(seat, None, NEVER)
            finally:
                self._stand_up(seat, None)

    def _nap_or_lead(self, seat: Seat, seen: int) -> tuple[int, float]:
        """How many terms there were, and for how long to sleep: 0 is not at all, -1 untimed."""
        terms = self._terms
        self._thread_sleeps = True
        if self._leader is not None:
            # A leader that stays is trusted to ring when it leaves.
            self._thread_rests = terms == seen
            return terms, -1 if self._thread_rests else NAP_S
        moment = self._pool.next_moment()
        wait_s = NAP_S if moment is None else min(NAP_S, moment - _monotonic())
        if terms == seen or wait_s <= 0 or (self.watched and self._open):
            self._thread_sleeps = False
            self._lead_from_now(seat)
            return terms, 0
        self._looks_again = _monotonic() + wait_s
        return terms, wait_s

    def _wake(self) -> None:
        """Have whoever sleeps look now: something is due earlier than they know."""
        if self._leader is None:
            self._ring()
        elif not self._kicked:
            self._kicked = True
            os.eventfd_write(self._kick_fd, 1)

    def _ring(self) -> None:
        try:
            self._alarm.release()
        except RuntimeError:
            return  # it rings already

    # --- results ------------------------------------------------------------------------------

    def on_result(self, attempt_id: int, result: ActionResult) -> None:
        """The pool's side: called in its `step`, `submit`, `cancel` and `close`."""
        handle = self._open.pop(attempt_id, None)
        if handle is None:
            self._early[attempt_id] = result  # refused before its handle was known
        else:
            self._settled.append((handle, result))

    def _take_settled(self) -> list[tuple[Handle, ActionResult]]:
        settled = self._settled
        if settled:
            self._settled = []
        return settled

    def _deliver(self, settled: list[tuple[Handle, ActionResult]]) -> bool:
        """Publish results, without the lock. Returns whether a thread waited for one."""
        waited_for = False
        try:
            for handle, result in settled:
                if handle.settle(result):
                    waited_for = True
        except BaseException:
            for handle, result in settled:
                handle.settle(result)  # whatever broke in must not cost a result
            raise
        return waited_for

    def _refusal(self, action_type: str, attempt_id: int) -> ActionResult:
        kind, text = self._why_not or ("PoolClosed", "cannot run an action: the pool is closing")
        return ActionResult(
            status="refused",
            action_type=action_type,
            attempt_id=attempt_id,
            error=ActionError(kind, text),
            ended_at=time.time(),
        )

    # --- trouble and the end ------------------------------------------------------------------

    def _enter(self) -> None:
        if self._inside:
            raise FsmError(
                "cannot use the pool here: this thread is in the middle of using it, and a "
                "finalizer or a signal's handler broke in; want a done callback or a thread"
            )
        self._inside = True

    def _check_ours(self, handle: Handle) -> None:
        if self._foreign:
            raise forked_away(handle.attempt_id, self.pid)

    def _break(self, error: BaseException) -> None:
        """A bug of ours, or a signal's handler raised in the middle of a step. Nobody may wait
        for ever for what will not come."""
        self._why_not = ("PoolBroken", f"{type(error).__name__}: {error}")
        for attempt_id, handle in list(self._open.items()):
            self._settled.append((handle, self._refusal("", attempt_id)))
        self._open.clear()

    @property
    def lock(self) -> threading.RLock:
        """Held while the pool is looked at or changed; never while anybody waits, but at the
        end by `close`."""
        return self._lock

    def disown(self) -> None:
        """We are in a forked process: the procs are not ours, the locks were left as they were."""
        self._foreign = True
        self._why_not = ("PoolForked", str(forked_away(0, self.pid)))
        self._lock = threading.RLock()
        self.state_lock = threading.RLock()

    def close(self) -> None:
        """End everything: what is open gets its result, the background thread ends."""
        if self._foreign:
            return
        seat = Seat()
        with Shelter(), self._lock:
            if self._closing:
                return
            self._closing = True
            self._why_not = self._why_not or (
                "PoolClosed", "cannot run an action: the pool is closed"
            )  # fmt: skip
            seat.follow()
            if self._leader is None:
                self._leader = seat
                seat.wake()
            else:
                self._seats = {seat: None, **self._seats}
                self._wake()
            self._ring()
        seat.wait(-1)
        if self._thread is not None:
            self._thread.join()
        try:
            with self._lock:
                self._pool.close()
        finally:
            with self._lock:
                for attempt_id, handle in list(self._open.items()):
                    self._settled.append((handle, self._refusal("", attempt_id)))
                self._open.clear()
                self._leader = None
            self._deliver(self._take_settled())
            self.callbacks.end()
            self._epoll.close()
            os.close(self._kick_fd)


_drivers: weakref.WeakSet[Driver] = weakref.WeakSet()


def _disown_all() -> None:
    for driver in list(_drivers):
        driver.disown()


os.register_at_fork(after_in_child=_disown_all)
