"""The table of the tree's figures: the ticket's limit, the Go original's figure, our target.

Knows: the table at the end of the issue the tree was built from, names of figures.
Does not know: how they were measured.
Invariants: pure; a figure that was not measured is neither held nor missed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

HEAD = ["figure", "measured", "ticket", "Go original", "target", "verdict"]


class Row(NamedTuple):
    """``name`` in the figures; ``unit`` and its ``factor`` from the figures' own; ``most`` or
    ``least`` is the target."""

    name: str
    what: str
    unit: str
    factor: float
    go: str = "-"
    ticket: str = "-"
    most: float | None = None
    least: float | None = None


def _ms(name: str, what: str, go: str = "-", ticket: str = "-", most: float | None = None) -> Row:
    return Row(name, what, "ms", 1e3, go, ticket, most)


def _us(name: str, what: str, go: str = "-", ticket: str = "-", most: float | None = None) -> Row:
    return Row(name, what, "µs", 1e6, go, ticket, most)


def _live(name: str, workers: str, go: tuple[str, str, str], cores: float, mib: float) -> list[Row]:
    text = f"{workers} workers observed at 1 Hz"
    return [
        Row(f"{name}.ticks_per_s", f"{text}: ticks", "/s", 1, go[0], least=10),
        Row(f"{name}.root_cores", "  the root's share", "core", 1, go[1], most=cores),
        Row(f"{name}.root_mib", "  the root's memory", "MiB", 1, go[2], most=mib),
        Row(f"{name}.observed_per_s", "  observations", "/s", 1),
        Row(f"{name}.tick_max_ms", "  longest tick", "ms", 1),
        Row(f"{name}.all_running_s", "  start to all running", "s", 1),
    ]


# Go: without / with its convenience base, medians of 5 to 8 runs, same class of machine.
ROWS = [
    _ms("tick_10.steady_s", "steady tick, 10 nodes", "0.6 / 1.2 ms", "-", 0.05),
    _ms("tick_100.steady_s", "steady tick, 100", "6.5 / 13.5 ms", "< 10 ms", 0.1),
    _ms("tick_1000.steady_s", "steady tick, 1,000", "80 / 150 ms", "-", 0.3),
    _ms("tick_10000.steady_s", "steady tick, 10,000", "914 / 1,718 ms", "-", 1.0),
    _ms("cube.steady_s", "10 × 10 × 10, steady", "99 / 165 ms", "< 10 ms", 0.3),
    _ms("cube.full_s", "10 × 10 × 10, full", "99 / 165 ms", "< 10 ms", 20.0),
    _us("tick_100.full_per_node_s", "full tick of 100, per node", "56–90 / 109–172 µs", "-", 15.0),
    _us("tick_1000.full_per_node_s", "full tick of 1,000, per node", "80 / 150 µs", "-", 15.0),
    _us("tick_10000.full_per_node_s", "full tick of 10,000, per node", "91 / 172 µs", "-", 15.0),
    _ms("tick_10000.one_leaf_s", "one changed leaf in 10,000", "a whole tick", "< 5 ms", 0.2),
    _ms("health.changed_s", "health step of 1,000 children, one changed", "-", "< 5 ms", 0.1),
    _ms("health.failed_s", "  and failed: its circuit is open", "-", "< 5 ms", 0.1),
    _ms("health.failed_10%_s", "  while 100 of them have failed", "-", "< 5 ms", 0.1),
    _ms("health.failed_100%_s", "  while all of them have failed", "-", "< 5 ms", 0.1),
    _ms("reconcile_10.add_s", "add 10 children", "0.8–1.7 ms", "< 10 ms", 0.5),
    _ms("reconcile_10.first_tick_s", "  and the first tick of each"),
    _ms("reconcile_10.update_s", "  update 10"),
    _ms("reconcile_10.remove_s", "  remove 10"),
    _ms("reconcile_10.unchanged_s", "  compare 10 unchanged"),
    _ms("reconcile_1000.add_s", "add 1,000 children", "112–229 ms", "-", 50.0),
    _ms("reconcile_1000.first_tick_s", "  and the first tick of each"),
    _ms("reconcile_1000.update_s", "  update 1,000"),
    _ms("reconcile_1000.remove_s", "  remove 1,000", "244–499 ms", "-", 100.0),
    _ms("reconcile_1000.unchanged_s", "  compare 1,000 unchanged"),
    _us("pure.derive_s", "derive, a template per child"),
    _us("pure.compile_s", "compile and render a 1 KB template", "-", "< 5 ms"),
    _us("pure.render_1_kb_s", "render a 1 KB template", "102 µs", "< 5 ms", 60.0),
    _us("pure.render_small_s", "render a small one", "18 µs", "< 5 ms", 15.0),
    _us("pure.flatten_5_s", "flatten 5 variables", "1.0 µs", "< 1 ms", 3.0),
    _us("pure.merge_5_s", "merge 5 variables", "3.6 µs", "< 1 ms", 10.0),
    _us("enqueue.p50_s", "enqueue, 100 in flight, p50", "0.3 µs, no process", "< 1 ms", 5.0),
    Row("memory.bytes_per_node", "memory of a node", "KiB", 1 / 1024),
    Row("start.all_running_s", "100 workers, one action each, real procs: all running", "s", 1),
    *_live("live_1000", "1,000", ("3 /s", "1.35 cores", "270 MB"), 0.3, 100),
    *_live("live_10000", "10,000", ("0.25 /s", "never completes", "1.8 GB"), 1.0, 400),
]


def table(figures: Mapping[str, float]) -> list[list[str]]:
    """Rows of texts, the head first."""
    return [HEAD, *(_told(row, figures.get(row.name)) for row in ROWS)]


def _told(row: Row, figure: float | None) -> list[str]:
    limit = row.most if row.most is not None else row.least
    target = (
        "-" if limit is None else f"{'≤' if row.most is not None else '≥'} {limit:g} {row.unit}"
    )
    if figure is None:
        return [row.what, "not measured", row.ticket, row.go, target, "-"]
    value = figure * row.factor
    holds = limit is None or (value <= limit if row.most is not None else value >= limit)
    verdict = "-" if limit is None else ("met" if holds else "not met")
    return [row.what, f"{value:.3g} {row.unit}", row.ticket, row.go, target, verdict]
