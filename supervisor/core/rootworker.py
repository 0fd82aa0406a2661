"""The worker at the top: the config's workers are its children.

Knows: how a config becomes child specs.
Does not know: files, the engine.
Invariants: an ordinary worker in every respect; it is running as soon as it may be, and its
children's troubles show in its phase, not in its life.
"""

from __future__ import annotations

import msgspec

from fsmv2.supervisor.core.fsm import Decision, Go, Phase, Snapshot, State, Stay
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
        """Degraded as soon as a child is."""
        poor = snap.children.count(Phase.DEGRADED)
        if poor:
            return Go(Degraded, reason=_counts(snap))
        return Stay(reason=_counts(snap))


class Degraded(State):
    """At least one child is degraded."""

    phase = Phase.DEGRADED

    def next(self, snap: Snapshot) -> Decision:
        """Back when none is."""
        if not snap.children.count(Phase.DEGRADED):
            return Go(Running, reason=_counts(snap))
        return Stay(reason=_counts(snap))


def _counts(snap: Snapshot) -> str:
    told = [
        f"{count} {phase}" for phase in Phase if (count := snap.children.count(phase))
    ]  # in the order of the phases
    return ", ".join(told) or "no workers"


class RootWorker(Worker):
    """See the module."""

    type_name = "root"
    config_type = RootConfig
    initial = stopping = Stopped

    def __init__(self, children: tuple[ChildSpec, ...] = ()) -> None:
        self._children = children

    def derive_desired_state(self, spec: UserSpec) -> DesiredState:
        """The config's workers."""
        return DesiredState(
            state="running", config=RootConfig(self._children), children=self._children
        )
