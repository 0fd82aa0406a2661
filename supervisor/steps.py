"""Steps 1 to 4 of a tick: health, derive, reconcile, map.

Knows: nodes, the pure functions of the core, and in which order they apply to one node.
Does not know: when a tick runs, what the ports do.
Invariants: see `tick`. Each step is one function; `contain` takes whatever worker code raises.
"""

from __future__ import annotations

import datetime
from typing import Any

import msgspec

from fsmv2.supervisor.containment import contain, recover, told
from fsmv2.supervisor.context import FAULT_BACKOFF_S_MAX, STALE_S, Context
from fsmv2.supervisor.core import events
from fsmv2.supervisor.core import reconcile as diff
from fsmv2.supervisor.core.action import Action, check_action_type
from fsmv2.supervisor.core.backoff import delay_s
from fsmv2.supervisor.core.errors import BugError, SpecError, WorkerFault
from fsmv2.supervisor.core.fsm import Phase, State
from fsmv2.supervisor.core.gate import Conditions, Gate, gate
from fsmv2.supervisor.core.spec import (
    DEPTH_MAX,
    ChildSpec,
    DesiredState,
    UserSpec,
    check_children,
    start_order,
)
from fsmv2.supervisor.core.variables import VariableBundle
from fsmv2.supervisor.leaving import ask_to_leave, children_to_wait_for, shut_children, still_needed
from fsmv2.supervisor.node import NEVER, Later, Node

_states: dict[type[State], State] = {}


def state_of(kind: type[State]) -> State:
    """The one instance of a state class: states hold no data."""
    state = _states.get(kind)
    if state is None:
        state = _states[kind] = kind()
    return state


# --- 1 --------------------------------------------------------------------------------------


def check_health(node: Node, ctx: Context) -> Gate:
    """Step 1: what may this node do now?"""
    return gate(conditions(node, ctx))


def conditions(node: Node, ctx: Context) -> Conditions:
    """Everything the gate looks at, read off ``node``."""
    stopping = node.stop_asked
    backoff_s = None if node.fault_until is None else max(0.0, node.fault_until - ctx.now)
    observes = node.observe_at != NEVER
    age_s = None if node.observed_at is None else ctx.now - node.observed_at
    return Conditions(
        stopping=stopping,
        in_flight=node.attempt.name if node.attempt is not None else None,
        children_left=len(children_to_wait_for(node)) if stopping else 0,
        infrastructure_open=ctx.infrastructure,
        backoff_s=backoff_s,
        never_derived=node.desired is None,
        held_by=node.held_by if node.phase is Phase.STOPPED else (),
        stale_s=age_s if observes and age_s is not None and age_s > stale_after_s(node) else None,
        never_observed=observes and node.observed_at is None,
        awaiting_observation=observes
        and node.acted_at is not None
        and (node.observed_at is None or node.observed_at < node.acted_at),
    )


def stale_after_s(node: Node) -> float:
    """How old an observation may be before the worker is paused: `STALE_S`, or longer for one
    that observes rarely on purpose."""
    return max(STALE_S, 2.5 * type(node.worker).observe_interval_s)


# --- 2 --------------------------------------------------------------------------------------


def derive(node: Node, ctx: Context, health: Gate) -> None:
    """Step 2: the desired state, from spec and variables; only when one of them changed."""
    if not node.derive_needed or not health.derive or node.leaving:
        return
    spec = UserSpec(node.spec.user_spec.config, node.variables)
    try:
        desired = node.worker.derive_desired_state(spec)
        if not isinstance(desired, DesiredState):
            raise WorkerFault(
                f"derive_desired_state returned {type(desired).__name__}, want DesiredState"
            )
    except BugError:
        raise
    except BaseException as error:  # worker code may raise anything at all
        contain(node, ctx, "derive_desired_state", error)
        return
    node.derive_needed = False
    node.desired = desired
    if node.fault_step == "derive_desired_state":
        recover(node, ctx)
    if plan_observation(node, ctx) is not None and node.observe_at == NEVER:
        node.observe_at = ctx.now


