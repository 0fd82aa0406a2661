"""What it costs to leave an action with the real pool while 100 are in flight.

Knows: the pool as the engine uses it.
Does not know: trees.
Invariants: everything started is closed at the end.
"""

from __future__ import annotations

import time
from pathlib import Path

from fsmv2.supervisor.pool.pool import Pool
from fsmv2.supervisor.pool.pooloptions import PoolOptions
from growing.plant import Read

IN_FLIGHT = 100


def enqueues_s(rounds: int, folder: str) -> list[float]:
    """The time of each `submit`: every round leaves 100 actions, then takes all results."""
    found: list[float] = []
    pool = Pool(
        {"actions": 2},
        PoolOptions(preload=("growing.plant",), search=(str(Path(__file__).parents[1]),)),
        run_folder=folder,
        on_result=lambda attempt_id, result: None,
    )
    try:
        pool.start()
        for number in range(rounds + 1):
            for n in range(IN_FLIGHT):
                action = Read(f"plant{n}")
                began = time.perf_counter()
                pool.submit(action, key=f"worker{n}")
                if number:  # the first round also starts procs
                    found.append(time.perf_counter() - began)
            while sum(pool.ledger.finished.values()) < (number + 1) * IN_FLIGHT:
                pool.wait(0.1)
    finally:
        pool.close()
    return found
