"""A protocol converter: reads a device over TCP and delivers each record exactly once.

``protocol_converter`` has three children: ``connection`` watches whether the device can be
reached, ``source_flow`` asks it for the records after the last one it has stored and appends
them to a spool, ``sink_flow`` takes them from the spool and appends them to ``records.jsonl``.
With ``nested: true`` the tree has a level more: ``source_flow`` is then the connection's child.

Knows: the children, what they inherit, the phases of the connection and of the whole.
Does not know: how records are moved (`flows`), procs, retries.
Invariants: uses public names of `fsmv2.supervisor` only; what the children need is rendered
from variables, so that a new IP reaches all of them in place.
"""

from __future__ import annotations

import socket
import time
from typing import Literal

import msgspec

from fsmv2.examples.flows import CONNECT_S, SinkFlow, SourceFlow, split_address
from fsmv2.supervisor import (
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
    VariableBundle,
    Worker,
)

ADDRESS = "{{ IP }}:{{ PORT }}"
TOPIC = "umh.v1.{{ location_path }}.{{ name }}"


# --- connection -----------------------------------------------------------------------------


class ConnectionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``address`` is HOST:PORT. With a ``spool`` folder a source flow stands below."""

    address: str
    spool: str | None = None

    def __post_init__(self) -> None:
        split_address(self.address)


class Reachability(msgspec.Struct, frozen=True):
    """Whether the device took a connection, how long that took, and if not, why."""

    reachable: bool
    connect_ms: float = 0.0
    why: str = ""


class ProbeAddress(Action, frozen=True):
    """Connects and hangs up."""

    timeout_s = CONNECT_S + 1.0
    address: str

    def execute(self, ctx: ActionContext) -> Reachability:
        """A device that cannot be reached is an observation, not a failure."""
        started = time.monotonic()
        try:
            socket.create_connection(split_address(self.address), timeout=CONNECT_S).close()
        except (OSError, ValueError) as error:  # ValueError: a host name that is none
            return Reachability(False, why=getattr(error, "strerror", None) or str(error))
        return Reachability(True, connect_ms=(time.monotonic() - started) * 1e3)


class ConnectionStopped(State):
    """Not watched by the machine; still observed."""

    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Go:
        """Begin."""
        return Go(ConnectionConnecting, reason=f"asked to be {snap.desired.state}")


class ConnectionConnecting(State):
    """Never reached since the start."""

    phase = Phase.STARTING

    def next(self, snap: Snapshot) -> Go | Stay:
        """Up as soon as it answers."""
        return _reached(snap) or Stay(
            reason=f"{snap.config.address}: {snap.status.why}, for {snap.time_in_state_s:.0f} s"
        )


class ConnectionUp(State):
    """The device answers."""

    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Go | Stay:
        """Lost at the first probe that fails."""
        if snap.status.reachable:
            return Stay(reason=f"{snap.config.address} in {snap.status.connect_ms:.1f} ms")
        return Go(ConnectionLost, reason=f"{snap.config.address}: {snap.status.why}")


class ConnectionLost(State):
    """It answered once and does not now."""

    phase = Phase.DEGRADED

    def next(self, snap: Snapshot) -> Go | Stay:
        """Back as soon as it answers."""
        return _reached(snap) or Stay(
            reason=f"{snap.config.address}: {snap.status.why}, for {snap.time_in_state_s:.0f} s"
        )


def _reached(snap: Snapshot) -> Go | None:
    if not snap.status.reachable:
        return None
    reason = f"{snap.config.address} answered in {snap.status.connect_ms:.1f} ms"
    return Go(ConnectionUp, reason=reason)


class Connection(Worker):
    """Watches one address."""

    type_name = "connection"
    config_type = ConnectionConfig
    status_type = Reachability
    initial = stopping = ConnectionStopped

    def derive_desired_state(self, spec: UserSpec) -> DesiredState:
        """Up, and the flow below it with it."""
        config = spec.decode(ConnectionConfig)
        flows = () if config.spool is None else (_source(config.spool, {"up": "running"}),)
        return DesiredState(state="up", config=config, children=flows)

    def observe(self, desired: DesiredState) -> Action:
        """Probe the address."""
        return ProbeAddress(desired.config.address)


# --- the whole ------------------------------------------------------------------------------


class ConverterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``name`` is the device's in topics; ``folder`` holds spool and output, made if need be;
    an ``idle`` converter keeps its children, stopped. Without ``deliver`` there is no sink;
    ``nested`` puts the source below the connection."""

    name: str
    folder: str
    state: Literal["active", "idle"] = "active"
    deliver: bool = True
    nested: bool = False


