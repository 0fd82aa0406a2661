"""The engine: the inbox, the tick, and when to look again. No operating system in here.

Knows: the tree, whose attempt is whose, what results do to nodes.
Does not know: processes, sockets, signals, files; it has a pool port, a clock it is handed,
and one sink for events.
Invariants: the inbox is empty when a tick begins and nothing enters it half-way; I3, a result
reaches only the incarnation that asked for it; `now` is read once per tick.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator

import msgspec

from fsmv2.supervisor.context import OBSERVE_BACKOFF_S_MAX, Context, PoolPort
from fsmv2.supervisor.core import events
from fsmv2.supervisor.core.action import ActionResult
from fsmv2.supervisor.core.backoff import delay_s
from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.events import Event
from fsmv2.supervisor.core.fsm import Phase
from fsmv2.supervisor.core.location import GapPolicy, Location
from fsmv2.supervisor.core.restarts import RestartBudget, Strategy
from fsmv2.supervisor.core.rootworker import RootWorker
from fsmv2.supervisor.core.spec import ChildSpec, UserSpec, check_children
from fsmv2.supervisor.core.variables import VariableBundle
from fsmv2.supervisor.core.worker import WorkerFactory
from fsmv2.supervisor.leaving import ask_to_leave
from fsmv2.supervisor.node import InFlight, Node
from fsmv2.supervisor.reconciling import give_variables, inherit
from fsmv2.supervisor.steps import state_of
from fsmv2.supervisor.tick import tick

SPACING_S = 0.010
SUCCEEDED = "succeeded"


class Owner:
    """Whose attempt it is."""

    __slots__ = ("is_observation", "node", "since")

    def __init__(self, node: Node, is_observation: bool, since: float) -> None:
        self.node = node
        self.is_observation = is_observation
        self.since = since


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
        interval_s: float = 0.1,
        seed: int | None = None,
    ) -> None:
        self._inbox: deque[tuple[int, ActionResult]] = deque()
        self._owners: dict[int, Owner] = {}
        self._wakes: list[tuple[float, int, Node]] = []
        self._ticket = itertools.count()
        self._emit = emit
        self._last_tick = float("-inf")
        self.interval_s = interval_s
        self.ticks = 0
        self.stopping: str | None = None
        self.context = Context(
            pool=pool,
            factory=factory,
            emit=emit,
            own=self._own,
            wake=self._wake,
            rng=random.Random(seed),
            gaps=gaps,
            interval_s=interval_s,
        )
        self.context.now, self.context.wall = now, wall
        spec = ChildSpec(
            name=name,
            worker_type=RootWorker.type_name,
            user_spec=UserSpec(variables=variables or VariableBundle()),
            location=location or Location(),
        )
        worker = RootWorker(children, strategy, restart_budget)
        self.root = Node(spec, worker, None, 1, state_of(RootWorker.initial), now)
        give_variables(self.root, self.context)

    def __repr__(self) -> str:
        return (
            f"<Engine {self.root.path}: {sum(1 for _ in self.nodes())} nodes, {self.ticks} ticks>"
        )

    # --- the inbox --------------------------------------------------------------------------

    def deliver(self, attempt_id: int, result: ActionResult) -> None:
        """Put a result into the inbox. Safe to call while a tick runs."""
        self._inbox.append((attempt_id, result))

    def drain(self, now: float) -> None:
        """Empty the inbox into the nodes."""
        while self._inbox:
            attempt_id, result = self._inbox.popleft()
            owner = self._owners.pop(attempt_id, None)
            if owner is None or owner.node.gone:
                self._emit(events.ResultDropped(attempt_id=attempt_id, reason="its worker is gone"))
            elif owner.is_observation:
                self._take_observation(owner, result, now)
            else:
                self._take_action(owner.node, result, now)

    def _own(self, node: Node, in_flight: InFlight, is_observation: bool) -> None:
        self._owners[in_flight.attempt_id] = Owner(node, is_observation, in_flight.since)

    def _take_action(self, node: Node, result: ActionResult, now: float) -> None:
        in_flight = node.attempt
        node.attempt = None
        node.stop_action_by = None
        node.mark_dirty()
        if in_flight is None:
            return
        name, kind, retry = in_flight.name, in_flight.kind, in_flight.retry
        if result.status == "refused":
            # Nothing was tried, so nothing has failed: decide again, a little later.
            why = str(result.error) if result.error is not None else "refused"
            self._emit(events.ActionRefused(path=node.path, action_type=name, reason=why))
            node.retry_at[kind] = now + self.interval_s
            self._wake(node, node.retry_at[kind])
            return
        self._emit(
            events.ActionEnded(
                path=node.path,
                action_type=name,
                attempt_id=result.attempt_id,
                status=result.status,
                verdict=result.verdict,
                queued_s=result.queued_s,
                ran_s=result.ran_s,
                error=str(result.error) if result.error is not None else None,
                traceback=result.error.traceback if result.error is not None else "",
                certificate=result.certificate,
            )
        )
        node.results[kind] = result
        node.result_ends[kind] = now
        node.acted_at = now
        if node.observe_at != float("inf"):
            node.observe_at = now  # the gate waits for an observation newer than this
        if result.status == SUCCEEDED:
            node.failures.pop(kind, None)
            node.retry_at.pop(kind, None)
        elif result.status != "cancelled":
            failures = node.failures[kind] = node.failures.get(kind, 0) + 1
            wait_s = delay_s(
                failures,
                self.context.random.random(),
                base_s=retry.base_s,
                factor=retry.factor,
                max_s=retry.max_s,
                jitter=retry.jitter,
            )
            node.retry_at[kind] = now + wait_s
            self._wake(node, now + wait_s)

    def _take_observation(self, owner: Owner, result: ActionResult, now: float) -> None:
        node = owner.node
        node.observation = None
        if result.status == SUCCEEDED:
            interval_s = type(node.worker).observe_interval_s
            if node.observe_failures:
                self._emit(
                    events.ObservationRecovered(path=node.path, failures=node.observe_failures)
                )
            changed = (
                node.observed_at is None
                or node.stale_reported
                or node.observe_failures
                or result.value != node.status
                or (node.acted_at is not None and node.observed_at < node.acted_at)
            )
            node.observe_failures = 0
            node.status = result.value
            node.observed_at = owner.since
            if node.observe_at != float("inf"):
                # Begun before the last action ended: it cannot show what that action did.
                late = node.acted_at is not None and owner.since < node.acted_at
                node.observe_at = now if late else owner.since + interval_s
                self._wake(node, node.observe_at)
            if changed:
                node.mark_dirty()
            return
        if result.status == "cancelled":
            node.observe_at = now + type(node.worker).observe_interval_s
            self._wake(node, node.observe_at)
            return
        node.observe_failures += 1
        wait_s = delay_s(
            node.observe_failures,
            self.context.random.random(),
            base_s=max(0.5, type(node.worker).observe_interval_s),
            max_s=OBSERVE_BACKOFF_S_MAX,
        )
        node.observe_at = now + wait_s
        self._wake(node, node.observe_at)
        node.mark_dirty()
        if node.observe_failures == 1:
            self._emit(
                events.ObservationFailed(
                    path=node.path,
                    action_type=result.action_type,
                    status=result.status,
                    verdict=result.verdict,
                    error=str(result.error) if result.error is not None else None,
                    retry_in_s=wait_s,
                )
            )

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
        self.drain(now)
        self._wake_due(now)
        context = self.context
        context.now, context.wall, context.full = now, wall, full
        if not self.root.gone:
            tick(self.root, context)
        self._last_tick = now
        self.ticks += 1

    def set_infrastructure(self, trouble: str | None) -> None:
        """Open (with what is wrong) or close the infrastructure breaker. A change concerns
        every node, so all are looked at in the next tick."""
        if trouble != self.context.infrastructure:
            self.context.infrastructure = trouble
            for node in self.nodes():
                node.mark_dirty()

    def _wake(self, node: Node, moment: float) -> None:
        if node.wake_at is None or moment < node.wake_at:
            node.wake_at = moment
            heapq.heappush(self._wakes, (moment, next(self._ticket), node))

    def _wake_due(self, now: float) -> None:
        while self._wakes and self._wakes[0][0] <= now:
            moment, _ticket, node = heapq.heappop(self._wakes)
            if node.wake_at == moment and not node.gone:
                node.wake_at = None
                node.mark_dirty()

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
        root.worker = RootWorker(children, strategy, restart_budget)
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

    def phases(self) -> dict[str, int]:
        """How many nodes are in each phase."""
        counts = {str(phase): 0 for phase in Phase}
        for node in self.nodes():
            counts[str(node.phase)] += 1
        return counts
