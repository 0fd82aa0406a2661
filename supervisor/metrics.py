"""The metrics: one table, and the one place that updates them.

Knows: each metric's name, kind, help, labels and unit; which event moves which.
Does not know: files and identities (`ipc.metricfile`), who exports.
Invariants: nothing here raises at its caller; every metric of the table is updated by some
call; the number of series is bounded: past a limit, names become "other".
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, ParamSpec

import msgspec
import prometheus_client

from fsmv2.ipc import metricfile
from fsmv2.supervisor.core import events as ev
from fsmv2.supervisor.core.fsm import Phase
from fsmv2.supervisor.core.procfsm import ProcState

PATHS_MAX = 200
SERIES_MAX = 1_000
OTHER = "other"

TICK_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
ACTION_BUCKETS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Row(msgspec.Struct, frozen=True):
    """One metric. ``unit`` is for people; it is in the name already."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    buckets: tuple[float, ...] = ()


TABLE = (
    Row("fsmv2_ticks_total", "counter", "Ticks of the tree.", (), "ticks"),
    Row(
        "fsmv2_tick_duration_seconds",
        "histogram",
        "How long a tick took.",
        (),
        "seconds",
        TICK_BUCKETS,
    ),
    Row("fsmv2_slow_ticks_total", "counter", "Ticks longer than their interval.", (), "ticks"),
    Row("fsmv2_workers", "gauge", "Workers by phase.", ("phase",), "workers"),
    Row("fsmv2_children_count", "gauge", "Children of a worker.", ("path",), "workers"),
    Row(
        "fsmv2_circuit_open",
        "gauge",
        "Breakers that are open, the root's and the nodes'.",
        (),
        "breakers",
    ),
    Row(
        "fsmv2_state_transitions_total",
        "counter",
        "States entered, by the worker's path.",
        ("supervisor_id", "from_state", "to_state"),
        "transitions",
    ),
    Row(
        "fsmv2_reconciliation_total",
        "counter",
        "Children added, updated, removed, refused.",
        ("operation",),
        "operations",
    ),
    Row(
        "fsmv2_worker_faults_total",
        "counter",
        "Worker code that raised or returned nonsense, by step of the tick.",
        ("step",),
        "faults",
    ),
    Row(
        "fsmv2_observation_failures_total",
        "counter",
        "Observations that failed or were killed, incidents by action type.",
        ("action_type",),
        "incidents",
    ),
    Row(
        "fsmv2_action_queued_total",
        "counter",
        "Actions offered to the pool.",
        ("action_type",),
        "actions",
    ),
    Row("fsmv2_action_queue_size", "gauge", "Actions that wait for a proc.", (), "actions"),
    Row(
        "fsmv2_action_execution_duration_seconds",
        "histogram",
        "How long an action ran.",
        ("action_type", "status"),
        "seconds",
        ACTION_BUCKETS,
    ),
    Row(
        "fsmv2_action_timeout_total",
        "counter",
        "Actions killed at their deadline.",
        ("action_type",),
        "actions",
    ),
    Row(
        "fsmv2_actions_total",
        "counter",
        "Actions by how they ended.",
        ("action_type", "status", "verdict"),
        "actions",
    ),
    Row("fsmv2_proc_starts_total", "counter", "Procs that said hello.", (), "procs"),
    Row("fsmv2_proc_deaths_total", "counter", "Procs that ended.", ("verdict",), "procs"),
    Row("fsmv2_procs", "gauge", "Procs of the pool by state.", ("state",), "procs"),
    Row(
        "fsmv2_worker_pool_utilization",
        "gauge",
        "Share of a lane's procs that run an action, 0 to 1.",
        ("pool_name",),
        "share",
    ),
    Row(
        "fsmv2_worker_pool_queue_size",
        "gauge",
        "Actions that wait for a proc of a lane.",
        ("pool_name",),
        "actions",
    ),
    Row(
        "fsmv2_process_restarts_total",
        "counter",
        "Ends of the root's own helpers, template and ops.",
        ("process",),
        "restarts",
    ),
    Row("fsmv2_log_lines_dropped_total", "counter", "Log lines nobody took.", (), "lines"),
    Row(
        "fsmv2_metric_values_dropped_total",
        "counter",
        "Metric values of the root without room in the metrics folder.",
        (),
        "values",
    ),
)


def table_markdown() -> str:
    """The table as Markdown, for the documentation."""
    lines = ["| metric | kind | labels | unit | meaning |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| `{row.name}` | {row.kind} | {', '.join(f'`{label}`' for label in row.labels) or '–'} "
        f"| {row.unit} | {row.help} |"
        for row in TABLE
    ]
    return "\n".join(lines) + "\n"


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
        self._drops = {"fsmv2_log_lines_dropped_total": 0, "fsmv2_metric_values_dropped_total": 0}
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
            case ev.WorkerUpdated():
                self._count("fsmv2_reconciliation_total", "update")
            case ev.WorkerRemoved():
                self._count("fsmv2_reconciliation_total", "remove")
            case ev.ChildrenRefused():
                self._count("fsmv2_reconciliation_total", "refuse")
            case ev.ProcStarted():
                self._count("fsmv2_proc_starts_total")
            case ev.ProcEnded(verdict=verdict):
                self._count("fsmv2_proc_deaths_total", verdict)
            case ev.TickSlow():
                self._count("fsmv2_slow_ticks_total")
            case ev.TemplateEnded():
                self._count("fsmv2_process_restarts_total", "template")
            case ev.OpsEnded():
                self._count("fsmv2_process_restarts_total", "ops")

    @_contained
    def tick(self, duration_s: float) -> None:
        """Count one tick that took ``duration_s`` seconds, and the drops since the last."""
        self._families["fsmv2_ticks_total"]().inc()
        self._families["fsmv2_tick_duration_seconds"]().observe(duration_s)
        self._count_drops("fsmv2_log_lines_dropped_total", self._log_lines_dropped())
        self._count_drops("fsmv2_metric_values_dropped_total", metricfile.dropped_values())

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
    def pool(self, stats: Mapping[str, Any]) -> None:
        """Set the pool's gauges from the status document's ``pool`` object: ``procs`` with
        ``state``, ``lane`` and ``action``, and ``queued``, a number or one for each lane."""
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

    def _count(self, name: str, *labels: str) -> None:
        self._families[name](*labels).inc()

    def _count_end(self, event: ev.ActionEnded) -> None:
        kind, status = event.action_type, event.status
        self._count("fsmv2_actions_total", kind, status, event.verdict)
        if status == "timed_out":
            self._count("fsmv2_action_timeout_total", kind)
        # A refused action and one cancelled in the queue never ran: 0 s would spoil the sum.
        if event.ran_s > 0:
            durations = self._families["fsmv2_action_execution_duration_seconds"]
            durations(kind, status).observe(event.ran_s)

    def _count_drops(self, name: str, total: int) -> None:
        new = total - self._drops[name]
        if new > 0:
            self._families[name]().inc(new)
        self._drops[name] = total

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
