"""The worker at the top: the config's workers are its children.

Knows: how a config becomes child specs.
Does not know: files, the engine.
Invariants: an ordinary worker in every respect but one: it cannot end by its children's troubles,
which show in its phase and its reason. It is running as soon as it may be.
"""

from __future__ import annotations

import msgspec

from fsmv2.supervisor.core.fsm import Decision, Go, Phase, Snapshot, State, Stay
from fsmv2.supervisor.core.restarts import RestartBudget, Strategy
from fsmv2.supervisor.core.spec import ChildSpec, DesiredState, UserSpec
from fsmv2.supervisor.core.worker import Worker


class RootConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The children, as specs."""

    children: tuple[ChildSpec, ...] = ()


class Stopped(State):
    """Nothing runs."""

    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Decision:
        """Leave at once: a root exists to run."""
        return Go(Running, reason=f"supervising {len(snap.children)} workers")


class Running(State):
    """All children that should run do."""

    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Decision:
        """Degraded as soon as a child is, or is given up."""
        if _is_poor(snap):
            return Go(Degraded, reason=_counts(snap))
        return Stay(reason=_counts(snap))


class Degraded(State):
    """At least one child is degraded, or given up."""

    phase = Phase.DEGRADED

    def next(self, snap: Snapshot) -> Decision:
        """Back when none is."""
        if not _is_poor(snap):
            return Go(Running, reason=_counts(snap))
        return Stay(reason=_counts(snap))


def _is_poor(snap: Snapshot) -> bool:
    return bool(snap.children.count(Phase.DEGRADED) or snap.children.given_up)


def _counts(snap: Snapshot) -> str:
    told = [
        f"{count} {phase}" for phase in Phase if (count := snap.children.count(phase))
    ]  # in the order of the phases
    lost = ", ".join(snap.children.given_up)
    away = f"; given up, their restarts are spent: {lost}" if lost else ""
    return (", ".join(told) or "no workers") + away


class RootWorker(Worker):
    """See the module."""

    type_name = "root"
    config_type = RootConfig
    initial = stopping = Stopped

    def __init__(
        self,
        children: tuple[ChildSpec, ...] = (),
        strategy: Strategy = "one_for_one",
        restart_budget: RestartBudget | None = None,
        strict_circuit: bool = False,
    ) -> None:
        self._children = children
        self._strategy: Strategy = strategy
        self._budget = restart_budget or RestartBudget()
        self._strict = strict_circuit

    def derive_desired_state(self, spec: UserSpec) -> DesiredState:
        """The config's workers."""
        return DesiredState(
            state="running",
            config=RootConfig(self._children),
            children=self._children,
            strategy=self._strategy,
            restart_budget=self._budget,
            strict_circuit=self._strict,
        )
