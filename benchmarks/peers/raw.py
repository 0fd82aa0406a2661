"""The floor: 200 bytes to another process and back, over pipes and over a socketpair, no pool.

Knows: fork and two descriptors.
Does not know: pools.
Invariants: the other process ends when its descriptor does.
"""

from __future__ import annotations

import os
import socket
import time

from peers.figures import percentile

MESSAGE = b"x" * 200


def _echo(read_fd: int, write_fd: int) -> None:
    while message := os.read(read_fd, 4096):
        os.write(write_fd, message)
    os._exit(0)


def _ping(read_fd: int, write_fd: int, rounds: int) -> dict[str, float]:
    taken_ns = []
    for number in range(rounds + 200):
        began = time.perf_counter_ns()
        os.write(write_fd, MESSAGE)
        os.read(read_fd, 4096)
        if number >= 200:
            taken_ns.append(time.perf_counter_ns() - began)
    return {
        "round_trip_p50_us": percentile(taken_ns, 0.5) / 1000,
        "round_trip_p99_us": percentile(taken_ns, 0.99) / 1000,
    }


def over_pipes(rounds: int) -> dict[str, float]:
    """Round trips over two pipes."""
    there, here = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(there[1])
        _echo(there[0], here[1])
    os.close(here[1])
    try:
        return _ping(here[0], there[1], rounds)
    finally:
        os.close(there[1])
        os.waitpid(pid, 0)


def over_socketpair(rounds: int) -> dict[str, float]:
    """Round trips over a socketpair."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _echo(theirs.fileno(), theirs.fileno())
    theirs.close()
    try:
        return _ping(ours.fileno(), ours.fileno(), rounds)
    finally:
        ours.close()
        os.waitpid(pid, 0)


FLOORS = {"raw pipe pair": over_pipes, "raw socketpair": over_socketpair}
