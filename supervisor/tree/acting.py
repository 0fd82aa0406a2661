"""Step 6 of a tick: observe if it is time, take one decision, offer at most one action; and
what an action's result does to its node.

Knows: one node's snapshot, its decision, what follows from it, retries.
Does not know: when it is called, what the pool does with an action.
Invariants: I2, at most one action of a node is in flight; I9; the gate is asked in one place.
"""

from __future__ import annotations

from fsmv2.supervisor.core import events, fsm
from fsmv2.supervisor.core.action import Action, ActionResult, action_name, check_action_type
from fsmv2.supervisor.core.errors import BugError
from fsmv2.supervisor.core.fsm import Phase, State
from fsmv2.supervisor.tree import care, observing, outside
from fsmv2.supervisor.tree.childlooks import STEP as SANITY
from fsmv2.supervisor.tree.containment import contain, end_backoff, in_time, recover
from fsmv2.supervisor.tree.context import (
    RESYNC_S,
    RESYNC_SPREAD,
    STOP_OBSERVE_WAIT_S,
    STOP_RETRY_S_MAX,
    Context,
)
from fsmv2.supervisor.tree.leaving import bound_stop, leave_by_itself, try_to_go
from fsmv2.supervisor.tree.node import NEVER, InFlight, Node
from fsmv2.supervisor.tree.retrying import back_off, begin_series, given_up_after
from fsmv2.supervisor.tree.steps import allowed, conditions, state_of

HISTORY_MAX = 10

# Whether this code works again is not shown by a decision.
RETRIED_ELSEWHERE = frozenset({"derive_desired_state", "observe", SANITY})


def act(node: Node, ctx: Context) -> None:
    """Step 6: observe if it is time, take one decision, offer at most one action."""
    bound_stop(node, ctx)
    if node.leaving and try_to_go(node, ctx):
        return
    observing.watch(node, ctx)
    observing.observe(node, ctx)
    _decide(node, ctx)
    if node.outside is not None:
        outside.tend(node, ctx)
    # Last: it counts only if nothing earlier was asked for. Those that were looked at together
    # drift apart, so that no tick has to look at a whole tree.
    ctx.wake(node, ctx.now + RESYNC_S * (1 - RESYNC_SPREAD * node.share))


def _decide(node: Node, ctx: Context) -> None:
    may = allowed(node, ctx)
    if not may.decide:
        # Why an action was started, or what has failed, says more than that the node waits.
        if may.why and node.attempt is None and node.fault_until is None:
            node.reason = may.why
        if node.fault_until is not None:
            ctx.wake(node, node.fault_until)
            if ctx.now >= node.fault_until:
                end_backoff(node, ctx)
        return
    if _still_failing(node, ctx):
        return
    snapshot = snapshot_of(node, ctx)
    began = ctx.clock()
    try:
        decision = fsm.decide(node.worker, snapshot, node.hide)
        if isinstance(decision, fsm.Act):
            check_action_type(type(decision.action))
        elif isinstance(decision, fsm.Go):
            state_of(decision.state)  # its constructor is the worker's code too
        took_s = ctx.clock() - began
    except BugError:
        raise
    except BaseException as error:  # worker code may raise anything at all
        contain(node, ctx, "next_action", error)
        return
    is_late = took_s > ctx.slow_s
    if node.fault_count and not is_late and _shows_recovery(node, snapshot):
        recover(node, ctx)
    if snapshot.depends_on_time:
        ctx.wake(node, ctx.now + ctx.interval_s)
    if isinstance(decision, fsm.Act) and not may.act:
        _say(node, f"{decision.reason}; {may.why}")
    else:
        _follow(node, ctx, decision)
    if is_late:  # after what was decided: its reason is the one that is shown
        in_time(node, ctx, "next_action", took_s)


def _shows_recovery(node: Node, snapshot: fsm.Snapshot) -> bool:
    """Whether a decision shows that the code that failed works again: on the way into a stop, and
    at its end, the framework decides and calls none of it."""
    asked = not snapshot.desired.stop_asked or snapshot.state.phase is Phase.STOPPING
    return asked and node.fault_step not in RETRIED_ELSEWHERE


def _still_failing(node: Node, ctx: Context) -> bool:
    """A stop is not held up by a long backoff, but code that has just failed gets a moment."""
    if node.fault_until is None or observing.is_slow(node):
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
        # By position, which costs half as much: state, config, shutdown, disabled, parent_stops.
        desired=fsm.Desired(
            node.desired_word,
            desired.config if desired is not None else None,
            node.leaving is not None,
            not node.spec.enabled,
            node.stop_from_parent,
        ),
        status=node.status,
        age_s=None if node.observed_at is None else ctx.now - node.observed_at,
        children=node.children_view(),
        results=node.results,
        result_ends=node.result_ends,
        failures=node.failures,
        history=node.history,
        successes=node.successes,
        entered_at=node.entered_at,
        monotonic=ctx.now,
        wall=ctx.wall,
    )


