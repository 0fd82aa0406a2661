"""What the root publishes, and how often: the tree, the status, the readings, the gauges.

Knows: the documents' pace; tick durations; when the supervisor is ready.
Does not know: how documents reach their readers.
Invariants: at most one publication in `PUBLISH_CHANGED_S` while things change, one in
`PUBLISH_S` while they do not, one at once after `hurry`; never more than `SHARE_MAX` of the time
nor `SLICE_S` at once;
every figure has its unit in its name.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import msgspec

from fsmv2.supervisor.core.fsm import Phase
from fsmv2.supervisor.pool.lanes import QUARANTINE
from fsmv2.supervisor.pool.pool import Pool
from fsmv2.supervisor.pool.poolstatistics import pool_statistics
from fsmv2.supervisor.probe.machine import MachineProbe
from fsmv2.supervisor.telemetry.metrics import Metrics
from fsmv2.supervisor.telemetry.telemetry import Telemetry
from fsmv2.supervisor.telemetry.view import circuit_of, open_circuit, readings_document, tree_pieces
from fsmv2.supervisor.tree.care import told
from fsmv2.supervisor.tree.engine import Engine
from fsmv2.supervisor.tree.infrastructure import Infrastructure
from fsmv2.supervisor.tree.node import Node

PUBLISH_S = 1.0
PUBLISH_CHANGED_S = 0.25
SHARE_MAX = 0.05
SLICE_S = 0.005
SLICE_PAUSE_S = 0.010
PART_BYTES = 128 * 1024
DURATIONS_KEPT = 600
CIRCUITS_SHOWN_MAX = 20
STATUSES = ("succeeded", "failed", "timed_out", "crashed", "cancelled", "refused")

Publish = Callable[[str, bytes], bool]


class Publisher:
    """Call `publish` in each turn of the loop, `ticked` after each tick."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        pool: Pool,
        probe: MachineProbe,
        telemetry: Telemetry,
        metrics: Metrics,
        infrastructure: Infrastructure,
        publish: Publish | None,
        store_trouble: Callable[[], str] = str,
    ) -> None:
        self._infrastructure = infrastructure
        self._name = name
        self._engine = engine
        self._pool = pool
        self._probe = probe
        self._telemetry = telemetry
        self._metrics = metrics
        self._publish = publish
        self._store_trouble = store_trouble
        self._durations: deque[float] = deque(maxlen=DURATIONS_KEPT)
        self._at = self._sliced_at = float("-inf")
        self._ticks = -1
        self._hurried = False
        self._cost_s = 0.0
        self._spent_s = 0.0
        self._work: Iterator[None] | None = None
        self._started_at = time.monotonic()
        self._started_wall = time.time()
        self._version = version()

    def ticked(self, duration_s: float) -> None:
        """A tick took that long."""
        self._durations.append(duration_s)
        self._metrics.tick(duration_s)

    def hurry(self) -> None:
        """Publish what there is now as soon as the share of time allows: an operator looks."""
        self._hurried = True

    def next_moment(self) -> float:
        """When `publish` has something to say at the latest (monotonic seconds)."""
        if self._work is not None:
            return self._sliced_at + SLICE_PAUSE_S
        pace_s = 0.0 if self._hurried else PUBLISH_S
        return self._at + max(pace_s, self._cost_s / SHARE_MAX)

    def publish(self, now: float) -> None:
        """Publish if it is time. What takes long is done in slices, one at each call."""
        if self._work is None:
            changed = self._engine.ticks != self._ticks
            pace_s = PUBLISH_CHANGED_S if changed else PUBLISH_S
            pace_s = 0.0 if self._hurried else pace_s
            # A large tree is published less often, so that it does not cost the ticks their time.
            if now - self._at < max(pace_s, self._cost_s / SHARE_MAX):
                return
            self._at, self._spent_s = now, 0.0
            self._hurried = False
            self._ticks = self._engine.ticks
            self._work = self._publication(now)
        elif now - self._sliced_at < SLICE_PAUSE_S:
            return
        self._sliced_at = now
        self._go_on()

    def _go_on(self) -> None:
        began = time.monotonic()
        for _ in self._work or ():
            spent_s = time.monotonic() - began
            if spent_s >= SLICE_S:
                self._spent_s += spent_s
                return
        self._work = None
        self._cost_s = self._spent_s + time.monotonic() - began

    def _publication(self, now: float) -> Iterator[None]:
        """One publication, a node at a time."""
        engine = self._engine
        phases = {str(phase): 0 for phase in Phase}
        widths: dict[str, int] = {}
        circuits_open = 0
        circuits: list[dict[str, Any]] = []

        def count(node: Node) -> None:
            nonlocal circuits_open
            phases[str(node.phase)] += 1
            if node.children:
                widths[node.path] = len(node.children)
            circuit = circuit_of(node, engine)
            if circuit != "closed":
                circuits_open += 1
                own = told(node) or node.fault_until is not None or circuit == "panic"
                # What the machine has opened is told as the machine's.
                if own and len(circuits) < CIRCUITS_SHOWN_MAX:
                    circuits.append(open_circuit(node, engine, circuit, now))

        yield from self._publish_tree(tree_pieces(engine, self._pool, now, count))
        statistics = pool_statistics(self._pool)
        self._metrics.tree(phases, widths, circuits_open)
        machine = self._infrastructure
        self._metrics.infrastructure(machine.state(now), machine.limits, machine.waiting)
        self._metrics.pool(statistics)
        yield
        readings = self._probe.readings(now)
        self._metrics.readings(readings.values())
        if self._publish is not None:
            document = readings_document(readings, self._probe.procs(now), now)
            self._publish("readings", msgspec.json.encode(document))
            status = self._status(now, phases, statistics)
            status |= {"circuits_open": circuits_open, "circuits": circuits}
            self._publish("status", msgspec.json.encode(status))

    def _publish_tree(self, pieces: Iterator[bytes]) -> Iterator[None]:
        """The tree as one document, or as the parts of one that is too large for a frame. When
        a part is not taken the others are not sent: half a tree is none."""
        topics = ("tree", "tree<")
        part: list[bytes] = []
        size, taken = 0, self._publish is not None
        for piece in pieces:
            part.append(piece)
            size += len(piece)
            if size > PART_BYTES:
                taken = taken and self._send(topics[1], part)
                topics = ("tree>", "tree+")
                part, size = [], 0
            yield
        if taken:
            self._send(topics[0], part)

    def _send(self, topic: str, part: list[bytes]) -> bool:
        return self._publish is not None and self._publish(topic, b"".join(part))

    def _status(
        self, now: float, phases: dict[str, int], statistics: dict[str, Any]
    ) -> dict[str, Any]:
        ready, reason = self._readiness(statistics)
        store_trouble = self._store_trouble()
        if ready and store_trouble:
            # Nothing depends on it before the next start, so the tree is ready all the same.
            reason = f"{reason}; the store saves nothing: {store_trouble}"
        durations = sorted(self._durations)
        count = self._telemetry.statuses.get
        return {
            "name": self._name,
            "pid": os.getpid(),
            "version": self._version,
            "started_at": self._started_wall,
            "uptime_s": round(now - self._started_at, 3),
            "ticks": self._engine.ticks,
            "tick_p50_ms": _percentile_ms(durations, 0.50),
            "tick_p99_ms": _percentile_ms(durations, 0.99),
            "ready": ready,
            "reason": reason,
            "stopping": self._engine.stopping is not None,
            "workers": phases,
            "actions": {status: count(status, 0) for status in STATUSES},
            "restarts": self._telemetry.restarts,
            "infrastructure": self._infrastructure.document(now),
            "pool": statistics,
            "store_trouble": store_trouble,
            "recent": list(self._telemetry.recent),
        }

    def _readiness(self, statistics: dict[str, Any]) -> tuple[bool, str]:
        if self._engine.stopping is not None:
            return False, f"stopping: {self._engine.stopping}"
        if self._engine.context.infrastructure is not None:
            return False, self._engine.context.infrastructure
        missing = [
            name
            for name, lane in statistics["lanes"].items()
            if lane["size"] > lane["procs"] == 0 and name != QUARANTINE
        ]
        if missing:
            return False, f"no procs yet for {', '.join(missing)}"
        return True, "ticking, procs at work"


def version() -> str:
    """The installed version."""
    try:
        return metadata.version("fsmv2")
    except metadata.PackageNotFoundError:
        return "unknown"


def _percentile_ms(ordered: list[float], share: float) -> float | None:
    if not ordered:
        return None
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 3)
