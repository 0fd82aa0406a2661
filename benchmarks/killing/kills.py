"""One kill after the other, with what came of each, and the rows of the table.

Knows: an `ActionPool` with one slot, certificates.
Does not know: options, files for figures.
Invariants: a deadline is the attempt's true start, as its certificate tells it, and its timeout.
Every wait has an end.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peers.figures import percentile, short

from fsmv2.ipc.linux import is_alive
from fsmv2.supervisor import ActionPool, ActionResult
from killing.shapes import SHAPES, Nothing, Shape

PATIENCE_S = 60.0
FIGURES = {
    "slot_back_ms": "spare has the slot",
    "next_runs_ms": "next action runs",
    "reaped_ms": "victim reaped",
    "told_ms": "caller is told",
}
P50_MS, P99_MS = 3.0, 15.0  # what was set as target for the next action


def wait_until_well(pool: ActionPool) -> None:
    """All procs of the slot and its spares are there and do nothing. Raises TimeoutError."""
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        states = [proc["state"] for proc in pool.statistics()["procs"]]
        if states and all(state == "idle" for state in states):
            return
        time.sleep(0.01)
    raise TimeoutError(f"the pool is not well after {PATIENCE_S:g} s: {states}")


def kill_one(pool: ActionPool, shape: Shape, size: int, marker: Path) -> dict[str, Any]:
    """One round: an action that hangs, one behind it. Gives figures and faults."""
    wait_until_well(pool)
    marker.unlink(missing_ok=True)
    hung = pool.submit(shape.action(str(marker), size))
    following = pool.submit(Nothing())
    result = hung.result(PATIENCE_S)
    told = time.time()
    after = following.result(PATIENCE_S)
    found: dict[str, Any] = {"verdict": result.verdict, "named": False, "faults": []}
    certificate = result.certificate
    if certificate is None or certificate.started_at is None or not after.succeeded:
        found["faults"].append(_unexpected(result, after))
        return found
    deadline = certificate.started_at + shape.action.timeout_s
    found["named"] = shape.guilty in (certificate.stack or "")
    found["wait_channel"] = certificate.wait_channel
    found["peak_mib"] = (certificate.peak_memory_bytes or 0) / 2**20
    found["descendants_killed"] = certificate.descendants_killed
    if certificate.slot_back_s is not None:
        found["slot_back_ms"] = certificate.slot_back_s * 1000
    found["next_runs_ms"] = (after.value - deadline) * 1000
    found["reaped_ms"] = ((certificate.ended_at or told) - deadline) * 1000
    found["told_ms"] = (told - deadline) * 1000
    if result.status != "timed_out" or certificate.signal != "SIGKILL":
        found["faults"].append(_unexpected(result, after))
    alive = survivors(marker)
    if alive:
        found["faults"].append(f"{len(alive)} processes it started live on")
    return found


def _unexpected(result: ActionResult, after: ActionResult) -> str:
    return (
        f"want timed_out by SIGKILL, then succeeded; got {result.status} ({result.verdict}: "
        f"{result.error or result.certificate}), then {after.status}"
    )


def survivors(marker: Path) -> list[int]:
    """Those named in ``marker`` that are alive, also after a while."""
    give_up = time.monotonic() + 5.0
    while True:
        texts = marker.read_text().split() if marker.exists() else []
        alive = [int(text) for text in texts if is_alive(int(text))]
        if not alive or time.monotonic() > give_up:
            return alive
        time.sleep(0.02)


def values_of(kills: Sequence[dict[str, Any]], figure: str) -> list[float]:
    """All that were measured of ``figure``."""
    return [kill[figure] for kill in kills if figure in kill]


def rows(measured: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """The table: a head, one row for each shape."""
    found = [["shape", *(f"{title}, ms" for title in FIGURES.values()), "target", "stack names it"]]
    found[0].append("verdict")
    for name, kills in measured.items():
        verdicts = Counter(kill["verdict"] for kill in kills)
        named = sum(kill["named"] for kill in kills)
        told = ", ".join(
            verdict if len(verdicts) == 1 else f"{verdict} {count}×"
            for verdict, count in verdicts.most_common()
        )
        cells = [_p50_p99(values_of(kills, figure)) for figure in FIGURES]
        how = "" if SHAPES[name].can_answer else " (from outside)"
        found.append([name, *cells, target(kills), f"{named} of {len(kills)}{how}", told])
    return found


def _p50_p99(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{short(percentile(values, 0.5))} / {short(percentile(values, 0.99))}"


def target(kills: Sequence[dict[str, Any]]) -> str:
    """Whether the next action ran in time."""
    values = values_of(kills, "next_runs_ms")
    if not values:
        return "not met"
    fine = percentile(values, 0.5) <= P50_MS and percentile(values, 0.99) <= P99_MS
    return "met" if fine else "not met"
