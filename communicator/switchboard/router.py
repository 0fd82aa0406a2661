"""The router: what becomes of each message that comes in.

Knows: the message types, which actions users may ask for, which of them are running.
Does not know: relays, files' inside, how an action is run (its pool's business).
Invariants: an order has confirmed, executing and exactly one last reply, in this order; it is
noted on disk before it is run, and its message is done when the last reply is on disk and noted,
`SETTLE_S` seconds or `SETTLE_ORDERS` orders later: one that a kill has interrupted in between is
not run again but ended with a failure that says so, unless its class says ``run_again``; the same
actionUUID is run once, its second delivery is counted and not answered; a message that cannot be
routed is warned of and the next one is routed; an order of these is answered if only its
actionUUID can be read. For want of memory, or after a kill in mid-routing, a message is tried
again, `TRIES_MAX` times in all. Nothing but the pool runs a user's action.

One thread calls `step`; results come in through the pool's own thread. A reply that finds the
outbox full waits here, and no further order is begun until it has gone: the inbox fills, and then
nothing is pulled. So orders are held back where they are safe, not dropped.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from fsmv2.communicator.switchboard import orders
from fsmv2.communicator.switchboard.accepted import BEGUN_MAX, Accepted, Open, Runner
from fsmv2.communicator.switchboard.counts import Counts
from fsmv2.communicator.switchboard.identity import Identity
from fsmv2.communicator.switchboard.inbound import TRIES_MAX, Inbound, Incoming
from fsmv2.communicator.switchboard.ledger import Ledger
from fsmv2.communicator.switchboard.orders import Order, Refused, ReplyState, WhenInterrupted
from fsmv2.communicator.switchboard.outbound import Outbound
from fsmv2.communicator.switchboard.replies import Replies
from fsmv2.communicator.switchboard.subscribers import Subscribers
from fsmv2.communicator.transport.codec import (
    CodecError,
    Message,
    is_packed,
    read_content,
    read_value,
)
from fsmv2.supervisor import Action, ActionResult

IN_FLIGHT_MAX = 1_000
EMAIL_CHARS_MAX = 1_000
# From here on, and of those that are packed, it is noted on disk that a content is being read.
LARGE_CHARS = 64 * 1024
# So long memory has to become free, before a message is tried again.
MEMORY_WAIT_S = 1.0
# Orders that ended are noted in groups: so many, or after so many seconds. Those that begin: so
# many, or as soon as no more of them are there.
SETTLE_ORDERS = 100
SETTLE_S = 0.05


class Router:
    """Routes from ``inbound``; ``actions`` says which class runs which ``actionType``."""

    def __init__(
        self,
        inbound: Inbound,
        outbound: Outbound,
        subscribers: Subscribers,
        identity: Identity,
        runner: Runner,
        actions: Mapping[str, type[Action]],
        begun_max: int = BEGUN_MAX,
    ) -> None:
        self.inbound = inbound
        self._outbound = outbound
        self._subscribers = subscribers
        self._runner = runner
        self._actions = dict(actions)
        self._repeated = {
            name
            for name, kind in self._actions.items()
            if orders.when_interrupted(name, kind) is WhenInterrupted.RUN_AGAIN
        }
        self._counts: Counts = outbound.counts
        self._ledger: Ledger | None = None
        self._accepted = Accepted(begun_max)
        self._has_room = threading.Event()
        self._open: dict[str, Open] = {}
        self._lock = threading.Lock()
        self._answered: deque[Open] = deque()
        self._settle_at = 0.0
        self._replies = Replies(outbound, identity, self.read_ledger, self._is_answered)
        self._unanswered: deque[tuple[Open, str, str]] = deque()
        self._postponed: Incoming | None = None
        self._postponed_until = 0.0
        self._stopping = False

    def __repr__(self) -> str:
        return f"<Router {len(self._open)} orders open, {len(self._replies)} replies unsent>"

    @property
    def in_flight(self) -> int:
        """Orders without a last reply on disk."""
        return len(self._open)

    @property
    def unsent(self) -> int:
        """Replies that wait for room in the outbox."""
        return len(self._replies)

    def read_ledger(self) -> Ledger:
        """Learn what was done in earlier lives. For whoever has claimed the inbox: before that,
        others may still be adding to it. Raises `OSError`."""
        if self._ledger is None:
            self._ledger = Ledger(self.inbound.folder, self._outbound.folder)
        return self._ledger

    def step(self, timeout_s: float = 0.0) -> bool:
        """Route one message, waiting for it up to ``timeout_s`` seconds; False: there was none, or
        what is open has to be settled first. Raises `OSError` when the inbox cannot be used."""
        self.read_ledger()  # before a message is taken that would be lost for it
        self.settle()
        self._replies.send_unsent()
        for _ in range(len(self._unanswered)):
            self._fail_or_wait(*self._unanswered.popleft())
        if self._stopping:
            self._give_back()
        is_full = (
            len(self._open) >= IN_FLIGHT_MAX
            or self._accepted.is_heavy
            or time.monotonic() < self._postponed_until
        )
        can_begin = bool(self._accepted) and not self._replies
        if can_begin and self._accepted.is_worth_a_sync(1 if is_full else SETTLE_ORDERS):
            self._begin_accepted()
        if self._replies or is_full or self._stopping:
            # Not the inbound's wait: it would return at once for what must not be taken yet.
            self._has_room.wait(min(timeout_s, SETTLE_S))
            self._has_room.clear()
            if is_full and not (self._replies or self._stopping) and self._accepted.next():
                self._begin_accepted()  # fewer than half of them: the others take their time
            return False
        wait_s = min(timeout_s, SETTLE_S) if self._open else timeout_s
        try:
            incoming = self._postponed or self.inbound.receive(
                0.0 if self._accepted.next() else wait_s
            )
        except MemoryError:
            self._postpone(None)
            return False
        if incoming is None and self._accepted.next():
            self._begin_accepted()
            return True
        if incoming is None:
            self.settle(all_of_it=True)
            return False
        try:
            self._try(incoming)
        except MemoryError:
            self._postpone(incoming)
            return False
        return True

    def settle(self, *, all_of_it: bool = False) -> None:
        """Note orders whose last reply is on disk, and let their messages go. Raises `OSError`."""
        with self._lock:
            due = len(self._answered) >= SETTLE_ORDERS or time.monotonic() >= self._settle_at
            settled = list(self._answered) if all_of_it or due else []
        if settled:
            self.read_ledger().note_done(one.order.uuid for one in settled)
            for one in settled:
                self._open.pop(one.order.uuid, None)
                one.incoming.done()
            with self._lock:
                for _ in settled:
                    self._answered.popleft()
                self._settle_at = time.monotonic() + SETTLE_S
        if settled or all_of_it:
            self.inbound.sweep()

    def stop(self) -> None:
        """Begin nothing new. What is in flight goes on, and is answered."""
        self._stopping = True
        self.inbound.wake()

    def abandon(self) -> None:
        """Answer nothing more: what ends now was ended by the stop, and comes again."""
        with self._lock:
            self._open.clear()

    # --- routing ----------------------------------------------------------------------------

    def _try(self, incoming: Incoming) -> None:
        """Route it, or end it another way. Raises `MemoryError`; then it is to be tried again."""
        self._postponed = None
        content = incoming.message.content
        tries = self.read_ledger().tries
        is_noted = is_packed(content) or len(content) >= LARGE_CHARS
        number = tries.begin(incoming.name, noted=is_noted)
        if number <= TRIES_MAX:
            # The error itself holds what was unpacked: it must be gone before another look.
            code, why = self._routed(incoming)
        else:
            code = orders.NO_MEMORY
            why = f"it was begun {TRIES_MAX} times and never to the end (memory, or a kill)"
        if why:
            self._cannot_route(incoming, code, why, may_read=number <= TRIES_MAX + 1)
        tries.end(incoming.name)

    def _routed(self, incoming: Incoming) -> tuple[str, str]:
        """Route it; else the code of a failure, and why."""
        try:
            self._route(incoming)
        except CodecError as error:
            self._counts.tell("unreadable", str(error))
            return orders.BAD_PAYLOAD, str(error)
        except MemoryError:
            raise
        except Exception as error:  # ours; without an end it would come again for ever
            why = f"cannot route a message: {type(error).__name__}"
            self._counts.tell("faults", why)
            return orders.NOT_ROUTED, why
        return "", ""

    def _cannot_route(self, incoming: Incoming, code: str, why: str, may_read: bool) -> None:
        """Answer it, if it is an order; else keep it for people, unless nobody could read it."""
        order = None
        if may_read:
            try:
                order = orders.read_head(incoming.message.content)
            except MemoryError:
                if code != orders.NO_MEMORY:
                    raise
        if order is None and code == orders.BAD_PAYLOAD:
            incoming.done()
        elif order is None:
            self._set_aside(incoming)
        elif not self._is_known(order, incoming):
            one = self._open[order.uuid] = Open(order, incoming)
            one.forget_content()
            if self.read_ledger().is_begun(order.uuid):
                code, why = orders.INTERRUPTED, orders.interrupted(order)
            self._fail_or_wait(one, code, f"cannot take the order: {why}")

    def _set_aside(self, incoming: Incoming) -> None:
        self._counts.tell("set_aside", "a message that cannot be routed is kept as .unreadable")
        incoming.set_aside()

    def _postpone(self, incoming: Incoming | None) -> None:
        self._counts.tell("postponed", "memory is short, a message is tried again")
        self._postponed = incoming or self._postponed
        self._postponed_until = time.monotonic() + MEMORY_WAIT_S

    def _is_known(self, order: Order, incoming: Incoming) -> bool:
        if order.uuid in self._open or self.read_ledger().is_done(order.uuid):
            # While it is open the first message stays in the inbox, so this one may go.
            self._counts.add("duplicates")
            incoming.done()
            return True
        self._counts.add("orders")
        return False

    def _route(self, incoming: Incoming) -> None:
        message = incoming.message
        kind, payload, size = read_content(message.content)
        match kind:
            case "subscribe":
                self._subscribe(message, payload)
            case "action":
                self._order(incoming, orders.read_order(payload), size)
                return
            case _:
                self._counts.tell("unexpected", "a message of an unexpected type was dropped")
        incoming.done()

    def _subscribe(self, message: Message, payload: Any) -> None:
        if not 0 < len(message.email) <= EMAIL_CHARS_MAX:
            raise CodecError(
                f"cannot subscribe: email has {len(message.email)} characters, want 1 to "
                f"{EMAIL_CHARS_MAX}"
            )
        resubscribed = isinstance(payload, dict) and read_value(payload, "resubscribed") is True
        if self._subscribers.add_or_refresh(message.email, resubscribed):
            self._counts.add("subscribes")
        else:
            self._counts.tell("unexpected", "there are too many subscribers, one was not added")

    def _order(self, incoming: Incoming, order: Order, size: int) -> None:
        if self._is_known(order, incoming):
            return
        one = self._open[order.uuid] = Open(order, incoming)
        try:
            self._accept(one, size)
        except Exception:
            self._open.pop(order.uuid, None)  # `_try` begins it anew, or ends it
            raise
        one.forget_content()

    def _accept(self, one: Open, size: int) -> None:
        order = one.order
        if self.read_ledger().is_begun(order.uuid) and order.action_type not in self._repeated:
            self._counts.tell("interrupted", "an order that was interrupted is not run again")
            self._fail(one, orders.INTERRUPTED, orders.interrupted(order))
            return
        try:
            action = orders.action_of(order, self._actions)
        except Refused as refused:
            if refused.is_ours:
                self._counts.tell("not_begun", str(refused), order.action_type)
            self._fail(one, refused.code, str(refused))
            return
        self._accepted.append(one, action, size)

    def _begin_accepted(self) -> None:
        """Note those that are to be run once at most, with one sync, then have all of them run.
        Raises `OSError`; then they are still to be begun."""
        now = [one.order for one, _ in self._accepted.next()]
        once = [order.uuid for order in now if order.action_type not in self._repeated]
        self.read_ledger().note_begun(once)
        for _ in now:
            one, action = self._accepted.begin()
            try:
                self._begin(one, action)
            except Exception as error:
                why = f"cannot begin {one.order.action_type}: {type(error).__name__}"
                self._counts.tell("not_begun", why, one.order.action_type)
                self._fail_or_wait(one, orders.NOT_STARTED, why)

    def _give_back(self) -> None:
        """Not begun yet: they are in the inbox, and run when somebody starts again."""
        for one in self._accepted.give_back():
            self._open.pop(one.order.uuid, None)

    def _give_up(self, one: Open) -> None:
        self._runs_no_more(one)
        self._open.pop(one.order.uuid, None)
        self._set_aside(one.incoming)

    def _begin(self, one: Open, action: Action) -> None:
        order = one.order
        self._replies.send(one, orders.reply(order, ReplyState.CONFIRMED, "taken"))
        self._replies.send(one, orders.reply(order, ReplyState.EXECUTING, "given to the pool"))
        try:
            one.future = self._runner.submit(action)
        except BaseException as error:
            if orders.is_interrupt(error):
                raise
            why = f"cannot start {order.action_type}: {type(error).__name__}"
            self._counts.tell("not_begun", why, order.action_type)
            self._fail(one, orders.NOT_STARTED, why)
            return
        self._counts.add("started")
        one.future.add_done_callback(lambda future: self._ended(one, future))

    # --- answers: any thread ----------------------------------------------------------------

    def _ended(self, one: Open, future: Future[ActionResult]) -> None:
        if self._open.get(one.order.uuid) is not one:
            return  # abandoned
        try:
            result = future.result()
        except BaseException as error:  # it has promised not to
            why = f"{one.order.action_type} was lost: {type(error).__name__}"
            self._fail_or_wait(one, orders.CODES["crashed"], why)
            return
        try:
            self._replies.send(one, orders.last_reply(one.order, result), is_last=True)
        except Exception as error:  # no JSON, too large, too deep: whatever it is, it has its end
            self._fail_or_wait(one, orders.BAD_VALUE, orders.unsendable(one.order, error))
            return
        self._counts.add("succeeded" if result.succeeded else "failed")

    def _fail_or_wait(self, one: Open, code: str, why: str) -> None:
        try:
            self._fail(one, code, why)
        except Exception as error:
            self._counts.tell("faults", f"cannot answer an order: {type(error).__name__}")
            if isinstance(error, MemoryError):  # it may pass: the router's thread tries again
                self._unanswered.append((one, code, why))
                return
            self._give_up(one)

    def _fail(self, one: Open, code: str, why: str) -> None:
        failure = orders.reply(one.order, ReplyState.FAILURE, why, code=code)
        self._replies.send(one, failure, is_last=True)
        self._counts.add("failed")

    def _is_answered(self, one: Open) -> None:
        self.read_ledger().jot_answered(one.order.uuid)
        self._runs_no_more(one)
        with self._lock:
            if not self._answered:
                self._settle_at = time.monotonic() + SETTLE_S
            self._answered.append(one)

    def _runs_no_more(self, one: Open) -> None:
        if self._accepted.ended(one):
            self._has_room.set()
            self.inbound.wake()