def _follow(node: Node, ctx: Context, decision: fsm.Decision) -> None:
    if type(decision) is fsm.Stay:  # nearly all are, and `match` costs more than the rest of it
        _say(node, decision.reason)
        return
    match decision:
        case fsm.Stay(reason):
            _say(node, reason)
        case fsm.Go(state, reason):
            enter(node, ctx, state, reason)
        case fsm.Act(action, reason):
            _offer(node, ctx, action, reason)
        case fsm.Restart(reason):
            leave_by_itself(node, ctx, f"restart: {reason}", "abnormal")
            _say(node, reason)
        case fsm.Remove(reason):
            leave_by_itself(node, ctx, f"done: {reason}", "normal")
            _say(node, reason)


def _say(node: Node, reason: str) -> None:
    if node.reason != reason:
        node.reason = reason
        if node.parent is not None:
            node.parent.mark_dirty()  # its worker sees reasons, and may go by them


def enter(node: Node, ctx: Context, state: type[State], reason: str) -> None:
    """Enter a state; the parent sees it in this very tick."""
    before = node.state_name
    node.state = state_of(state)
    node.entered_at = ctx.now
    node.reason = reason
    begin_series(node, ctx)
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
        care.may_change(node.parent)


def _offer(node: Node, ctx: Context, action: Action, reason: str) -> None:
    name = action_name(type(action))
    kind = type(action)
    if node.outside is not None and node.outside.running is not None:
        # Its end has this node looked at again, and decide on what it has changed.
        node.reason = f"{reason}; waits for {node.outside.running.action_type} from outside"
        return
    failures = given_up_after(node, ctx, kind)
    if failures and not node.stop_asked:
        node.reason = f"{reason}; {name} given up after {failures} failures"
        return
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
    leases = ctx.leases if not node.stop_asked else None
    if leases is not None and not leases.admits(node, ctx.now):
        node.reason = (
            f"{reason}; {name} waits for its turn: the infrastructure breaker is half open"
        )
        return
    node.reason = reason
    policy = ctx.policy(kind)
    attempt_id = ctx.pool.submit(
        action, key=node.path, timeout_s=policy.timeout_s, urgent=node.stop_asked
    )
    if leases is not None:
        leases.started(attempt_id, ctx.now)
    node.attempt = InFlight(attempt_id, kind, ctx.now, policy, for_stop=node.stop_asked)
    ctx.own(node, node.attempt, take)
    ctx.emit(
        events.ActionStarted(
            path=node.path,
            action_type=name,
            attempt_id=attempt_id,
            timeout_s=node.attempt.timeout_s,
            reason=reason,
        )
    )


def take(node: Node, ctx: Context, result: ActionResult, begun: float) -> None:
    """The node's action has its result."""
    in_flight, node.attempt = node.attempt, None
    node.stop_action_by = None
    node.mark_dirty()
    if in_flight is None:
        return
    if ctx.leases is not None:
        ctx.leases.ended(in_flight.attempt_id, result, ctx.now)
    name, kind = in_flight.name, in_flight.kind
    if result.status == "refused":
        # Nothing was tried, so nothing has failed: decide again, a little later.
        why = str(result.error) if result.error is not None else "refused"
        ctx.emit(events.ActionRefused(path=node.path, action_type=name, reason=why))
        node.retry_at[kind] = ctx.now + ctx.interval_s
        ctx.wake(node, node.retry_at[kind])
    else:
        _take_end(node, ctx, in_flight, result)
    outside.start_next(node, ctx)


def _take_end(node: Node, ctx: Context, in_flight: InFlight, result: ActionResult) -> None:
    kind, now = in_flight.kind, ctx.now
    ctx.emit(
        events.ActionEnded(
            path=node.path,
            action_type=in_flight.name,
            attempt_id=result.attempt_id,
            status=result.status,
            verdict=result.verdict,
            queued_s=result.queued_s,
            ran_s=result.ran_s,
            error=str(result.error) if result.error is not None else None,
            traceback=result.error.traceback if result.error is not None else "",
            certificate=result.certificate,
            circuit_open_s=None
            if ctx.infrastructure is None
            else max(0.0, now - ctx.infrastructure_since),
        )
    )
    if in_flight.never_began(result):
        return
    _remember(node, result, kind, now)
    node.history[kind] = (*node.history.get(kind, ()), result.outcome)[-HISTORY_MAX:]
    node.acted_at = now
    if node.observe_at != NEVER:
        node.observe_at = now  # the gate waits for an observation newer than this
    if result.status == "succeeded":
        node.failures.pop(kind, None)
        node.retry_at.pop(kind, None)
    elif result.status != "cancelled":
        back_off(node, ctx, in_flight)


def _remember(node: Node, result: ActionResult, kind: type[Action], now: float) -> None:
    """Keep ``result`` as the last one, and beside one that is no success the last that was."""
    if result.succeeded:
        if node.successes:
            node.successes.pop(kind, None)
    elif (last := node.results.get(kind)) is not None and last.succeeded:
        node.successes[kind] = (last, node.result_ends[kind])
    node.results[kind] = result
    node.result_ends[kind] = now
