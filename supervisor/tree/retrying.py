"""How long an action type that failed waits before it is offered again, and when it is no more.

Knows: a node's failures in a row, the policy of the type.
Does not know: who offers the action, what its result was.
Invariants: a series ends with a success and with a new config, and one that was given up with a new
state or spec too; given up is told once.
"""

from __future__ import annotations

from fsmv2.supervisor.core import workevents
from fsmv2.supervisor.core.action import Action
from fsmv2.supervisor.core.backoff import delay_s
from fsmv2.supervisor.core.same import same
from fsmv2.supervisor.core.spec import DesiredState
from fsmv2.supervisor.tree.context import Context
from fsmv2.supervisor.tree.node import InFlight, Node


def begin_series(node: Node, ctx: Context) -> None:
    """State or spec are new: action types that were given up may be tried again."""
    for kind in list(node.failures):
        if given_up_after(node, ctx, kind):
            del node.failures[kind]
            node.retry_at.pop(kind, None)


def begin_with(node: Node, ctx: Context, before: DesiredState | None) -> None:
    """The desired state was ``before`` and is new: with another config nothing has failed yet, and
    nothing waits. It changes with specs and variables only, so at the pace of who writes those."""
    if before is None or node.desired is None or same(before.config, node.desired.config):
        begin_series(node, ctx)
        return
    node.failures.clear()
    node.retry_at.clear()


def given_up_after(node: Node, ctx: Context, kind: type[Action]) -> int:
    """The failures in a row that are enough for its policy; 0: it may be offered."""
    failures = node.failures.get(kind, 0)
    attempts = (ctx.policy(kind).retry or kind.retry).attempts
    return failures if failures and attempts is not None and failures >= attempts else 0


def back_off(node: Node, ctx: Context, in_flight: InFlight) -> None:
    """One failure more: the moment from which on the type may be offered again."""
    kind, retry = in_flight.kind, in_flight.retry
    failures = node.failures[kind] = node.failures.get(kind, 0) + 1
    wait_s = delay_s(
        failures,
        ctx.random.random(),
        base_s=retry.base_s,
        factor=retry.factor,
        max_s=retry.max_s,
        jitter=retry.jitter,
    )
    node.retry_at[kind] = ctx.now + wait_s
    ctx.wake(node, ctx.now + wait_s)
    if failures == retry.attempts:
        ctx.emit(
            workevents.ActionGivenUp(path=node.path, action_type=in_flight.name, failures=failures)
        )
