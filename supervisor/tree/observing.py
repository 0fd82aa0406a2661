"""Observations: when one is due, what its result does, and what is done when none comes.

A worker that is observed goes down these steps, and up again with the first fresh observation:
its last observation is over ``stale_s`` old: paused, nothing is decided; over ``dead_s`` old: its
probe is killed and begun anew, at once and after each of `freshness.RESTART_WAITS_S`; after the
last of these: degraded, and observed with growing waits. It is never removed for it.

Knows: a node's fields of observation, the pool's observations lane.
Does not know: decisions; when it is called.
Invariants: one observation of a node is in flight at a time; age is the observation's, counted
from its beginning; one report per step of an incident, one at its end.
"""

from __future__ import annotations

from fsmv2.supervisor.core import events, workevents
from fsmv2.supervisor.core.action import Action, ActionResult, check_action_type
from fsmv2.supervisor.core.backoff import delay_s
from fsmv2.supervisor.core.errors import BugError, WorkerFault
from fsmv2.supervisor.core.freshness import FIRST_SPREAD, RESTART_WAITS_S, spread_s
from fsmv2.supervisor.core.fsm import Phase
from fsmv2.supervisor.tree import care
from fsmv2.supervisor.tree.containment import SLOW, contain, in_time, recover
from fsmv2.supervisor.tree.context import Context
from fsmv2.supervisor.tree.node import NEVER, InFlight, Node

STEP = "observe"


def begin(node: Node, ctx: Context, first: bool) -> None:
    """The desired state is new (``first``: it is the first one): is this worker observed?"""
    worker = node.worker
    rules = ctx.observation
    node.thresholds = rules.thresholds(worker.type_name, type(worker).observe_interval_s)
    if plan(node, ctx) is None:
        return
    if first or node.observe_at == NEVER:
        interval_s = node.thresholds.interval_s
        node.observe_since = ctx.now
        node.observed_at = None  # of an earlier time, if any: it says nothing of now
        node.observe_at = (
            ctx.now + interval_s - spread_s(interval_s, rules.spread, ctx.random.random())
        )


def plan(node: Node, ctx: Context) -> Action | None:
    """The observing action; None when the worker has none (then it is not asked again until
    its desired state changes) or when its code raised (then the node waits)."""
    if node.desired is None:
        return None
    began = ctx.clock()
    try:
        action = node.worker.observe(node.desired)
        took_s = ctx.clock() - began
        if action is None:
            _stop_observing(node)
        elif not isinstance(action, Action):
            raise WorkerFault(f"observe returned {type(action).__name__}, want an Action or None")
        else:
            check_action_type(type(action))
    except BugError:
        raise
    except BaseException as error:  # worker code may raise anything at all
        contain(node, ctx, STEP, error)
        return None
    if in_time(node, ctx, STEP, took_s) and node.fault_step == STEP:
        recover(node, ctx)
    return action


def _stop_observing(node: Node) -> None:
    node.observe_at = NEVER
    if node.is_lost:
        _tell_parent(node)
    _forget_incident(node)


def watch(node: Node, ctx: Context) -> None:
    """Look at the age of what is known: report it, restart a dead probe, or give it up."""
    if node.observe_at == NEVER or node.desired is None:
        return
    if node.fault_until is not None and is_slow(node):
        return  # it is we who do not look, and that is told already
    age_s, limits = age_of(node, ctx), node.thresholds
    if age_s <= limits.stale_s:
        ctx.wake(node, ctx.now - age_s + limits.stale_s + 0.001)
        return
    if not node.stale_reported and not node.leaving and node.observed_at is not None:
        node.stale_reported = True
        ctx.emit(events.ObservationStale(path=node.path, age_s=age_s))
    if node.is_lost:
        return
    due = max(ctx.now - age_s + limits.dead_s, node.probe_restart_at)
    if ctx.now < due:
        ctx.wake(node, due)
        return
    has_probe = node.fault_step != STEP or is_slow(node)
    if has_probe:  # else its code fails, and that is told already
        _restart_probe(node, ctx, age_s)
    if not has_probe or node.probe_restarts > len(RESTART_WAITS_S):
        _give_up(node, ctx, age_s)


def age_of(node: Node, ctx: Context) -> float:
    """Seconds since the last observation was begun, or since the first one was due."""
    return ctx.now - (node.observe_since if node.observed_at is None else node.observed_at)


def _restart_probe(node: Node, ctx: Context, age_s: float) -> None:
    node.probe_restarts += 1
    ctx.emit(workevents.ProbeRestarted(path=node.path, restart=node.probe_restarts, age_s=age_s))
    if node.observation is None:
        node.observe_at = ctx.now
    else:
        node.observation.restarted = True
        ctx.pool.cancel(node.observation.attempt_id, "restarted")
    if node.probe_restarts <= len(RESTART_WAITS_S):
        node.probe_restart_at = ctx.now + RESTART_WAITS_S[node.probe_restarts - 1]
        ctx.wake(node, node.probe_restart_at)


def _give_up(node: Node, ctx: Context, age_s: float) -> None:
    node.is_lost = True
    ctx.emit(workevents.ObservationLost(path=node.path, restarts=node.probe_restarts, age_s=age_s))
    _tell_parent(node)


