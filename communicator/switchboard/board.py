"""The switchboard: a router, its subscribers and its publisher between two spools, in threads.

It is for programs that have users' actions and statuses of their own. It runs in their process,
beside an `ActionPool` of theirs, not in the supervisor's root: reading and writing spools touches
the disk, and the root touches nothing and waits for nothing. Nor is it an action in a proc: it
would have to run for ever, and could not hand actions to the pool that it runs in. The
communicator, which pushes and pulls, knows only the two folders; either side may be killed,
stopped and started without the other.

Three threads, whatever comes: ``switchboard-router`` reads the inbox and gives orders to the pool,
``switchboard-status`` publishes each second, ``switchboard-writer`` writes the outbox. The pool's
callbacks come in its own thread. No thread for a message, none that watches the others.

Knows: what belongs together, in which order it starts and stops.
Does not know: messages.
Invariants: no call of it waits for the disk but `start` and `close`; a stop begins nothing new,
lets what runs end within its time, and says what is left over; what is left over is in the inbox.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

from fsmv2.communicator.spool import Bounds, claim
from fsmv2.communicator.spool.instance import instance_of
from fsmv2.communicator.switchboard.accepted import BEGUN_MAX, Runner
from fsmv2.communicator.switchboard.counts import Counts
from fsmv2.communicator.switchboard.identity import Identity
from fsmv2.communicator.switchboard.inbound import Inbound
from fsmv2.communicator.switchboard.outbound import Outbound
from fsmv2.communicator.switchboard.publisher import INTERVAL_S, StatusPublisher
from fsmv2.communicator.switchboard.router import Router
from fsmv2.communicator.switchboard.subscribers import Subscribers
from fsmv2.supervisor import Action

STOP_S = 10.0
STEP_S = 0.25
FAULT_WAIT_S = 1.0
# How often it is looked for another login's instance.
INSTANCE_S = 1.0


class LeftOver(NamedTuple):
    """What a stop could not finish. ``orders`` are answered when the switchboard starts again: as
    interrupted, or as they end when they are run again. ``messages`` were not written, because
    the disk did not take them: statuses, replies to such orders, and what others have put."""

    orders: int
    messages: int


class Switchboard:
    """One instance's inner half. ``with Switchboard(…) as board: …``

    ``outbox`` and ``inbox`` are the communicator's folders. ``runner`` is an `ActionPool`, which
    stays its owner's: close it after the switchboard. ``actions``: the ``actionType`` of an order
    to the action class that runs it, whose fields are the order's payload. ``status(full)`` is
    what subscribers see each second, see `StatusPublisher`; None: no statuses. ``begun_max``: so
    many orders are begun and not answered at a time; no fewer than the pool has procs.
    ``instance_uuid`` stands in messages until the communicator's login has told it.
    """

    def __init__(
        self,
        outbox: str | Path,
        inbox: str | Path,
        runner: Runner,
        actions: Mapping[str, type[Action]],
        status: Callable[[bool], Any] | None = None,
        *,
        bounds: Bounds | None = None,
        instance_uuid: str = "",
        begun_max: int = BEGUN_MAX,
    ) -> None:
        self.counts = Counts()
        self.identity = Identity(instance_uuid)
        self.subscribers = Subscribers()
        self.outbound = Outbound(outbox, bounds, self.counts)
        self.inbound = Inbound(inbox, self.counts)
        self.router = Router(
            self.inbound,
            self.outbound,
            self.subscribers,
            self.identity,
            runner,
            actions,
            begun_max,
        )
        self._publisher = (
            StatusPublisher(status, self.subscribers, self.outbound, self.identity)
            if status is not None
            else None
        )
        self._stopping = threading.Event()
        self._is_closed = False
        self._learn_at = 0.0
        self._threads: list[threading.Thread] = []
        self._claim: IO[bytes] | None = None
        self._claim_lock = threading.Lock()
        self._claim_users: set[str] = set()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Switchboard {self.router!r}, {self.outbound!r}>"

    def start(self) -> None:
        """Start the threads. Raises `spool.Claimed` when another consumer reads the inbox (a
        standby tries again until it does not), and `OSError`; then nothing was started. Raises
        `RuntimeError` after `close`, and where it runs: each start wants a new switchboard."""
        if self._is_closed or self._claim_users:
            state = "was closed" if self._is_closed else "runs"
            raise RuntimeError(f"cannot start a switchboard: this one {state}, want a new one")
        claimed = claim(self.inbound.folder)
        try:
            # Not before: until now somebody else may have run orders, and noted them.
            self.router.read_ledger()
            self._learn_instance()
            self.outbound.start()
        except BaseException:
            claimed.close()
            raise
        self._claim = claimed
        self._claim_users = {"board", "router"}
        try:
            self._begin("switchboard-router", self._route)
            if self._publisher is not None:
                self._begin("switchboard-status", self._publish)
        except BaseException:  # no more threads to be had
            if not self._threads:
                self._leave_inbox("router")
            self.close(FAULT_WAIT_S)
            raise

    def statistics(self) -> dict[str, int]:
        """Counts, and what is there now, as plain data. Nothing in it is of a message."""
        return {
            **self.counts.as_dict(),
            "subscribers_now": len(self.subscribers),
            "orders_now": self.router.in_flight,
            "unsent_now": self.router.unsent,
            "outbox_now": self.outbound.present.messages,
        }

    def close(self, timeout_s: float = STOP_S) -> LeftOver:
        """Stop; returns what is left over after ``timeout_s`` seconds. May be called twice."""
        ends_at = time.monotonic() + timeout_s
        self._is_closed = True
        self.router.stop()
        while self.router.in_flight and self._is_routing and time.monotonic() < ends_at:
            time.sleep(0.01)
        self._stopping.set()
        for thread in self._threads:
            thread.join(max(0.1, ends_at - time.monotonic()))
        messages = self.outbound.close(max(0.1, ends_at - time.monotonic()))
        if not self._is_routing:
            self._settle()  # what the writer has written since
        orders = self.router.in_flight
        self.router.abandon()
        self._leave_inbox("board")
        return LeftOver(orders, messages)

    def _leave_inbox(self, user: str) -> None:
        """The last one out lets others have it: a router whose disk hangs is still at it when
        the time of `close` is over, and two would run orders twice."""
        with self._claim_lock:
            self._claim_users.discard(user)
            if self._claim is not None and not self._claim_users:
                self._claim.close()
                self._claim = None

    @property
    def _is_routing(self) -> bool:
        return "router" in self._claim_users

    def _begin(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _route(self) -> None:
        try:
            self._route_on()
            self._settle()
        finally:
            self._leave_inbox("router")

    def _route_on(self) -> None:
        while not self._stopping.is_set():
            try:
                if time.monotonic() >= self._learn_at:
                    self._learn_instance()
                self.router.step(STEP_S)
            except OSError as error:
                self.counts.tell("spool_failures", f"cannot use the inbox: {error.strerror}")
                self._stopping.wait(FAULT_WAIT_S)
            except BaseException as error:  # the router must not be gone for one of our errors
                self.counts.tell("faults", f"cannot route: {type(error).__name__}")
                self._stopping.wait(FAULT_WAIT_S)

    def _learn_instance(self) -> None:
        self._learn_at = time.monotonic() + INSTANCE_S
        self.identity.set_instance_uuid(instance_of(self.inbound.folder))

    def _settle(self) -> None:
        try:
            self.router.settle(all_of_it=True)
        except OSError as error:
            self.counts.tell("spool_failures", f"cannot use the inbox: {error.strerror}")

    def _publish(self) -> None:
        if self._publisher is None:
            return
        due_at = time.monotonic()
        while not self._stopping.wait(max(0.0, due_at - time.monotonic())):
            try:
                self._publisher.tick()
            except BaseException as error:  # nor the heartbeat
                self.counts.tell("faults", f"cannot publish: {type(error).__name__}")
            # A late round is not made good by two at once.
            due_at = max(due_at + INTERVAL_S, time.monotonic())
