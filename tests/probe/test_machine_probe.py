"""The probe on a simulated pool: what it knows while looks answer, hang, fail, are refused."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsmv2.supervisor.core.action import Action, ActionResult
from fsmv2.supervisor.core.events import Event
from fsmv2.supervisor.core.poolreadings import PoolFacts
from fsmv2.supervisor.core.readingevents import ReadingsBack, ReadingsLost
from fsmv2.supervisor.core.readings import HOST, MACHINE_NAMES, Claim, Facts, ProcFacts
from fsmv2.supervisor.probe.actions import ReadDisk, ReadMachine
from fsmv2.supervisor.probe.machine import MachineProbe
from fsmv2.supervisor.testing import FaultPlan, ManualClock, SimPool

HUNG = "statvfs did not answer within 2 s"


class Bench:
    """A probe, a pool whose only proc for observations it shares with nobody, and a machine."""

    def __init__(self, *disks: str, faults: FaultPlan | None = None, seed: int = 0) -> None:
        self.clock = ManualClock()
        self.dead: set[str] = set()
        self.machine_hangs = False
        self.looks: list[tuple[str, float]] = []
        self.events: list[Event] = []
        self.others: list[int] = []
        self.oldest_s = 0.0
        self.pool = SimPool(
            {"actions": 1, "observations": 1},
            clock=self.clock,
            seed=seed,
            faults=faults or FaultPlan(),
            on_result=self._result,
        )
        self.pool.answer(ReadMachine, self._machine, takes_s=self._machine_takes)
        self.pool.answer(ReadDisk, self._disk, takes_s=self._disk_takes)
        self.probe = MachineProbe(
            self.pool,
            pid=7,
            procs=lambda: {"root": 7},
            pool_facts=lambda now: PoolFacts(queue_age_s=1.5),
            disks=disks,
            pass_on=lambda attempt_id, result: self.others.append(attempt_id),
            emit=self.events.append,
        )

    def _result(self, attempt_id: int, result: ActionResult) -> None:
        if not self.probe.take(attempt_id, result):
            self.others.append(attempt_id)

    def _machine_takes(self, _action: Any) -> float:
        self.looks.append(("", self.clock.now))
        return math.inf if self.machine_hangs else 0.01

    def _disk_takes(self, action: Any) -> float:
        self.looks.append((action.path, self.clock.now))
        return math.inf if action.path in self.dead else 0.001

    def _machine(self, action: ReadMachine) -> Facts:
        used = {"cpu": self.clock.elapsed_s, "cpu.throttled": 0.0}
        claims = {
            name: (Claim(scope=HOST, source=name, used=used.get(name, 1.0), limit=4.0),)
            for name in MACHINE_NAMES
        }
        procs = tuple(
            ProcFacts(name=name, pid=pid, rss_bytes=9, cpu_s=self.clock.elapsed_s / 2)
            for name, pid in action.procs.items()
        )
        return Facts(at=self.clock.now, claims=claims, procs=procs)

    def _disk(self, action: ReadDisk) -> Facts:
        claim = Claim(scope="mount", source=action.path, used=1.0, limit=2.0)
        names = (f"disk:{action.path}", f"inodes:{action.path}")
        return Facts(at=self.clock.now, claims=dict.fromkeys(names, (claim,)))

    def run(self, seconds: float) -> None:
        """Let time pass as the root's loop does."""
        end = self.clock.now + seconds
        while True:
            self.pool.step()
            self.probe.tend(self.clock.now)
            cpu = self.probe.readings(self.clock.now)["cpu"]
            self.oldest_s = max(self.oldest_s, self.clock.now - cpu.at)
            moments = [self.pool.next_moment(), self.probe.next_moment()]
            moment = min(at for at in moments if at is not None)
            if moment > end:
                self.clock.set(end)
                return
            self.clock.set(max(self.clock.now, moment))

    def missing(self) -> dict[str, str]:
        """Why there is no value, of all readings that have none."""
        readings = self.probe.readings(self.clock.now)
        return {name: each.missing for name, each in readings.items() if each.missing}

    def looks_at(self, path: str) -> list[float]:
        """When the machine ("") or a path was looked at."""
        return [at for name, at in self.looks if name == path]


