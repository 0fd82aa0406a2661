"""What a parent keeps of its children's breakers, and what others ask of it.

Knows: the tracks of the children that have failed, or were restarted not long ago.
Does not know: what makes a child fail (`childlooks`), what follows (`childcare`).
Invariants: asking changes nothing but who is looked at next.
"""

from __future__ import annotations

from fsmv2.supervisor.core.childbreaker import CALM, NEVER, Track
from fsmv2.supervisor.core.phase import Phase
from fsmv2.supervisor.core.worker import Worker, WorkerFactory
from fsmv2.supervisor.tree.node import Node


class Care:
    """What a parent keeps of its children's breakers. ``tracks`` by name; ``degraded``
    from when on it counts, with the incarnation; ``blamed`` is whom and what a sanity check says,
    by the check's name."""

    __slots__ = (
        "_failed", "blamed", "closed_at", "degraded", "due_at", "heartbeat_at", "opened_at",
        "orders", "tracks",
    )  # fmt: skip

    def __init__(self) -> None:
        self.tracks: dict[str, Track] = {}
        self.degraded: dict[str, tuple[Node, float]] = {}
        self.blamed: dict[str, tuple[str, str]] = {}
        self.orders: list[str] = []
        self.opened_at: float | None = None
        self.closed_at = -NEVER
        self.heartbeat_at = NEVER
        # When the first of the tracks has something due; many may be open at a time.
        self.due_at = NEVER
        self._failed: list[str] | None = None

    def keep(self, name: str, track: Track) -> None:
        """``track`` is what is known of the child ``name`` from now on."""
        if self.tracks.get(name) is not track:
            self.tracks[name] = track
            self._failed = None
        self.due_at = min(self.due_at, track.wake_at())

    def drop(self, name: str) -> Track:
        """Forget what is known of the child ``name``, and return it."""
        self._failed = None
        return self.tracks.pop(name, CALM)

    @property
    def is_open(self) -> bool:
        """Whether a child has failed."""
        return self.opened_at is not None

    @property
    def is_idle(self) -> bool:
        """Whether nothing has to be looked at again."""
        return not (self.tracks or self.degraded)

    def failed(self) -> list[str]:
        """The children that have failed, at the head the one that matters most: for whom a person
        was called, who was restarted most often, who failed first. Others may only wait for it."""
        if self._failed is None:
            names = [name for name, track in self.tracks.items() if track.is_open]
            self._failed = sorted(names, key=self._weight)
        return self._failed

    def _weight(self, name: str) -> tuple[bool, int, float]:
        track = self.tracks[name]
        return not track.escalated, -len(track.attempts), track.since or 0.0


def told(node: Node) -> str:
    """Whose failure keeps the circuit of ``node`` open, and why."""
    care = node.care
    failed = care.failed() if care is not None else []
    if care is None or not failed:
        return ""
    track = care.tracks[failed[0]]
    more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
    return f"{failed[0]} has failed ({track.cause}: {track.detail}){more}"


def is_strict(node: Node) -> bool:
    """Whether the children of ``node`` that have not failed are not looked at now."""
    care, desired = node.care, node.desired
    return care is not None and care.is_open and desired is not None and desired.strict_circuit


def goes_on(node: Node, child: Node) -> bool:
    """Whether ``child`` is looked at though its parent's circuit is open and strict: also one that
    the failed one waits for, or that one waits for, or neither would ever run."""
    care = node.care
    if child.stop_asked or care is None:
        return True
    failed = {name for name, track in care.tracks.items() if track.is_open}
    return child.spec.name in failed or child.spec.name in _needed(node, failed)


def _needed(node: Node, names: set[str]) -> set[str]:
    """The siblings that ``names`` wait for, and that those wait for."""
    found: set[str] = set()
    todo = [node.children[name] for name in names if name in node.children]
    while todo:
        for other in todo.pop().held_by:
            if other not in found and other in node.children:
                found.add(other)
                todo.append(node.children[other])
    return found


def may_change(node: Node) -> None:
    """Something that its parent's open circuit goes by has changed of ``node``."""
    above = node.parent
    if above is not None and above.care is not None and above.care.is_open:
        above.mark_dirty()


def freed(node: Node) -> None:
    """What has held ``node`` back may do so no more, or the other way round: one in trouble may
    count as failed now though nothing of it has changed."""
    above = node.parent
    if above is None:
        return
    in_trouble = node.panic_since is not None or node.is_lost or node.phase is Phase.DEGRADED
    if in_trouble or (above.care is not None and above.care.is_open):
        above.suspects[node.spec.name] = None
        above.mark_dirty()


def status_changed(node: Node) -> None:
    """A new status of ``node``: its parent's sanity checks may say something else now."""
    above = node.parent
    if above is None:
        return
    name = node.spec.name
    if any(name in check.participants for check in type(above.worker).sanity_checks):
        above.suspects[name] = None
        above.mark_dirty()


def type_of_child(node: Node, factory: WorkerFactory, name: str) -> type[Worker]:
    """The type of a child that is there or declared: one that cannot be made has failed too."""
    child = node.children.get(name)
    if child is not None:
        return type(child.worker)
    spec = next(spec for spec in node.declared or () if spec.name == name)
    return factory.type_of(spec.worker_type)


def attempts_of(node: Node, name: str) -> int:
    """How often it was tried to bring a failed child back."""
    care = node.care
    return (care.tracks[name] if care is not None else CALM).attempts_shown()


def next_retry_in_s(node: Node, name: str, now: float) -> float | None:
    """When a failed child is restarted; None: nobody does, or a restart is under way."""
    care, later = node.care, node.later.get(name)
    track = care.tracks[name] if care is not None else CALM
    moment = track.next_at
    if track.cause == "exists" and later is not None and name not in node.children:
        moment = later.moment
    return None if moment == NEVER else max(0.0, moment - now)
