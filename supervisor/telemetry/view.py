"""The tree, the status and the readings as plain documents.

Knows: nodes, statistics, the fields DESIGN.md §7 promises.
Does not know: who reads them (API, page, command line), HTTP.
Invariants: no secret (values hide themselves), no value of an action; JSON-ready builtins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from fsmv2.ipc.codec import to_builtins
from fsmv2.supervisor.core.readings import ProcReading, Reading
from fsmv2.supervisor.core.runbooks import based
from fsmv2.supervisor.core.spec import ChildSpec
from fsmv2.supervisor.pool.pool import Pool
from fsmv2.supervisor.tree.care import attempts_of, next_retry_in_s, told, type_of_child
from fsmv2.supervisor.tree.context import PoolPort
from fsmv2.supervisor.tree.engine import Engine
from fsmv2.supervisor.tree.node import InFlight, Node
from fsmv2.supervisor.tree.restarting import is_done

STATUS_BYTES_MAX = 128 * 1024


def tree_pieces(
    engine: Engine, pool: Pool, now: float, walked: Callable[[Node], None] = lambda node: None
) -> Iterator[bytes]:
    """The root's object with all nodes below it, as JSON; moments become seconds before ``now``.
    A node at a time: thousands cost more than a tick may wait.

    ``walked`` is called with each node. What changes while the pieces are taken may be shown as
    it was or as it is.
    """
    todo: list[Node | bytes] = [engine.root]
    while todo:
        node = todo.pop()
        if isinstance(node, bytes):
            yield node
            continue
        walked(node)
        yield _piece(node, engine, pool, now)[:-1] + b',"children":['
        todo.append(b"]}")
        for number, child in enumerate(reversed(node.children.values())):
            if number:
                todo.append(b",")
            todo.append(child)


def _piece(node: Node, engine: Engine, pool: Pool, now: float) -> bytes:
    """One node's object. A status that is too large stands there by its size only: a frame would
    not take it, and the whole tree would be shown no more."""
    shown = _node(node, engine, pool, now)
    status = msgspec.json.encode(shown["status"])
    if len(status) > STATUS_BYTES_MAX:
        shown["status"] = f"<{type(node.status).__qualname__}, {len(status)} bytes>"
    else:
        shown["status"] = msgspec.Raw(status)
    return msgspec.json.encode(shown)


def _node(node: Node, engine: Engine, pool: Pool, now: float) -> dict[str, Any]:
    return {
        "path": node.path,
        "name": node.spec.name,
        "worker_type": node.spec.worker_type,
        "state": node.state_name,
        "phase": str(node.phase),
        "reason": node.reason,
        "desired_state": "stopped" if node.stop_asked else node.desired_word,
        "since_s": round(now - node.entered_at, 3),
        "circuit": circuit_of(node, engine),
        "circuit_detail": _circuit_detail(node, engine, now),
        "action": shown_attempt(node.attempt, pool, now, "actions"),
        "restarts": node.restarts,
        "generation": node.generation,
        "location_path": node.location.path(engine.context.gaps),
        "status": _status(node),
        "observation_age_s": None
        if node.observed_at is None
        else round(max(0.0, now - node.observed_at), 3),
        "absent": _absent(node),
    }


def declared_children(node: Node) -> tuple[ChildSpec, ...]:
    """The children it has declared; also those that cannot be."""
    accepted = node.declared or ()
    newest = node.desired.children if node.desired is not None else None
    if not newest or newest is accepted:
        return accepted
    names = {spec.name for spec in accepted}
    return (*accepted, *(spec for spec in newest if spec.name not in names))


def _absent(node: Node) -> list[dict[str, str]]:
    """The children that are declared and not there, with the word for why; `explain` says more."""
    return [
        {"name": spec.name, "worker_type": spec.worker_type, "why": _why_absent(node, spec)}
        for spec in declared_children(node)
        if spec.name not in node.children
    ]


def _why_absent(node: Node, spec: ChildSpec) -> str:
    if node.refused_children:
        return "refused"
    if is_done(node, spec):
        return "done"
    later = node.later.get(spec.name)
    return "given_up" if later is not None and later.given_up else "waiting"


def circuit_of(node: Node, engine: Engine) -> str:
    """``panic``: its code has raised so often that it is only tried. ``open``: it derives and acts
    no more, because its own code or a child has failed or, at the root, because the machine is in
    trouble. Else ``closed``."""
    if node.panic_since is not None:
        return "panic"
    is_root_open = node.parent is None and engine.context.infrastructure is not None
    has_failed_child = node.care is not None and node.care.is_open
    return "open" if is_root_open or has_failed_child or node.fault_until is not None else "closed"


def open_circuit(node: Node, engine: Engine, circuit: str, now: float) -> dict[str, Any]:
    """One line of the status: whose circuit is open, for what, and what comes next."""
    detail = _circuit_detail(node, engine, now)
    return {
        "path": node.path,
        "circuit": circuit,
        "why": told(node) or node.fault_text or node.reason,
        "attempts": None if detail is None else detail["attempts"],
        "next_attempt_in_s": None if detail is None else detail["next_attempt_in_s"],
        "escalated": detail is not None and detail["escalated"],
    }


def _circuit_detail(node: Node, engine: Engine, now: float) -> dict[str, Any] | None:
    """Of the child that keeps the circuit of ``node`` open; of several, see `Care.failed`."""
    failed = node.care.failed() if node.care is not None else []
    if node.care is None or not failed:
        return None
    name = failed[0]
    track = node.care.tracks[name]
    context = engine.context
    kind = type_of_child(node, context.factory, name)
    next_in_s = next_retry_in_s(node, name, now)
    return {
        "failed_child": name,
        "failed_children": len(failed),
        "cause": track.cause,
        "detail": track.detail,
        "not_restarted": track.unless,
        "since_s": round(now - (track.since or now), 3),
        "attempts": attempts_of(node, name),
        "next_attempt_in_s": None if next_in_s is None else round(next_in_s, 3),
        "escalated": track.escalated,
        "runbook_url": based(kind.runbook_url, context.runbooks),
    }


def _status(node: Node) -> Any:
    try:
        return to_builtins(node.status)
    except (TypeError, ValueError, RecursionError):
        return f"<{type(node.status).__qualname__}>"


def shown_attempt(
    in_flight: InFlight | None, pool: PoolPort, now: float, lane: str
) -> dict[str, Any] | None:
    """An action that was offered to ``pool``: whether it waits or runs, for how long, how far."""
    if in_flight is None:
        return None
    attempt = pool.in_flight(in_flight.attempt_id)
    proc = attempt.proc if attempt is not None else None
    # One that waits in its proc's pipe does not run yet.
    runs = proc is not None and proc.attempt is attempt
    return {
        "attempt_id": in_flight.attempt_id,
        "type": in_flight.name,
        "lane": lane,
        "queued": proc is None,
        "waits_s": None if runs else round(max(0.0, now - in_flight.since), 3),
        "running_s": round(max(0.0, now - proc.attempt_at), 3) if runs and proc else 0.0,
        "timeout_s": in_flight.timeout_s,
        "progress": attempt.progress if attempt is not None else None,
    }


def readings_document(
    readings: Mapping[str, Reading], procs: Sequence[ProcReading], now: float
) -> dict[str, Any]:
    """The readings of the machine and of the pool, then what each process uses; moments become
    seconds before ``now``."""
    return {
        "readings": [
            {
                "name": each.name,
                "value": each.value,
                "unit": each.unit,
                "scope": each.scope,
                "source": each.source,
                "age_s": round(max(0.0, now - each.at), 3),
                "missing": each.missing,
                "used": each.used,
                "limit": each.limit,
            }
            for each in readings.values()
        ],
        "procs": [msgspec.to_builtins(each) for each in procs],
    }