class ConverterStopped(State):
    """Nothing moves: stopped, or idle by config."""

    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Go | Stay:
        """Start unless idle is what is wanted."""
        if snap.desired.state == "idle":
            return Stay(reason=f"idle, {len(snap.children)} children stopped")
        return Go(ConverterStarting, reason=f"asked to be {snap.desired.state}")


class ConverterStarting(State):
    """Not all children run yet."""

    phase = Phase.STARTING

    def next(self, snap: Snapshot) -> Go | Stay:
        """Running once all children are."""
        if snap.desired.state == "idle":
            return Go(ConverterStopping, reason="asked to be idle")
        if len(snap.children) and snap.children.all_healthy:
            return Go(ConverterRunning, reason=f"all {len(snap.children)} children run")
        return Stay(reason=_waiting_for(snap))


class ConverterRunning(State):
    """Records flow."""

    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Go | Stay:
        """Degraded as soon as one child is not running."""
        if snap.desired.state == "idle":
            return Go(ConverterStopping, reason="asked to be idle")
        if not snap.children.all_healthy:
            return Go(ConverterDegraded, reason=_waiting_for(snap))
        return Stay(reason=f"all {len(snap.children)} children run")


class ConverterDegraded(State):
    """It ran, and a child does not now."""

    phase = Phase.DEGRADED

    def next(self, snap: Snapshot) -> Go | Stay:
        """Back once all children run."""
        if snap.desired.state == "idle":
            return Go(ConverterStopping, reason="asked to be idle")
        if snap.children.all_healthy:
            return Go(ConverterRunning, reason=f"all {len(snap.children)} children run again")
        return Stay(reason=_waiting_for(snap))


class ConverterStopping(State):
    """The children stop first."""

    phase = Phase.STOPPING

    def next(self, snap: Snapshot) -> Go | Stay:
        """Stopped once they are."""
        # When the stop comes from above, the framework stops the children before it asks here.
        if snap.desired.stop_asked or snap.children.all_stopped:
            return Go(ConverterStopped, reason=f"{len(snap.children)} children stopped")
        return Stay(reason=f"{len(snap.children) - snap.children.count(Phase.STOPPED)} still stop")


def _waiting_for(snap: Snapshot) -> str:
    late = [f"{c.name} is {c.state}" for c in snap.children.values() if c.phase != Phase.RUNNING]
    return f"{snap.children.healthy_count} of {len(snap.children)} run: {', '.join(late)}"


class ProtocolConverter(Worker):
    """The parent: declares the three children, and its phases follow theirs."""

    type_name = "protocol_converter"
    config_type = ConverterConfig
    initial = ConverterStopped
    stopping = ConverterStopping

    def derive_desired_state(self, spec: UserSpec) -> DesiredState:
        """One connection, one or two flows. The flows wait for the connection."""
        config = spec.decode(ConverterConfig)
        connection = {"address": ADDRESS}
        if config.nested:
            connection["spool"] = config.folder
        # The source finds its name in its own variables or, below the connection, in that one's.
        read = f"{config.name}_read"
        name = read if config.nested else config.name
        children = [_child("connection", connection, {"active": "up"}, name)]
        if not config.nested:
            children.append(_source(config.folder, {"active": "running"}, read, "connection"))
        if config.deliver:
            where = {"folder": config.folder}
            write = f"{config.name}_write"
            children.append(_child("sink_flow", where, {"active": "running"}, write, "connection"))
        return DesiredState(state=config.state, config=config, children=tuple(children))


def _source(folder: str, runs: dict[str, str], name: str = "", *needs: str) -> ChildSpec:
    config = {"address": ADDRESS, "topic": TOPIC, "folder": folder}
    return _child("source_flow", config, runs, name, *needs)


def _child(
    kind: str, config: dict[str, str], runs: dict[str, str], name: str, *needs: str
) -> ChildSpec:
    """``runs`` maps the parent's word to the child's; "idle" stops it."""
    return ChildSpec(
        name=kind,
        worker_type=kind,
        user_spec=UserSpec(
            config=dict(config), variables=VariableBundle(user={"name": name} if name else {})
        ),
        state_mapping={**runs, "idle": "stopped"},
        depends_on=needs,
    )


WORKERS = [ProtocolConverter, Connection, SourceFlow, SinkFlow]
