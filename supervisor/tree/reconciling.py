"""Step 3 of a tick: the children there are become the children declared.

Knows: when a declaration is taken, what each difference does to the nodes, what a child inherits.
Does not know: how a child leaves, what it decides.
Invariants: I8, children are added in start order; one whose constructor raises costs its siblings
nothing; a declaration with a fault in it touches no child.
"""

from __future__ import annotations

import datetime
from functools import lru_cache
from typing import Any

import msgspec

from fsmv2.supervisor.core import events
from fsmv2.supervisor.core import reconcile as diff
from fsmv2.supervisor.core.backoff import delay_s
from fsmv2.supervisor.core.circles import Declarer, check_no_circle
from fsmv2.supervisor.core.errors import BugError, SpecError
from fsmv2.supervisor.core.gate import Gate
from fsmv2.supervisor.core.restarts import Counted, carried_out, forget
from fsmv2.supervisor.core.spec import DEPTH_MAX, ChildSpec, check_children, start_order
from fsmv2.supervisor.core.variables import VariableBundle
from fsmv2.supervisor.tree import care, childcare
from fsmv2.supervisor.tree.containment import in_time, told
from fsmv2.supervisor.tree.context import FAULT_BACKOFF_S_MAX, Context
from fsmv2.supervisor.tree.leaving import ask_to_leave, shut_children, still_needed
from fsmv2.supervisor.tree.node import Node
from fsmv2.supervisor.tree.restarting import bring_down, is_done, later_of, must_wait, take_ends
from fsmv2.supervisor.tree.resuming import go_on_with_children, goes_on
from fsmv2.supervisor.tree.steps import state_of

GENERATIONS_KEPT = 1_000


def reconcile(node: Node, ctx: Context, health: Gate) -> None:
    """Step 3: make the children the declared ones."""
    if node.ends and not node.leaving:
        take_ends(node, ctx)
    if node.leaving:
        node.ends, node.together = [], None
        shut_children(node, ctx)
        return
    if node.care is not None:
        childcare.restart(node, ctx)
    if node.together is not None:
        bring_down(node, ctx, node.together)
    declared = node.desired.children if node.desired is not None else None
    if declared is None:
        return
    anew = declared is not node.declared
    if anew:
        if not _accept(node, ctx, declared):
            return
        if node.declared is None:
            go_on_with_children(node, ctx, declared)
        node.declared = declared
        node.children_changed()
        names = {spec.name for spec in declared}
        _forget(node, names)
        childcare.forget_undeclared(node, ctx, names)
    elif not node.refused_children and (node.settled or _is_as_declared(node, declared)):
        node.settled = True
        return
    present = {
        name: diff.Present(child.spec, child.leaving is not None, _successor(node, child))
        for name, child in node.children.items()
    }
    before = len(node.children)
    needed = still_needed(node)
    for operation in diff.diff_children(present, declared):
        _apply(node, ctx, operation, needed)
    node.children_changed()
    if anew or len(node.children) != before:
        _keep_start_order(node)


