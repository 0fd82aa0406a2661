"""From nodes to documents: what a tick has looked at, and what of it is new.

Knows: the documents' fields, what was said of each node last.
Does not know: where documents go, when it is called.
Invariants: a node that has not changed costs one comparison; documents are made a bounded portion
at a time, from the node as it is then, so that a busy tree is saved less often and never ticked
less often; a worker that goes because all stop, or comes back, is not a removed one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

from fsmv2.ipc.messages import Write
from fsmv2.supervisor.core.restarts import comes_back
from fsmv2.supervisor.store.protocol import Recalled, document, put, removal
from fsmv2.supervisor.tree.node import Node
from fsmv2.supervisor.tree.resuming import config_of, part_of, resume_of

NODES_MAX = 250
SLICE_S = 0.005


class _Told:
    """What was said of a node last: what each document was made from."""

    __slots__ = ("desired", "generation", "observed", "resume", "since", "state_entered")

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.desired: tuple[Any, ...] | None = None
        self.observed: tuple[Any, ...] | None = None
        self.resume: tuple[Any, ...] | None = None
        self.state_entered: float | None = None
        self.since = 0.0


class Recorder:
    """Call `looked_at` with the nodes of a tick, `record` when documents may be made; ``take`` gets
    them. ``recalled`` is what the store held at the start, by path."""

    def __init__(self, take: Callable[[Write], None], recalled: Mapping[str, Recalled]) -> None:
        self._take = take
        self._waiting: dict[str, Node] = {}
        self._told: dict[str, _Told] = {}
        # Children in the store that no node stands for now, by their parent's path.
        self._absent: dict[str, set[str]] = {}
        self.stopping = False
        for path, one in recalled.items():
            if one.worker_type:
                self._miss(path)

    def __repr__(self) -> str:
        return f"<Recorder {len(self._told)} told, {len(self._waiting)} waiting>"

    def __len__(self) -> int:
        return len(self._waiting)

    def looked_at(self, nodes: Iterable[Node]) -> None:
        """These nodes may have changed."""
        for node in nodes:
            self._waiting[node.path] = node

    def forget(self) -> None:
        """Say everything again of each node that is looked at from now on."""
        self._told.clear()

    def record(self, now: float, wall: float, clock: Callable[[], float]) -> None:
        """Make documents of what waits: of a bounded number of nodes, for `SLICE_S` at most."""
        waiting = self._waiting
        enough_at = clock() + SLICE_S
        for path in list(islice(waiting, NODES_MAX)):
            if clock() >= enough_at:
                return
            node = waiting.pop(path)
            if node.gone and not self.stopping and not _comes_back(node):
                self._remove(path, wall)
                continue
            self._record(node, now, wall)
            if node.gone:
                self._miss(path)
            self._find(node, wall)

    def _record(self, node: Node, now: float, wall: float) -> None:
        path = node.path
        told = self._told.get(path)
        if told is None or told.generation != node.generation:
            told = self._told[path] = _Told(node.generation)
            self._take(put(path, "identity", identity_of(node), wall))
        desired = (node.desired, node.desired_word, node.spec.enabled, node.leaving is None)
        if not _is_same(desired, told.desired):
            told.desired = desired
            self._take(put(path, "desired", desired_of(node), wall))
        if told.state_entered != node.entered_at:
            told.state_entered = node.entered_at
            told.since = round(wall - (now - node.entered_at), 3)
        observed = (node.state, node.reason, node.status, told.since)
        if not _is_same(observed, told.observed):
            told.observed = observed
            self._take(put(path, "observed", observed_of(node, told.since), wall))
        waits = tuple((name, one.moment, one.given_up) for name, one in node.later.items())
        tracks = node.care.tracks if node.care is not None else {}
        breakers = tuple(
            (name, track.attempts, track.since, track.escalated) for name, track in tracks.items()
        )
        failures = tuple(node.failures.values())
        resume = (node.acted_at, failures, node.restarted, waits, breakers)
        if resume != told.resume:
            told.resume = resume
            content = document(resume_of(node, now, wall))
            self._take(Write(path, "resume", wall, content))

    def _miss(self, path: str) -> None:
        parent, _, name = path.rpartition("/")
        self._absent.setdefault(parent, set()).add(name)

    def _find(self, node: Node, wall: float) -> None:
        """Children that were in the store before: here again, or gone for good."""
        absent = self._absent.get(node.path)
        if absent is None or node.declared is None or node.gone:
            return
        names = {spec.name for spec in node.declared}
        absent -= node.children.keys()
        for name in sorted(absent - names):
            self._remove(f"{node.path}/{name}", wall)
        absent &= names
        if not absent:
            del self._absent[node.path]

    def _remove(self, path: str, wall: float) -> None:
        for name in sorted(self._absent.pop(path, ())):
            self._remove(f"{path}/{name}", wall)
        self._told.pop(path, None)
        self._take(removal(path, wall))


def _is_same(one: object, other: object) -> bool:
    """Config and status are a worker's own: comparing them may raise anything at all, or give what
    is neither true nor false (an array)."""
    try:
        return bool(one == other)
    except BaseException:
        return False


def _comes_back(node: Node) -> bool:
    return node.successor is not None or (
        node.ending is not None and comes_back(node.spec.restart, node.ending)
    )


def identity_of(node: Node) -> dict[str, Any]:
    """The document of the role "identity"."""
    return {
        "name": node.spec.name,
        "path": node.path,
        "worker_type": node.spec.worker_type,
        "created_at": node.variables.internal.get("created_at"),
        "generation": node.generation,
    }


def desired_of(node: Node) -> dict[str, Any]:
    """The document of the role "desired"."""
    desired = node.desired
    return {
        "state": node.desired_word,
        "enabled": node.spec.enabled,
        "shutdown": node.leaving is not None,
        "config": config_of(desired.config) if desired is not None else None,
        "children": {child.name: child.worker_type for child in desired.children}
        if desired is not None
        else {},
    }


def observed_of(node: Node, since: float) -> dict[str, Any]:
    """The document of the role "observed"; ``since`` is seconds since the epoch."""
    return {
        "state": node.state_name,
        "phase": str(node.phase),
        "reason": node.reason,
        "status": part_of(node.status),
        "since": since,
    }