def plan_observation(node: Node, ctx: Context) -> Action | None:
    """The observing action; None when the worker has none (then it is not asked again until
    its desired state changes) or when its code raised (then the node waits)."""
    if node.desired is None:
        return None
    try:
        action = node.worker.observe(node.desired)
        if action is None:
            node.observe_at = NEVER
        elif not isinstance(action, Action):
            raise WorkerFault(f"observe returned {type(action).__name__}, want an Action or None")
        else:
            check_action_type(type(action))
    except BugError:
        raise
    except BaseException as error:  # worker code may raise anything at all
        contain(node, ctx, "observe", error)
        return None
    return action


# --- 3 --------------------------------------------------------------------------------------


def reconcile(node: Node, ctx: Context, health: Gate) -> None:
    """Step 3: make the children the declared ones."""
    if node.leaving:
        shut_children(node, ctx)
        return
    declared = node.desired.children if node.desired is not None else None
    if declared is None or node.fault_until is not None:
        return
    if declared is not node.declared:
        if not _accept(node, ctx, declared):
            return
        node.declared = declared
        names = {spec.name for spec in declared}
        for kept in (node.done, node.later):
            for name in kept.keys() - names:
                del kept[name]
    elif not node.refused_children and _is_as_declared(node, declared):
        return
    present = {
        name: diff.Present(child.spec, child.leaving is not None, child.successor)
        for name, child in node.children.items()
    }
    before = len(node.children)
    for operation in diff.diff_children(present, declared):
        _apply(node, ctx, operation)
    if len(node.children) != before:
        _keep_start_order(node)


def _is_as_declared(node: Node, declared: tuple[ChildSpec, ...]) -> bool:
    names = {spec.name for spec in declared}
    return all(
        spec.name in node.children or node.done.get(spec.name) == spec for spec in declared
    ) and all(name in names or child.leaving for name, child in node.children.items())


def _accept(node: Node, ctx: Context, declared: tuple[ChildSpec, ...]) -> bool:
    try:
        check_children(declared, ctx.factory.type_names, node.path)
        if declared and node.path.count("/") + 1 >= DEPTH_MAX:
            raise SpecError(f"{node.path}: got children at depth {DEPTH_MAX}, want less")
    except SpecError as error:
        if node.refused_children != str(error):
            node.refused_children = str(error)
            ctx.emit(events.ChildrenRefused(path=node.path, error=str(error)))
        return False
    node.refused_children = None
    return True


def _apply(node: Node, ctx: Context, operation: diff.Operation) -> None:
    match operation:
        case diff.Add(spec):
            if node.done.get(spec.name) != spec:
                add_child(node, ctx, spec)
        case diff.Update(spec):
            child = node.children[spec.name]
            child.spec = spec
            child.derive_needed = True
            child.fault_until = None  # what failed, failed on the old spec
            give_variables(child, ctx)
            child.mark_dirty()
            ctx.emit(events.WorkerUpdated(path=child.path))
        case diff.Replace(spec):
            child = node.children[spec.name]
            child.successor = spec
            ask_to_leave(child, ctx, "its spec changed in a way that needs a new start")
        case diff.Remove(name):
            child = node.children[name]
            child.successor = None
            # One that others depend on goes after them: this node looks again when they stop.
            if name not in still_needed(node):
                ask_to_leave(child, ctx, "no longer declared")


