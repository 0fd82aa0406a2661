"""Steps 1, 2 and 4 of a tick: health, derive, map. Step 3 is in `reconciling`.

Knows: nodes, the pure functions of the core, and in which order they apply to one node.
Does not know: when a tick runs, what the ports do.
Invariants: see `tick`. Each step is one function; `contain` takes whatever worker code raises.
"""

from __future__ import annotations

from fsmv2.supervisor.core.errors import BugError, WorkerFault
from fsmv2.supervisor.core.fsm import Phase, State, check_state
from fsmv2.supervisor.core.gate import Conditions, Gate, gate
from fsmv2.supervisor.core.spec import (
    DesiredState,
    UserSpec,
)
from fsmv2.supervisor.tree import care, childcare, observing
from fsmv2.supervisor.tree.containment import DERIVE, contain, in_time, recover, tend_panic
from fsmv2.supervisor.tree.context import Context
from fsmv2.supervisor.tree.leaving import children_to_wait_for, still_needed
from fsmv2.supervisor.tree.node import NEVER, Node
from fsmv2.supervisor.tree.nodesecrets import hider
from fsmv2.supervisor.tree.resuming import go_on_with_results
from fsmv2.supervisor.tree.retrying import begin_with

ALL_CLEAR = gate(Conditions())
_states: dict[type[State], State] = {}


def state_of(kind: type[State]) -> State:
    """The one instance of a state class: states hold no data. Raises `WorkerFault` for what is no
    state, or has no phase or no name: those are read later, where nothing contains it."""
    state = _states.get(kind)
    if state is None:
        check_state(kind)
        state = _states[kind] = kind()
    return state


# --- 1 --------------------------------------------------------------------------------------


def check_health(node: Node, ctx: Context) -> Gate:
    """Step 1: its children's breakers and its own; what may this node do now?"""
    if node.raises:
        tend_panic(node, ctx)
    # For nearly every node there is nothing to look at; a call would cost as much as the question.
    if node.suspects or node.care is not None or (ctx.full and (node.children or node.later)):
        childcare.watch(node, ctx)
    return allowed(node, ctx)


def allowed(node: Node, ctx: Context) -> Gate:
    """What the gate says of ``node``."""
    if _is_all_clear(node, ctx):
        return ALL_CLEAR
    return gate(conditions(node, ctx))


def _is_all_clear(node: Node, ctx: Context) -> bool:
    """Whether nothing of `conditions` holds: so it is for nearly every node, and this asks for it
    in a third of the time."""
    if (
        node.attempt is not None
        or node.fault_until is not None
        or node.desired is None
        or node.held_by
        or ctx.infrastructure is not None
        or node.stop_asked
        or (node.care is not None and node.care.is_open)
    ):
        return False
    if node.observe_at == NEVER:
        return True
    seen_at = node.observed_at
    return (
        seen_at is not None
        and ctx.now - seen_at <= node.thresholds.stale_s
        and (node.acted_at is None or seen_at >= node.acted_at)
    )


def conditions(node: Node, ctx: Context) -> Conditions:
    """Everything the gate looks at, read off ``node``."""
    stopping = node.stop_asked
    backoff_s = None
    if node.fault_until is not None and not observing.is_slow(node):
        backoff_s = max(0.0, node.fault_until - ctx.now)
    observes = node.observe_at != NEVER
    age_s = None if node.observed_at is None else ctx.now - node.observed_at
    return Conditions(
        stopping=stopping,
        in_flight=node.attempt.name if node.attempt is not None else None,
        children_left=len(children_to_wait_for(node)) if stopping else 0,
        infrastructure_open=ctx.infrastructure,
        circuit_open=care.told(node) if node.care is not None and node.care.is_open else None,
        repairs=node.parent is None or node.respecified,
        backoff_s=backoff_s,
        never_derived=node.desired is None,
        held_by=node.held_by if node.phase is Phase.STOPPED else (),
        stale_s=age_s
        if observes and age_s is not None and age_s > node.thresholds.stale_s
        else None,
        degraded=node.is_lost and node.phase is Phase.DEGRADED,
        never_observed=observes and node.observed_at is None,
        awaiting_observation=observes
        and node.acted_at is not None
        and (node.observed_at is None or node.observed_at < node.acted_at),
    )


# --- 2 --------------------------------------------------------------------------------------


def derive(node: Node, ctx: Context, health: Gate) -> None:
    """Step 2: the desired state, from spec and variables; only when one of them changed."""
    if not node.derive_needed or not health.derive or node.leaving:
        return
    spec = UserSpec(node.spec.user_spec.config, node.variables)
    began = ctx.clock()
    try:
        desired = node.worker.derive_desired_state(spec)
        took_s = ctx.clock() - began
        if not isinstance(desired, DesiredState):
            raise WorkerFault(
                f"derive_desired_state returned {type(desired).__name__}, want DesiredState"
            )
    except BugError:
        raise
    except BaseException as error:  # worker code may raise anything at all
        contain(node, ctx, DERIVE, error)
        return
    before = node.desired
    node.derive_needed = node.respecified = False
    node.desired = desired
    node.config_fault = False
    care.freed(node)
    node.hide = hider(desired)
    go_on_with_results(node, ctx)
    if in_time(node, ctx, DERIVE, took_s) and node.fault_step == DERIVE:
        recover(node, ctx)
    begin_with(node, ctx, before)
    observing.begin(node, ctx, first=before is None)


# --- 4 --------------------------------------------------------------------------------------


def _runs(node: Node, name: str) -> bool:
    """Whether a child runs; one that is done for good holds nobody back."""
    child = node.children.get(name)
    return name in node.done if child is None else child.phase is Phase.RUNNING


def hold_back(node: Node, child: Node) -> None:
    """Step 4 once more for a child that was free to start: what it depends on may have stopped
    running in this very tick. To be set free it waits for the next."""
    if not child.held_by:
        child.held_by = tuple(other for other in child.spec.depends_on if not _runs(node, other))
        if child.held_by:
            child.mark_dirty()


def map_states(node: Node, ctx: Context) -> None:
    """Step 4: what this node's desired state means for its children."""
    if not node.children:
        return
    # A node that leaves tells its children so in step 3.
    stop = node.stop_asked and not node.leaving
    # However it came about (disabled, mapped, its own parent), a stop reads as "stopped" here.
    word = "stopped" if stop else node.desired_word
    if node.mapped == (stop, word):
        return
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
            care.freed(child)
    # With dependencies the siblings' states count too, and they change at any time.
    if not any(child.spec.depends_on for child in node.children.values()):
        node.mapped = (stop, word)
