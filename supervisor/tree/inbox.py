"""The inbox: results on their way from the pool to the nodes that asked for them.

Knows: whose attempt is whose, and which function takes its result.
Does not know: what a result does to a node.
Invariants: it is emptied before a tick, and nothing enters a node half-way through one; I3, a
result reaches only the incarnation that asked for it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from fsmv2.supervisor.core import events
from fsmv2.supervisor.core.action import ActionResult
from fsmv2.supervisor.tree import observing, outside
from fsmv2.supervisor.tree.context import Context
from fsmv2.supervisor.tree.node import InFlight, Node

Take = Callable[[Node, Context, ActionResult, float], None]


class Owner:
    """Whose attempt it is; ``take`` is called with its result and the moment it was offered."""

    __slots__ = ("node", "since", "take")

    def __init__(self, node: Node, take: Take, since: float) -> None:
        self.node = node
        self.take = take
        self.since = since


class Inbox:
    """`put` results in at any time, `drain` them into the nodes between two ticks."""

    def __init__(self) -> None:
        self._results: deque[tuple[int, ActionResult]] = deque()
        self._owners: dict[int, Owner] = {}
        # Observations that did not end by themselves, by status: an event is only the first of
        # an incident.
        self.observation_deaths: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._results)

    def __repr__(self) -> str:
        return f"<Inbox: {len(self._results)} results, {len(self._owners)} attempts open>"

    def own(self, node: Node, in_flight: InFlight, take: Take) -> None:
        """The result of ``in_flight`` is for ``node``."""
        self._owners[in_flight.attempt_id] = Owner(node, take, in_flight.since)

    def put(self, attempt_id: int, result: ActionResult) -> None:
        """Leave a result; its node sees it at the next `drain`."""
        self._results.append((attempt_id, result))

    def drain(self, ctx: Context) -> None:
        """Give every result to its node."""
        while self._results:
            attempt_id, result = self._results.popleft()
            owner = self._owners.pop(attempt_id, None)
            if (
                owner is not None
                and owner.take is observing.take
                and result.certificate is not None
            ):
                self.observation_deaths[result.status] += 1
            # Who asked from outside the tree still waits when the node is gone.
            if owner is None or (owner.node.gone and owner.take is not outside.take):
                ctx.emit(events.ResultDropped(attempt_id=attempt_id, reason="its worker is gone"))
            else:
                owner.take(owner.node, ctx, result, owner.since)
