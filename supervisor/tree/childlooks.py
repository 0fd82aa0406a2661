"""What a look at a child shows: whether it has failed, and of what.

A child has failed when (the first that is so names the cause) its constructor raises (`exists`),
its panic breaker is open (`panic`), it cannot be observed (`fresh`), it has been degraded for its
type's ``unhealthy_after_s`` without a break (`healthy`), or a sanity check blames it (`sanity`).
One whose own children are the trouble has not: that is handled there. Nor has one that is stopped,
disabled, held back, on its way down, or whose config is refused.

Knows: what of a node shows that it has failed; the sanity checks of its parent.
Does not know: what follows.
Invariants: nothing an operator or a mapping has stopped, and nothing whose config is refused,
counts as failed; a check that raises is a fault of the worker that has it.
"""

from __future__ import annotations

from fsmv2.supervisor.core import panic, sanity
from fsmv2.supervisor.core.childbreaker import CALM, DEFAULT, Sight
from fsmv2.supervisor.core.errors import BugError
from fsmv2.supervisor.core.fsm import Phase
from fsmv2.supervisor.core.words import REASON_CHARS_MAX, presentable
from fsmv2.supervisor.tree.care import Care
from fsmv2.supervisor.tree.containment import CHECKS, contain, in_time, recover
from fsmv2.supervisor.tree.context import Context
from fsmv2.supervisor.tree.node import Node
from fsmv2.supervisor.tree.restarting import is_done

STEP = CHECKS
# After the machine was in trouble: what it has kept from being observed has to be seen again.
AFTERMATH_S = 10.0

_RUNS, _COMES, _WAITS, _AWAY = Sight("runs"), Sight("comes"), Sight("waits"), Sight("away")


def sight_of(node: Node, care: Care, ctx: Context, name: str) -> Sight:
    """What the child ``name`` of ``node`` looks like now."""
    child = node.children.get(name)
    if child is None or child.phase is not Phase.DEGRADED:
        care.degraded.pop(name, None)
    if child is None:
        return _of_absent(node, name)
    if child.leaving:
        comes_again = child.successor is not None or child.ending is not None
        return _WAITS if comes_again else _AWAY
    if child.stop_asked:
        return _AWAY
    if child.held_by and child.phase is Phase.STOPPED:
        return _WAITS
    is_open = care.tracks.get(name, CALM).is_open
    if child.panic_since is None and _is_held_up(care, ctx, child):
        # It cannot come up, nor be observed: that is the machine's trouble, not its own.
        return Sight("waits", unless="the machine is in trouble, or was until just now")
    if is_open and _is_at_rest(child):
        return _AWAY if ctx.now - child.entered_at >= DEFAULT.settle_s else _WAITS
    if node.together is not None and name in node.together.names:
        return _WAITS
    unless = "" if ctx.restart_failed else "restarts of failed children are off"
    if child.spec.restart == "temporary":
        unless = "its restart type is temporary"
    if child.config_fault:
        if not is_open:
            return _WAITS
        unless = f"its config is refused: {child.fault_text}"
    return _of_present(care, ctx, child, unless)


def may_fail(child: Node) -> bool:
    """Whether a look at ``child`` may show that it has failed, by what it is itself: so for nearly
    no child, and this costs a tenth of a look."""
    return (
        child.panic_since is not None
        or child.is_lost
        or child.config_fault
        or child.state.phase is Phase.DEGRADED
    )


def _of_absent(node: Node, name: str) -> Sight:
    spec = next((one for one in node.declared or () if one.name == name), None)
    if spec is None or is_done(node, spec):
        return _AWAY
    later = node.later.get(name)
    if later is None or not later.failures:
        return _WAITS
    again = "its constructor is called again by itself"
    return Sight("failed", "exists", later.text, again, later.failures)


def _of_present(care: Care, ctx: Context, child: Node, unless: str) -> Sight:
    if child.panic_since is not None:
        last = f", last {child.fault_text}" if child.fault_text else ""
        raises = f"raised {len(child.raises)} times in {panic.WINDOW_S:g} s{last}"
        return Sight("failed", "panic", raises, unless)
    if child.is_lost:
        return Sight("failed", "fresh", "it cannot be observed", unless)
    if child.phase is Phase.DEGRADED:
        return _of_degraded(care, ctx, child, unless)
    for check, (name, text) in care.blamed.items():
        if name == child.spec.name:
            return Sight("failed", "sanity", f"{check}: {text}", unless)
    if child.phase is Phase.RUNNING:
        return _RUNS
    busy = child.attempt is not None
    return Sight("comes", unless=unless, busy=busy) if unless or busy else _COMES


