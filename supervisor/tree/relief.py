"""What the machine is spared of while it is in trouble: actions that wait, the newest that runs.

Knows: which attempts of the tree have not begun, which one has done the least.
Does not know: readings, limits, when the breaker is open.
Invariants: a stop's own actions are not touched; what is taken back from the queue has not begun,
and is decided anew; one turn takes a bounded number back, so that no tick waits for a long queue.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from fsmv2.supervisor.tree.node import InFlight, Node

AT_ONCE = 500


class Canceller(Protocol):
    """The pool, as far as this may know it."""

    def cancel(self, attempt_id: int, cause: str = "cancelled") -> bool:
        """Have an attempt end."""

    def in_flight(self, attempt_id: int) -> Any:
        """The attempt, if it has no result yet."""


class Recall:
    """Takes back what waits for a proc, some at a time. ``count`` are those since it began."""

    def __init__(self, pool: Canceller) -> None:
        self._pool = pool
        self._todo: list[InFlight] = []
        self.count = 0

    @property
    def is_going_on(self) -> bool:
        """Whether there are some left."""
        return bool(self._todo)

    def begin(self, nodes: Iterable[Node]) -> None:
        """Take back what has been offered for ``nodes``, but for their stop."""
        self.count = 0
        self._todo = [
            attempt for node in nodes for attempt in _offered(node) if not attempt.for_stop
        ]
        # The oldest, which would begin first, are at the end.
        self._todo.sort(key=lambda attempt: attempt.attempt_id, reverse=True)

    def go_on(self) -> bool:
        """Take the next ones back; returns whether they were the last."""
        if not self._todo:
            return False
        for _ in range(min(AT_ONCE, len(self._todo))):
            offered = self._todo.pop()
            attempt = self._pool.in_flight(offered.attempt_id)
            if attempt is not None and attempt.proc is None:
                offered.recalled = True
                self.count += self._pool.cancel(offered.attempt_id, "recalled")
        return not self._todo

    def stop(self) -> None:
        """Leave the rest where it is."""
        self._todo.clear()


def _offered(node: Node) -> Iterable[InFlight]:
    if node.attempt is not None:
        yield node.attempt
    if node.outside is not None and node.outside.in_flight is not None:
        yield node.outside.in_flight


def newest_to_spare(nodes: Iterable[Node], pool: Canceller) -> Node | None:
    """The node whose action was offered last, of those that run and may be tried again; a stop's
    own actions are not to spare."""
    spare = [
        node
        for node in nodes
        if node.attempt is not None
        and not node.attempt.for_stop
        and node.attempt.retry.attempts != 1
        and _has_begun(pool.in_flight(node.attempt.attempt_id))
    ]
    return max(spare, key=lambda node: node.attempt.attempt_id if node.attempt else 0, default=None)


def _has_begun(attempt: Any) -> bool:
    """What waits for a proc, or in its pipe, holds no memory yet."""
    return attempt is not None and attempt.proc is not None and attempt.proc.attempt is attempt
