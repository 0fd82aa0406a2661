"""Step 6 of a tick: observe if it is time, take one decision, offer at most one action.

Knows: one node's snapshot, its decision, what follows from it.
Does not know: when it is called, what the pool does with an action.
Invariants: I2, at most one action of a node is in flight; I9; the gate is asked in one place.
"""

from __future__ import annotations

from fsmv2.supervisor.containment import contain, end_backoff, recover
from fsmv2.supervisor.context import RESYNC_S, STOP_OBSERVE_WAIT_S, STOP_RETRY_S_MAX, Context
from fsmv2.supervisor.core import events, fsm
from fsmv2.supervisor.core.action import Action, action_name, check_action_type
from fsmv2.supervisor.core.errors import BugError
from fsmv2.supervisor.core.fsm import Phase, State
from fsmv2.supervisor.leaving import ask_to_leave, bound_stop, try_to_go
from fsmv2.supervisor.node import NEVER, InFlight, Node
from fsmv2.supervisor.steps import (
    check_health,
    conditions,
    plan_observation,
    stale_after_s,
    state_of,
)

# Whether this code works again is not shown by a decision.
RETRIED_ELSEWHERE = frozenset({"derive_desired_state", "observe"})


def act(node: Node, ctx: Context) -> None:
    """Step 6: observe if it is time, take one decision, offer at most one action."""
    bound_stop(node, ctx)
    if node.leaving and try_to_go(node, ctx):
        return
    _observe(node, ctx)
    _decide(node, ctx)
    ctx.wake(node, ctx.now + RESYNC_S)  # last: it counts only if nothing earlier was asked for


def _decide(node: Node, ctx: Context) -> None:
    allowed = check_health(node, ctx)
    _report_staleness(node, ctx)
    if not allowed.decide:
        # Why an action was started, or what has failed, says more than that the node waits.
        if allowed.why and node.attempt is None and node.fault_until is None:
            node.reason = allowed.why
        if node.fault_until is not None:
            ctx.wake(node, node.fault_until)
            if ctx.now >= node.fault_until:
                end_backoff(node, ctx)
        return
    if _still_failing(node, ctx):
        return
    snapshot = snapshot_of(node, ctx)
    try:
        decision = fsm.decide(node.worker, snapshot)
        if isinstance(decision, fsm.Act):
            check_action_type(type(decision.action))
        elif isinstance(decision, fsm.Go):
            state_of(decision.state)  # its constructor is the worker's code too
    except BugError:
        raise
    except BaseException as error:  # worker code may raise anything at all
        contain(node, ctx, "next_action", error)
        return
    if node.fault_count and node.fault_step not in RETRIED_ELSEWHERE:
        recover(node, ctx)
    if snapshot.depends_on_time:
        ctx.wake(node, ctx.now + ctx.interval_s)
    _follow(node, ctx, decision)


def _still_failing(node: Node, ctx: Context) -> bool:
    """A stop is not held up by a long backoff, but code that has just failed gets a moment."""
    if node.fault_until is None:
        return False
    if node.fault_step in RETRIED_ELSEWHERE:
        # A stop runs none of that code: it goes on, and so does the wait.
        if ctx.now >= node.fault_until:
            end_backoff(node, ctx)
        else:
            ctx.wake(node, node.fault_until)
        return False
    until = min(node.fault_until, node.fault_at + STOP_RETRY_S_MAX)
    if ctx.now < until:
        ctx.wake(node, until)
        return True
    node.fault_until = None
    return False


def snapshot_of(node: Node, ctx: Context) -> fsm.Snapshot:
    """What the worker may see of the world now."""
    desired = node.desired
    return fsm.Snapshot(
        identity=node.identity,
        state=node.state,
        desired=fsm.Desired(
            state=node.desired_word,
            config=desired.config if desired is not None else None,
            shutdown=node.leaving is not None,
            disabled=not node.spec.enabled,
            parent_stops=node.stop_from_parent,
        ),
        status=node.status,
        age_s=None if node.observed_at is None else ctx.now - node.observed_at,
        children=fsm.ChildrenView(tuple(child.info for child in node.children.values())),
        results=node.results,
        result_ends=node.result_ends,
        failures=node.failures,
        entered_at=node.entered_at,
        monotonic=ctx.now,
        wall=ctx.wall,
    )


