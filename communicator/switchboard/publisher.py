"""The status publisher: each second one status to every subscriber, which is the heartbeat.

Knows: who gets a full status and who increments, the budget of a round.
Does not know: what a status says, when a round is due (its caller's business), the relay.
Invariants: without subscribers no status is made; a status is made once a round for each of the
two kinds, not for each subscriber; a status that finds no room is dropped and counted; whoever
has missed an increment gets a full status next, whoever was left out of a round is first in the
next.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fsmv2.communicator.spool import SpoolFull, TooLarge
from fsmv2.communicator.switchboard.counts import Counts
from fsmv2.communicator.switchboard.identity import Identity
from fsmv2.communicator.switchboard.outbound import Closed, Outbound
from fsmv2.communicator.switchboard.subscribers import Subscriber, Subscribers
from fsmv2.communicator.transport.codec import Message, encode_content

INTERVAL_S = 1.0
BUDGET_S = 1.0


class StatusPublisher:
    """Sends what ``status`` returns: called with True for all there is to know, with False for
    what has changed since it was last called with False. It should be quick: what takes longer than
    `BUDGET_S` is counted, and delays the heartbeat."""

    def __init__(
        self,
        status: Callable[[bool], Any],
        subscribers: Subscribers,
        outbound: Outbound,
        identity: Identity,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._status = status
        self._subscribers = subscribers
        self._outbound = outbound
        self._identity = identity
        self._counts: Counts = outbound.counts
        self._clock = clock
        self._served_last = ""

    def tick(self) -> int:
        """One round; returns how many statuses were sent."""
        ends_at = self._clock() + BUDGET_S
        contents: dict[bool, str | None] = {}
        sent = 0
        everybody = self._in_turn()
        for number, subscriber in enumerate(everybody):
            if self._clock() > ends_at:
                self._counts.tell("late_rounds", f"a round of statuses takes over {BUDGET_S:g} s")
                self._leave_out(everybody[number:], contents)
                break
            full = not subscriber.bootstrapped
            if full not in contents:
                contents[full] = self._content(full)
            content = contents[full]
            if content is None:
                self._subscribers.mark(subscriber, False)  # if it was an increment, it is missed
            elif self._send(subscriber, content):
                sent += 1
                self._served_last = subscriber.email
        return sent

    def _leave_out(self, rest: list[Subscriber], contents: dict[bool, str | None]) -> None:
        if False in contents:  # an increment that they miss
            for subscriber in rest:
                self._subscribers.mark(subscriber, False)

    def _in_turn(self) -> list[Subscriber]:
        """Everybody, beginning behind who was served last."""
        everybody = self._subscribers.get_subscribers()
        emails = [subscriber.email for subscriber in everybody]
        if self._served_last not in emails:
            return everybody
        at = emails.index(self._served_last) + 1
        return everybody[at:] + everybody[:at]

    def _content(self, full: bool) -> str | None:
        try:
            return encode_content("status", self._status(full))
        except BaseException as error:  # SystemExit too: it would be the end of the heartbeat
            # Its text may be about anything.
            self._counts.tell("status_failures", f"cannot make a status: {type(error).__name__}")
            return None

    def _send(self, subscriber: Subscriber, content: str) -> bool:
        message = Message(
            umh_instance=self._identity.get_instance_uuid(),
            email=subscriber.email,
            content=content,
        )
        try:
            self._outbound.put(message, replaceable=True)
        except (SpoolFull, TooLarge, Closed) as error:
            self._counts.tell("statuses_dropped", str(error))
            self._subscribers.mark(subscriber, False)
            return False
        self._counts.add("statuses")
        self._subscribers.mark(subscriber, True)
        return True
