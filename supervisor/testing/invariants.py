"""The framework's promises (ARCHITECTURE.md, "Invariants"), read off a simulation as it runs.

Knows: what may be said of nodes, attempts and events at any moment of any history.
Does not know: why something happened, which faults there were.
Invariants: what it finds broken is raised at once, with the invariant's number.

I5 (a tick waits for nothing) and I11 and I12 (input is refused whole) cannot be seen here: nothing
in a simulation waits, and it gets no unknown input.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fsmv2.supervisor.core import events
from fsmv2.supervisor.core.errors import BugError
from fsmv2.supervisor.core.fsm import Phase
from fsmv2.supervisor.core.reconcile import same_spec
from fsmv2.supervisor.core.spec import ChildSpec
from fsmv2.supervisor.testing.circuits import Circuits
from fsmv2.supervisor.testing.clock import ManualClock
from fsmv2.supervisor.testing.simpool import SimPool
from fsmv2.supervisor.tree.engine import Engine
from fsmv2.supervisor.tree.leaving import children_to_wait_for
from fsmv2.supervisor.tree.node import Node

# A node that may stop but has not begun to: so many ticks, and so long, is no lag any more.
LAG_TICKS = 3
LAG_S = 1.0
# For each level and each dependency on the way down: one tick to notice, one to go.
STOP_SLACK_S = 1.0


def want(claim: bool, invariant: str, text: str) -> None:
    """Raise `BugError` unless ``claim`` holds."""
    if not claim:
        raise BugError(f"{invariant} broken: {text}")


class Invariants:
    """Of one simulation: `hear` each event, `look` after each tick."""

    def __init__(self, engine: Engine, pool: SimPool, clock: ManualClock) -> None:
        self._engine = engine
        self._pool = pool
        self._clock = clock
        self._in_flight: dict[str, int] = {}
        self._ended: set[int] = set()
        self._stopped: set[str] = set()
        self._idle_stops: dict[str, tuple[float, int]] = {}
        self._stop_by: float | None = None
        self._by_itself: set[str] = set()  # who leaves, and nobody had asked for it
        self._own_ends: set[str] = set()  # whose restart is due
        self._restarts: dict[str, list[tuple[float, str]]] = {}  # by parent, in its window
        self._specs: dict[str, ChildSpec] = {}
        self._circuits = Circuits()

    # --- events -----------------------------------------------------------------------------

    def hear(self, event: events.Event) -> None:
        """Look at one event, at the moment it is told."""
        broken = self._circuits.hear(event, self._clock.now)
        want(not broken, "I7", broken)
        match event:
            case events.WorkerAdded(path=path):
                self._in_flight.pop(path, None)
                self._stopped.add(path)
                self._came_back(path)
            case events.WorkerUpdated(path=path):
                self._has_spec(path)
            case events.WorkerRemoved(path=path, reason=reason):
                self._removed(path, reason)
            case events.ActionStarted(path=path, attempt_id=attempt_id, reason=reason):
                want(bool(reason.strip()), "I9", f"an action of {path} has no reason")
                other = self._in_flight.get(path)
                want(other is None, "I2", f"{path} has attempts {other} and {attempt_id} in flight")
                self._in_flight[path] = attempt_id
            case events.ActionRefused(path=path):
                self._in_flight.pop(path, None)
            case events.ActionEnded(path=path, attempt_id=attempt_id):
                asked = self._in_flight.pop(path, None)
                want(
                    asked == attempt_id,
                    "I3",
                    f"{path} was given the result of attempt {attempt_id}, it waits for {asked}",
                )
                want(attempt_id not in self._ended, "I3", f"attempt {attempt_id} has ended twice")
                self._ended.add(attempt_id)
            case events.StateChanged():
                self._changed(event)

    def _removed(self, path: str, reason: str) -> None:
        self._in_flight.pop(path, None)
        self._by_itself.discard(path)
        node = self._find(path)
        want(node is None or not node.children, "I8", f"{path} was removed before its children")
        self._restarts.pop(path, None)
        parent = node.parent if node is not None else None
        if parent is not None and not parent.leaving and reason.startswith("restart: "):
            self._own_ends.add(path)

    def _came_back(self, path: str) -> None:
        """I7: a child that has asked for its restart got it; no window holds too many of them."""
        self._has_spec(path)
        self._circuits.forget_below(path)
        node, asked = self._find(path), path in self._own_ends
        self._own_ends.discard(path)
        parent = node.parent if node is not None else None
        if parent is None or parent.desired is None or not asked:
            return
        budget, now = parent.desired.restart_budget, self._clock.now
        spent = [
            one for one in self._restarts.get(parent.path, ()) if now - one[0] < budget.window_s
        ]
        spent.append((now, path))
        self._restarts[parent.path] = spent
        want(
            len(spent) <= budget.restarts,
            "I7",
            f"{parent.path} had {len(spent)} restarts in {budget.window_s:g} s, "
            f"want at most {budget.restarts}",
        )

    def _has_spec(self, path: str) -> None:
        """What failed before a change of the spec, failed on the old one: it costs no budget."""
        node = self._find(path)
        if node is None:
            return
        before = self._specs.get(path)
        self._specs[path] = node.spec
        if before is not None and not same_spec(before, node.spec):
            self._forget(path)

    def _forget(self, path: str) -> None:
        parent = path.rpartition("/")[0]
        spent = self._restarts.get(parent, ())
        self._restarts[parent] = [one for one in spent if one[1] != path]
        self._own_ends.discard(path)
        self._circuits.forget(path)

    def _forget_undeclared(self) -> None:
        """Declared anew, a child begins anew."""
        for path in list(self._specs):
            above, _, name = path.rpartition("/")
            parent = self._find(above) if above else None
            if parent is None or parent.desired is None:
                gone = bool(above)
            else:
                gone = all(spec.name != name for spec in parent.desired.children)
            if gone:
                self._forget(path)
                del self._specs[path]

    def _changed(self, event: events.StateChanged) -> None:
        path = event.path
        want(bool(event.reason.strip()), "I9", f"{path} entered {event.to_state} without a reason")
        node = self._find(path)
        if node is None:
            raise BugError(f"I3 broken: {path} changed its state and is in no tree")
        want(
            node.generation == event.generation,
            "I3",
            f"{path} is generation {node.generation}, the change is of {event.generation}",
        )
        was_stopped = path in self._stopped
        if event.phase == Phase.STOPPED:
            self._stopped.add(path)
        else:
            self._stopped.discard(path)
        parent = node.parent
        if parent is None:
            return
        if was_stopped and event.phase not in (Phase.STOPPED, Phase.STOPPING):
            self._may_start(node, parent)
        elif not was_stopped and parent.leaving and not node.spec.enabled:
            return
        elif parent.leaving and node.leaving == parent.leaving and path not in self._by_itself:
            self._may_stop(node, parent)

    def _may_start(self, node: Node, parent: Node) -> None:
        for name in node.spec.depends_on:
            other = parent.children.get(name)
            runs = name in parent.done if other is None else other.phase is Phase.RUNNING
            want(runs, "I8", f"{node.path} starts before {name} runs")

    def _may_stop(self, node: Node, parent: Node) -> None:
        for name, other in parent.children.items():
            if node.spec.name in other.spec.depends_on and other is not node:
                up = other.phase is not Phase.STOPPED
                want(not up, "I8", f"{node.path} stops before {name}, which depends on it")

    # --- ticks ------------------------------------------------------------------------------

    def look(self) -> None:
        """Look at the whole tree."""
        nodes = list(self._engine.nodes()) if not self._engine.stopped else []
        owned: dict[int, str] = {}
        for node in nodes:
            want(bool(node.reason.strip()), "I9", f"{node.path} has no reason")
            outside = node.outside.in_flight if node.outside is not None else None
            for what in (node.attempt, node.observation, outside):
                if what is not None:
                    twice = owned.get(what.attempt_id)
                    want(twice is None, "I3", f"{twice} and {node.path} share {what.attempt_id}")
                    owned[what.attempt_id] = node.path
            self._begins_to_stop(node)
        self._attempts_are_owned(owned)
        broken = self._circuits.look(nodes, self._clock.now, LAG_TICKS, LAG_S)
        want(not broken, "a circuit's promise is", broken)
        self._forget_undeclared()
        self._stops_in_time()
        known = {node.path for node in nodes}
        self._by_itself &= known
        self._by_itself |= {node.path for node in nodes if node.ending is not None}
        self._stopped &= known
        self._idle_stops = {p: since for p, since in self._idle_stops.items() if p in known}

    def _attempts_are_owned(self, owned: dict[int, str]) -> None:
        keys: set[tuple[str, str]] = set()
        for attempt in self._pool.open.values():
            is_kept = attempt.id in owned or attempt.cancel_cause is not None
            want(is_kept, "I3", f"{attempt} belongs to no node and was not cancelled")
            if attempt.cancel_cause is None:
                place = (attempt.lane.name, attempt.key)
                want(place not in keys, "I2", f"two attempts of {attempt.key} are open")
                keys.add(place)

    def _begins_to_stop(self, node: Node) -> None:
        """I4: what is asked to stop and has nothing to wait for is on its way down."""
        waits = (
            not node.stop_asked
            or node.phase in (Phase.STOPPED, Phase.STOPPING)
            or node.attempt is not None
            or node.fault_until is not None
            or bool(children_to_wait_for(node))
        )
        if waits:
            self._idle_stops.pop(node.path, None)
            return
        since, ticks = self._idle_stops.get(node.path, (self._clock.now, 0))
        self._idle_stops[node.path] = (since, ticks + 1)
        late = ticks + 1 > LAG_TICKS and self._clock.now - since > LAG_S
        want(not late, "I4", f"{node.path} was asked to stop and stays {node.state_name}")

    def _stops_in_time(self) -> None:
        """I4 and I8: a stop takes the longest grace of each level, not their sum."""
        if self._engine.stopping is None or self._engine.stopped:
            return
        now = self._clock.now
        if self._stop_by is None:
            self._stop_by = now + _stop_time_s(self._engine.root)
        want(now <= self._stop_by, "I4", f"the tree should be down since {self._stop_by:.3f}")

    def _find(self, path: str) -> Node | None:
        node: Node | None = self._engine.root
        for name in path.split("/")[1:]:
            node = node.children.get(name) if node is not None else None
        return node


def _stop_time_s(node: Node) -> float:
    """The longest a stop of ``node`` may take: its children, dependents first, then itself."""
    times: dict[str, float] = {}
    for name, child in reversed(list(node.children.items())):  # dependents come last
        after = [
            times[other]
            for other, sibling in node.children.items()
            if name in sibling.spec.depends_on and other in times
        ]
        times[name] = max(after, default=0.0) + _stop_time_s(child)
    return max(times.values(), default=0.0) + node.spec.shutdown_timeout_s + STOP_SLACK_S


def unsettled(nodes: Iterator[Node]) -> list[str]:
    """What is not yet where it should be: declared children that are missing, those that leave,
    leaves that should run and do not, whatever should have stopped, actions in flight."""
    return [f"{node.path}: {why}" for node in nodes for why in _unsettled(node)]


def _unsettled(node: Node) -> Iterator[str]:
    if node.dirty:
        yield "it is to be looked at"
    declared: Any = node.desired.children if node.desired is not None else ()
    for spec in declared:
        if spec.name not in node.children and node.done.get(spec.name) != spec:
            yield f"{spec.name} is missing"
    if node.leaving:
        yield f"it leaves: {node.leaving}"
    if node.attempt is not None:
        yield f"{node.attempt.name} is in flight"
    if node.desired is None:
        yield "it has no desired state"
    elif node.stop_asked:
        if node.phase is not Phase.STOPPED:
            yield f"it should have stopped and is {node.state_name}"
    elif not node.children and node.phase is not Phase.RUNNING and not _is_held(node):
        yield f"it should run and is {node.state_name}: {node.reason}"


def _is_held(node: Node) -> bool:
    """Whether it waits for one that is to be stopped, or that is held itself."""
    parent = node.parent
    if parent is None or node.phase is not Phase.STOPPED:
        return False
    others = [parent.children[name] for name in node.held_by if name in parent.children]
    return any(other.stop_asked or _is_held(other) for other in others)
