"""How long a tick takes while actions run, hang and are killed.

    python benchmarks/tick.py [--seconds 10] [--json FILE]

A tree of 100 workers in three levels (root, 10 lines, 9 stations each) over a real pool with
real procs. 20 workers keep an action in flight, one of them hangs until it is killed and
tries again. Printed: p50, p99 and the largest of the tick's duration and of one enqueue,
beside the ticket's limits; the first ticks, which make the tree, stand apart. Figures of one run
on one machine: read the ratios to the limit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import tick_workers as workers

from fsmv2.supervisor import ActionResult
from fsmv2.supervisor.core.spec import ChildSpec, UserSpec
from fsmv2.supervisor.core.worker import WorkerFactory
from fsmv2.supervisor.pool.pool import Pool
from fsmv2.supervisor.pool.pooloptions import PoolOptions
from fsmv2.supervisor.tree.engine import Engine

LINES, STATIONS, IN_FLIGHT = 10, 9, 20
BRING_UP_TICKS = 3  # they make the nodes, derive and start everything
START_S_MAX = 60.0  # on a busy machine it takes that long until 21 procs are there
TICK_LIMIT_MS, ENQUEUE_LIMIT_MS = 10.0, 1.0


class TimedPool:
    """The pool port with a stopwatch on `submit`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.cancel = pool.cancel
        self.in_flight = pool.in_flight
        self.enqueues_s: list[float] = []

    def submit(self, action: Any, **options: Any) -> int:
        began = time.perf_counter()
        attempt_id = self._pool.submit(action, **options)
        self.enqueues_s.append(time.perf_counter() - began)
        return attempt_id


def build(folder: str) -> tuple[Engine, Pool, TimedPool]:
    """The engine over a real pool."""
    engines: list[Engine] = []

    def deliver(attempt_id: int, result: ActionResult) -> None:
        engines[0].deliver(attempt_id, result)

    pool = Pool(
        {"actions": IN_FLIGHT, "observations": 1},
        PoolOptions(preload=("tick_workers",), search=(str(Path(__file__).parent),)),
        run_folder=folder,
        on_result=deliver,
    )
    timed = TimedPool(pool)
    children = []
    for line in range(LINES):
        busy = 2  # stations of this line that keep an action in flight
        stations = tuple(
            {"name": f"s{n}", "seconds": 0.05 if n < busy else 0.0, "hangs": line + n == 0}
            for n in range(STATIONS)
        )
        children.append(ChildSpec(f"line{line}", "line", UserSpec({"stations": list(stations)})))
    engines.append(
        Engine(
            name="bench",
            children=tuple(children),
            factory=WorkerFactory(workers.WORKERS),
            pool=timed,
            emit=lambda event: None,
            now=time.monotonic(),
            wall=time.time(),
        )
    )
    return engines[0], pool, timed


def measure(seconds: float) -> dict[str, Any]:
    """Run for ``seconds`` from the first success on and return the figures in milliseconds."""
    folder = tempfile.mkdtemp(prefix="fsmv2-bench-")
    engine, pool, timed = build(folder)
    ticks_s: list[float] = []
    most = 0
    try:
        pool.start()
        end = give_up = time.monotonic() + START_S_MAX + seconds
        while (now := time.monotonic()) < end:
            pool.wait(0.01)
            began = time.perf_counter()
            engine.tick(time.monotonic(), time.time())
            ticks_s.append(time.perf_counter() - began)
            most = max(most, sum(node.attempt is not None for node in engine.nodes()))
            if end == give_up and pool.ledger.finished.get("succeeded"):
                end = now + seconds
            time.sleep(max(0.0, now + 0.01 - time.monotonic()))
        finished = dict(pool.ledger.finished)
    finally:
        pool.close()
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "nodes": sum(1 for _ in engine.nodes()),
        "in_flight_max": most,
        "killed": finished.get("timed_out", 0),
        "succeeded": finished.get("succeeded", 0),
        "load": os.getloadavg()[0],
        "bring_up_ms": spread(ticks_s[:BRING_UP_TICKS]),
        "tick_ms": spread(ticks_s[BRING_UP_TICKS:]),
        "enqueue_ms": spread(timed.enqueues_s),
        "limit_ms": {"tick_ms": TICK_LIMIT_MS, "enqueue_ms": ENQUEUE_LIMIT_MS},
    }


def spread(values_s: list[float]) -> dict[str, float]:
    """p50, p99, largest (milliseconds) and how many."""
    ordered = sorted(values_s) or [0.0]
    return {
        "p50": ordered[len(ordered) // 2] * 1000,
        "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000,
        "max": ordered[-1] * 1000,
        "count": len(values_s),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    figures = measure(arguments.seconds)
    print(
        f"{figures['nodes']} nodes, up to {figures['in_flight_max']} actions in flight, "
        f"{figures['succeeded']} succeeded, {figures['killed']} hung ones killed, "
        f"load {figures['load']:.1f}"
    )
    print(f"{'':<18}{'p50':>10}{'p99':>10}{'max':>10}{'count':>8}   limit")
    for name in ("bring_up_ms", "tick_ms", "enqueue_ms"):
        row = figures[name]
        limit = figures["limit_ms"].get(name)
        said = f"{limit:g} ms, p99 is {row['p99'] / limit:.2f} of it" if limit else "-"
        print(
            f"{name.removesuffix('_ms'):<18}"
            + "".join(f"{row[key]:>7.3f} ms" for key in ("p50", "p99", "max"))
            + f"{row['count']:>8}   {said}"
        )
    if arguments.json:
        Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)
        Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