def _tell_parent(node: Node) -> None:
    node.mark_dirty()
    if node.parent is not None:
        node.parent.mark_dirty()
        care.may_change(node.parent)


def is_slow(node: Node) -> bool:
    """Whether the wait of this node is for its slow `observe` alone: it goes on deciding, for what
    is seen now and then comes in while it waits."""
    return node.fault_step == STEP and node.fault_text == SLOW


def observe(node: Node, ctx: Context) -> None:
    """Begin an observation if it is time."""
    if node.fault_until is not None and node.fault_step == STEP:
        if ctx.now < node.fault_until:
            ctx.wake(node, node.fault_until)
            return
        node.fault_until = None
    if (
        node.observation is not None
        or (node.leaving and node.phase is Phase.STOPPED)
        or node.desired is None
        or node.observe_at > ctx.now
    ):
        if node.observe_at > ctx.now and node.observe_at != NEVER:
            ctx.wake_to_observe(node, node.observe_at)
        return
    action = plan(node, ctx)
    if action is None:
        return
    policy = ctx.policy(type(action))
    attempt_id = ctx.pool.submit(
        action, key=f"{node.path}?", lane="observations", timeout_s=policy.timeout_s
    )
    node.observation = InFlight(attempt_id, type(action), ctx.now, policy)
    ctx.own(node, node.observation, take)


def observe_only(node: Node, ctx: Context) -> bool:
    """Begin an observation that may be due, of a node that is not to be looked at otherwise.
    False: it was due and could not be begun, so that the node has to be looked at."""
    due = node.observation is None and node.observe_at <= ctx.now
    observe(node, ctx)
    return not due or node.observation is not None


def take(node: Node, ctx: Context, result: ActionResult, begun: float) -> None:
    """An observation that was begun at ``begun`` has its result."""
    in_flight, node.observation = node.observation, None
    if result.status == "succeeded":
        _take_value(node, ctx, result, begun)
    elif in_flight is not None and in_flight.restarted:
        _next_at(node, ctx, ctx.now)
    elif result.status == "cancelled":
        _next_at(node, ctx, ctx.now + node.thresholds.interval_s)
    elif result.error is not None and result.error.type in ("QueueFull", "NeverBegan"):
        # Nothing was tried; those that were refused together must not come back together.
        _next_at(node, ctx, ctx.now + _spread(node, ctx, FIRST_SPREAD))
    else:
        _take_failure(node, ctx, result)


def _spread(node: Node, ctx: Context, share: float) -> float:
    return spread_s(node.thresholds.interval_s, share, ctx.random.random())


def _next_at(node: Node, ctx: Context, moment: float) -> None:
    if node.observe_at == NEVER:
        return  # the worker is not observed any more
    node.observe_at = moment
    ctx.wake_to_observe(node, moment)


def _take_value(node: Node, ctx: Context, result: ActionResult, begun: float) -> None:
    first = node.observed_at is None
    late = node.acted_at is not None and begun < node.acted_at
    changed = (
        first
        or node.stale_reported
        or node.is_lost
        or node.observe_failures
        or result.value != node.status
        or (node.acted_at is not None and (node.observed_at or 0.0) < node.acted_at)
    )
    node.status = result.value
    node.observed_at = begun
    if ctx.now - begun <= node.thresholds.stale_s:
        _end_incident(node, ctx)
    if late:
        # Begun before the last action ended: it cannot show what that action did.
        _next_at(node, ctx, ctx.now)
    else:
        share = FIRST_SPREAD if first else ctx.observation.spread
        _next_at(
            node, ctx, begun + spread_s(node.thresholds.interval_s, share, ctx.random.random())
        )
    if changed:
        node.mark_dirty()
        care.status_changed(node)


def _end_incident(node: Node, ctx: Context) -> None:
    """What was observed is fresh: whatever was wrong is over."""
    if node.observe_failures or node.probe_restarts or node.stale_reported:
        ctx.emit(
            events.ObservationRecovered(
                path=node.path, failures=node.observe_failures, restarts=node.probe_restarts
            )
        )
    if node.is_lost:
        _tell_parent(node)
    _forget_incident(node)


def _forget_incident(node: Node) -> None:
    node.is_lost = node.stale_reported = False
    node.observe_failures = node.probe_restarts = 0
    node.probe_restart_at = 0.0


def _take_failure(node: Node, ctx: Context, result: ActionResult) -> None:
    node.observe_failures += 1
    wait_s = delay_s(
        node.observe_failures,
        ctx.random.random(),
        base_s=max(0.5, node.thresholds.interval_s),
        max_s=max(ctx.observation.backoff_s, node.thresholds.interval_s),
    )
    _next_at(node, ctx, ctx.now + wait_s)
    node.mark_dirty()
    if node.observe_failures == 1:
        ctx.emit(
            events.ObservationFailed(
                path=node.path,
                action_type=result.action_type,
                status=result.status,
                verdict=result.verdict,
                error=str(result.error) if result.error is not None else None,
                retry_in_s=wait_s,
                attempt_id=result.attempt_id,
                certificate=result.certificate,
            )
        )
