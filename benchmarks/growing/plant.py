"""Workers of the tree benchmarks: branches, quiet leaves, and meters that are observed each second.

Knows: the public names of `fsmv2.supervisor`.
Does not know: what is measured.
Invariants: a plug-in like any user's; imports nothing of the benchmarks, procs load it.
"""

from __future__ import annotations

import msgspec

from fsmv2.supervisor import (
    Act,
    Action,
    ActionContext,
    ChildSpec,
    DesiredState,
    Go,
    Phase,
    Snapshot,
    State,
    Stay,
    UserSpec,
    Worker,
)


class BranchConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``widths``: how many children this node has, each of those, and so on."""

    widths: tuple[int, ...] = ()
    leaf: str = "leaf"


class LeafConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    host: str = ""
    port: int = 0


class Read(Action, frozen=True):
    timeout_s = 2.0
    host: str

    def execute(self, ctx: ActionContext) -> int:
        return 1


class Begin(Action, frozen=True):
    timeout_s = 5.0
    host: str

    def execute(self, ctx: ActionContext) -> int:
        return 1


class Stopped(State):
    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Go:
        return Go(Running, reason="asked to run")


class Running(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Stay:
        return Stay(reason="runs")


class Counting(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Stay:
        return Stay(reason=f"{snap.children.healthy_count} of {len(snap.children)} run")


class BranchStopped(State):
    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Go:
        return Go(Counting, reason="asked to run")


class Starting(State):
    phase = Phase.STARTING

    def next(self, snap: Snapshot) -> Go | Act:
        if snap.result(Begin) is not None:
            return Go(Running, reason="begun")
        return Act(Begin(snap.config.host), reason="not begun")


class ActorStopped(State):
    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Go:
        return Go(Starting, reason="asked to run")


class Branch(Worker):
    type_name, config_type = "branch", BranchConfig
    initial = stopping = BranchStopped

    def derive_desired_state(self, spec: UserSpec) -> DesiredState:
        config = spec.decode(BranchConfig)
        return DesiredState("running", config, children(config.widths, config.leaf))


class Leaf(Worker):
    type_name, config_type = "leaf", LeafConfig
    initial = stopping = Stopped


class Actor(Worker):
    """Runs when one action has ended."""

    type_name, config_type = "actor", LeafConfig
    initial = stopping = ActorStopped


class Meter(Worker):
    """Observed each second."""

    type_name, config_type, status_type = "meter", LeafConfig, int
    initial = stopping = Stopped

    def observe(self, desired: DesiredState) -> Action:
        return Read(desired.config.host)


def children(widths: tuple[int, ...], leaf: str = "leaf") -> tuple[ChildSpec, ...]:
    """Specs of a level, whose configs say what is below."""
    if not widths:
        return ()
    width, *rest = widths
    if rest:
        config = {"widths": rest, "leaf": leaf}
        return tuple(ChildSpec(f"b{n}", "branch", UserSpec(config)) for n in range(width))
    return tuple(
        ChildSpec(f"n{n}", leaf, UserSpec({"host": "plant", "port": n})) for n in range(width)
    )


WORKERS = [Branch, Leaf, Actor, Meter]
