"""Workers of the tick benchmark: lines with stations that work, one that hangs."""

from __future__ import annotations

import time

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


class StationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    seconds: float
    hangs: bool = False


class Work(Action, frozen=True):
    timeout_s = 1.0
    retry = msgspec.structs.replace(Action.retry, base_s=0.01, max_s=0.01)
    seconds: float

    def execute(self, ctx: ActionContext) -> float:
        time.sleep(self.seconds)
        return self.seconds


class Stopped(State):
    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Go:
        return Go(Running, reason="asked to run")


class Running(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Act | Stay:
        config = snap.config
        if config.seconds or config.hangs:
            return Act(Work(600.0 if config.hangs else config.seconds), reason="work on")
        return Stay(reason="idle")


class Station(Worker):
    type_name, config_type = "station", StationConfig
    initial = stopping = Stopped


class LineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    stations: tuple[dict[str, object], ...]


class LineStopped(State):
    phase = Phase.STOPPED

    def next(self, snap: Snapshot) -> Go:
        return Go(LineRunning, reason="asked to run")


class LineRunning(State):
    phase = Phase.RUNNING

    def next(self, snap: Snapshot) -> Stay:
        return Stay(reason=f"{snap.children.healthy_count} of {len(snap.children)} run")


class Line(Worker):
    type_name, config_type = "line", LineConfig
    initial = stopping = LineStopped

    def derive_desired_state(self, spec: UserSpec) -> DesiredState:
        config = spec.decode(LineConfig)
        children = []
        for station in config.stations:
            rest = {key: value for key, value in station.items() if key != "name"}
            children.append(ChildSpec(str(station["name"]), "station", UserSpec(rest)))
        return DesiredState("running", config, tuple(children))


WORKERS = [Station, Line]
