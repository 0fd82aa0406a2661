"""Readings of the machine that tests run on, taken by real procs of a real pool and a real root."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from disk_actions import ReadMount
from driving import Driven, driven
from running import Running, fsmv2, until

from fsmv2.supervisor.core.action import action_reference
from fsmv2.supervisor.core.events import ActionTypeQuarantined
from fsmv2.supervisor.core.quarantine import QuarantineRules
from fsmv2.supervisor.core.readings import MACHINE_NAMES, Reading
from fsmv2.supervisor.probe.machine import MachineProbe

CONFIG = """name: site
plugins: [tree_plugin]
pool: {procs: 2}
workers:
"""


class Probed:
    """A probe on a real pool, tended as the root does it; ``longest_s`` is its longest turn."""

    def __init__(self, pool: Driven, *disks: str, interval_s: float = 0.1) -> None:
        self.pool = pool
        self.longest_s = 0.0
        self.probe = MachineProbe(
            pool.pool,
            pid=os.getpid(),
            disks=disks,
            read_disk=ReadMount,
            interval_s=interval_s,
        )
        pool.pool.tell = lambda attempt_id, result: (
            None
            if self.probe.take(attempt_id, result)
            else pytest.fail("a result of somebody else")
        )

    def until(self, claim: Any, what: str) -> None:
        """Turn until ``claim`` of the readings is true."""

        def turned() -> object:
            began = time.monotonic()
            self.probe.tend(began)
            readings = self.probe.readings(began)
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            return claim(readings)

        self.pool.until(turned, what)


def known(readings: dict[str, Reading], *names: str) -> bool:
    return all(readings[name].value is not None for name in names)


def test_a_pool_reads_the_machine_it_runs_on(tmp_path: Path) -> None:
    with driven({"actions": 1, "observations": 1}) as pool:
        probed = Probed(pool, str(tmp_path))
        must = ("cpu", "memory", "swap", "load", "pids", "open_files", f"disk:{tmp_path}")
        probed.until(lambda readings: known(readings, *must), "all of them are read")
        readings = probed.probe.readings(time.monotonic())

    assert set(readings) >= {*MACHINE_NAMES, f"disk:{tmp_path}", f"inodes:{tmp_path}"}
    assert all(reading.value is not None or reading.missing for reading in readings.values())
    assert (readings["memory"].used or 0) > 1 << 20
    assert (readings["open_files"].used or 0) >= 3


def test_a_mount_that_never_answers_is_killed_and_holds_up_nothing(tmp_path: Path) -> None:
    """With one proc for all looks: it is killed at its deadline, others are read before and
    after, and neither a turn of the root nor another path waits for it."""
    dead, live = f"{tmp_path}/dead", f"{tmp_path}/live"
    os.mkdir(live)
    with driven({"actions": 1, "observations": 1}) as pool:
        probed = Probed(pool, dead, live)
        name = f"disk:{dead}"
        probed.until(lambda readings: "within 2 s" in readings[name].missing, "it is missing")
        deaths = pool.pool.nursery.deaths
        probed.until(lambda readings: known(readings, "memory", f"disk:{live}"), "others go on")
        assert probed.probe.readings(time.monotonic())[name].missing != ""

    assert deaths >= 1
    assert probed.longest_s < 2.0  # which a turn that waited for the dead one would take


def test_dead_mounts_put_no_action_type_into_quarantine(tmp_path: Path) -> None:
    """Else one of them would keep all others from being read."""
    rules = QuarantineRules(after=1)
    spared = frozenset({action_reference(ReadMount)})
    lanes = {"actions": 1, "observations": 1}
    with driven(lanes, quarantine=rules, never_apart=spared) as pool:
        probed = Probed(pool, f"{tmp_path}/dead", str(tmp_path))
        name = f"disk:{tmp_path}/dead"
        probed.until(lambda readings: "within 2 s" in readings[name].missing, "it is missing")
        probed.until(lambda readings: known(readings, f"disk:{tmp_path}"), "the other is read")
        assert pool.heard(ActionTypeQuarantined) == []
        assert pool.pool.kinds.quarantined() == {}


def test_a_root_publishes_its_readings(tmp_path: Path) -> None:
    config = tmp_path / "site.yaml"
    config.write_text(f"{CONFIG}  - {{name: b, type: beater, config: {{path: {tmp_path}/beat}}}}\n")
    with Running(config) as root:
        root.wait_ready()

        def all_read() -> dict[str, Any] | None:
            document = root.get("/api/v1/readings") or {"readings": []}
            found = {each["name"]: each for each in document["readings"]}
            is_read = found and found["cpu"]["value"] is not None and document["procs"]
            is_fresh = is_read and found["memory"]["age_s"] < 3
            return document if is_fresh else None

        document = until(all_read, "the readings are there")
        found = {each["name"]: each for each in document["readings"]}
        assert found.keys() >= {*MACHINE_NAMES, "pool.queue_age_s", "pool.deaths"}
        assert [name for name in found if name.startswith("disk:")]
        assert found["memory"]["value"] > 0
        pids = {each["name"]: each["pid"] for each in document["procs"]}
        assert pids["root"] == root.pid
        assert all(
            each["rss_bytes"] > 1 << 20 for each in document["procs"] if each["name"] == "root"
        )
        metrics = until(
            lambda: [
                line
                for line in (root.get("/metrics") or "").splitlines()
                if line.startswith('fsmv2_reading_ratio{name="memory"')
            ],
            "they are metrics too",
        )
        assert 0 < float(metrics[0].rpartition(" ")[2]) <= 1
        assert root.records("readings_lost") == []
        assert root.end() == 0


def test_the_root_itself_loads_nothing_that_reads(tmp_path: Path) -> None:
    """What may hang, or is large, is in procs; psutil among it."""
    config = tmp_path / "site.yaml"
    config.write_text(f"{CONFIG}  - {{name: b, type: beater, config: {{path: {tmp_path}/beat}}}}\n")
    with Running(config) as root:
        root.wait_ready()
        until(lambda: root.get("/api/v1/readings"), "the readings are there")
        maps = Path(f"/proc/{root.pid}/maps").read_text()
        assert "/psutil/" not in maps
        assert root.end() == 0


def test_the_doctor_tells_each_reading_or_what_is_wrong() -> None:
    readings = json.loads(fsmv2("doctor", "--json").stdout)["readings"]
    by_name = {each["name"]: each for each in readings}
    assert by_name.keys() >= set(MACHINE_NAMES)
    assert all(each["value"] is not None or each["missing"] for each in readings)
    assert all(each["scope"] and (each["source"] or each["missing"]) for each in readings)
    text = fsmv2("doctor").stdout
    assert all(name in text for name in by_name)
