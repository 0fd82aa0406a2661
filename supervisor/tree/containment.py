"""What becomes of a node whose worker's code failed, or held the tick up.

Knows: the wait, one report per incident, the end of an incident.
Does not know: which step failed and why.
Invariants: a fault costs its own node only: it keeps its last good desired state and its
children; nothing worker code raises goes further than here; no secret of the node's config and
variables is in what is told of it.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable

from fsmv2.ipc.redact import redact
from fsmv2.supervisor.core import breakerevents, events, panic, workevents
from fsmv2.supervisor.core.backoff import delay_s
from fsmv2.supervisor.core.errors import SpecError, WorkerFault
from fsmv2.supervisor.core.words import ERROR_CHARS_MAX, presentable
from fsmv2.supervisor.tree.context import FAULT_BACKOFF_S_MAX, Context
from fsmv2.supervisor.tree.node import Node
from fsmv2.supervisor.tree.nodesecrets import all_secrets

SLOW = "slow"
DERIVE = "derive_desired_state"
CHECKS = "sanity_checks"


def contain(
    node: Node, ctx: Context, step: str, error: BaseException, seen: Iterable[Node] = ()
) -> None:
    """Worker code raised: this node waits, with its last good desired state and children.
    ``seen`` are others that the code was shown, whose secrets it may tell."""
    # ValueError is how Python's own code, and a worker's, says that a value cannot be used: a new
    # instance would get the very same.
    is_config = step == DERIVE and isinstance(error, SpecError | WorkerFault | ValueError)
    # A check is of the children: a new instance of their parent would ask the very same.
    if not is_config and step != CHECKS:
        node.raises = panic.raised(node.raises, ctx.now)
    # Only a config that is derived ends this: what another step raises says nothing of it.
    node.config_fault = node.config_fault or is_config
    wait_s = _back_off(node, ctx)
    secrets = tuple(secret for one in (node, *seen) for secret in all_secrets(one))
    text = told(error, secrets)
    if node.panic_since is None and panic.is_open(node.raises):
        _open_panic(node, ctx, step, panic.kind_of(error), text, _trace(error, text, secrets))
    elif _is_watched(node):
        _tell_parent(node)
    node.reason = f"{step} failed, next look in {wait_s:.1f} s: {text}"[:500]
    if (node.fault_step, node.fault_text) == (step, text):
        return  # reported already; the state of this incident is in the node's reason
    node.fault_step, node.fault_text = step, text
    ctx.emit(
        events.WorkerFaulted(
            path=node.path,
            step=step,
            error=text,
            failures=node.fault_count,
            retry_in_s=wait_s,
            traceback=""
            if isinstance(error, SpecError | WorkerFault)
            else _trace(error, text, secrets),
        )
    )


def _open_panic(node: Node, ctx: Context, step: str, kind: str, text: str, trace: str) -> None:
    node.panic_since = ctx.now
    ctx.emit(
        breakerevents.PanicBreakerOpened(
            path=node.path,
            step=step,
            panic_type=kind,
            error=text,
            raises=len(node.raises),
            window_s=panic.WINDOW_S,
            traceback=trace,
        )
    )
    ctx.wake(node, panic.heals_at(node.raises))
    _tell_parent(node)


def _trace(error: BaseException, text: str, secrets: tuple[str, ...]) -> str:
    frames = "".join(traceback.format_tb(error.__traceback__)[-6:])
    return redact(frames, secrets) + text


def tend_panic(node: Node, ctx: Context) -> None:
    """Let the panic breaker's window drain; a part of step 1."""
    node.raises = panic.counting(node.raises, ctx.now)
    if node.panic_since is None:
        return
    if panic.is_open(node.raises):
        ctx.wake(node, panic.heals_at(node.raises))
        return
    ctx.emit(breakerevents.PanicBreakerClosed(path=node.path, open_s=ctx.now - node.panic_since))
    node.panic_since = None
    _tell_parent(node)


def _is_watched(node: Node) -> bool:
    care = node.parent.care if node.parent is not None else None
    return care is not None and care.is_open


def _tell_parent(node: Node) -> None:
    if node.parent is not None:
        node.parent.suspects[node.spec.name] = None
        node.parent.mark_dirty()


def in_time(node: Node, ctx: Context, step: str, took_s: float) -> bool:
    """Whether a call of worker code took no longer than it may. If not, this node waits as if the
    code had failed; what the call has returned counts all the same."""
    if took_s <= ctx.slow_s:
        return True
    wait_s = _back_off(node, ctx)
    node.reason = f"{step} took {took_s:.2f} s, next look in {wait_s:.1f} s"
    if (node.fault_step, node.fault_text) != (step, SLOW):
        node.fault_step, node.fault_text = step, SLOW
        ctx.emit(
            workevents.WorkerSlow(
                path=node.path, step=step, took_s=took_s, limit_s=ctx.slow_s, retry_in_s=wait_s
            )
        )
    return False


def _back_off(node: Node, ctx: Context) -> float:
    """One fault more: the wait until the node's code is called again."""
    node.fault_count += 1
    if node.fault_count == 1:
        node.fault_since = ctx.now
    failures = max(node.fault_count, len(node.raises) if panic.is_open(node.raises) else 0)
    wait_s = delay_s(failures, ctx.random.random(), max_s=FAULT_BACKOFF_S_MAX)
    node.fault_at = ctx.now
    node.fault_until = ctx.now + wait_s
    ctx.wake(node, node.fault_until)
    return wait_s


def told(error: BaseException, secrets: tuple[str, ...] = ()) -> str:
    """Type and text of an error, without ``secrets``; its ``__str__`` is worker code too."""
    try:
        text = redact(f"{type(error).__name__}: {error}", secrets)
        return presentable(text, ERROR_CHARS_MAX)
    except BaseException:  # as wide as where the error itself was caught
        return f"{type(error).__name__}: <its text could not be made>"


def end_backoff(node: Node, ctx: Context) -> None:
    """The wait is over: look at the node anew in the next tick."""
    node.fault_until = None
    node.mark_dirty()


def recover(node: Node, ctx: Context) -> None:
    """Worker code went through: the incident, if there was one, is over."""
    if not node.fault_count or node.fault_until is not None:
        return
    ctx.emit(
        events.WorkerRecovered(
            path=node.path, failures=node.fault_count, downtime_s=ctx.now - node.fault_since
        )
    )
    node.fault_count = 0
    node.fault_step = node.fault_text = ""
