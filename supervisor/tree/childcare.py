"""A parent's breakers for its children, as the tick goes: what follows from a failed child.

While one child has failed its parent's circuit is open: the parent derives and acts no more, unless
what it would derive may help (it is the root, or has a new spec itself); it goes on deciding, so
that its state tells of the trouble. Its other children go on, unless its desired state is strict.

Knows: who is looked at, what is done and told then.
Does not know: what makes a child fail (`childlooks`), when a restart is due (`core.childbreaker`),
how a child leaves and comes.
Invariants: judged in step 1, restarted in step 3; only children that have changed are looked at,
and those in trouble; a stop is never held up.
"""

from __future__ import annotations

from collections.abc import Iterable

from fsmv2.supervisor.core import breakerevents as events
from fsmv2.supervisor.core.childbreaker import (
    CALM,
    DEFAULT,
    NEVER,
    Order,
    Sight,
    Track,
    look,
    pruned,
)
from fsmv2.supervisor.core.infrastructureevents import recovery_status
from fsmv2.supervisor.core.runbooks import based
from fsmv2.supervisor.core.words import REASON_CHARS_MAX, presentable
from fsmv2.supervisor.tree.care import (
    Care,
    attempts_of,
    is_strict,
    next_retry_in_s,
    type_of_child,
)
from fsmv2.supervisor.tree.childlooks import STEP, ask_sanity, may_fail, sight_of
from fsmv2.supervisor.tree.context import Context
from fsmv2.supervisor.tree.leaving import ask_to_leave
from fsmv2.supervisor.tree.node import Node

# So many tracks are looked at each time; of more, those that something is due of or heard of.
FEW = 10


def watch(node: Node, ctx: Context) -> None:
    """Look at the children that have changed, and at those in trouble."""
    care = node.care
    is_idle = care is None or (care.is_idle and node.fault_step != STEP)
    if is_idle and not node.suspects and not ctx.full:
        return
    if node.leaving:
        node.suspects.clear()
        node.care = None
        return
    if care is None:
        care = node.care = Care()
    suspects, node.suspects = node.suspects, {}
    names = dict(suspects)
    if ctx.full:
        every = bool(type(node.worker).sanity_checks)
        names |= {name: None for name, one in node.children.items() if every or may_fail(one)}
        names |= dict.fromkeys(node.later)
    if ctx.full or ctx.now >= min(care.due_at, care.heartbeat_at) or len(care.tracks) <= FEW:
        # All of them, as something of one may have changed that nobody tells of.
        names |= dict.fromkeys(care.failed())
        care.due_at = NEVER
    names |= {name: None for name, (_, due) in care.degraded.items() if due <= ctx.now}
    if type(node.worker).sanity_checks:
        ask_sanity(node, care, ctx, names)
    for name in _in_order(node, names):
        sight = sight_of(node, care, ctx, name)
        before = care.tracks.get(name, CALM)
        if not before.is_open and sight.kind != "failed":
            continue
        track, orders = look(before, sight, ctx.now, ctx.random.random)
        care.keep(name, track)
        for order in orders:
            _carry_out(node, ctx, care, name, order, before, sight)
    _tend(node, ctx, care)


def _in_order(node: Node, names: Iterable[str]) -> list[str]:
    def place(name: str) -> tuple[int, str]:
        child = node.children.get(name)
        return (len(node.children) if child is None else child.position, name)

    return sorted(names, key=place)


def _tend(node: Node, ctx: Context, care: Care) -> None:
    """Close or go on, wake in time, and the heartbeat."""
    if ctx.now >= care.heartbeat_at or len(care.tracks) <= FEW or not care.failed():
        for name, track in list(care.tracks.items()):
            kept = pruned(track, ctx.now)
            if kept == CALM:
                care.drop(name)
            else:
                care.keep(name, kept)
    dues = [due for _, due in care.degraded.values() if due > ctx.now]
    if dues:
        ctx.wake(node, min(dues))
    failed = care.failed()
    if not failed:
        _close(node, ctx, care)
        return
    if care.opened_at is None:
        care.opened_at = ctx.now
        care.heartbeat_at = ctx.now + ctx.heartbeat_s
        _changed(node)
    if ctx.now >= care.heartbeat_at:
        care.heartbeat_at = ctx.now + ctx.heartbeat_s
        _beat(node, ctx, care, failed)
    # One interval at least: a heartbeat of no interval is one in each tick of the ticket.
    ctx.wake(node, min(care.due_at, max(care.heartbeat_at, ctx.now + ctx.interval_s)))