def add_child(parent: Node, ctx: Context, spec: ChildSpec) -> None:
    """Make a child. A constructor that raises costs its siblings nothing; it is tried again."""
    generation = parent.generations.get(spec.name, 0) + 1
    later = parent.later.get(spec.name)
    if later is not None and later.moment > ctx.now:
        ctx.wake(parent, later.moment)
        return
    try:
        worker = ctx.factory.create(spec.worker_type)
        child = Node(spec, worker, parent, generation, state_of(worker.initial), ctx.now)
    except BugError:
        raise
    except BaseException as error:  # worker code may raise anything at all
        _make_later(parent, ctx, spec.name, error)
        return
    if later is not None and later.failures:
        ctx.emit(
            events.WorkerRecovered(
                path=child.path, failures=later.failures, downtime_s=ctx.now - later.since
            )
        )
        later.failures, later.text = 0, ""
    parent.generations[spec.name] = generation
    parent.children[spec.name] = child
    parent.done.pop(spec.name, None)
    give_variables(child, ctx)
    ctx.emit(
        events.WorkerAdded(path=child.path, worker_type=spec.worker_type, generation=generation)
    )
    child.mark_dirty()


def _make_later(parent: Node, ctx: Context, name: str, error: BaseException) -> None:
    """The child's constructor raised: it is tried again, and nobody else waits for that."""
    later = parent.later.setdefault(name, Later())
    if not later.failures:
        later.since = ctx.now
    later.failures += 1
    wait_s = delay_s(later.failures, ctx.random.random(), max_s=FAULT_BACKOFF_S_MAX)
    later.moment = ctx.now + wait_s
    ctx.wake(parent, later.moment)
    text = told(error)
    if later.text != text:
        later.text = text
        ctx.emit(
            events.WorkerFaulted(
                path=f"{parent.path}/{name}",
                step="constructor",
                error=text,
                failures=later.failures,
                retry_in_s=wait_s,
            )
        )


def _keep_start_order(node: Node) -> None:
    order = start_order([child.spec for child in node.children.values()])
    node.children = {name: node.children[name] for name in order}


def give_variables(node: Node, ctx: Context) -> None:
    """What the node inherits: variables and location, with its own on top."""
    above = node.parent
    own = node.spec.user_spec.variables
    node.location = (
        node.spec.location if above is None else above.location.merge(node.spec.location)
    )
    parent_id = "" if above is None else above.path
    internal: dict[str, Any] = {
        "id": node.path,
        "created_at": datetime.datetime.fromtimestamp(
            ctx.wall - (ctx.now - node.entered_at), datetime.UTC
        ).isoformat(timespec="seconds")
        if not node.variables.internal
        else node.variables.internal["created_at"],
        "parent_id": parent_id,
        "bridged_by": parent_id,
        "location": msgspec.to_builtins(node.location),
        "location_path": node.location.path(ctx.gaps),
    }
    base = VariableBundle() if above is None else above.variables
    bundle = base.for_child(own, internal)
    if bundle == node.variables:
        return
    node.variables = bundle
    node.derive_needed = True
    node.fault_until = None
    for child in node.children.values():
        give_variables(child, ctx)
        child.mark_dirty()


# --- 4 --------------------------------------------------------------------------------------


def _runs(node: Node, name: str) -> bool:
    """Whether a child runs; one that is done for good holds nobody back."""
    child = node.children.get(name)
    return name in node.done if child is None else child.phase is Phase.RUNNING


def map_states(node: Node, ctx: Context) -> None:
    """Step 4: what this node's desired state means for its children."""
    # A node that leaves tells its children so in step 3.
    stop = node.stop_asked and not node.leaving
    # However it came about (disabled, mapped, its own parent), a stop reads as "stopped" here.
    word = "stopped" if stop else node.desired_word
    needed = still_needed(node) if stop else set()
    for name, child in node.children.items():
        mapped = child.spec.state_mapping.get(word, child.mapped_state)
        held_by = tuple(other for other in child.spec.depends_on if not _runs(node, other))
        # A parent that stops takes its children with it, unless its mapping has a word for it.
        from_parent = (
            stop
            and word not in child.spec.state_mapping
            and (name not in needed or child.stop_from_parent)
        )
        if (mapped, held_by, from_parent) != (
            child.mapped_state,
            child.held_by,
            child.stop_from_parent,
        ):
            child.mapped_state, child.held_by, child.stop_from_parent = mapped, held_by, from_parent
            child.mark_dirty()
