"""A whole supervisor over real procs, measured from inside: how busy the root is.

    python benchmarks/growing/live.py LEAF WORKERS SECONDS     (started by tree.py)

Knows: the real `Supervisor`, its engine's counts, the process's own clocks.
Does not know: what is made of the figures.
Invariants: one JSON object on standard output; the process ends by itself.

A helper thread looks at the clocks while the main thread is the root: it sleeps between two looks.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import msgspec

from fsmv2.supervisor import Settings, Supervisor
from fsmv2.supervisor.core.worker import WorkerFactory
from growing.plant import WORKERS

BRING_UP_S_MAX = 120.0
LINES = 10
POLL_S = 0.02


def settings(leaf: str, workers: int) -> Settings:
    """``workers`` leaves below ten lines; logs of levels below warning are left out."""
    lines = [
        {
            "name": f"line{n}",
            "type": "branch",
            "config": {"widths": [workers // LINES], "leaf": leaf},
        }
        for n in range(LINES)
    ]
    return msgspec.convert(
        {
            "name": "bench",
            "workers": lines,
            "pool": {"procs": 2, "observers": 1, "queue": 50_000},
            "http": {"listen": "127.0.0.1:0"},
        },
        Settings,
    )


class Look:
    """Counts and clocks at one moment."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.at = time.monotonic()
        self.cpu_s = time.process_time()
        self.ticks = supervisor._engine.ticks
        self.observed = sum(supervisor._pool.ledger.finished.values())


def watch(supervisor: Supervisor, workers: int, seconds: float, found: dict[str, Any]) -> None:
    """Wait until all run, then measure for ``seconds``, then stop the supervisor."""
    began = time.monotonic()
    try:
        while not hasattr(supervisor, "_publisher"):
            time.sleep(POLL_S)
        engine = supervisor._engine
        while engine.phases()["running"] < workers + LINES + 1:
            if time.monotonic() - began > BRING_UP_S_MAX:
                found["error"] = f"not all running: {engine.phases()}"
                return
            time.sleep(POLL_S)
        found["all_running_s"] = time.monotonic() - began
        if not seconds:
            return
        time.sleep(3.0)  # the first observations are over
        supervisor._publisher._durations.clear()
        first = Look(supervisor)
        time.sleep(seconds)
        last = Look(supervisor)
        span_s = last.at - first.at
        ticks_s = sorted(supervisor._publisher._durations)
        found |= {
            "ticks_per_s": (last.ticks - first.ticks) / span_s,
            "root_cores": (last.cpu_s - first.cpu_s) / span_s,
            "observed_per_s": (last.observed - first.observed) / span_s,
            "tick_max_ms": ticks_s[-1] * 1000 if ticks_s else None,
            "root_mib": resident_mib(),
        }
    finally:
        os.kill(os.getpid(), 2)


def resident_mib() -> float:
    """The process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Measure and print."""
    leaf, workers, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    supervisor = Supervisor(settings(leaf, workers), WorkerFactory(WORKERS))
    found: dict[str, Any] = {}
    watching = threading.Thread(target=watch, args=(supervisor, workers, seconds, found))
    watching.start()
    supervisor.run()
    watching.join()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
