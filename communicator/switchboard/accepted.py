"""Orders that may be begun: which is next, how many may be on their way at a time.

Knows: the orders that wait, and the number of those that were begun and are not answered.
Does not know: how an order is noted, run or answered.
Invariants: they begin in the order they came; of no more than ``begun_max`` a kill leaves unknown
whether they ran; what they take in memory is counted until they are answered. `Accepted`
is for the router's thread, but for `ended`.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from concurrent.futures import Future
from typing import Protocol

import msgspec

from fsmv2.communicator.switchboard.inbound import Incoming
from fsmv2.communicator.switchboard.orders import Order
from fsmv2.supervisor import Action, ActionResult

BEGUN_MAX = 32
# Of the payloads of all that are open, as objects, whatever they were packed to; and one more.
BYTES_MAX = 64 * 1024 * 1024


class Runner(Protocol):
    """What runs users' actions: an `ActionPool`, or whatever submits like one."""

    def submit(self, action: Action) -> Future[ActionResult]:
        """Take ``action``; the future's result says how it ended, and never raises for it."""


class Open:
    """An order that is not settled yet."""

    __slots__ = ("future", "incoming", "is_running", "order", "size")

    def __init__(self, order: Order, incoming: Incoming) -> None:
        self.order = order
        self.incoming = incoming
        self.future: Future[ActionResult] | None = None
        self.is_running = False
        self.size = 0

    def forget_content(self) -> None:
        """Its action has it: keep what a reply needs, a thousand of them may be open."""
        self.incoming.message = msgspec.structs.replace(self.incoming.message, content="")
        self.order = msgspec.structs.replace(self.order, payload=None)


class Accepted:
    """A queue of orders with their actions. Raises `ValueError` for a bound that cannot be."""

    def __init__(self, begun_max: int) -> None:
        if begun_max < 1:
            raise ValueError(f"cannot begin orders: begun_max is {begun_max}, want at least 1")
        self.begun_max = begun_max
        self._waiting: deque[tuple[Open, Action]] = deque()
        self._lock = threading.Lock()
        self._running = 0
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_heavy(self) -> bool:
        """Whether what is open takes so much memory that no more of it may come."""
        return self._bytes >= BYTES_MAX

    def append(self, one: Open, action: Action, size: int) -> None:
        """It is to be run, and takes ``size`` bytes until it is answered."""
        self._waiting.append((one, action))
        with self._lock:
            one.size = size
            self._bytes += size

    def next(self) -> list[tuple[Open, Action]]:
        """Those that may begin now. They stay, until `begin` or `give_back`."""
        return [*itertools.islice(self._waiting, self.begun_max - self._running)]

    def is_worth_a_sync(self, group: int) -> bool:
        """Whether ``group`` wait, or as many as may begin, which are not just the few whose turn
        has come: each of these would have a sync to itself."""
        room = self.begun_max - self._running
        return room >= self._half and len(self._waiting) >= min(room, group)

    def begin(self) -> tuple[Open, Action]:
        """The first of them, which counts as running from now on."""
        one, action = self._waiting.popleft()
        with self._lock:
            one.is_running = True
            self._running += 1
        return one, action

    def ended(self, one: Open) -> bool:
        """It is answered, or given up; whether those that wait have room for a group now."""
        with self._lock:
            self._running -= one.is_running
            one.is_running = False
            self._bytes -= one.size
            one.size = 0
            room = self.begun_max - self._running
        return len(self._waiting) > 0 and room in (self._half, self.begun_max)

    def give_back(self) -> list[Open]:
        """None of them is to begin any more."""
        given = [one for one, _ in self._waiting]
        self._waiting.clear()
        with self._lock:
            self._bytes -= sum(one.size for one in given)
        return given

    @property
    def _half(self) -> int:
        return (self.begun_max + 1) // 2
