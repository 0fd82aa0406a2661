"""The table of the root's metrics.

Knows: each metric's name, kind, help, labels and unit.
Does not know: what moves them, the library that keeps them.
Invariants: one row a metric; the documentation's table is made from this one.
"""

from __future__ import annotations

from typing import Literal

import msgspec

TICK_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
RECOVERY_BUCKETS = (1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0)
POST_CIRCUIT_BUCKETS = (1.0, 5.0, 10.0, 30.0, 60.0)
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
        "fsmv2_infrastructure_state",
        "gauge",
        "The infrastructure breaker: 1 for the state it is in, 0 for the others.",
        ("state",),
        "breakers",
    ),
    Row(
        "fsmv2_infrastructure_limit",
        "gauge",
        "The value of a reading, in its unit, at which the infrastructure breaker opens.",
        ("name",),
        "as the reading",
    ),
    Row(
        "fsmv2_infrastructure_waiting",
        "gauge",
        "Workers whose action waits for its turn while the infrastructure breaker is half open.",
        (),
        "workers",
    ),
    Row(
        "fsmv2_infrastructure_openings_total",
        "counter",
        "Times the infrastructure breaker opened.",
        (),
        "incidents",
    ),
    Row(
        "fsmv2_infrastructure_recovery_total",
        "counter",
        "Times the infrastructure breaker closed again.",
        (),
        "incidents",
    ),
    Row(
        "fsmv2_infrastructure_recovery_duration_seconds",
        "histogram",
        "How long the infrastructure breaker was not closed.",
        (),
        "seconds",
        RECOVERY_BUCKETS,
    ),
    Row(
        "fsmv2_actions_during_circuit_total",
        "counter",
        "Actions that ran when the infrastructure breaker opened, and ended while it was open.",
        (),
        "actions",
    ),
    Row(
        "fsmv2_action_post_circuit_duration_seconds",
        "histogram",
        "How long such actions went on after it had opened.",
        (),
        "seconds",
        POST_CIRCUIT_BUCKETS,
    ),
    Row(
        "fsmv2_child_restarts_total",
        "counter",
        "Failed children that were restarted, by what they had failed of.",
        ("cause",),
        "restarts",
    ),
    Row(
        "fsmv2_escalations_total",
        "counter",
        "Times the restarts of a failed child were used up and a person was called.",
        (),
        "incidents",
    ),
    Row(
        "fsmv2_panics_total",
        "counter",
        "Times a worker's code raised so often that its panic breaker opened.",
        ("panic_type",),
        "incidents",
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
        "fsmv2_restart_budget_exceeded_total",
        "counter",
        "Children that needed one restart more than their parent's budget, by what followed.",
        ("outcome",),
        "incidents",
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
        "fsmv2_probe_restarts_total",
        "counter",
        "Observations killed and begun anew because nothing had been seen for too long.",
        (),
        "restarts",
    ),
    Row(
        "fsmv2_observations_lost_total",
        "counter",
        "Times a worker counted as degraded because it could not be observed.",
        (),
        "incidents",
    ),
    Row(
        "fsmv2_slow_worker_calls_total",
        "counter",
        "Worker code that held the tick up for too long, incidents by step of the tick.",
        ("step",),
        "incidents",
    ),
    Row(
        "fsmv2_outside_actions_total",
        "counter",
        "Actions from outside the tree, by type and end.",
        ("action_type", "status"),
        "actions",
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
    Row(
        "fsmv2_proc_recycles_total",
        "counter",
        "Healthy procs replaced after their actions, time or memory.",
        (),
        "procs",
    ),
    Row("fsmv2_procs", "gauge", "Procs of the pool by state.", ("state",), "procs"),
    Row(
        "fsmv2_proc_starts_waiting",
        "gauge",
        "Procs whose start waits for the limit on starts.",
        (),
        "procs",
    ),
    Row(
        "fsmv2_proc_starts_throttled_total",
        "counter",
        "Times that more procs were missing than may be started at once.",
        (),
        "storms",
    ),
    Row(
        "fsmv2_proc_start_method",
        "gauge",
        "1 for the way procs are started now, 0 for the others.",
        ("method",),
        "flag",
    ),
    Row(
        "fsmv2_proc_start_method_changes_total",
        "counter",
        "Changes of the way procs are started.",
        ("method",),
        "changes",
    ),
    Row(
        "fsmv2_preloads_excluded",
        "gauge",
        "Modules that each proc imports by itself, for they harm the template.",
        (),
        "modules",
    ),
    Row(
        "fsmv2_preload_exclusions_total",
        "counter",
        "Modules found to harm the template.",
        (),
        "modules",
    ),
    Row(
        "fsmv2_action_types_quarantined",
        "gauge",
        "Action types that are kept apart.",
        (),
        "types",
    ),
    Row(
        "fsmv2_action_type_quarantines_total",
        "counter",
        "Action types put apart after equal deaths in a row.",
        ("action_type",),
        "quarantines",
    ),
    Row(
        "fsmv2_action_type_releases_total",
        "counter",
        "Action types let out again, by a success or an operator.",
        ("action_type",),
        "releases",
    ),
    Row(
        "fsmv2_late_results_total",
        "counter",
        "Results for attempts that had theirs already; dropped.",
        (),
        "results",
    ),
    Row(
        "fsmv2_operator_commands_total",
        "counter",
        "Commands over HTTP, by what became of them.",
        ("command", "outcome"),
        "commands",
    ),
    Row("fsmv2_reloads_total", "counter", "Reloads of the config.", ("outcome",), "reloads"),
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
        "Ends of the root's own helpers: template, ops and store.",
        ("process",),
        "restarts",
    ),
    Row(
        "fsmv2_store_incidents_total",
        "counter",
        "Times from which on the store took nothing.",
        (),
        "incidents",
    ),
    Row(
        "fsmv2_reading_ratio",
        "gauge",
        "Readings of the machine that are shares, 0 to 1; NaN while one is missing.",
        ("name", "scope"),
        "share",
    ),
    Row(
        "fsmv2_reading_load_per_cpu",
        "gauge",
        "Processes that ran or waited in the last minute, for each CPU; NaN while missing.",
        ("name", "scope"),
        "processes",
    ),
    Row(
        "fsmv2_reading_seconds",
        "gauge",
        "Readings of the pool that are times: how long the oldest action waits, how long no proc "
        "could be started.",
        ("name", "scope"),
        "seconds",
    ),
    Row(
        "fsmv2_reading_per_minute",
        "gauge",
        "Readings of the pool that are counts of the last minute.",
        ("name", "scope"),
        "events",
    ),
    Row("fsmv2_readings_missing", "gauge", "Readings that have no value now.", (), "readings"),
    Row(
        "fsmv2_readings_lost_total",
        "counter",
        "Incidents in which readings of the machine were lost.",
        (),
        "incidents",
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