def test_the_machine_is_looked_at_once_a_second_and_each_path_too() -> None:
    bench = Bench("/data", "/logs")
    bench.run(60.0)

    for path in ("", "/data", "/logs"):
        assert 58 <= len(bench.looks_at(path)) <= 61
    readings = bench.probe.readings(bench.clock.now)
    assert bench.missing() == {}
    assert readings["cpu"].value == pytest.approx(0.25)
    assert readings["disk:/data"].value == 0.5
    assert readings["pool.queue_age_s"].value == 1.5
    (proc,) = bench.probe.procs(bench.clock.now)
    assert (proc.name, proc.rss_bytes, proc.cpu) == ("root", 9, pytest.approx(0.5))
    assert bench.events == []


def test_before_the_first_answer_everything_is_missing_and_nothing_is_told() -> None:
    bench = Bench("/data")
    assert set(bench.missing()) == {*MACHINE_NAMES, "disk:/data", "inodes:/data"}
    bench.run(0.5)

    assert set(bench.missing()) == {"cpu", "cpu.throttled"}, "rates take two looks"
    assert bench.events == []


def test_a_dead_mount_costs_its_own_reading_and_nothing_else() -> None:
    bench = Bench("/dead", "/live")
    bench.run(5.0)
    bench.dead.add("/dead")
    bench.oldest_s = 0.0
    bench.run(600.0)

    assert bench.missing() == {"disk:/dead": HUNG, "inodes:/dead": HUNG}
    assert bench.oldest_s < 3.0, "the machine was never out of sight"
    assert len(bench.looks_at("/live")) > 500
    assert [type(event) for event in bench.events] == [ReadingsLost]


def test_a_dead_mount_is_tried_again_with_a_growing_wait() -> None:
    bench = Bench("/dead")
    bench.dead.add("/dead")
    bench.run(1200.0)
    looks = bench.looks_at("/dead")
    waits = [round(after - at - 2.0) for at, after in itertools.pairwise(looks)]

    assert waits[:7] == [1, 2, 4, 8, 16, 32, 60]
    assert set(waits[7:]) == {60}


def test_a_mount_that_is_back_is_read_again_every_second() -> None:
    bench = Bench("/data")
    bench.dead.add("/data")
    bench.run(100.0)
    bench.dead.clear()
    bench.run(70.0)
    before = len(bench.looks_at("/data"))
    bench.run(10.0)

    assert bench.missing() == {}
    assert 9 <= len(bench.looks_at("/data")) - before <= 11
    assert [type(event) for event in bench.events] == [ReadingsLost, ReadingsBack]


def test_many_dead_mounts_hold_up_the_machine_no_longer_than_one() -> None:
    """Their looks come one after the other, the machine's in between."""
    paths = [f"/dead{number}" for number in range(8)]
    bench = Bench(*paths, "/live")
    bench.run(5.0)
    bench.dead.update(paths)
    bench.oldest_s = 0.0
    bench.run(300.0)

    assert bench.oldest_s < 3.0
    assert set(bench.missing()) == {
        f"{kind}:{path}" for kind in ("disk", "inodes") for path in paths
    }
    lost = [event.readings for event in bench.events if isinstance(event, ReadingsLost)]
    assert not [readings for readings in lost if "live" in readings]
    assert len(bench.looks_at("/live")) > 150


def test_when_no_answer_comes_for_three_intervals_all_readings_are_missing() -> None:
    bench = Bench("/data")
    bench.run(10.5)
    bench.machine_hangs = True
    bench.run(2.5)
    assert bench.missing() == {}
    bench.run(1.6)
    missing = bench.missing()

    assert set(missing) == set(MACHINE_NAMES)
    assert all(why.startswith("the probe has not answered for ") for why in missing.values())
    assert "its files were not read within 2 s" in missing["cpu"]
    assert bench.probe.procs(bench.clock.now) == []
    bench.machine_hangs = False
    bench.run(10.0)
    assert bench.missing() == {}
    assert [type(event) for event in bench.events] == [ReadingsLost, ReadingsBack]


