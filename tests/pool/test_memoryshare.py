"""What is shared is counted once, and the dear count is taken seldom and a portion at a time."""

from __future__ import annotations

import mmap
import os
import subprocess
from types import SimpleNamespace

import pytest

from fsmv2.supervisor.pool import memoryshare
from fsmv2.supervisor.pool.memoryshare import AGAIN_S, Share, resident_bytes, share_bytes

LIMIT = 100
READ_S = 0.004


class Machine:
    """Processes of so many bytes each, and a clock that a read of one moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        self.shares: dict[int, int | None] = {}
        self.resident: dict[int, int] = {}
        self.reads: list[int] = []
        monkeypatch.setattr(memoryshare, "share_bytes", self._share_bytes)
        monkeypatch.setattr(memoryshare, "resident_bytes", self.resident.get)
        monkeypatch.setattr(memoryshare, "time", SimpleNamespace(monotonic=lambda: self.now))

    def _share_bytes(self, pid: int) -> int | None:
        self.reads.append(pid)
        self.now += READ_S
        return self.shares[pid]

    def over(self, share: Share, budget_s: float = 1.0) -> int | None:
        """One sample of all processes that are there."""
        return share.over(self.resident, LIMIT, self.now + budget_s)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_processes_that_share_most_of_their_pages_are_not_over(machine: Machine) -> None:
    """Ten of 90 bytes each, forked from one: 900 are resident, 99 are there."""
    machine.resident.update(dict.fromkeys(range(10), 90))
    machine.shares.update({pid: 9 + (pid == 0) * 9 for pid in range(10)})
    assert machine.over(Share()) is None
    assert sorted(machine.reads) == list(range(10))


def test_the_count_ends_as_soon_as_it_is_over(machine: Machine) -> None:
    """The largest are read first."""
    machine.resident.update({1: 5, 2: 200, 3: 6})
    machine.shares.update({1: 5, 2: 150, 3: 6})
    assert machine.over(Share()) == 150
    assert machine.reads == [2]


def test_a_count_that_takes_longer_goes_on_with_the_next_sample(machine: Machine) -> None:
    machine.resident.update(dict.fromkeys(range(10), 90))
    machine.shares.update(dict.fromkeys(range(10), 11))
    share = Share()
    samples = 1
    while machine.over(share, 2.5 * READ_S) is None:
        assert len(machine.reads) <= 3 * samples
        samples += 1
        assert samples < 10
    assert samples == 4
    assert len(machine.reads) == len(set(machine.reads)) == 10


def test_nothing_is_read_again_soon_unless_it_has_grown_by_what_was_missing(
    machine: Machine,
) -> None:
    machine.resident.update({1: 90, 2: 90})
    machine.shares.update({1: 40, 2: 40})
    share = Share()
    assert machine.over(share) is None
    machine.resident[1] += 19
    assert machine.over(share) is None
    assert len(machine.reads) == 2
    machine.resident[1] += 1
    machine.shares[1] = 61
    assert machine.over(share) == 101


def test_pages_that_became_their_own_are_found_after_a_while(machine: Machine) -> None:
    """Nothing resident has grown."""
    machine.resident.update({1: 90, 2: 90})
    machine.shares.update({1: 45, 2: 45})
    share = Share()
    assert machine.over(share) is None
    machine.shares.update({1: 90, 2: 90})
    machine.now += AGAIN_S
    assert machine.over(share) == 180


def test_what_cannot_be_read_counts_as_resident_and_who_is_gone_as_nothing(
    machine: Machine,
) -> None:
    machine.resident.update({1: 80, 2: 70})
    machine.shares.update({1: None, 2: 30})
    assert machine.over(Share()) == 110

    gone = {3: 90}
    machine.shares[3] = None
    assert Share().over({**machine.resident, **gone}, LIMIT + 20, machine.now + 1) is None


def test_the_kernel_divides_what_two_processes_have() -> None:
    """And of one that is gone nothing is read."""
    size = 32 << 20
    data = bytearray(size)
    for at in range(0, size, mmap.PAGESIZE):
        data[at] = 1
    alone = share_bytes(os.getpid())
    if alone is None:
        pytest.skip("no smaps_rollup here: before Linux 4.14")
    pid = os.fork()
    if pid == 0:
        os.read(os.pipe()[0], 1)
        os._exit(0)
    try:
        both = share_bytes(os.getpid())
        assert both is not None
        assert both < alone - size // 4
        assert (resident_bytes(pid) or 0) > size
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    assert share_bytes(ended.pid) is None