def _forget(node: Node, names: set[str]) -> None:
    """Drop what is kept of children that are not declared any more. Generations go last: a name
    that comes back soon goes on counting, but names without end must not pile up."""
    for kept in (node.done, node.later):
        for name in kept.keys() - names:
            del kept[name]
    if len(node.generations) > len(names) + GENERATIONS_KEPT:
        left = [name for name in node.generations if name not in names | node.children.keys()]
        for name in left[: len(left) - GENERATIONS_KEPT // 2]:
            del node.generations[name]
    node.restarted = tuple(one for one in node.restarted if one.name in names)


def _successor(node: Node, child: Node) -> ChildSpec | None:
    """What comes after a child that leaves. After one that ends by itself, or is done, nothing
    needs to be ordered: what becomes of it is decided when it is gone."""
    if child.ending is not None or is_done(node, child.spec):
        return child.spec
    return child.successor


def _is_as_declared(node: Node, declared: tuple[ChildSpec, ...]) -> bool:
    names = {spec.name for spec in declared}
    return all(spec.name in node.children or is_done(node, spec) for spec in declared) and all(
        name in names or child.leaving for name, child in node.children.items()
    )


def _accept(node: Node, ctx: Context, declared: tuple[ChildSpec, ...]) -> bool:
    try:
        check_children(declared, ctx.factory.type_names, node.path)
        if declared and node.path.count("/") + 1 >= DEPTH_MAX:
            raise SpecError(f"{node.path}: got children at depth {DEPTH_MAX}, want less")
        _check_no_circle(node, declared)
    except BaseException as error:  # what a declaration is made of is worker code too
        text = str(error) if isinstance(error, SpecError) else told(error)
        if node.refused_children != text:
            node.refused_children = text
            ctx.emit(events.ChildrenRefused(path=node.path, error=text))
        return False
    node.refused_children = None
    return True


def _check_no_circle(node: Node, declared: tuple[ChildSpec, ...]) -> None:
    lineage: list[Declarer] = []
    one: Node | None = node
    while one is not None:
        spec = one.spec
        lineage.append(Declarer(spec.name, spec.worker_type, spec.user_spec.config, one.variables))
        one = one.parent
    lineage.reverse()
    try:
        check_no_circle(lineage, declared)
    except SpecError as error:
        raise SpecError(f"{node.path}: {error}") from None


def _apply(node: Node, ctx: Context, operation: diff.Operation, needed: set[str]) -> None:
    match operation:
        case diff.Add(spec):
            held = node.together is not None and spec.name in node.together.names
            if not held and not is_done(node, spec):
                add_child(node, ctx, spec)
        case diff.Update(spec):
            child = node.children[spec.name]
            child.spec = spec
            node.restarted = forget(node.restarted, spec.name)
            child.derive_needed = child.respecified = True
            child.fault_until = None  # what failed, failed on the old spec
            childcare.forget(node, ctx, spec.name)
            care.freed(child)
            give_variables(child, ctx)
            child.mark_dirty()
            ctx.emit(events.WorkerUpdated(path=child.path))
        case diff.Replace(spec):
            child = node.children[spec.name]
            child.successor = spec
            node.restarted = forget(node.restarted, spec.name)
            childcare.forget(node, ctx, spec.name)
            ask_to_leave(child, ctx, "its spec changed in a way that needs a new start")
        case diff.Remove(name):
            child = node.children[name]
            child.successor = child.ending = None
            # One that others depend on goes after them: this node looks again when they stop.
            if name not in needed:
                ask_to_leave(child, ctx, "no longer declared")


def add_child(parent: Node, ctx: Context, spec: ChildSpec) -> None:
    """Make a child. A constructor that raises costs its siblings nothing; it is tried again."""
    resumed = goes_on(parent, spec.name, ctx)
    later = later_of(parent, spec) if spec.name in parent.later else None
    if later is not None and must_wait(parent, ctx, later):
        return
    began = ctx.clock()
    try:
        worker = ctx.factory.create(spec.worker_type)
        took_s = ctx.clock() - began
        generation = parent.generations.get(spec.name, 0) + 1
        below = parent.generations.below(spec.name)
        state = state_of(worker.initial)
        child = Node(spec, worker, parent, generation, state, ctx.now, below)
    except BugError:
        raise
    except BaseException as error:  # worker code may raise anything at all
        _make_later(parent, ctx, spec, error)
        return
    if later is not None and later.failures:
        ctx.emit(
            events.WorkerRecovered(
                path=child.path, failures=later.failures, downtime_s=ctx.now - later.since
            )
        )
        later.failures, later.text = 0, ""
    if later is not None and later.given_up:
        later.given_up = False
        parent.restarted = (*parent.restarted, Counted(spec.name, ctx.now))
    parent.restarted = carried_out(parent.restarted, spec.name, ctx.now)
    parent.generations[spec.name] = generation
    parent.children[spec.name] = child
    parent.done.pop(spec.name, None)
    give_variables(child, ctx)
    ctx.emit(
        events.WorkerAdded(
            path=child.path, worker_type=spec.worker_type, generation=generation, resumed=resumed
        )
    )
    child.mark_dirty()
    in_time(child, ctx, "constructor", took_s)


def _make_later(parent: Node, ctx: Context, spec: ChildSpec, error: BaseException) -> None:
    """The child's constructor raised: it is tried again, and nobody else waits for that."""
    later = later_of(parent, spec)
    if not later.failures:
        later.since = ctx.now
    later.failures += 1
    wait_s = delay_s(later.failures, ctx.random.random(), max_s=FAULT_BACKOFF_S_MAX)
    later.moment = ctx.now + wait_s
    parent.suspects[spec.name] = None
    parent.mark_dirty()
    ctx.wake(parent, later.moment)
    text = told(error)
    if later.text != text:
        later.text = text
        ctx.emit(
            events.WorkerFaulted(
                path=f"{parent.path}/{spec.name}",
                step="constructor",
                error=text,
                failures=later.failures,
                retry_in_s=wait_s,
            )
        )


def _keep_start_order(node: Node) -> None:
    """As declared, and not as they came: one that is replaced comes last. Those that are no longer
    declared stand at the end."""
    place = {spec.name: number for number, spec in enumerate(node.declared or ())}
    specs = [child.spec for child in node.children.values()]
    specs.sort(key=lambda spec: place.get(spec.name, len(place)))
    order = start_order(specs)
    node.children = {name: node.children[name] for name in order}
    for position, child in enumerate(node.children.values()):
        child.position = position


def give_variables(node: Node, ctx: Context) -> bool:
    """What the node inherits: variables and location, with its own on top. Whether any of it
    changed; then all below is told."""
    above = node.parent
    own = node.spec.user_spec.variables
    node.location = (
        node.spec.location if above is None else above.location.merge(node.spec.location)
    )
    parent_id = "" if above is None else above.path
    internal: dict[str, Any] = {
        "id": node.path,
        "created_at": _told_second(int(ctx.wall - (ctx.now - node.entered_at)))
        if not node.variables.internal
        else node.variables.internal["created_at"],
        "parent_id": parent_id,
        "bridged_by": parent_id,
        **_told_location(node, ctx),
    }
    base = VariableBundle() if above is None else above.variables
    bundle = base.for_child(own, internal, known=node.variables)
    if bundle is node.variables:
        return False
    node.variables = bundle
    node.derive_needed = True
    node.fault_until = None
    for child in node.children.values():
        inherit(child, ctx)
    return True


def _told_location(node: Node, ctx: Context) -> dict[str, Any]:
    above = node.parent
    if above is not None and above.location is node.location and above.variables.internal:
        # Most children are where their parent is.
        internal = above.variables.internal
        return {
            "location": dict(internal["location"]),
            "location_path": internal["location_path"],
        }
    return {
        "location": msgspec.to_builtins(node.location),
        "location_path": node.location.path(ctx.gaps),
    }


@lru_cache(maxsize=16)
def _told_second(second: int) -> str:
    # Most children are made together.
    return datetime.datetime.fromtimestamp(second, datetime.UTC).isoformat(timespec="seconds")


def inherit(node: Node, ctx: Context) -> None:
    """Something above has changed: take what concerns ``node`` and what is below it."""
    if give_variables(node, ctx):
        node.mark_dirty()
        if not node.leaving:
            ctx.emit(events.WorkerUpdated(path=node.path, inherited=True))
