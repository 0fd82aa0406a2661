"""The config file's types: what `fsmv2 run CONFIG` understands.

Knows: keys, defaults, ranges, the closed sets of values.
Does not know: files and their formats (`supervisor.config` reads them).
Invariants: frozen; an unknown key is refused.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from fsmv2.supervisor.config.access import misfit
from fsmv2.supervisor.core.limits import Limit, unknown_reading
from fsmv2.supervisor.core.location import GapPolicy, Location
from fsmv2.supervisor.core.restarts import RestartBudget, RestartType, Strategy
from fsmv2.supervisor.core.runbooks import BASE_URL
from fsmv2.supervisor.core.secret import Secret
from fsmv2.supervisor.core.spec import ChildSpec, UserSpec
from fsmv2.supervisor.core.variables import VariableBundle

Procs = Annotated[int, Meta(ge=1, le=256)]


def default_procs() -> int:
    """One proc per CPU this process may use, at least two."""
    return max(2, len(os.sched_getaffinity(0)))


class RecyclingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a healthy proc is replaced: see `core.recycling.Recycling`."""

    actions: Annotated[int, Meta(ge=1, le=1_000_000_000)] | None = None
    seconds: Annotated[float, Meta(ge=1, le=31_536_000)] | None = None
    memory_bytes: Annotated[int, Meta(ge=1 << 20, le=1 << 47)] | None = None
    spread: Annotated[float, Meta(ge=0, le=0.9)] = 0.2


class QuarantineSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When an action type is kept apart: see `core.quarantine.QuarantineRules`; ``after`` 0 is
    never."""

    after: Annotated[int, Meta(ge=0, le=1_000)] = 5
    window_s: Annotated[float, Meta(ge=1, le=86_400)] = 300.0
    base_s: Annotated[float, Meta(ge=0.1, le=3_600)] = 1.0
    max_s: Annotated[float, Meta(ge=0.1, le=3_600)] = 60.0


class PoolSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Procs for actions, procs reserved for observations, lanes of their own for others, warm
    spares, queued actions, and how procs are started, replaced and kept apart."""

    procs: Procs = msgspec.field(default_factory=default_procs)
    observers: Procs = 1
    lanes: dict[str, Procs] = msgspec.field(default_factory=dict)
    spares: Annotated[int, Meta(ge=0, le=64)] = 1
    queue: Annotated[int, Meta(ge=1, le=1_000_000)] = 1_000
    pipeline: Annotated[int, Meta(ge=1, le=64)] = 64
    result_bytes_max: Annotated[int, Meta(ge=1 << 20, le=1 << 30)] = 16 << 20
    starts_per_s: Annotated[float, Meta(ge=0.1, le=1_000)] = 100.0
    start_method: Literal["auto", "template", "spawn"] = "auto"
    recycling: RecyclingSettings = msgspec.field(default_factory=RecyclingSettings)
    quarantine: QuarantineSettings = msgspec.field(default_factory=QuarantineSettings)


class HttpSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the ops process listens, ``HOST:PORT``; port 0 picks a free one; "off" for none.
    ``token`` is what a command over HTTP must show; None: that of the environment, if any."""

    listen: str = "127.0.0.1:8642"
    token: Secret | None = None

    def __post_init__(self) -> None:
        fault = misfit(self.token.reveal()) if self.token is not None else ""
        if fault:
            raise ValueError(f"cannot use the token: {fault}")


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where identity, desired and observed states are kept: in the root's memory, or in the file
    ``path``, from which the next root goes on. The log of changes, which only a file has, has
    ``keep_changes`` entries at most, none of them older than ``keep_s`` seconds."""

    kind: Literal["memory", "sqlite"] = "memory"
    path: str | None = None
    keep_changes: Annotated[int, Meta(ge=0, le=1_000_000)] = 10_000
    keep_s: Annotated[float, Meta(ge=1, le=31_536_000)] = 3_600.0

    def __post_init__(self) -> None:
        if self.kind == "sqlite" and not self.path:
            raise ValueError("cannot keep a store of kind sqlite: want a path")
        if self.kind == "memory" and self.path is not None:
            raise ValueError("cannot keep a store of kind memory in a file: want no path")


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``auto`` is console on a terminal and json elsewhere."""

    format: Literal["auto", "console", "json"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class MetricsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The folder of the metric files; None is a folder of this run's own, removed at its end.
    The environment's PROMETHEUS_MULTIPROC_DIR comes between the two."""

    folder: str | None = None


class ObservationSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How old what is observed may be, how often workers are observed: see
    `core.freshness.ObservationRules`."""

    stale_s: Annotated[float, Meta(gt=0, le=86_400)] = 10.0
    dead_s: Annotated[float, Meta(gt=0, le=86_400)] = 20.0
    spread: Annotated[float, Meta(ge=0, le=0.5)] = 0.1
    backoff_s: Annotated[float, Meta(ge=1, le=3_600)] = 30.0
    intervals: dict[str, Annotated[float, Meta(ge=0.01, le=3_600)]] = msgspec.field(
        default_factory=dict
    )


class RetrySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is changed of an action type's `core.action.Retry`; None: as its class says."""

    base_s: Annotated[float, Meta(ge=0.01, le=3_600)] | None = None
    factor: Annotated[float, Meta(ge=1, le=100)] | None = None
    max_s: Annotated[float, Meta(ge=0.01, le=86_400)] | None = None
    jitter: Annotated[float, Meta(ge=0, le=1)] | None = None
    attempts: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None


class ActionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one action type is treated; None: as its class says."""

    timeout_s: Annotated[float, Meta(ge=0.001, le=86_400)] | None = None
    grace_s: Annotated[float, Meta(ge=0, le=86_400)] | None = None
    retry: RetrySettings | None = None


class WorkerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One worker under the root. ``variables`` are its User variables."""

    name: str
    type: str
    config: dict[str, Any] | str = msgspec.field(default_factory=dict)
    variables: dict[str, Any] = msgspec.field(default_factory=dict)
    location: Location = msgspec.field(default_factory=Location)
    enabled: bool = True
    state_mapping: dict[str, str] = msgspec.field(default_factory=dict)
    depends_on: tuple[str, ...] = ()
    restart: RestartType = "permanent"
    shutdown_timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 10.0


class BreakerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When the machine is in too much trouble for new actions: ``limits`` by reading, over the
    defaults, "off" for none. ``report`` holds nothing back, it only tells. ``disks`` are paths
    whose space and inodes are read."""

    mode: Literal["enforce", "report", "off"] = "enforce"
    limits: dict[str, Limit | Literal["off"]] = msgspec.field(default_factory=dict)
    disks: tuple[str, ...] = ()
    interval_s: Annotated[float, Meta(ge=0.1, le=60)] = 1.0
    probe_s: Annotated[float, Meta(ge=1, le=3_600)] = 5.0
    heartbeat_s: Annotated[float, Meta(ge=0, le=3_600)] = 1.0

    def __post_init__(self) -> None:
        for name in self.limits:
            fault = unknown_reading(name, self.disks)
            if fault:
                raise ValueError(f"cannot limit {name!r}: {fault}")
        for path in self.disks:
            if not path.startswith("/"):
                raise ValueError(f"cannot watch the disk {path!r}: want an absolute path")


class ReloadSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``watch``: read the config anew whenever its file has changed; else when asked only."""

    watch: bool = False


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything `fsmv2 run` needs. ``name`` is the root's, and the first part of each path;
    ``runbooks`` is what links to runbooks begin with."""

    name: str
    workers: tuple[WorkerSettings, ...] = ()
    strategy: Strategy = "one_for_one"
    restart_budget: RestartBudget = msgspec.field(default_factory=RestartBudget)
    strict_circuit: bool = False
    restart_failed: bool = True
    plugins: tuple[str, ...] = ()
    location: Location = msgspec.field(default_factory=Location)
    location_gaps: GapPolicy = "skip"
    global_: dict[str, Any] = msgspec.field(default_factory=dict, name="global")
    tick_interval_s: Annotated[float, Meta(ge=0.01, le=60)] = 0.1
    slow_worker_s: Annotated[float, Meta(ge=0.001, le=60)] = 0.5
    outside_queue: Annotated[int, Meta(ge=1, le=100_000)] = 100
    observation: ObservationSettings = msgspec.field(default_factory=ObservationSettings)
    actions: dict[str, ActionSettings] = msgspec.field(default_factory=dict)
    pool: PoolSettings = msgspec.field(default_factory=PoolSettings)
    http: HttpSettings = msgspec.field(default_factory=HttpSettings)
    store: StoreSettings = msgspec.field(default_factory=StoreSettings)
    log: LogSettings = msgspec.field(default_factory=LogSettings)
    breaker: BreakerSettings = msgspec.field(default_factory=BreakerSettings)
    metrics: MetricsSettings = msgspec.field(default_factory=MetricsSettings)
    reload: ReloadSettings = msgspec.field(default_factory=ReloadSettings)
    runbooks: Annotated[str, Meta(pattern=r"^(https?:/)?/(\S*/)?$")] = BASE_URL


def child_spec(worker: WorkerSettings) -> ChildSpec:
    """One of the config's workers as a child of the root."""
    return ChildSpec(
        name=worker.name,
        worker_type=worker.type,
        user_spec=UserSpec(worker.config, VariableBundle(user=dict(worker.variables))),
        state_mapping=worker.state_mapping,
        enabled=worker.enabled,
        depends_on=worker.depends_on,
        restart=worker.restart,
        shutdown_timeout_s=worker.shutdown_timeout_s,
        location=worker.location,
    )


def child_specs(settings: Settings) -> tuple[ChildSpec, ...]:
    """All of them, in their order."""
    return tuple(child_spec(worker) for worker in settings.workers)