def _close(node: Node, ctx: Context, care: Care) -> None:
    if care.opened_at is None:
        return
    ctx.emit(events.CircuitClosed(path=node.path, open_s=ctx.now - care.opened_at))
    was_strict = is_strict(node)
    care.opened_at, care.heartbeat_at, care.closed_at = None, NEVER, ctx.now
    _changed(node)
    if was_strict:
        for child in node.children.values():
            child.mark_dirty()


def _changed(node: Node) -> None:
    """A parent that works around its own children's trouble is not failed itself."""
    if node.parent is not None:
        node.parent.suspects[node.spec.name] = None
        node.parent.mark_dirty()


def _carry_out(
    node: Node, ctx: Context, care: Care, name: str, order: Order, before: Track, sight: Sight
) -> None:
    track = care.tracks[name]
    since = before.since if before.since is not None else ctx.now
    down_s = ctx.now - since
    match order:
        case "opened":
            ctx.emit(
                events.CircuitOpened(
                    path=node.path,
                    child_name=name,
                    cause=track.cause,
                    detail=track.detail,
                    next_retry_in_s=next_retry_in_s(node, name, ctx.now),
                    unless=track.unless,
                )
            )
        case "restart":
            care.orders.append(name)
            ctx.emit(
                events.ChildRestarted(
                    path=node.path,
                    child_name=name,
                    attempt=len(track.attempts),
                    max_attempts=DEFAULT.attempts,
                    cause=track.cause,
                    detail=track.detail,
                )
            )
        case "warn":
            ctx.emit(
                events.EscalationNear(
                    path=node.path,
                    child_name=name,
                    attempts_remaining=max(0, DEFAULT.attempts - track.attempts_shown()),
                    total_downtime_s=down_s,
                )
            )
        case "escalate":
            _escalate(node, ctx, name, track, down_s)
        case "closed":
            _recovered(node, ctx, name, before, "running" if sight.kind == "runs" else "gone")


def _escalate(node: Node, ctx: Context, name: str, track: Track, down_s: float) -> None:
    kind = type_of_child(node, ctx.factory, name)
    ctx.emit(
        events.EscalationRequired(
            path=node.path,
            child_name=name,
            cause=track.cause,
            max_attempts=DEFAULT.attempts,
            total_downtime_s=down_s,
            runbook_url=based(kind.runbook_url, ctx.runbooks),
            manual_steps=kind.manual_steps,
        )
    )


def _recovered(node: Node, ctx: Context, name: str, track: Track, outcome: str) -> None:
    ctx.emit(
        events.ChildRecovered(
            path=node.path,
            child_name=name,
            outcome=outcome,
            attempts=track.made,
            total_downtime_s=_back_at(track, ctx.now) - (track.since or ctx.now),
        )
    )


def _back_at(track: Track, now: float) -> float:
    return now if track.runs_since is None else track.runs_since


def _beat(node: Node, ctx: Context, care: Care, failed: list[str]) -> None:
    name = failed[0]
    track = care.tracks[name]
    attempts = attempts_of(node, name)
    ctx.emit(
        events.CircuitStillOpen(
            path=node.path,
            child_name=name,
            cause=track.cause,
            failed_children=len(failed),
            retry_attempt=attempts,
            max_attempts=DEFAULT.attempts,
            elapsed_downtime_s=_back_at(track, ctx.now) - (track.since or ctx.now),
            next_retry_in_s=next_retry_in_s(node, name, ctx.now),
            recovery_status=recovery_status(attempts),
        )
    )


def restart(node: Node, ctx: Context) -> None:
    """A part of step 3: the children whose restart is due leave, to be made anew from their spec.
    What one has in flight is killed, and decided again after that."""
    care = node.care
    if care is None or not care.orders:
        return
    orders, care.orders = care.orders, []
    for name in orders:
        child = node.children.get(name)
        if child is None or child.leaving:
            continue
        if child.attempt is not None:
            ctx.pool.cancel(child.attempt.attempt_id, "restarted")
        ask_to_leave(
            child,
            ctx,
            presentable(
                f"restarted, for it has failed: {care.tracks[name].detail}", REASON_CHARS_MAX
            ),
        )
        child.successor = child.spec


def forget(node: Node, ctx: Context, name: str, outcome: str = "respecified") -> None:
    """A child has another spec, or is not declared any more: what has failed, failed on the old
    one."""
    node.suspects[name] = None
    track = node.care.drop(name) if node.care is not None else CALM
    if track.is_open:
        _recovered(node, ctx, name, track, outcome)
        node.mark_dirty()  # to see whether that was all that kept the circuit open


def forget_undeclared(node: Node, ctx: Context, names: set[str]) -> None:
    """Only ``names`` are declared now: declared anew, a child begins anew."""
    for name in [name for name in node.care.tracks if name not in names] if node.care else ():
        forget(node, ctx, name, "gone")