def _is_held_up(care: Care, ctx: Context, child: Node) -> bool:
    """Whether the machine's breaker keeps ``child`` from what it would do, or did so just now."""
    if ctx.infrastructure is not None:
        until = ctx.now + DEFAULT.settle_s
    elif ctx.leases is not None and ctx.leases.waits(child):
        return True
    elif ctx.now < ctx.infrastructure_since + AFTERMATH_S:
        until = ctx.infrastructure_since + AFTERMATH_S
    else:
        return False
    if child.phase is Phase.DEGRADED:
        # As long as that, and then as long as its type allows, from the end of the trouble on.
        limit_s = type(child.worker).unhealthy_after_s
        care.degraded[child.spec.name] = (child, until + (0.0 if limit_s is None else limit_s))
    return True


def _is_at_rest(child: Node) -> bool:
    """Whether it is stopped because it wants to be: nothing it has tried has failed."""
    return (
        child.phase is Phase.STOPPED
        and child.desired is not None
        and child.attempt is None
        and child.fault_until is None
        and not (child.failures or child.retry_at or child.raises)
    )


def _of_degraded(care: Care, ctx: Context, child: Node, unless: str) -> Sight:
    limit_s = type(child.worker).unhealthy_after_s
    if limit_s is None:
        return _RUNS
    name = child.spec.name
    known = care.degraded.get(name)
    if known is None or known[0] is not child:
        known = care.degraded[name] = (child, child.entered_at + limit_s)
    is_due = ctx.now >= known[1]
    if _is_deeper(child, ctx, limit_s):
        if is_due:
            care.degraded[name] = (child, ctx.now + limit_s)
        return _WAITS
    if not is_due:
        return Sight("comes", unless=unless)
    detail = f"degraded for {limit_s:g} s and more: {child.reason}"
    return Sight("failed", "healthy", presentable(detail, REASON_CHARS_MAX), unless)


def _is_deeper(child: Node, ctx: Context, limit_s: float) -> bool:
    """Whether what has degraded ``child`` is handled further down, or was until just now."""
    care = child.care
    if care is not None and (care.is_open or ctx.now < care.closed_at + limit_s):
        return True
    return bool(child.children_view().count(Phase.DEGRADED))


# --- sanity checks --------------------------------------------------------------------------


def ask_sanity(node: Node, care: Care, ctx: Context, names: dict[str, None]) -> None:
    """Ask the checks whose participants have changed. One that raises is a fault of this node:
    it waits, then all are asked again."""
    if node.fault_until is not None and node.fault_step == STEP:
        return
    again = node.fault_step == STEP
    for check in type(node.worker).sanity_checks:
        if not again and not any(name in names for name in check.participants):
            continue
        sights = {name: _participant(node, name) for name in check.participants}
        began = ctx.clock()
        try:
            answer = sanity.ask(check, sights)
            took_s = ctx.clock() - began
        except BugError:
            raise
        except BaseException as error:  # worker code may raise anything at all
            seen = [node.children[name] for name in check.participants if name in node.children]
            contain(node, ctx, STEP, error, seen)
            return
        blamed = care.blamed
        if answer is None:
            blamed.pop(check.name, None)
        else:
            blamed[check.name] = (check.blames, _hidden(node, check, answer))
        names[check.blames] = None
        if not in_time(node, ctx, STEP, took_s):
            return
    if again:
        recover(node, ctx)


def _hidden(node: Node, check: sanity.SanityCheck, answer: str) -> str:
    """What a check says, without the secrets of those it has looked at."""
    for one in (node, *(node.children[name] for name in check.participants)):
        answer = answer if one.hide is None else one.hide(answer)
    return answer


def _participant(node: Node, name: str) -> sanity.ChildSight | None:
    child = node.children.get(name)
    if child is None or child.phase is not Phase.RUNNING:
        return None
    seen = child.info
    return sanity.ChildSight(
        seen.name, seen.path, seen.worker_type, seen.state, seen.phase, seen.reason, child.status
    )
