"""The promises of child breakers, read off a simulation as it runs.

Knows: how often a child may be restarted, when its parent's circuit may not be open any more.
Does not know: why a child has failed.
Invariants: attempts are counted from events, not from the breaker's own books.
"""

from __future__ import annotations

from collections.abc import Iterable

from fsmv2.supervisor.core.breakerevents import (
    ChildRecovered,
    ChildRestarted,
    EscalationRequired,
)
from fsmv2.supervisor.core.childbreaker import DEFAULT
from fsmv2.supervisor.core.events import Event
from fsmv2.supervisor.core.fsm import Phase
from fsmv2.supervisor.tree.care import is_strict
from fsmv2.supervisor.tree.node import Node


class Circuits:
    """Of one simulation. What is broken is returned as a text, "" when nothing is."""

    def __init__(self) -> None:
        self._attempts: dict[str, list[float]] = {}
        # Those of an incident, which count for as long as it lasts.
        self._made: dict[str, int] = {}
        self._well: dict[str, tuple[float, int]] = {}

    def hear(self, event: Event, now: float) -> str:
        """No window holds more restarts than there are attempts."""
        match event:
            case ChildRestarted(path=parent, child_name=name):
                path = f"{parent}/{name}"
                kept = [at for at in self._attempts.get(path, ()) if now - at < DEFAULT.window_s]
                self._attempts[path] = [*kept, now]
                self._made[path] = self._made.get(path, 0) + 1
                if len(kept) >= DEFAULT.attempts:
                    return f"{path} was restarted {len(kept) + 1} times in {DEFAULT.window_s:g} s"
            case EscalationRequired(path=parent, child_name=name, cause=cause):
                # One that cannot be made is not restarted: it is made anew, by `reconciling`.
                made = self._made.get(f"{parent}/{name}", 0)
                kept = self._attempts.get(f"{parent}/{name}", [])
                if cause != "exists" and max(made, len(kept)) < DEFAULT.attempts:
                    return f"{parent}/{name} escalated before its attempts were used up"
            case ChildRecovered(path=parent, child_name=name):
                self._made.pop(f"{parent}/{name}", None)
        return ""

    def forget(self, path: str) -> None:
        """It has another spec, or is declared anew: what failed, failed on the old one."""
        self._attempts.pop(path, None)
        self._made.pop(path, None)

    def forget_below(self, path: str) -> None:
        """A new incarnation, which has not restarted anybody yet."""
        for each in [each for each in self._attempts if each.startswith(f"{path}/")]:
            self.forget(each)

    def look(self, nodes: Iterable[Node], now: float, lag_ticks: int, lag_s: float) -> str:
        """A circuit closes once its child is healthy."""
        well = {}
        for node in nodes:
            for name in node.care.failed() if node.care is not None else ():
                child = node.children.get(name)
                if child is None or not _is_well(child) or _is_paused(node):
                    continue
                if node.care is not None and any(
                    name == who for who, _ in node.care.blamed.values()
                ):
                    continue
                since, ticks = self._well.get(child.path, (now, 0))
                well[child.path] = (since, ticks + 1)
                if ticks >= lag_ticks and now - since > lag_s + DEFAULT.steady_s:
                    return f"{child.path} is healthy, and the circuit of {node.path} is open for it"
        self._well = well
        return ""


def _is_well(child: Node) -> bool:
    return child.phase is Phase.RUNNING and child.panic_since is None and not child.leaving


def _is_paused(node: Node) -> bool:
    """Whether one above does not have it looked at."""
    above = node.parent
    while above is not None:
        if is_strict(above):
            return True
        above = above.parent
    return False
