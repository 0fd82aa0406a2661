"""What a parent's worker sees of its children.

Knows: the children's names, states and reasons, and how many are in each phase.
Does not know: nodes, when a view is made.
Invariants: a view never changes; a count costs the same for three children and for thousands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from fsmv2.supervisor.core.phase import Phase


class ChildInfo(msgspec.Struct, frozen=True):
    """What a parent sees of one child."""

    name: str
    path: str
    worker_type: str
    state: str
    phase: Phase
    reason: str


class ChildrenView(Mapping[str, ChildInfo]):
    """The children of a node, by name in declared order, with the usual aggregates.

    Healthy is phase running only; stopped counts neither as healthy nor as unhealthy. With no
    children every ``all_…`` is true. ``given_up`` names children (of the root) that are not there
    because their restarts are spent. Source: fsmv2-behaviour.md §1.3.
    """

    __slots__ = ("_by_name", "_counts", "given_up")

    def __init__(self, children: Iterable[ChildInfo] = (), given_up: tuple[str, ...] = ()) -> None:
        self._by_name = {child.name: child for child in children}
        self._counts = dict.fromkeys(Phase, 0)
        for child in self._by_name.values():
            self._counts[child.phase] += 1
        self.given_up = given_up

    def __getitem__(self, name: str) -> ChildInfo:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        return f"<ChildrenView {', '.join(f'{c.name}={c.state}' for c in self.values())}>"

    def count(self, *phases: Phase) -> int:
        """How many children are in one of ``phases``."""
        return sum([self._counts.get(phase, 0) for phase in set(phases)])

    def updated(self, changed: Iterable[ChildInfo], given_up: tuple[str, ...]) -> ChildrenView:
        """A view in which the infos of ``changed`` stand in the place of those of their names.
        For the engine: with many children this costs far less than a new view."""
        view = ChildrenView((), given_up)
        view._by_name, view._counts = self._by_name.copy(), self._counts.copy()
        for child in changed:
            view._counts[view._by_name[child.name].phase] -= 1
            view._counts[child.phase] += 1
            view._by_name[child.name] = child
        return view

    @property
    def healthy_count(self) -> int:
        """Children in phase running."""
        return self.count(Phase.RUNNING)

    @property
    def unhealthy_count(self) -> int:
        """Children neither running nor stopped."""
        return self.count(Phase.STARTING, Phase.DEGRADED, Phase.STOPPING)

    @property
    def all_healthy(self) -> bool:
        """All are in phase running."""
        return self.healthy_count == len(self)

    @property
    def all_operational(self) -> bool:
        """All are running or degraded."""
        return self.count(Phase.RUNNING, Phase.DEGRADED) == len(self)

    @property
    def all_stopped(self) -> bool:
        """All are stopped."""
        return self.count(Phase.STOPPED) == len(self)


NO_CHILDREN = ChildrenView()
