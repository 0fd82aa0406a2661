"""How nodes leave: asked, bounded in time, children first, by force if need be.

Knows: the order of leaving, the two deadlines of a stop.
Does not know: why a node leaves.
Invariants: I4, a stop is never gated; I8, children before parents, and a child that others
depend on after those; the time a stop takes is the longest of its level's, not their sum.
"""

from __future__ import annotations

from fsmv2.supervisor.core import events
from fsmv2.supervisor.core.fsm import Phase
from fsmv2.supervisor.core.restarts import End
from fsmv2.supervisor.tree import outside
from fsmv2.supervisor.tree.context import STOP_ACTION_WAIT_S, Context
from fsmv2.supervisor.tree.node import Ended, Node


def ask_to_leave(node: Node, ctx: Context, reason: str) -> None:
    """Have a node walk to stopped and go; harmless when asked already. Whatever it had in mind
    itself, its end is not its own any more: no restart type and no budget applies."""
    node.ending = None
    if node.leaving is None:
        node.leaving = reason
        node.mark_dirty()


def leave_by_itself(node: Node, ctx: Context, reason: str, end: End) -> None:
    """The same on the node's own account, unless it was asked before."""
    if node.leaving is None:
        ask_to_leave(node, ctx, reason)
        node.ending = end


def shut_children(node: Node, ctx: Context) -> None:
    """All children leave; one that others depend on leaves after them."""
    needed = still_needed(node)
    for name, child in node.children.items():
        child.successor = child.ending = None
        if name not in needed:
            ask_to_leave(child, ctx, node.leaving or "its parent leaves")


def still_needed(node: Node) -> set[str]:
    """Children that others depend on which have not stopped yet: they stop after those."""
    return {
        name
        for child in node.children.values()
        if not (child.phase is Phase.STOPPED and child.attempt is None)
        for name in child.spec.depends_on
    }


def children_to_wait_for(node: Node) -> list[Node]:
    """The children that have to stop before this node may: all of them when it leaves; else
    those its stop reaches (a child whose mapping has a word for "stopped" follows that)."""
    return [
        child
        for child in node.children.values()
        if child.phase is not Phase.STOPPED
        and (node.leaving or "stopped" not in child.spec.state_mapping)
    ]


def bound_stop(node: Node, ctx: Context) -> None:
    """A stop has two deadlines: for the action in flight, which is told of it at once, and (when
    leaving) for the whole."""
    if not node.stop_asked or (node.phase is Phase.STOPPED and node.attempt is None):
        node.stop_action_by = node.stop_by = None
        if not node.leaving:
            return
    attempt = node.attempt
    # Only what was in flight when the stop was asked for: the stop's own actions have its time.
    in_the_way = attempt is not None and not attempt.for_stop
    if attempt is not None and in_the_way and not attempt.is_told:
        attempt.is_told = True
        ctx.pool.tell_of_stop(attempt.attempt_id)
    if children_to_wait_for(node) or (node.leaving and node.children):
        return  # its time begins when its children are out of the way
    budget_s = node.spec.shutdown_timeout_s
    if node.leaving and node.stop_by is None:
        node.stop_by = ctx.now + budget_s
    if node.stop_action_by is None and in_the_way:
        node.stop_action_by = ctx.now + min(STOP_ACTION_WAIT_S, budget_s / 2)
    if attempt is not None and in_the_way and node.stop_action_by is not None:
        if ctx.now >= node.stop_action_by:
            ctx.pool.cancel(attempt.attempt_id)
        else:
            ctx.wake(node, node.stop_action_by)
    if node.stop_by is not None:
        ctx.wake(node, node.stop_by)


def try_to_go(node: Node, ctx: Context) -> bool:
    """Drop the node if it has stopped, or by force if its time is up. True: it is gone."""
    if node.children:
        return False
    stopped = node.phase is Phase.STOPPED and node.attempt is None
    overdue = node.stop_by is not None and ctx.now >= node.stop_by
    if not stopped and not overdue:
        return False
    node.forced = not stopped
    for in_flight in (node.attempt, node.observation):
        if in_flight is not None:
            ctx.pool.cancel(in_flight.attempt_id, "stop")
    outside.drop(node, ctx)
    ctx.emit(events.WorkerRemoved(path=node.path, reason=node.leaving or "", forced=node.forced))
    node.gone = True
    parent = node.parent
    if parent is None:
        return True
    # If it is to come back, the parent's next reconcile finds it missing and starts it anew.
    parent.children.pop(node.spec.name, None)
    parent.children_changed()
    if node.ending is not None:
        if node.forced:
            node.ending = "abnormal"
        parent.ends.append(Ended(node.spec, node.ending, node.leaving or ""))
    parent.mark_dirty()
    return True
