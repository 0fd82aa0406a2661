"""The engine: the inbox, the tick, and when to look again. No operating system in here.

Knows: the tree, its nodes by path, which of them are looked at when.
Does not know: processes, sockets, signals, files; it has a pool port, a clock it is handed,
and one sink for events.
Invariants: the inbox is empty when a tick begins and nothing enters it half-way; I3, a result
reaches only the incarnation that asked for it; `now` is read once per tick.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping

import msgspec

from fsmv2.supervisor.core import events
from fsmv2.supervisor.core.action import Action, ActionPolicy, ActionResult
from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.events import Event
from fsmv2.supervisor.core.freshness import DEFAULT_RULES, ObservationRules
from fsmv2.supervisor.core.fsm import Phase
from fsmv2.supervisor.core.location import GapPolicy, Location
from fsmv2.supervisor.core.restarts import RestartBudget, Strategy
from fsmv2.supervisor.core.rootworker import RootWorker
from fsmv2.supervisor.core.runbooks import BASE_URL
from fsmv2.supervisor.core.spec import ChildSpec, UserSpec, check_children
from fsmv2.supervisor.core.variables import VariableBundle
from fsmv2.supervisor.core.worker import WorkerFactory
from fsmv2.supervisor.store.protocol import Recalled
from fsmv2.supervisor.tree import outside
from fsmv2.supervisor.tree.context import (
    HEARTBEAT_S,
    OUTSIDE_MAX,
    SLOW_WORKER_S,
    Context,
    PoolPort,
    StorePort,
)
from fsmv2.supervisor.tree.inbox import Inbox
from fsmv2.supervisor.tree.leaving import ask_to_leave
from fsmv2.supervisor.tree.node import Node
from fsmv2.supervisor.tree.outside import Ticket
from fsmv2.supervisor.tree.reconciling import give_variables, inherit
from fsmv2.supervisor.tree.steps import state_of
from fsmv2.supervisor.tree.tick import tick

SPACING_S = 0.010
WAKES_MIN = 256


def no_clock() -> float:
    """A clock that stands: no call of worker code is ever slow."""
    return 0.0


class Engine:
    """The tree and its inbox. Call `deliver` for results, `tick` when `next_moment` has come."""

    def __init__(
        self,
        *,
        name: str,
        children: tuple[ChildSpec, ...],
        factory: WorkerFactory,
        pool: PoolPort,
        emit: Callable[[Event], None],
        now: float,
        wall: float,
        variables: VariableBundle | None = None,
        location: Location | None = None,
        gaps: GapPolicy = "skip",
        strategy: Strategy = "one_for_one",
        restart_budget: RestartBudget | None = None,
        strict_circuit: bool = False,
        interval_s: float = 0.1,
        observation: ObservationRules = DEFAULT_RULES,
        policies: Mapping[type[Action], ActionPolicy] | None = None,
        clock: Callable[[], float] = no_clock,
        slow_s: float = SLOW_WORKER_S,
        outside_max: int = OUTSIDE_MAX,
        restart_failed: bool = True,
        heartbeat_s: float = HEARTBEAT_S,
        runbooks: str = BASE_URL,
        seed: int | None = None,
        store: StorePort | None = None,
        recalled: dict[str, Recalled] | None = None,
    ) -> None:
        self._inbox = Inbox()
        self._wakes: list[tuple[float, int, Node, bool]] = []  # the last: to observe only
        self._wakes_max = WAKES_MIN
        self._ticket = itertools.count()
        self._emit = emit
        self._store = store
        self._last_tick = float("-inf")
        self.interval_s = interval_s
        self.ticks = 0
        self.stopping: str | None = None
        self.context = Context(
            pool=pool,
            factory=factory,
            emit=emit,
            own=self._inbox.own,
            wake=self._wake,
            wake_to_observe=self._wake_to_observe,
            rng=random.Random(seed),
            gaps=gaps,
            interval_s=interval_s,
            observation=observation,
            policies=policies or {},
            clock=clock,
            slow_s=slow_s,
            outside_max=outside_max,
            restart_failed=restart_failed,
            heartbeat_s=heartbeat_s,
            runbooks=runbooks,
        )
        self.context.now, self.context.wall = now, wall
        self.context.recalled = {} if recalled is None else recalled
        before = self.context.recalled.get(name)
        generation = 1 if before is None else before.generation + 1
        user_spec = UserSpec(variables=variables or VariableBundle())
        spec = ChildSpec(name, RootWorker.type_name, user_spec, location=location or Location())
        root = RootWorker(children, strategy, restart_budget, strict_circuit)
        self.root = Node(spec, root, None, generation, state_of(root.initial), now)
        give_variables(self.root, self.context)

    def __repr__(self) -> str:
        return (
            f"<Engine {self.root.path}: {sum(1 for _ in self.nodes())} nodes, {self.ticks} ticks>"
        )

    # --- the inbox --------------------------------------------------------------------------

    def deliver(self, attempt_id: int, result: ActionResult) -> None:
        """Put a result into the inbox. Safe to call while a tick runs."""
        self._inbox.put(attempt_id, result)

    def submit_outside(
        self, path: str, action: Action, on_end: Callable[[Ticket], None] | None = None
    ) -> Ticket:
        """Have ``action`` run for the worker at ``path``, though its state machine has not asked
        for it; never beside its own. Between two ticks only. What cannot be taken is refused at
        once. ``on_end`` is called once, when the ticket has its result."""
        ticket = Ticket(next(self._ticket), path, action, self.context.now, on_end)
        outside.submit(self.find(path), self.context, ticket)
        return ticket

    # --- the tick ---------------------------------------------------------------------------

    def next_moment(self) -> float | None:
        """When the next tick is due (monotonic seconds); None: nothing is pending."""
        if self._inbox:
            return self._last_tick + SPACING_S
        if self.root.dirty or self.root.dirty_below:
            return self._last_tick + self.interval_s
        if self._wakes:
            return max(self._wakes[0][0], self._last_tick + SPACING_S)
        return None

    def tick(self, now: float, wall: float, *, full: bool = False) -> None:
        """Drain the inbox, then one tick at ``now`` (monotonic) and ``wall`` (epoch) seconds."""
        context = self.context
        context.now, context.wall, context.full = now, wall, full
        context.infrastructure_since = min(context.infrastructure_since, now)
        self._inbox.drain(context)
        self._wake_due(now)
        if self._store is not None:
            context.looked = []
        if not self.root.gone:
            tick(self.root, context)
        if self._store is not None and context.looked:
            self._store.looked_at(context.looked, self.stopping is not None)
        self._last_tick = now
        self.ticks += 1

    def settle(self, now: float, wall: float) -> None:
        """Take the results that are there, and decide nothing: after the last tick of a tree that
        was not let down to its end."""
        self.context.now, self.context.wall = now, wall
        self._inbox.drain(self.context)

    @property
    def observation_deaths(self) -> dict[str, int]:
        """Observations that were killed or died, by how they ended."""
        return dict(self._inbox.observation_deaths)

    def set_infrastructure(self, trouble: str | None) -> None:
        """Open (with what is wrong) or close the infrastructure breaker. A change concerns
        every node, so all are looked at in the next tick."""
        context = self.context
        if trouble != context.infrastructure:
            if (context.infrastructure is None) != (trouble is None):
                context.infrastructure_since = math.inf  # the next tick knows when
            context.infrastructure = trouble
            for node in self.nodes():
                node.mark_dirty()

    def _wake(self, node: Node, moment: float) -> None:
        if node.wake_at is None or moment < node.wake_at:
            node.wake_at = moment
            self._push(node, moment, False)

    def _wake_to_observe(self, node: Node, moment: float) -> None:
        if node.observe_wake_at is None or moment < node.observe_wake_at:
            node.observe_wake_at = moment
            self._push(node, moment, True)

    def _push(self, node: Node, moment: float, observe: bool) -> None:
        heapq.heappush(self._wakes, (moment, next(self._ticket), node, observe))
        if len(self._wakes) > self._wakes_max:
            # An earlier moment leaves the later one behind, and a node that is gone all of its
            # own: they would pile up until their time, and hold what is gone.
            self._wakes = [wake for wake in self._wakes if _counts(wake)]
            heapq.heapify(self._wakes)
            self._wakes_max = WAKES_MIN + 2 * len(self._wakes)

    def _wake_due(self, now: float) -> None:
        while self._wakes and self._wakes[0][0] <= now:
            wake = heapq.heappop(self._wakes)
            if not _counts(wake):
                continue
            _moment, _ticket, node, observe = wake
            if not observe:
                node.wake_at = None
                node.mark_dirty()
                continue
            node.observe_wake_at = None
            if node.fault_until is None:
                node.observe_due = True
                node.lead_here()
            else:
                node.mark_dirty()  # what its code does now concerns more than the observation

    # --- commands ---------------------------------------------------------------------------

    def reload(
        self,
        children: tuple[ChildSpec, ...],
        *,
        factory: WorkerFactory | None = None,
        variables: VariableBundle | None = None,
        location: Location | None = None,
        gaps: GapPolicy = "skip",
        interval_s: float | None = None,
        strategy: Strategy = "one_for_one",
        restart_budget: RestartBudget | None = None,
        strict_circuit: bool = False,
    ) -> None:
        """Declare other children, variables, … from the next tick on; that one tick adds, updates
        and has leave whatever differs. ``factory`` and ``interval_s`` stay if they are not given.

        Raises `SpecError` for children that cannot be, with nothing changed.
        """
        root, context = self.root, self.context
        types = factory or context.factory
        if self.stopping is not None:
            raise SpecError(f"cannot reload: the supervisor stops ({self.stopping})")
        check_children(children, types.type_names, root.path)
        context.factory = types
        if interval_s is not None:
            self.interval_s = context.interval_s = interval_s
        root.spec = msgspec.structs.replace(
            root.spec,
            user_spec=UserSpec(variables=variables or VariableBundle()),
            location=location or Location(),
        )
        if gaps != context.gaps:
            # No variable need have changed above for a path to be written in another way below.
            context.gaps = gaps
            for node in list(self.nodes())[1:]:
                inherit(node, context)
        give_variables(root, context)
        root.worker = RootWorker(children, strategy, restart_budget, strict_circuit)
        root.derive_needed = True
        root.mark_dirty()

    def stop(self, reason: str) -> None:
        """Have the whole tree walk to stopped, children before parents."""
        if self.stopping is None:
            self.stopping = reason
            self._emit(events.SupervisorStopping(reason=reason))
            ask_to_leave(self.root, self.context, reason)

    @property
    def stopped(self) -> bool:
        """Whether the tree is down."""
        return self.root.gone

    # --- looking in -------------------------------------------------------------------------

    def nodes(self) -> Iterator[Node]:
        """All nodes, parents before children."""
        todo = [self.root]
        while todo:
            node = todo.pop()
            yield node
            todo += reversed(node.children.values())

    def find(self, path: str) -> Node | None:
        """The node at ``path``, if there is one."""
        first, *names = path.split("/")
        node = self.root if first == self.root.path and not self.root.gone else None
        for name in names:
            node = node.children.get(name) if node is not None else None
        return node

    def phases(self) -> dict[str, int]:
        """How many nodes are in each phase."""
        counts = {str(phase): 0 for phase in Phase}
        for node in self.nodes():
            counts[str(node.phase)] += 1
        return counts


def _counts(wake: tuple[float, int, Node, bool]) -> bool:
    """Whether that moment still stands: no earlier one has taken its place."""
    moment, _ticket, node, observe = wake
    return not node.gone and moment == (node.observe_wake_at if observe else node.wake_at)
