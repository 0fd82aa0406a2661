"""Actions that come from outside the tree, for one worker: an operator's, a router's.

They wait in a queue of their node, run one at a time in their order, and never beside an action
of the worker's own state machine: both have the node's path as their key in the pool. Between
two of them the state machine has its turn. While a worker stops, its own actions come first;
one that leaves takes no more.

Knows: a node's queue, its limit, the reasons to refuse.
Does not know: who asks, and why; what the action does to the worker.
Invariants: each ticket gets exactly one result, and its callback is called once; at most one
action of a node is at work at a time; only the worker's stop and the infrastructure breaker hold
one back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from fsmv2.supervisor.core import workevents
from fsmv2.supervisor.core.action import (
    Action,
    ActionError,
    ActionResult,
    action_name,
    check_action_type,
)
from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.fsm import Phase
from fsmv2.supervisor.tree.context import STOP_ACTION_WAIT_S, Context
from fsmv2.supervisor.tree.node import NEVER, InFlight, Node


class Ticket:
    """One action from outside. ``result`` is None until it has ended."""

    __slots__ = ("_on_end", "action", "asked_at", "number", "path", "result")

    def __init__(
        self,
        number: int,
        path: str,
        action: Action,
        asked_at: float,
        on_end: Callable[[Ticket], None] | None,
    ) -> None:
        self.number = number
        self.path = path
        self.action = action
        self.asked_at = asked_at
        self.result: ActionResult | None = None
        self._on_end = on_end

    def __repr__(self) -> str:
        state = "waiting" if self.result is None else self.result.status
        return f"<Ticket {self.number} {self.action_type} for {self.path}: {state}>"

    @property
    def action_type(self) -> str:
        """The short name of its action's type."""
        return action_name(type(self.action))

    def end(self, ctx: Context, result: ActionResult, attempt_id: int | None) -> None:
        """Keep the result, and tell of it."""
        self.result = result
        ctx.emit(
            workevents.OutsideActionEnded(
                path=self.path,
                action_type=result.action_type,
                ticket=self.number,
                attempt_id=attempt_id,
                status=result.status,
                verdict=result.verdict,
                waited_s=max(0.0, ctx.now - self.asked_at - result.ran_s),
                ran_s=result.ran_s,
                error=str(result.error) if result.error is not None else None,
                certificate=result.certificate,
            )
        )
        if self._on_end is not None:
            self._on_end(self)

    def refuse(self, ctx: Context, kind: str, why: str) -> None:
        """End it without a try."""
        result = ActionResult(
            status="refused",
            action_type=self.action_type,
            attempt_id=0,
            error=ActionError(kind, f"cannot run it for {self.path}: {why}"),
            ended_at=ctx.wall,
        )
        self.end(ctx, result, None)


class Outside:
    """What waits and what runs for one node."""

    __slots__ = ("end_by", "in_flight", "running", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Ticket] = deque()
        self.running: Ticket | None = None
        self.in_flight: InFlight | None = None
        self.end_by = NEVER


def submit(node: Node | None, ctx: Context, ticket: Ticket) -> None:
    """Queue an action for ``node``, and begin it if it may; or refuse it at once."""
    if node is None:
        ticket.refuse(ctx, "UnknownPath", "there is no worker at that path")
        return
    if node.leaving is not None:
        ticket.refuse(ctx, "WorkerLeaves", f"it leaves ({node.leaving})")
        return
    queue = node.outside
    if queue is not None and len(queue.waiting) >= ctx.outside_max:
        got = f"{len(queue.waiting)} wait already, want at most that"
        ticket.refuse(ctx, "QueueFull", got)
        return
    try:
        check_action_type(type(ticket.action))
    except SpecError as error:
        ticket.refuse(ctx, "SpecError", str(error))
        return
    if queue is None:
        queue = node.outside = Outside()
    queue.waiting.append(ticket)
    start_next(node, ctx)


def start_next(node: Node, ctx: Context) -> None:
    """Offer the first that waits to the pool, unless something of this node is at work."""
    queue = node.outside
    if queue is None or queue.running is not None or node.attempt is not None:
        return
    if node.leaving or (node.stop_asked and node.phase is not Phase.STOPPED):
        return
    if not queue.waiting:
        node.outside = None
        return
    leases = ctx.leases
    if ctx.infrastructure is not None or (leases is not None and not leases.admits(node, ctx.now)):
        return
    ticket = queue.running = queue.waiting.popleft()
    kind = type(ticket.action)
    policy = ctx.policy(kind)
    attempt_id = ctx.pool.submit(ticket.action, key=node.path, timeout_s=policy.timeout_s)
    if leases is not None:
        leases.started(attempt_id, ctx.now)
    queue.in_flight = InFlight(attempt_id, kind, ctx.now, policy)
    ctx.own(node, queue.in_flight, take)


def take(node: Node, ctx: Context, result: ActionResult, begun: float) -> None:
    """The one that ran has its result; the world has changed, so the worker looks."""
    queue = node.outside
    if queue is None or queue.running is None:
        return
    ticket, in_flight = queue.running, queue.in_flight
    queue.running = queue.in_flight = None
    if ctx.leases is not None:
        ctx.leases.ended(result.attempt_id, result, ctx.now)
    queue.end_by = NEVER
    if in_flight is not None and in_flight.never_began(result) and not node.leaving:
        queue.waiting.appendleft(ticket)
        node.mark_dirty()
        return
    if not node.gone:
        if node.observe_at != NEVER:
            node.observe_at = ctx.now
        node.mark_dirty()  # the state machine's turn; only then the next, see `tend`
    if not queue.waiting:
        node.outside = None
    ticket.end(ctx, result, result.attempt_id)


def tend(node: Node, ctx: Context) -> None:
    """After the node's own step 6: begin the next, or make way for a stop."""
    queue = node.outside
    if queue is None:
        return
    if node.leaving:
        refuse_waiting(node, ctx)
    if not node.stop_asked or node.phase is Phase.STOPPED:
        queue.end_by = NEVER  # a stop that was withdrawn takes its deadline along
    elif queue.in_flight is not None:
        if queue.end_by == NEVER:
            budget_s = node.spec.shutdown_timeout_s
            queue.end_by = ctx.now + min(STOP_ACTION_WAIT_S, budget_s / 2)
            ctx.pool.tell_of_stop(queue.in_flight.attempt_id)
        if ctx.now >= queue.end_by:
            ctx.pool.cancel(queue.in_flight.attempt_id)
        else:
            ctx.wake(node, queue.end_by)
    start_next(node, ctx)


def refuse_waiting(node: Node, ctx: Context) -> None:
    """The node leaves: nothing more is begun for it."""
    queue = node.outside
    while queue is not None and queue.waiting:
        queue.waiting.popleft().refuse(ctx, "WorkerLeaves", f"it leaves ({node.leaving})")


def drop(node: Node, ctx: Context) -> None:
    """The node is gone: what runs for it is killed, and its result still told."""
    refuse_waiting(node, ctx)
    queue = node.outside
    if queue is not None and queue.in_flight is not None:
        ctx.pool.cancel(queue.in_flight.attempt_id, "stop")
