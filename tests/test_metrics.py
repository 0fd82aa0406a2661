"""What the metrics promise: each one is really updated, bounded, and never raises."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import prometheus_client
import prometheus_client.values
import pytest
from prometheus_client.multiprocess import MultiProcessCollector

from fsmv2.ipc import metricfile
from fsmv2.supervisor.core import events as ev
from fsmv2.supervisor.core.readings import Reading, Unit
from fsmv2.supervisor.telemetry.metrics import OTHER, PATHS_MAX, SERIES_MAX, Metrics
from fsmv2.supervisor.telemetry.metrictable import TABLE, table_markdown

POOL = {
    "procs": [
        {"slot": "w1", "pid": 1, "state": "busy", "lane": "action", "action": "X"},
        {"slot": "w2", "pid": 2, "state": "idle", "lane": "action", "action": None},
        {"slot": "w3", "pid": 3, "state": "busy", "lane": "observation", "action": "Y"},
    ],
    "queued": 5,
    "quarantined": {"X": {"verdict": "timed_out"}, "Y": {"verdict": "crashed:SIGSEGV"}},
    "starts_waiting": 4,
    "excluded": {"module": "starts a thread"},
    "start_method": "spawn",
    "late_results_dropped": 3,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    path = str(tmp_path / "metrics")
    metricfile.prepare_folder(path)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", path)
    monkeypatch.setattr(prometheus_client.values, "ValueClass", metricfile.SlotValue)
    metricfile.install("root", path)
    yield path
    metricfile._files.clear()
    metricfile._values.clear()


def _samples(folder: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Sample name to (label values in name order) to value, as the stock reader has them."""
    registry = prometheus_client.CollectorRegistry()
    MultiProcessCollector(registry, path=folder)
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for metric in registry.collect():
        for sample in metric.samples:
            key = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[key] = sample.value
    return found


def _one_of_each() -> list[ev.Event]:
    made: dict[Any, Any] = {str: "text", int: 3, float: 0.5, bool: True}
    found = []
    for kind in ev.Event.__subclasses__():
        fields = {field.name: made.get(field.type) for field in msgspec.structs.fields(kind)}
        found.append(kind(**fields))
    return found


def _changed(path: str, to_state: str = "running") -> ev.StateChanged:
    return ev.StateChanged(
        path=path,
        from_state="starting",
        to_state=to_state,
        phase="running",
        reason="r",
        generation=1,
    )


def _ended(
    status: str, verdict: str, ran_s: float, circuit_open_s: float | None = None
) -> ev.ActionEnded:
    return ev.ActionEnded(
        path="a",
        action_type="X",
        attempt_id=1,
        status=status,
        verdict=verdict,
        queued_s=0.0,
        ran_s=ran_s,
        circuit_open_s=circuit_open_s,
    )


def _proc_ended(verdict: str) -> ev.ProcEnded:
    return ev.ProcEnded(slot="p1", pid=1, verdict=verdict, expected=True)


def _reading(name: str, value: float | None, unit: Unit = "share") -> Reading:
    why = "" if value is not None else "gone"
    return Reading(
        name=name, value=value, unit=unit, scope="host", source="/proc", at=1.0, missing=why
    )


def _one_reading_of_each_unit() -> list[Reading]:
    units: tuple[Unit, ...] = ("share", "1", "s", "1/min")
    return [_reading("swap", None), *(_reading(unit, 0.5, unit) for unit in units)]


def test_a_reading_that_is_missing_is_no_number_any_more(folder: str) -> None:
    """Zero would say that all is well."""
    metrics = Metrics()
    metrics.readings([_reading("cpu", 0.5), _reading("memory", 0.7)])
    assert _samples(folder)["fsmv2_reading_ratio"] == {
        ("cpu", "host"): 0.5,
        ("memory", "host"): 0.7,
    }
    metrics.readings([_reading("cpu", 0.6), _reading("memory", None)])
    samples = _samples(folder)

    assert samples["fsmv2_reading_ratio"][("cpu", "host")] == 0.6
    assert math.isnan(samples["fsmv2_reading_ratio"][("memory", "host")])
    assert samples["fsmv2_readings_missing"][()] == 1
    assert metrics.faults == 0