def _follow(node: Node, ctx: Context, decision: fsm.Decision) -> None:
    match decision:
        case fsm.Stay(reason):
            _say(node, reason)
        case fsm.Go(state, reason):
            enter(node, ctx, state, reason)
        case fsm.Act(action, reason):
            _offer(node, ctx, action, reason)
        case fsm.Restart(reason):
            node.successor = node.spec
            ask_to_leave(node, ctx, f"restart: {reason}")
            _say(node, reason)
        case fsm.Remove(reason):
            if node.parent is not None:
                node.parent.done[node.spec.name] = node.spec
            ask_to_leave(node, ctx, f"done: {reason}")
            _say(node, reason)


def _say(node: Node, reason: str) -> None:
    if node.reason != reason:
        node.reason = reason


def enter(node: Node, ctx: Context, state: type[State], reason: str) -> None:
    """Enter a state; the parent sees it in this very tick."""
    before = node.state_name
    node.state = state_of(state)
    node.entered_at = ctx.now
    node.reason = reason
    ctx.emit(
        events.StateChanged(
            path=node.path,
            from_state=before,
            to_state=node.state_name,
            phase=str(node.phase),
            reason=reason,
            generation=node.generation,
        )
    )
    node.mark_dirty()
    if node.parent is not None:
        node.parent.mark_dirty()


def _offer(node: Node, ctx: Context, action: Action, reason: str) -> None:
    name = action_name(type(action))
    kind = type(action)
    wait_until = node.retry_at.get(kind, 0.0)
    if node.stop_asked:
        # A stop does not wait out a long backoff, but neither does it spin.
        wait_until = min(wait_until, node.result_ends.get(kind, 0.0) + STOP_RETRY_S_MAX)
        if node.acted_at is not None and conditions(node, ctx).awaiting_observation:
            # Nor does it act again before it could see what the last action did.
            wait_until = max(wait_until, node.acted_at + STOP_OBSERVE_WAIT_S)
    if wait_until > ctx.now:
        node.reason = f"{reason}; {name} failed, again in {wait_until - ctx.now:.1f} s"
        ctx.wake(node, wait_until)
        return
    node.reason = reason
    attempt_id = ctx.pool.submit(action, key=node.path, urgent=node.stop_asked)
    node.attempt = InFlight(attempt_id, kind, ctx.now, for_stop=node.stop_asked)
    ctx.own(node, node.attempt, False)
    ctx.emit(
        events.ActionStarted(
            path=node.path,
            action_type=name,
            attempt_id=attempt_id,
            timeout_s=kind.timeout_s,
            reason=reason,
        )
    )


def _observe(node: Node, ctx: Context) -> None:
    if (
        node.observation is not None
        or (node.leaving and node.phase is Phase.STOPPED)
        or node.desired is None
        or node.fault_until is not None
        or node.observe_at > ctx.now
    ):
        if node.observe_at > ctx.now and node.observe_at != NEVER:
            ctx.wake(node, node.observe_at)
        return
    action = plan_observation(node, ctx)
    if action is None:
        return
    attempt_id = ctx.pool.submit(action, key=f"{node.path}?", lane="observations")
    node.observation = InFlight(attempt_id, type(action), ctx.now)
    ctx.own(node, node.observation, True)


def _report_staleness(node: Node, ctx: Context) -> None:
    if node.observed_at is None or node.observe_at == NEVER:
        return
    age_s = ctx.now - node.observed_at
    limit_s = stale_after_s(node)
    if age_s <= limit_s:
        ctx.wake(node, node.observed_at + limit_s + 0.001)
        node.stale_reported = False
    elif not node.stale_reported and not node.leaving:
        node.stale_reported = True
        ctx.emit(events.ObservationStale(path=node.path, age_s=age_s))
