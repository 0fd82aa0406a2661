"""What one tick is given: the moment, and the ports it may call.

Knows: the moment, randomness, the pool's four calls, the event list, limits, the rules of the
tree's config.
Does not know: what is done with them.
Invariants: ``now`` is read once per tick, by the engine; nothing in here waits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from fsmv2.supervisor.core.action import AS_DECLARED, Action, ActionPolicy, ActionResult
from fsmv2.supervisor.core.events import Event
from fsmv2.supervisor.core.freshness import ObservationRules
from fsmv2.supervisor.core.location import GapPolicy
from fsmv2.supervisor.core.worker import WorkerFactory

if TYPE_CHECKING:
    from fsmv2.supervisor.store.protocol import Recalled
    from fsmv2.supervisor.tree.inbox import Take
    from fsmv2.supervisor.tree.node import InFlight, Node

STOP_ACTION_WAIT_S = 5.0
STOP_RETRY_S_MAX = 0.5
STOP_OBSERVE_WAIT_S = 1.0
RESYNC_S = 30.0
RESYNC_SPREAD = 0.25
FAULT_BACKOFF_S_MAX = 30.0
SLOW_WORKER_S = 0.5
OUTSIDE_MAX = 100
HEARTBEAT_S = 1.0


class PoolPort(Protocol):
    """The pool, as far as a tick may know it."""

    def submit(
        self,
        action: Action,
        *,
        key: str = "",
        lane: str = "actions",
        timeout_s: float | None = None,
        urgent: bool = False,
    ) -> int:
        """Offer an action; returns its attempt id at once."""

    def cancel(self, attempt_id: int, cause: str = "cancelled") -> bool:
        """Have an attempt end."""

    def tell_of_stop(self, attempt_id: int) -> None:
        """Have an attempt know that its worker is to stop; harmless when it is over."""

    def in_flight(self, attempt_id: int) -> Any:
        """The attempt, if it has no result yet."""


class StorePort(Protocol):
    """Whoever keeps what the tree comes to, as far as the engine may know it."""

    def looked_at(self, nodes: Iterable[Node], stopping: bool) -> None:
        """A tick has looked at these nodes; no other can have changed."""


class LeasePort(Protocol):
    """The infrastructure breaker while it is not closed: who may start an action."""

    def admits(self, node: Node, now: float) -> bool:
        """Whether ``node`` may start one now; if not, it is looked at again when it may."""

    def waits(self, node: Node) -> bool:
        """Whether ``node`` has asked, and was not admitted yet."""

    def started(self, attempt_id: int, now: float) -> None:
        """One that was admitted has started."""

    def ended(self, attempt_id: int, result: ActionResult, now: float) -> None:
        """Any attempt has ended."""


class Context:
    """One tick's surroundings. ``now`` is monotonic seconds, ``wall`` seconds since the epoch."""

    __slots__ = (
        "clock", "emit", "factory", "full", "gaps", "heartbeat_s", "infrastructure",
        "infrastructure_since", "interval_s", "leases", "looked", "now", "observation",
        "outside_max", "own", "policies", "pool", "random", "recalled", "restart_failed",
        "runbooks", "slow_s", "wake", "wake_to_observe", "wall",
    )  # fmt: skip

    def __init__(
        self,
        *,
        pool: PoolPort,
        factory: WorkerFactory,
        emit: Callable[[Event], None],
        own: Callable[[Node, InFlight, Take], None],
        wake: Callable[[Node, float], None],
        wake_to_observe: Callable[[Node, float], None],
        rng: random.Random,
        gaps: GapPolicy,
        interval_s: float,
        observation: ObservationRules,
        policies: Mapping[type[Action], ActionPolicy],
        clock: Callable[[], float],
        slow_s: float,
        outside_max: int,
        restart_failed: bool,
        heartbeat_s: float,
        runbooks: str,
    ) -> None:
        self.pool = pool
        self.factory = factory
        self.emit = emit
        self.own = own
        self.wake = wake  # look at a node at a moment, or before
        self.wake_to_observe = wake_to_observe  # the same, to begin an observation alone
        self.random = rng
        self.gaps: GapPolicy = gaps
        self.interval_s = interval_s
        self.observation = observation
        self.policies = policies
        # Only to tell how long worker code takes; no decision looks at it.
        self.clock = clock
        self.slow_s = slow_s
        self.outside_max = outside_max
        # The infrastructure breaker: what it is open for, and, not closed, whom it lets start.
        self.infrastructure: str | None = None
        # When that last changed.
        self.infrastructure_since = float("-inf")
        self.leases: LeasePort | None = None
        # The children's breakers: whether they restart, and how often they say that they are open.
        self.restart_failed = restart_failed
        self.heartbeat_s = heartbeat_s
        # What links to runbooks begin with.
        self.runbooks = runbooks
        # The nodes this tick has looked at, where somebody wants to know; what workers go on with.
        self.looked: list[Node] | None = None
        self.recalled: dict[str, Recalled] = {}
        self.now = 0.0
        self.wall = 0.0
        self.full = False

    def policy(self, kind: type[Action]) -> ActionPolicy:
        """The config's word on an action type."""
        return self.policies.get(kind, AS_DECLARED)
