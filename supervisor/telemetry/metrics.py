"""The metrics: the one place that updates those of the table.

Knows: which event and which reading moves which metric.
Does not know: their names' meaning (`metrictable`), files and identities (`ipc.metricfile`), who
exports.
Invariants: nothing here raises at its caller; every metric of the table is updated by some
call; the number of series is bounded: past a limit, names become "other".
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec

import prometheus_client

from fsmv2.ipc import metricfile
from fsmv2.supervisor.core import (
    breakerevents,
    readingevents,
    reloadevents,
    restartevents,
    storeevents,
)
from fsmv2.supervisor.core import events as ev
from fsmv2.supervisor.core import infrastructureevents as infra
from fsmv2.supervisor.core import workevents as work
from fsmv2.supervisor.core.fsm import Phase
from fsmv2.supervisor.core.procfsm import ProcState
from fsmv2.supervisor.core.readings import Reading
from fsmv2.supervisor.telemetry.metrictable import TABLE, Row

PATHS_MAX = 200
SERIES_MAX = 1_000
OTHER = "other"
_BY_UNIT = {
    "share": "fsmv2_reading_ratio",
    "1": "fsmv2_reading_load_per_cpu",
    "s": "fsmv2_reading_seconds",
    "1/min": "fsmv2_reading_per_minute",
}
# The verdict of a proc that the pool replaced in health: no crash.
RECYCLED = "recycled"


class _Family:
    """One metric with its label children cached: `labels()` costs more than all the rest."""

    __slots__ = ("_children", "_metric", "_other")

    def __init__(self, metric: Any, labels: int) -> None:
        self._metric = metric
        self._other = (OTHER,) * labels
        self._children: dict[tuple[str, ...], Any] = {}

    def __call__(self, *labels: str) -> Any:
        child = self._children.get(labels)
        if child is None:
            if len(self._children) >= SERIES_MAX:
                labels = self._other
            child = self._metric.labels(*labels) if labels else self._metric
            self._children[labels] = child
        return child

    def __iter__(self) -> Any:
        return iter(tuple(self._children.items()))


Arguments = ParamSpec("Arguments")


def _contained(method: Callable[Arguments, None]) -> Callable[Arguments, None]:
    @functools.wraps(method)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        try:
            method(*args, **kwargs)
        except Exception:  # a number that is not counted must not end what it counts
            self: Any = args[0]
            self.faults += 1

    return call


NO_STATE = {"closed": 0, "open": 0, "half_open": 0}


class Metrics:
    """All metrics of the root. Feed it events; call `tick`, `tree` and `pool` with readings.

    ``log_lines_dropped`` is asked at each tick for a count that only grows. ``faults`` counts
    errors swallowed here: 0, or there is a bug.
    """

    def __init__(self, log_lines_dropped: Callable[[], int] = lambda: 0) -> None:
        registry = prometheus_client.CollectorRegistry()
        self._families = {row.name: _family(row, registry) for row in TABLE}
        self._log_lines_dropped = log_lines_dropped
        self._paths: set[str] = set()
        self._told: dict[str, int] = {}
        self.faults = 0

    def __repr__(self) -> str:
        return f"<Metrics {len(self._families)} families, {len(self._paths)} paths>"

    @_contained
    def observe(self, event: ev.Event) -> None:
        """Count what ``event`` says."""
        match event:
            case ev.StateChanged(path=path, from_state=old, to_state=new):
                self._count("fsmv2_state_transitions_total", self._folded(path), old, new)
            case ev.ActionStarted(action_type=kind):
                self._count("fsmv2_action_queued_total", kind)
            case ev.ActionEnded():
                self._count_end(event)
            case ev.ActionRefused(action_type=kind):
                self._count("fsmv2_actions_total", kind, "refused", "refused")
            case ev.WorkerFaulted(step=step):
                self._count("fsmv2_worker_faults_total", step)
            case ev.ObservationFailed(action_type=kind):
                self._count("fsmv2_observation_failures_total", kind)
            case ev.WorkerAdded():
                self._count("fsmv2_reconciliation_total", "add")
            case ev.WorkerUpdated(inherited=False):
                self._count("fsmv2_reconciliation_total", "update")
            case ev.WorkerRemoved():
                self._count("fsmv2_reconciliation_total", "remove")
            case restartevents.RestartBudgetExceeded(outcome=outcome):
                self._count("fsmv2_restart_budget_exceeded_total", outcome)
            case ev.ChildrenRefused():
                self._count("fsmv2_reconciliation_total", "refuse")
            case ev.ProcStarted():
                self._count("fsmv2_proc_starts_total")
            case ev.ProcEnded(verdict=verdict):
                self._count("fsmv2_proc_deaths_total", verdict)
                if verdict == RECYCLED:
                    self._count("fsmv2_proc_recycles_total")
            case ev.TickSlow():
                self._count("fsmv2_slow_ticks_total")
            case ev.TemplateEnded():
                self._count("fsmv2_process_restarts_total", "template")
            case ev.OpsEnded():
                self._count("fsmv2_process_restarts_total", "ops")
            case storeevents.StoreEnded():
                self._count("fsmv2_process_restarts_total", "store")
            case storeevents.StoreDegraded():
                self._count("fsmv2_store_incidents_total")
            case infra.InfrastructureOpened():
                self._count("fsmv2_infrastructure_openings_total")
            case infra.InfrastructureRecovered(total_downtime_s=down_s):
                self._count("fsmv2_infrastructure_recovery_total")
                self._families["fsmv2_infrastructure_recovery_duration_seconds"]().observe(down_s)
            case readingevents.ReadingsLost():
                self._count("fsmv2_readings_lost_total")
            case _:
                self._observe_work(event)
                self._observe_breakers(event)
                self._observe_care(event)

    def _observe_work(self, event: ev.Event) -> None:
        """Observations that do not come, actions from outside, slow code."""
        match event:
            case work.ProbeRestarted():
                self._count("fsmv2_probe_restarts_total")
            case work.ObservationLost():
                self._count("fsmv2_observations_lost_total")
            case work.WorkerSlow(step=step):
                self._count("fsmv2_slow_worker_calls_total", step)
            case work.OutsideActionEnded(action_type=kind, status=status):
                self._count("fsmv2_outside_actions_total", kind, status)

    def _observe_breakers(self, event: ev.Event) -> None:
        """Failed children, and code that raises again and again."""
        match event:
            case breakerevents.ChildRestarted(cause=cause):
                self._count("fsmv2_child_restarts_total", cause)
            case breakerevents.EscalationRequired():
                self._count("fsmv2_escalations_total")
            case breakerevents.PanicBreakerOpened(panic_type=kind):
                self._count("fsmv2_panics_total", kind)

    def _observe_care(self, event: ev.Event) -> None:
        """How the pool helps itself, and how it is helped."""
        match event:
            case ev.StartsThrottled():
                self._count("fsmv2_proc_starts_throttled_total")
            case ev.StartMethodChanged(method=method):
                self._count("fsmv2_proc_start_method_changes_total", method)
            case ev.PreloadExcluded():
                self._count("fsmv2_preload_exclusions_total")
            case ev.ActionTypeQuarantined(action_type=kind):
                self._count("fsmv2_action_type_quarantines_total", kind)
            case ev.ActionTypeReleased(action_type=kind):
                self._count("fsmv2_action_type_releases_total", kind)
            case reloadevents.ReloadApplied():
                self._count("fsmv2_reloads_total", "applied")
            case reloadevents.ReloadRefused():
                self._count("fsmv2_reloads_total", "refused")
            case ev.OperatorCommanded(command=command, outcome=outcome):
                self._count("fsmv2_operator_commands_total", command, outcome)

    @_contained
    def tick(self, duration_s: float) -> None:
        """Count one tick that took ``duration_s`` seconds, and the drops since the last."""
        self._families["fsmv2_ticks_total"]().inc()
        self._families["fsmv2_tick_duration_seconds"]().observe(duration_s)
        self._count_new("fsmv2_log_lines_dropped_total", self._log_lines_dropped())
        self._count_new("fsmv2_metric_values_dropped_total", metricfile.dropped_values())

    @_contained
    def tree(
        self, phases: Mapping[str, int], children: Mapping[str, int], circuits_open: int
    ) -> None:
        """Set how many workers are in each phase, how many children each path has, and how
        many breakers are open. Phases and paths that are not named become 0."""
        self._set_all("fsmv2_workers", {str(phase): 0 for phase in Phase} | _by_name(phases))
        folded: dict[str, int] = {}
        for path, count in children.items():
            name = self._folded(path)
            folded[name] = folded.get(name, 0) + count
        self._set_all("fsmv2_children_count", folded)
        self._families["fsmv2_circuit_open"]().set(circuits_open)

    @_contained
    def infrastructure(self, state: str, limits: Mapping[str, float], waiting: int) -> None:
        """Set which state the infrastructure breaker is in, at which value of which reading it
        opens, and how many workers wait for their turn."""
        self._set_all("fsmv2_infrastructure_state", NO_STATE | {state: 1})
        self._set_all("fsmv2_infrastructure_limit", limits)
        self._families["fsmv2_infrastructure_waiting"]().set(waiting)

    @_contained
    def pool(self, stats: Mapping[str, Any]) -> None:
        """Set the pool's gauges from the status document's ``pool`` object: ``procs`` with
        ``state``, ``lane`` and ``action``, ``queued``, a number or one for each lane, and how it
        takes care of itself: `pool_statistics`."""
        states = {str(state): 0 for state in ProcState}
        busy: dict[str, int] = {}
        lanes: dict[str, int] = {}
        for proc in stats.get("procs", ()):
            state, lane = str(proc["state"]), str(proc["lane"])
            states[state] = states.get(state, 0) + 1
            lanes[lane] = lanes.get(lane, 0) + 1
            busy[lane] = busy.get(lane, 0) + (proc.get("action") is not None)
        self._set_all("fsmv2_procs", states)
        shares = {lane: busy[lane] / count for lane, count in lanes.items()}
        self._set_all("fsmv2_worker_pool_utilization", shares)
        queued = stats.get("queued", 0)
        waiting = _by_name(queued) if isinstance(queued, Mapping) else {"action": int(queued)}
        self._set_all("fsmv2_worker_pool_queue_size", waiting)
        self._families["fsmv2_action_queue_size"]().set(sum(waiting.values()))
        self._families["fsmv2_action_types_quarantined"]().set(len(stats.get("quarantined", ())))
        self._families["fsmv2_proc_starts_waiting"]().set(stats.get("starts_waiting", 0))
        self._families["fsmv2_preloads_excluded"]().set(len(stats.get("excluded", ())))
        self._set_all("fsmv2_proc_start_method", {str(stats.get("start_method", OTHER)): 1})
        self._count_new("fsmv2_late_results_total", stats.get("late_results_dropped", 0))

    @_contained
    def readings(self, readings: Iterable[Reading]) -> None:
        """Set what the machine and the pool say; what is not said any more is NaN."""
        values: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in _BY_UNIT.values()}
        missing = 0
        for reading in readings:
            missing += reading.value is None
            metric = _BY_UNIT.get(reading.unit)
            if metric is not None and reading.value is not None:
                values[metric][reading.name, reading.scope] = reading.value
        for name, found in values.items():
            family = self._families[name]
            for labels, child in family:
                # A series cannot be removed from a metric file, and 0 would say that all is well.
                if labels not in found:
                    child.set(math.nan)
            for labels, value in found.items():
                family(*labels).set(value)
        self._families["fsmv2_readings_missing"]().set(missing)

    def _count(self, name: str, *labels: str) -> None:
        self._families[name](*labels).inc()

    def _count_end(self, event: ev.ActionEnded) -> None:
        kind, status = event.action_type, event.status
        self._count("fsmv2_actions_total", kind, status, event.verdict)
        if status == "timed_out":
            self._count("fsmv2_action_timeout_total", kind)
        # A refused action and one cancelled in the queue never ran: 0 s would spoil the sum.
        if event.ran_s > 0:
            if event.circuit_open_s is not None:
                self._count("fsmv2_actions_during_circuit_total")
                after = self._families["fsmv2_action_post_circuit_duration_seconds"]
                after().observe(event.circuit_open_s)
            durations = self._families["fsmv2_action_execution_duration_seconds"]
            durations(kind, status).observe(event.ran_s)

    def _count_new(self, name: str, total: int) -> None:
        """Counters whose total is counted elsewhere, and only grows."""
        new = total - self._told.get(name, 0)
        if new > 0:
            self._families[name]().inc(new)
        self._told[name] = total

    def _set_all(self, name: str, values: Mapping[str, float]) -> None:
        family = self._families[name]
        for labels, child in family:
            # A series cannot be removed from a metric file; 0 is what is left to say.
            if labels[0] not in values:
                child.set(0)
        for label, value in values.items():
            family(label).set(value)

    def _folded(self, path: str) -> str:
        if path in self._paths:
            return path
        if len(self._paths) >= PATHS_MAX:
            return OTHER
        self._paths.add(path)
        return path


def _by_name(counts: Mapping[Any, int]) -> dict[str, int]:
    return {str(name): count for name, count in counts.items()}


def _family(row: Row, registry: prometheus_client.CollectorRegistry) -> _Family:
    metric: Any
    match row.kind:
        case "counter":
            metric = prometheus_client.Counter(row.name, row.help, row.labels, registry=registry)
        case "histogram":
            metric = prometheus_client.Histogram(
                row.name, row.help, row.labels, registry=registry, buckets=row.buckets
            )
        case "gauge":
            # The newest value, and only while its writer lives.
            metric = prometheus_client.Gauge(
                row.name,
                row.help,
                row.labels,
                registry=registry,
                multiprocess_mode="livemostrecent",
            )
    return _Family(metric, len(row.labels))
