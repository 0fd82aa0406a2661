"""What follows when a child has gone on its own account.

Knows: which nodes the verdicts of `core.restarts` concern, and how siblings go down together.
Does not know: why a child ended, how one is made.
Invariants: I7, a restart over the budget ends the parent too; only the root, which cannot end,
gives the child up instead, and says so. Belongs to step 3.
"""

from __future__ import annotations

from fsmv2.supervisor.core import restartevents
from fsmv2.supervisor.core.fsm import Phase
from fsmv2.supervisor.core.reconcile import same_spec
from fsmv2.supervisor.core.restarts import (
    RestartBudget,
    comes_back,
    counting,
    drained_at,
    forget,
    plan,
    restarted_along,
    room_at,
)
from fsmv2.supervisor.core.spec import ChildSpec, DesiredState, start_order
from fsmv2.supervisor.tree.context import Context
from fsmv2.supervisor.tree.leaving import ask_to_leave, leave_by_itself
from fsmv2.supervisor.tree.node import NEVER, Ended, Later, Node, Together


def take_ends(node: Node, ctx: Context) -> None:
    """See to each child that has gone since the last look. The node may leave after this."""
    ends, node.ends = node.ends, []
    for ended in ends:
        if node.desired is not None and not node.leaving:
            _take_end(node, ctx, ended, node.desired)


def _take_end(node: Node, ctx: Context, ended: Ended, desired: DesiredState) -> None:
    spec = ended.spec
    if not comes_back(spec.restart, ended.end):
        node.done[spec.name] = spec
        return
    later = later_of(node, spec)  # first: what an older spec has cost is forgotten here
    planned = plan(node.restarted, desired.restart_budget, spec.name, ctx.now, ctx.random.random())
    if planned is None:
        _exceed(node, ctx, ended, desired.restart_budget)
        return
    node.restarted = planned
    moment = later.moment = planned[-1].at
    along = restarted_along(desired.strategy, start_order(node.declared or ()), spec.name)
    if along:
        before = node.together
        moment = moment if before is None else max(moment, before.moment)
        names = {spec.name, *along, *(before.names if before is not None else ())}
        order = tuple(name for name in start_order(node.declared or ()) if name in names)
        node.together = Together(spec.name, order, moment)
    ctx.wake(node, moment)


def _exceed(node: Node, ctx: Context, ended: Ended, budget: RestartBudget) -> None:
    top = node.parent is None
    until = drained_at(counting(node.restarted, budget, ctx.now), budget, ctx.now)
    ctx.emit(
        restartevents.RestartBudgetExceeded(
            path=node.path,
            child=ended.spec.name,
            restarts=budget.restarts,
            window_s=budget.window_s,
            outcome="given_up" if top else "escalated",
            retry_in_s=until - ctx.now if top and budget.restarts else None,
        )
    )
    if top:
        later = later_of(node, ended.spec)
        later.given_up, later.moment = True, until
        if budget.restarts:
            ctx.wake(node, until)
        return
    spent = f"{budget.restarts} restarts in {budget.window_s:g} s are spent"
    leave_by_itself(node, ctx, f"{spent}, {ended.spec.name} ended: {ended.reason}", "abnormal")


def is_done(node: Node, spec: ChildSpec) -> bool:
    """Whether that child has ended for good, as long as its spec stays what it is."""
    done = node.done.get(spec.name)
    return done is not None and same_spec(done, spec)


def later_of(node: Node, spec: ChildSpec) -> Later:
    """What the child ``spec`` waits for. A change of its spec ends the wait and what it has cost:
    what failed, failed on the old one."""
    later = node.later.get(spec.name)
    if later is None:
        later = node.later[spec.name] = Later(spec)
    elif not same_spec(later.spec, spec):
        later.spec, later.moment, later.given_up = spec, 0.0, False
        node.restarted = forget(node.restarted, spec.name)
    return later


def must_wait(node: Node, ctx: Context, later: Later) -> bool:
    """Whether the moment to make that child has not come yet."""
    if later.given_up and later.moment <= ctx.now and node.desired is not None:
        # Its siblings may have used up meanwhile what it has waited for.
        later.moment = room_at(node.restarted, node.desired.restart_budget, ctx.now)
    if later.moment <= ctx.now:
        return False
    if later.moment != NEVER:
        ctx.wake(node, later.moment)
    return True


def bring_down(node: Node, ctx: Context, group: Together) -> None:
    """Siblings restarted along: the last in start order goes first, the one before it when that
    has stopped; the group is over when all are down and the failed one's wait is too."""
    for name in reversed(group.names):
        child = node.children.get(name)
        if child is None:
            continue
        if child.leaving is None:
            if child.spec.restart == "temporary":
                node.done[name] = child.spec
            else:
                child.successor = child.spec
            ask_to_leave(child, ctx, f"restarted along with {group.cause}")
        if child.phase is not Phase.STOPPED or child.attempt is not None:
            return
    if any(name in node.children for name in group.names):
        return
    if ctx.now < group.moment:
        ctx.wake(node, group.moment)
    else:
        node.together = None