def test_every_metric_of_the_table_is_really_updated(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of each event and one of each reading move every metric away from 0."""
    monkeypatch.setattr(metricfile, "_dropped", 2)
    metrics = Metrics(log_lines_dropped=lambda: 4)
    for event in _one_of_each():
        metrics.observe(event)
    metrics.observe(_ended("timed_out", "timed_out", 1.0, circuit_open_s=0.5))
    metrics.observe(_proc_ended("recycled"))
    metrics.tick(0.002)
    metrics.tree({"running": 2}, {"site": 3}, 1)
    metrics.infrastructure("half_open", {"memory": 0.95}, 3)
    metrics.pool(POOL)
    metrics.readings(_one_reading_of_each_unit())
    assert metrics.faults == 0
    samples = _samples(folder)
    for row in TABLE:
        name = f"{row.name}_count" if row.kind == "histogram" else row.name
        assert any(value > 0 for value in samples.get(name, {}).values()), row.name
    exported = {name for name in samples if not name.endswith(("_bucket", "_sum", "_count"))}
    assert exported <= {row.name for row in TABLE}


def test_names_follow_the_conventions() -> None:
    """Counters end in _total, durations in _seconds; no name is there twice."""
    names = [row.name for row in TABLE]
    assert len(names) == len(set(names))
    for row in TABLE:
        assert row.name.startswith("fsmv2_")
        assert row.name.endswith("_total") == (row.kind == "counter")
        assert (row.unit == "seconds") == row.name.endswith("_seconds")
        assert (row.buckets != ()) == (row.kind == "histogram")


def test_the_markdown_table_has_a_row_for_each_metric() -> None:
    lines = table_markdown().splitlines()
    assert len(lines) == 2 + len(TABLE)
    assert lines[2].startswith("| `fsmv2_ticks_total` | counter | – | ticks |")
    assert all(line.count(" | ") == 4 for line in lines)


def test_what_ends_while_the_machines_circuit_is_open_is_counted_with_how_long_it_went_on(
    folder: str,
) -> None:
    """Not what was taken back from the queue: it has never run."""
    metrics = Metrics("site")
    metrics.observe(_ended("succeeded", "succeeded", 30.0, circuit_open_s=20.0))
    metrics.observe(_ended("cancelled", "cancelled", 0.0, circuit_open_s=0.1))
    metrics.observe(_ended("succeeded", "succeeded", 1.0))
    found = _samples(folder)
    assert found["fsmv2_actions_during_circuit_total"] == {(): 1.0}
    assert found["fsmv2_action_post_circuit_duration_seconds_sum"] == {(): 20.0}


def test_an_action_is_counted_under_how_it_ended(folder: str) -> None:
    metrics = Metrics()
    metrics.observe(_ended("succeeded", "succeeded", 0.3))
    metrics.observe(_ended("crashed", "crashed:SIGSEGV", 0.1))
    metrics.observe(_ended("timed_out", "timed_out", 5.0))
    metrics.observe(_ended("cancelled", "cancelled", 0.0))
    samples = _samples(folder)
    assert samples["fsmv2_actions_total"][("X", "crashed", "crashed:SIGSEGV")] == 1
    assert samples["fsmv2_action_timeout_total"] == {("X",): 1}
    assert samples["fsmv2_action_execution_duration_seconds_sum"] == {
        ("X", "succeeded"): 0.3,
        ("X", "crashed"): 0.1,
        ("X", "timed_out"): 5.0,
    }


def test_the_number_of_series_stays_bounded(folder: str) -> None:
    """10,000 paths become 200 and "other"; the total is still right."""
    metrics = Metrics()
    for number in range(10_000):
        metrics.observe(_changed(f"site/{number}"))
    metrics.tree({}, {f"site/{number}": 1 for number in range(10_000)}, 0)
    samples = _samples(folder)
    transitions = samples["fsmv2_state_transitions_total"]
    assert len(transitions) == PATHS_MAX + 1
    assert transitions[("starting", OTHER, "running")] == 10_000 - PATHS_MAX
    assert samples["fsmv2_children_count"][(OTHER,)] == 10_000 - PATHS_MAX


def test_states_made_up_by_a_worker_stay_bounded_too(folder: str) -> None:
    metrics = Metrics()
    for number in range(3 * SERIES_MAX):
        metrics.observe(_changed("site", f"state_{number}"))
    transitions = _samples(folder)["fsmv2_state_transitions_total"]
    assert len(transitions) <= SERIES_MAX + 1
    assert sum(transitions.values()) == 3 * SERIES_MAX


def test_what_is_gone_shows_as_zero(folder: str) -> None:
    """A phase nobody is in and a path that was removed do not keep their last number."""
    metrics = Metrics()
    metrics.tree({"running": 3}, {"site": 2}, 1)
    metrics.tree({"stopped": 1}, {}, 0)
    samples = _samples(folder)
    assert samples["fsmv2_workers"][("running",)] == 0
    assert samples["fsmv2_workers"][("stopped",)] == 1
    assert samples["fsmv2_workers"][("degraded",)] == 0
    assert samples["fsmv2_children_count"] == {("site",): 0}
    assert samples["fsmv2_circuit_open"] == {(): 0}


def test_pool_readings_become_shares_and_counts(folder: str) -> None:
    metrics = Metrics()
    metrics.pool(POOL)
    samples = _samples(folder)
    assert samples["fsmv2_worker_pool_utilization"] == {("action",): 0.5, ("observation",): 1.0}
    assert samples["fsmv2_worker_pool_queue_size"] == {("action",): 5}
    assert samples["fsmv2_action_queue_size"] == {(): 5}
    assert samples["fsmv2_procs"][("busy",)] == 2
    metrics.pool({"procs": [], "queued": {"action": 1, "observation": 2}})
    samples = _samples(folder)
    assert samples["fsmv2_worker_pool_utilization"] == {("action",): 0, ("observation",): 0}
    assert samples["fsmv2_action_queue_size"] == {(): 3}


def test_a_recycled_proc_is_told_apart_from_one_that_died(folder: str) -> None:
    """It ended in health: no verdict of a crash is counted for it."""
    metrics = Metrics()
    for verdict in ("recycled", "recycled", "crashed:SIGSEGV"):
        metrics.observe(_proc_ended(verdict))
    samples = _samples(folder)
    assert samples["fsmv2_proc_recycles_total"] == {(): 2}
    assert samples["fsmv2_proc_deaths_total"] == {("recycled",): 2, ("crashed:SIGSEGV",): 1}


def test_readings_say_how_the_pool_takes_care_of_itself(folder: str) -> None:
    """Gauges follow the newest reading, the total of late results is counted once."""
    metrics = Metrics()
    metrics.pool(POOL)
    metrics.pool(POOL)
    samples = _samples(folder)
    assert samples["fsmv2_action_types_quarantined"] == {(): 2}
    assert samples["fsmv2_proc_starts_waiting"] == {(): 4}
    assert samples["fsmv2_preloads_excluded"] == {(): 1}
    assert samples["fsmv2_proc_start_method"] == {("spawn",): 1}
    assert samples["fsmv2_late_results_total"] == {(): 3}
    calm = {"quarantined": {}, "starts_waiting": 0, "start_method": "template"}
    metrics.pool({**POOL, **calm, "late_results_dropped": 5})
    samples = _samples(folder)
    assert samples["fsmv2_action_types_quarantined"] == {(): 0}
    assert samples["fsmv2_proc_starts_waiting"] == {(): 0}
    assert samples["fsmv2_proc_start_method"] == {("spawn",): 0, ("template",): 1}
    assert samples["fsmv2_late_results_total"] == {(): 5}
    assert metrics.faults == 0


def test_drops_are_counted_once(folder: str) -> None:
    """The sources report totals; the metric grows by what is new."""
    totals = iter((3, 3, 7))
    metrics = Metrics(log_lines_dropped=lambda: next(totals))
    for _ in range(3):
        metrics.tick(0.001)
    assert _samples(folder)["fsmv2_log_lines_dropped_total"] == {(): 7}


def test_gauges_of_a_dead_root_drop(folder: str) -> None:
    metrics = Metrics()
    metrics.tick(0.001)
    metrics.tree({"running": 1}, {}, 0)
    metricfile.release("root", folder)
    samples = _samples(folder)
    assert "fsmv2_workers" not in samples
    assert samples["fsmv2_ticks_total"] == {(): 1}


def test_a_broken_reading_is_a_fault_and_never_an_exception(folder: str) -> None:
    """The tree does not stop because a number could not be counted."""
    metrics = Metrics(log_lines_dropped=lambda: 1 // 0)
    metrics.tick(0.001)
    metrics.pool({"procs": [{"slot": "w1"}]})
    metrics.tree({"running": None}, {}, 0)  # type: ignore[dict-item]
    assert metrics.faults == 3
    metrics.observe(_changed("site"))
    assert len(os.listdir(folder)) >= 2
