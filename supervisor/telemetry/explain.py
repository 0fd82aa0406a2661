"""Reads off the tree why a worker is as it is, and answers who asks.

Knows: where each of the facts of `core.facts` is kept.
Does not know: what follows from them (`core.explaining`, `core.absences`); HTTP.
Invariants: reading changes nothing; one question costs one node and those next to it, never the
tree; no value of an action or a config is in an answer, no text is longer than `CHARS_MAX`, no list
than `SHOWN_MAX`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from fsmv2.ipc.messages import CommandAnswered, ExplainWorker
from fsmv2.supervisor.core import runbooks
from fsmv2.supervisor.core.absences import ABSENT, explain_absence
from fsmv2.supervisor.core.action import action_name, action_reference
from fsmv2.supervisor.core.childbreaker import DEFAULT
from fsmv2.supervisor.core.explaining import explain
from fsmv2.supervisor.core.facts import (
    Explanation,
    Facts,
    Failed,
    Failing,
    Fault,
    Flight,
    Missing,
    Quarantined,
    Seen,
    Sibling,
)
from fsmv2.supervisor.core.phase import Phase
from fsmv2.supervisor.core.restarts import counting
from fsmv2.supervisor.core.words import presentable
from fsmv2.supervisor.core.worker import Worker
from fsmv2.supervisor.pool.pool import Pool
from fsmv2.supervisor.pool.poolstatistics import quarantine_records
from fsmv2.supervisor.telemetry.view import declared_children, shown_attempt
from fsmv2.supervisor.tree.care import attempts_of, next_retry_in_s
from fsmv2.supervisor.tree.containment import SLOW
from fsmv2.supervisor.tree.context import Context
from fsmv2.supervisor.tree.engine import Engine
from fsmv2.supervisor.tree.leaving import children_to_wait_for
from fsmv2.supervisor.tree.node import NEVER, Node
from fsmv2.supervisor.tree.observing import age_of
from fsmv2.supervisor.tree.restarting import is_done
from fsmv2.supervisor.tree.steps import conditions

SHOWN_MAX = 20
LOOKED_AT_MAX = 1_000
CHARS_MAX = 1_000

Records = Mapping[str, Mapping[str, Any]]
Reply = Callable[[CommandAnswered], object]


class NoSuchWorker(msgspec.Struct, frozen=True):
    """Nothing is at that path, nor should be. ``nearest`` is the deepest worker on the way to it,
    ``children`` are the names there, or declared there."""

    error: str
    nearest: str
    children: tuple[str, ...]


class Explainer:
    """Answers questions about the workers of ``engine``, between two ticks."""

    def __init__(self, engine: Engine, pool: Pool, base_url: str = runbooks.BASE_URL) -> None:
        self._engine = engine
        self._pool = pool
        self._base_url = base_url

    def answer(self, question: ExplainWorker, reply: Reply) -> None:
        """Give ``reply`` the explanation, or that there is no such worker, as JSON."""
        found = explain_path(
            self._engine,
            question.path,
            time.monotonic(),
            quarantine_records(self._pool),
            self._base_url,
        )
        outcome: Any = "no_such_worker" if isinstance(found, NoSuchWorker) else "done"
        document = msgspec.json.encode(found)
        reply(CommandAnswered(question.number, outcome, path=question.path, document=document))


def explain_path(
    engine: Engine,
    path: str,
    now: float,
    quarantined: Records,
    base_url: str = runbooks.BASE_URL,
) -> Explanation | NoSuchWorker:
    """Why the worker at ``path`` is as it is at ``now`` (monotonic seconds). ``quarantined`` are
    the action types that are kept apart, see `quarantine_records`."""
    moment = copy.copy(engine.context)  # everything as at the last tick, but seen from now
    moment.now = now
    first, *names = path.split("/")
    node = engine.root
    if first != node.path:
        return _no_such_worker(path, node, (node.path,), "want a path that begins with")
    for depth, name in enumerate(names):
        child = node.children.get(name)
        if child is None:
            missing = _missing(node, moment, name, quarantined)
            if missing is None:
                known = [spec.name for spec in declared_children(node)]
                known += [other for other in node.children if other not in known]
                return _no_such_worker(path, node, known, "want one of")
            below = path if depth + 1 < len(names) else ""
            return explain_absence(missing, below, base_url)
        node = child
    return explain(_facts(node, moment, quarantined), base_url)


def _no_such_worker(path: str, nearest: Node, known: Iterable[str], want: str) -> NoSuchWorker:
    names = tuple(known)
    shown = ", ".join(names[:SHOWN_MAX])
    wanted = f"{want} {shown}" if names else "it has no children"
    text = f"cannot explain {path[:200]!r}: the nearest worker is {nearest.path!r}, {wanted}"
    return NoSuchWorker(text, nearest.path, names[:SHOWN_MAX])


# --- a worker that is there -----------------------------------------------------------------


def _facts(node: Node, now: Context, quarantined: Records) -> Facts:
    left = children_to_wait_for(node) if node.stop_asked else []
    down = _down(node)
    failed = node.care.failed()[:1] if node.care is not None else []
    return Facts(
        path=node.path,
        worker_type=node.spec.worker_type,
        state=node.state_name,
        phase=node.phase,
        desired_state="stopped" if node.stop_asked else node.desired_word,
        reason=presentable(node.reason, CHARS_MAX),
        since_s=now.now - node.entered_at,
        restarts=node.restarts,
        now=conditions(node, now),
        flight=_flight(node, now),
        quarantined=_quarantined(node, quarantined),
        fault=_fault(node, now),
        failing=_failing(node, now),
        seen=_seen(node, now),
        waits_for_lease=now.leases is not None and now.leases.waits(node),
        stop=_why_stop(node),
        forced_in_s=None if node.stop_by is None else max(0.0, node.stop_by - now.now),
        children_to_stop=tuple(_sibling(child) for child in left[:SHOWN_MAX]),
        holders=_holders(node),
        children_down=tuple(down[:SHOWN_MAX]),
        children_down_count=len(down),
        refused_children=presentable(node.refused_children or "", CHARS_MAX),
        outside=""
        if node.outside is None or node.outside.running is None
        else node.outside.running.action_type,
        failed=_failed(node, now),
        failed_child=f"{node.path}/{failed[0]}" if failed else "",
        retry_in_s=next_retry_in_s(node, failed[0], now.now) if failed else None,
        runbook=_own_runbook(type(node.worker)),
        next_look_s=None if node.wake_at is None else max(0.0, node.wake_at - now.now),
    )


def _own_runbook(kind: type[Worker]) -> str:
    """Where the page of this worker type is, empty where it has only the one of all types."""
    return "" if kind.runbook_url == Worker.runbook_url else kind.runbook_url


def _failed(node: Node, now: Context) -> Failed | None:
    above = node.parent
    track = above.care.tracks.get(node.spec.name) if above is not None and above.care else None
    if above is None or track is None or track.since is None:
        return None
    return Failed(
        cause=track.cause,
        detail=track.detail,
        since_s=now.now - track.since,
        attempts=attempts_of(above, node.spec.name),
        attempts_max=DEFAULT.attempts,
        retry_in_s=next_retry_in_s(above, node.spec.name, now.now),
        unless=track.unless,
        escalated=track.escalated,
    )


def _sibling(node: Node) -> Sibling:
    return Sibling(node.path, node.state_name)


def _flight(node: Node, now: Context) -> Flight | None:
    shown = shown_attempt(node.attempt, now.pool, now.now, "actions")
    if shown is None or node.attempt is None:
        return None
    return Flight(
        name=node.attempt.name,
        attempt_id=node.attempt.attempt_id,
        offered_s=max(0.0, now.now - node.attempt.since),
        running_s=None if shown["queued"] else shown["running_s"],
        timeout_s=node.attempt.timeout_s,
        progress=presentable(shown["progress"] or "", CHARS_MAX),
    )


def _quarantined(node: Node, quarantined: Records) -> Quarantined | None:
    if node.attempt is None or not quarantined:
        return None
    record = quarantined.get(node.attempt.name)
    record = record or quarantined.get(action_reference(node.attempt.kind))
    if record is None:
        return None
    return Quarantined(
        verdict=record["verdict"],
        deaths=record["deaths"],
        since_s=record["quarantined_s"],
        retry_in_s=record["retry_in_s"],
    )


def _fault(node: Node, now: Context) -> Fault | None:
    if not node.fault_count:
        return None
    until = node.fault_until
    return Fault(
        step=node.fault_step,
        text=presentable(node.fault_text, CHARS_MAX),
        slow=node.fault_text == SLOW,
        failures=node.fault_count,
        since_s=now.now - node.fault_since,
        retry_in_s=None if until is None else max(0.0, until - now.now),
    )


def _failing(node: Node, now: Context) -> tuple[Failing, ...]:
    found = []
    for kind, failures in node.failures.items():
        result = node.results.get(kind)
        told = "" if result is None else str(result.error or result.verdict)
        found.append(
            Failing(
                name=action_name(kind),
                failures=failures,
                attempts=(now.policy(kind).retry or kind.retry).attempts,
                retry_in_s=max(0.0, node.retry_at.get(kind, 0.0) - now.now),
                error=presentable(told, CHARS_MAX),
            )
        )
    return tuple(found)


def _seen(node: Node, now: Context) -> Seen | None:
    if node.observe_at == NEVER or node.desired is None:
        return None
    limits = node.thresholds
    return Seen(
        age_s=max(0.0, age_of(node, now)),
        stale_s=limits.stale_s,
        dead_s=limits.dead_s,
        interval_s=limits.interval_s,
        failures=node.observe_failures,
        probe_restarts=node.probe_restarts,
        next_in_s=None if node.observation is not None else max(0.0, node.observe_at - now.now),
    )


def _why_stop(node: Node) -> str:
    if not node.stop_asked:
        return ""
    if node.leaving:
        return f"it leaves: {node.leaving}"
    above = node.parent
    if node.stop_from_parent and above is not None:
        return f"its parent {above.path} stops"
    if not node.spec.enabled:
        return "it is disabled (enabled: false)"
    if node.mapped_state is not None and above is not None:
        return (
            f"{above.path} wants {above.desired_word!r}, which its state_mapping turns to 'stopped'"
        )
    return "its own desired state is 'stopped'"


def _holders(node: Node) -> tuple[Sibling, ...]:
    if node.parent is None:
        return ()
    found = []
    for name in node.held_by[:SHOWN_MAX]:
        sibling = node.parent.children.get(name)
        path = f"{node.parent.path}/{name}"
        found.append(Sibling(path, ABSENT) if sibling is None else _sibling(sibling))
    return tuple(found)


def _down(node: Node) -> list[Sibling]:
    """Of its first children, those that do not run, also those that are not there."""
    found: list[Sibling] = []
    if node.phase is Phase.RUNNING:
        return found
    for spec in (node.declared or ())[:LOOKED_AT_MAX]:
        child = node.children.get(spec.name)
        if child is not None and child.phase is not Phase.RUNNING:
            found.append(_sibling(child))
        elif child is None and not is_done(node, spec):
            found.append(Sibling(f"{node.path}/{spec.name}", ABSENT))
    return found


# --- a child that is not there --------------------------------------------------------------


def _missing(node: Node, now: Context, name: str, quarantined: Records) -> Missing | None:
    """What is so of a child of ``node`` that is not there; None: there should be none."""
    path = f"{node.path}/{name}"
    if node.desired is None:
        waits = explain(_facts(node, now, quarantined)).why
        return Missing(path=path, worker_type="", parent=node.path, parent_waits=waits)
    spec = next((each for each in declared_children(node) if each.name == name), None)
    if spec is None:
        return None
    later, group = node.later.get(name), node.together
    in_group = group is not None and name in group.names
    moment = group.moment if group is not None and in_group else 0.0
    if later is not None:
        moment = max(moment, later.moment)
    budget = node.desired.restart_budget
    up = [node.children[other] for other in group.names if other in node.children] if group else []
    return Missing(
        path=path,
        worker_type=spec.worker_type,
        parent=node.path,
        restart=spec.restart,
        parent_stops=node.leaving or "",
        refused=presentable(node.refused_children or "", CHARS_MAX),
        is_done=is_done(node, spec),
        given_up=later is not None and later.given_up,
        constructor_failures=0 if later is None else later.failures,
        error="" if later is None else presentable(later.text, CHARS_MAX),
        since_s=now.now - later.since if later is not None and later.failures else None,
        retry_in_s=moment - now.now if now.now < moment < NEVER else None,
        restarts=len(counting(node.restarted, budget, now.now)),
        budget=budget,
        along_with=group.cause if group is not None and in_group else "",
        along=tuple(_sibling(child) for child in up[:SHOWN_MAX]) if in_group else (),
        generation=node.generations.get(name, 0),
    )
