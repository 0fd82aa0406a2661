"""The tick: six steps, in this order, for each node that has to be looked at.

Knows: the steps, and that they run parent before child, children before the parent's act.
Does not know: clocks, sockets, processes; the `Context` holds the moment and the ports.
Invariants: I5, nothing here waits; I9; worker code that raises stops its own node only; no
step logs, each appends events. A node is looked at when something about it has changed or a
moment it asked for has come; ``full`` looks at all and must decide the same. One whose observation
is due, and nothing else, is only observed.

Reading order: `tick`, then `steps` (1, 2, 4), `reconciling` (3) and `acting` (6).
"""

from __future__ import annotations

from fsmv2.supervisor.tree import acting, care, observing, reconciling, steps
from fsmv2.supervisor.tree.context import Context
from fsmv2.supervisor.tree.node import Node, by_position


def tick(node: Node, now: Context) -> None:
    """Look at ``node`` and everything below it that needs it."""
    look = node.dirty or now.full
    if not (look or node.dirty_below or node.observe_due):
        return
    due, node.dirty, node.observe_due = node.observe_due, False, False
    if look:
        if now.full and node.declared:
            node.children_changed()  # nothing that was worked out before stands in for a look
        health = steps.check_health(node, now)  # 1
        steps.derive(node, now, health)  # 2
        reconciling.reconcile(node, now, health)  # 3
        steps.map_states(node, now)  # 4
    tick_children(node, now)  # 5
    # A child that has just changed may change what its parent decides in this very tick.
    if look or node.dirty or (due and not observing.observe_only(node, now)):
        acting.act(node, now)  # 6
        if now.looked is not None:
            now.looked.append(node)


def tick_children(node: Node, now: Context) -> None:
    """Step 5: the children that need it, in start order; the others cost nothing."""
    if not node.children:
        node.dirty_below.clear()
        return
    below, node.dirty_below = node.dirty_below, {}
    if now.full:
        to_look_at = list(node.children.values())
    else:
        to_look_at = sorted([child for child in below if not child.gone], key=by_position)
    is_strict = care.is_strict(node)
    for child in to_look_at:
        if is_strict and not care.goes_on(node, child):
            continue
        # A sibling before it has just changed.
        if node.dirty and child.dirty and child.spec.depends_on:
            steps.hold_back(node, child)
        tick(child, now)
