"""What is measured of a pool that is well: speed, start, memory.

Knows: the face of a pool.
Does not know: which pool it is.
Invariants: each figure is recorded as soon as it is known, so that a pool that hangs later keeps
it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from peers import tasks
from peers.face import Peer
from peers.figures import percentile
from peers.ours import Ours

Record = Callable[[str, Any], None]


class Size(NamedTuple):
    """How much of everything is measured; ``*_s`` are the longest times spent on one figure."""

    round_trips: int = 2000
    burst: int = 5000
    submissions: int = 20_000
    opens: int = 3
    repeats: int = 25
    shape_s: float = 2.5
    watch_s: float = 6.0  # longer than it takes the slowest that does come
    kills: int = 200
    still_s: float = 8.0


QUICK = Size(200, 500, 2000, 1, 2, 1.0, 1.5, 5, 1.5)


def speed(peer: Peer, size: Size, record: Record) -> None:
    """Round trips, what a submission costs its caller, and submissions per second."""
    peer.open()
    _warm(peer)
    trips_ns = []
    for _ in range(size.round_trips):
        began = time.perf_counter_ns()
        peer.finish(peer.nothing())
        trips_ns.append(time.perf_counter_ns() - began)
    record("round_trip_p50_us", percentile(trips_ns, 0.5) / 1000)
    record("round_trip_p99_us", percentile(trips_ns, 0.99) / 1000)
    costs_ns, handles = [], []
    gc.collect()
    for _ in range(size.burst):
        began = time.perf_counter_ns()
        handle = peer.nothing()
        costs_ns.append(time.perf_counter_ns() - began)
        handles.append(handle)
    for handle in handles:
        peer.finish(handle)
    record("submit_p50_us", percentile(costs_ns, 0.5) / 1000)
    record("submit_p99_us", percentile(costs_ns, 0.99) / 1000)
    record("throughput_per_s", throughput(peer, size.submissions))
    if isinstance(peer, Ours):
        _without_pipeline(peer, size, record)


def _without_pipeline(peer: Ours, size: Size, record: Record) -> None:
    peer.close()
    plain = Ours(pipeline=1)
    plain.open()
    _warm(plain)
    record("one_in_flight_per_s", throughput(plain, size.submissions))
    plain.close()
    peer.open()


def throughput(peer: Peer, count: int) -> float:
    """Single submissions per second, until the last result is there."""
    gc.collect()
    began = time.perf_counter()
    handles = [peer.nothing() for _ in range(count)]
    for handle in handles:
        peer.finish(handle)
    return count / (time.perf_counter() - began)


def _warm(peer: Peer) -> None:
    for handle in [peer.nothing() for _ in range(200)]:
        peer.finish(handle)


def start(peer: Peer, size: Size, record: Record) -> None:
    """From nothing to the first result, and what an idle process has of memory for itself."""
    opens_ms = []
    for number in range(size.opens):
        if number:
            peer.close()
        began = time.perf_counter()
        peer.open()
        peer.finish(peer.nothing())
        opens_ms.append((time.perf_counter() - began) * 1000)
    record("pool_up_ms", opens_ms)
    # Both processes have to be there: executors start the second when the first is busy.
    for handle in [peer.submit(tasks.brief, 0.05, 1) for _ in range(4)]:
        peer.value(handle, 10)
    time.sleep(0.2)
    sizes = [unique_mib(pid) for pid in peer.pids()]
    record("unique_mib", [size_mib for size_mib in sizes if size_mib is not None])


def unique_mib(pid: int) -> float | None:
    """Memory that would be free if the process ended: private pages, in MiB. Source: proc(5),
    /proc/pid/smaps_rollup. None where the kernel does not tell."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    kib = [int(line.split()[1]) for line in lines if line.startswith(b"Private_")]
    return sum(kib) / 1024
