"""The other end of the relay: somebody at a management console.

Knows: how a console subscribes and gives orders, what it makes of statuses and replies.
Does not know: sockets, the communicator.
Invariants: what it tells is read off the relay's ledger, so that it can be asked at any time; its
clock is the relay's.
"""

from __future__ import annotations

import uuid as uuids
from collections import Counter
from typing import TYPE_CHECKING, Any

from fsmv2.communicator.testing.backend import Instance, Pushed

if TYPE_CHECKING:
    from fsmv2.communicator.testing.standin import Relay

OFFLINE_AFTER_S = 10.0
SUBSCRIBE_EVERY_S = 60.0
FIRST_STATES = ("action-confirmed", "action-executing")
LAST_STATES = ("action-success", "action-failure")


class Console:
    """One user, known by ``email``, who looks at one instance (the relay's first by default)."""

    def __init__(
        self, relay: Relay, email: str = "ada@example.com", instance: Instance | None = None
    ) -> None:
        self.email = email
        self.orders: dict[str, str] = {}
        self._relay = relay
        self._instance = instance or relay.instance
        self._subscribed_at: float | None = None

    def __repr__(self) -> str:
        return f"<Console {self.email}, {len(self.orders)} orders>"

    def subscribe(self) -> None:
        """Ask for statuses; from the second time on as a re-subscription."""
        payload = {"resubscribed": self._subscribed_at is not None}
        self._subscribed_at = self._relay.now()
        self._relay.send(self.email, "subscribe", payload, self._instance)

    def tick(self) -> bool:
        """Subscribe if it is time to; return whether it was."""
        at = self._subscribed_at
        due = at is None or self._relay.now() - at >= SUBSCRIBE_EVERY_S
        if due:
            self.subscribe()
        return due

    def order(self, action_type: str, payload: Any, order_id: str = "") -> str:
        """Send an action and return its UUID; with an ``order_id`` the very same once more."""
        order_id = order_id or str(uuids.uuid4())
        self.orders[order_id] = action_type
        body = {"actionType": action_type, "actionUUID": order_id, "actionPayload": payload}
        self._relay.send(self.email, "action", body, self._instance)
        return order_id

    def statuses(self) -> list[Any]:
        """Every status that came for this user, oldest first."""
        return [one.payload for one in self._mine("status")]

    def last_status_s(self) -> float | None:
        """Seconds since the last status came; None before the first."""
        mine = self._mine("status")
        return self._relay.now() - mine[-1].at if mine else None

    @property
    def shows_offline(self) -> bool:
        """Whether the console would call the instance offline."""
        silence_s = self.last_status_s()
        return silence_s is None or silence_s > OFFLINE_AFTER_S

    def replies(self, order_id: str) -> list[str]:
        """The states of the replies to one order, as they came."""
        return [
            str(one.payload.get("actionReplyState"))
            for one in self._mine("action-reply")
            if isinstance(one.payload, dict) and one.payload.get("actionUUID") == order_id
        ]

    def reply_faults(self) -> list[str]:
        """What is wrong with the replies so far, one text each: an order must be answered by any
        number of confirmations and progress, then by exactly one end."""
        faults = []
        for order_id, action_type in self.orders.items():
            states = self.replies(order_id)
            ends = [state for state in states if state in LAST_STATES]
            odd = [state for state in states if state not in FIRST_STATES + LAST_STATES]
            where = f"{action_type} {order_id}"
            if len(ends) != 1:
                faults.append(f"{where}: got {len(ends)} ends, want one")
            elif states[-1] != ends[0]:
                faults.append(f"{where}: got {states[-1]} after {ends[0]}")
            if odd:
                faults.append(f"{where}: got unknown states {odd}")
            if "action-confirmed" in states[1:]:
                faults.append(f"{where}: confirmed after it was begun")
        return faults

    def duplicates(self) -> int:
        """How many messages for this user came more often than once, beyond the first."""
        seen = Counter(one.content_hash for one in self._relay.pushed() if one.email == self.email)
        return sum(seen.values()) - len(seen)

    def _mine(self, message_type: str) -> list[Pushed]:
        return [
            one
            for one in self._relay.pushed()
            if one.email == self.email
            and one.message_type == message_type
            and one.instance_uuid == self._instance.uuid
        ]