def test_a_pool_that_answers_nothing_is_told_with_its_age() -> None:
    """No proc, no answer, no refusal: the looks wait in the queue."""
    bench = Bench("/data")
    bench.run(10.5)
    later = bench.clock.now + 3.2
    readings = bench.probe.readings(later)

    assert readings["memory"].missing.startswith("the probe has not answered for 3.")
    assert readings["disk:/data"].missing.startswith("the probe has not answered for 3.")
    assert bench.probe.readings(bench.clock.now)["disk:/data"].missing == ""
    assert readings["memory"].source == "memory", "where it was read from last"
    assert readings["pool.queue_age_s"].value == 1.5


def test_a_refused_look_is_ours_and_what_comes_with_it_is_passed_on() -> None:
    """A refusal is given before `submit` returns the number it is for."""
    bench = Bench()
    bench.run(5.0)
    bench.pool.closing = True
    bench.run(10.0)

    assert bench.others == []
    assert "PoolClosed" in bench.missing()["memory"]

    class Chatty:
        """A pool that gives another's result while it takes an action."""

        def submit(self, action: Action, **options: Any) -> int:
            bench.probe.take(990, _refusal(990))
            bench.probe.take(991, _refusal(991))
            return 991

        def cancel(self, attempt_id: int, cause: str = "cancelled") -> bool:
            return False

    bench.probe._pool = Chatty()
    bench.clock.advance(10.0)
    bench.probe.tend(bench.clock.now)
    assert bench.others == [990]


def _refusal(attempt_id: int) -> ActionResult:
    return ActionResult(status="refused", action_type="X", attempt_id=attempt_id)


def test_results_of_others_are_left_to_them() -> None:
    assert Bench().probe.take(12, _refusal(12)) is False


def test_paths_may_be_exchanged_and_those_that_stay_are_not_forgotten() -> None:
    bench = Bench("/a", "/b")
    bench.run(5.0)
    bench.probe.watch_disks(["/b", "/c"])
    readings = bench.probe.readings(bench.clock.now)

    assert "disk:/a" not in readings
    assert readings["disk:/b"].value == 0.5
    assert readings["disk:/c"].value is None
    bench.run(2.0)
    assert bench.missing() == {}


def test_news_come_once_and_at_least_once_an_interval() -> None:
    bench = Bench("/data")
    bench.run(5.0)
    assert bench.probe.news(bench.clock.now) == bench.probe.readings(bench.clock.now)
    assert bench.probe.news(bench.clock.now) is None
    bench.machine_hangs = True
    bench.run(1.0)
    assert bench.probe.news(bench.clock.now) is not None, "the pool's own go on"


def test_after_its_end_nothing_is_looked_at() -> None:
    bench = Bench("/dead")
    bench.dead.add("/dead")
    bench.run(1.0)
    bench.probe.close()
    bench.probe.tend(bench.clock.now)
    looks = len(bench.looks)
    while (moment := bench.pool.next_moment()) is not None and bench.clock.elapsed_s < 60.0:
        bench.clock.set(max(bench.clock.now, moment))
        bench.pool.step()
        bench.probe.tend(bench.clock.now)

    assert len(bench.looks) == looks
    assert bench.probe.next_moment() is None
    assert bench.others == []


def test_a_proc_that_dies_under_a_look_says_nothing_of_the_mount() -> None:
    """Its last answer counts until it is too old."""
    bench = Bench("/data")
    bench.run(5.5)
    bench.pool.answer(ReadDisk, crashes="killed_from_outside")
    bench.run(1.5)
    assert bench.missing() == {}
    bench.run(20.0)
    assert "killed_from_outside" in bench.missing()["disk:/data"]


@settings(max_examples=15)
@given(st.integers(0, 10_000))
def test_whatever_befalls_the_procs_it_sees_again_when_that_is_over(seed: int) -> None:
    faults = FaultPlan(dies_during=0.3, hangs=0.2)
    bench = Bench("/a", "/b", faults=faults, seed=seed)
    bench.run(60.0)
    bench.pool.faults = FaultPlan()
    bench.run(70.0)

    assert bench.missing() == {}
    assert bench.others == []
