"""Replies to orders, from any thread to the outbox, or until it has room for them.

Knows: which replies wait for room, which of them are last ones.
Does not know: what a reply says, what an order is.
Invariants: replies leave in the order they were sent, none is dropped; what no message can carry is
raised at whoever sends it, never found at the head of those that wait; a last reply is kept in the
ledger before the push can see it, and told when it is on disk. Any thread may call.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from fsmv2.communicator.spool import SpoolFull, encode
from fsmv2.communicator.switchboard import orders
from fsmv2.communicator.switchboard.accepted import Open
from fsmv2.communicator.switchboard.identity import Identity
from fsmv2.communicator.switchboard.ledger import Ledger
from fsmv2.communicator.switchboard.outbound import Closed, Outbound
from fsmv2.communicator.transport.codec import Message, encode_content


class Replies:
    """The way of replies into ``outbound``; ``on_answered`` is called from its thread."""

    def __init__(
        self,
        outbound: Outbound,
        identity: Identity,
        ledger: Callable[[], Ledger],
        on_answered: Callable[[Open], None],
    ) -> None:
        self._outbound = outbound
        self._identity = identity
        self._ledger = ledger
        self._on_answered = on_answered
        self._lock = threading.Lock()
        self._unsent: deque[tuple[Message, Open | None]] = deque()

    def __len__(self) -> int:
        return len(self._unsent)

    def __repr__(self) -> str:
        return f"<Replies, {len(self)} wait>"

    def send(self, one: Open, payload: dict[str, Any], *, is_last: bool = False) -> None:
        """Send ``payload`` to who has asked for ``one``. Raises for what cannot be encoded."""
        asked = one.incoming.message
        message = Message(
            umh_instance=self._identity.get_instance_uuid(),
            email=asked.email,
            content=encode_content(orders.REPLY, payload),
            trace_id=asked.trace_id,
        )
        answered = one if is_last else None
        with self._lock:
            if self._unsent:
                # Too large is told now: at the head of those that wait nobody could.
                encode(message)
            elif self._put(message, answered):
                return
            self._unsent.append((message, answered))

    def send_unsent(self) -> None:
        """Send those that wait, as many as have room."""
        with self._lock:
            while self._unsent and self._put(*self._unsent[0]):
                self._unsent.popleft()

    def _put(self, message: Message, answered: Open | None) -> bool:
        try:
            if answered is None:
                self._outbound.put(message)
            else:
                self._outbound.put(
                    message,
                    on_writing=partial(self._ledger().keep_answer, answered.order.uuid),
                    on_durable=partial(self._on_answered, answered),
                )
        except (SpoolFull, Closed):
            return False
        self._outbound.counts.add("replies")
        return True
