"""What is read of machines made of files: cgroup v1, v2, both, none; and what is wrong there."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from machinetree import CPUS, GIB, PID, UNLIMITED_V1, Machine, pressure

from fsmv2.supervisor.core.readings import Facts, Reading, readings_of
from fsmv2.supervisor.probe.looks import look_at_disk
from fsmv2.supervisor.probe.report import as_text

V2 = {
    "memory__max": str(2 * GIB),
    "memory__current": str(GIB),
    "memory__stat": f"anon 5\ninactive_file {GIB // 2}",
    "memory__swap__max": str(GIB),
    "memory__swap__current": str(GIB // 4),
    "cpu__max": "50000 100000",
    "cpu__stat": "usage_usec 1000000\nnr_periods 10\nnr_throttled 1",
    "pids__max": "100",
    "pids__current": "30",
    "cpu__pressure": pressure(10, 0),
    "memory__pressure": pressure(20, 5),
    "io__pressure": pressure(30, 7),
}
V1_MEMORY = {
    "memory__limit_in_bytes": str(2 * GIB),
    "memory__usage_in_bytes": str(GIB),
    "memory__memsw__limit_in_bytes": str(3 * GIB),
    "memory__stat": (
        f"cache 5\nhierarchical_memory_limit {2 * GIB}\n"
        f"total_inactive_file {GIB // 2}\ntotal_swap {GIB // 4}"
    ),
}


def later(facts: Facts, seconds: float) -> Facts:
    """The look as if it had been taken so long ago."""
    return msgspec.structs.replace(facts, at=facts.at - seconds)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_groups_the_machine_is_read(machine: Machine) -> None:
    readings = machine.readings()

    assert {name: reading.value for name, reading in readings.items()} == {
        "cpu": None,
        "cpu.throttled": None,
        "memory": 0.5,
        "swap": 0.25,
        "load": 3.0 / len(CPUS),
        "pids": 0.5,
        "open_files": 0.2,
        "open_files.host": 0.3,
        "pressure.cpu": 0.5,
        "pressure.memory": 0.5,
        "pressure.memory.full": 0.25,
        "pressure.io": 0.5,
        "pressure.io.full": 0.25,
    }
    assert {readings[name].scope for name in readings} == {"host", "process"}
    assert "no cgroup v2 is mounted" in readings["memory"].source


def test_cpu_of_the_machine_is_that_of_the_cpus_we_may_use(machine: Machine) -> None:
    before = later(machine.look(), 1.0)
    machine.cpu_ticks(int(0.25 * os.sysconf("SC_CLK_TCK")))
    reading = machine.readings(before)["cpu"]

    assert reading.value == pytest.approx(0.25, rel=0.2)
    assert reading.limit == len(CPUS)


def test_version_2_says_what_limits_us(machine: Machine) -> None:
    machine.unified("/a/root", **V2)
    before = later(machine.look(), 1.0)
    machine.group("v2/a/root", cpu__stat="usage_usec 1250000\nnr_periods 20\nnr_throttled 6")
    readings = machine.readings(before)

    assert readings["memory"].value == 0.25, "half of it is page cache"
    assert readings["swap"].value == 0.25
    assert readings["pids"].value == 0.3
    assert readings["cpu"].value == pytest.approx(0.5, rel=0.2)
    assert readings["cpu.throttled"].value == 0.5
    assert readings["pressure.memory"].value == 0.2
    assert readings["pressure.io.full"].value == pytest.approx(0.07)
    limited = ("memory", "swap", "pids", "cpu", "pressure.memory")
    assert {readings[name].scope for name in limited} == {"cgroup v2"}
    assert f"{machine.folder}/v2/a/root/memory.max" in readings["memory"].source


def test_a_group_above_may_be_the_tighter_one(machine: Machine) -> None:
    machine.unified("/a/root", **V2)
    machine.group(
        "v2/a",
        memory__max=str(4 * GIB),
        memory__current=str(3 * GIB),
        memory__stat="inactive_file 0",
        pids__max="1000",
        pids__current="100",
    )
    readings = machine.readings()

    assert readings["memory"].value == 0.75
    assert readings["memory"].limit == 4 * GIB
    assert readings["pids"].value == 0.3


def test_version_1_says_what_limits_us(machine: Machine) -> None:
    machine.controller("memory", "/a/root", **V1_MEMORY)
    machine.controller("pids", "/", pids__max="100", pids__current="30")
    machine.controller(
        "cpu", "/q", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000",
        cpu__stat="nr_periods 10\nnr_throttled 0",
    )  # fmt: skip
    machine.controller("cpuacct", "/q", cpuacct__usage=str(10**9))
    before = later(machine.look(), 1.0)
    machine.write("v1/cpuacct/q/cpuacct.usage", str(125 * 10**7))
    readings = machine.readings(before)

    assert readings["memory"].value == 0.25
    assert readings["swap"].value == 0.25, "memory and swap together, less the memory"
    assert readings["pids"].value == 0.3
    assert readings["cpu"].value == pytest.approx(0.5, rel=0.2)
    assert {readings[name].scope for name in ("memory", "swap", "pids", "cpu")} == {"cgroup v1"}
    assert readings["pressure.cpu"].scope == "host", "version 1 has no pressure files"


def test_version_1_knows_limits_of_groups_that_we_cannot_see(machine: Machine) -> None:
    machine.controller(
        "memory",
        "/",
        **{
            **V1_MEMORY,
            "memory__limit_in_bytes": UNLIMITED_V1,
            "memory__memsw__limit_in_bytes": UNLIMITED_V1,
        },
    )
    readings = machine.readings()

    assert readings["memory"].limit == 2 * GIB
    assert readings["swap"].scope == "host"


def test_each_controller_of_a_hybrid_is_read_where_it_is(machine: Machine) -> None:
    machine.unified("/u", **V2)
    machine.controller("memory", "/a/root", **V1_MEMORY)
    machine.lose("v2/u/memory.max")
    readings = machine.readings()

    assert readings["memory"].scope == "cgroup v1"
    assert readings["pids"].scope == "cgroup v2"


@pytest.mark.parametrize("limit", ["max", UNLIMITED_V1, str(64 * GIB)])
def test_a_limit_that_is_none_or_out_of_reach_leaves_the_machine(
    machine: Machine, limit: str
) -> None:
    machine.unified("/a", **{**V2, "memory__max": limit, "cpu__max": "max 100000"})
    readings = machine.readings()

    assert (readings["memory"].value, readings["memory"].scope) == (0.5, "host")
    assert readings["cpu"].scope == "host"


def test_a_group_that_is_not_to_be_seen_leaves_the_machine_and_is_told(machine: Machine) -> None:
    """In a container that was given a part of the groups only."""
    machine.unified("/a", **V2)
    machine.write(f"proc/{PID}/cgroup", "0::/../elsewhere\n")
    reading = machine.readings()["memory"]

    assert (reading.value, reading.scope) == (0.5, "host")
    assert "is not to be seen" in reading.source


def missing_now(machine: Machine, before: Facts) -> dict[str, Reading]:
    readings = machine.readings(before)
    return {name: reading for name, reading in readings.items() if reading.missing}


# What is wrong with which file, and the readings it costs.
HARMED = {
    "v2/a/memory.current": {"memory"},
    "v2/a/memory.stat": {"memory"},
    "v2/a/memory.swap.current": {"swap"},
    "v2/a/pids.current": {"pids"},
    "v2/a/cpu.stat": {"cpu", "cpu.throttled"},
    "v2/a/cpu.pressure": {"pressure.cpu"},
    "v2/a/io.pressure": {"pressure.io", "pressure.io.full"},
    "proc/loadavg": {"load"},
    "proc/sys/fs/file-nr": {"open_files.host"},
    f"proc/{PID}/limits": {"open_files"},
}
LIMIT_FILES = {
    "v2/a/memory.max": {"memory"},
    "v2/a/memory.swap.max": {"swap"},
    "v2/a/pids.max": {"pids"},
    "v2/a/cpu.max": {"cpu", "cpu.throttled"},
}


@pytest.mark.parametrize("file", [*HARMED, *LIMIT_FILES])
def test_a_file_that_cannot_be_read_costs_its_own_readings(machine: Machine, file: str) -> None:
    machine.unified("/a", **V2)
    before = later(machine.look(), 1.0)
    machine.block(file)
    lost = missing_now(machine, before)

    assert set(lost) == {**HARMED, **LIMIT_FILES}[file]
    assert all(f"{machine.folder}/{file}: Is a directory" in each.missing for each in lost.values())


@pytest.mark.parametrize("text", ["", "apples\n", "-5\n", "\0\0\0", "99999999999999999999999999\n"])
@pytest.mark.parametrize("file", [*HARMED, *LIMIT_FILES])
def test_garbage_costs_its_own_readings(machine: Machine, file: str, text: str) -> None:
    machine.unified("/a", **V2)
    before = later(machine.look(), 1.0)
    machine.write(file, text)
    lost = missing_now(machine, before)

    assert set(lost) == {**HARMED, **LIMIT_FILES}[file]
    assert all(f"{machine.folder}/{file}" in each.missing for each in lost.values())


@pytest.mark.parametrize("file", [file for file in HARMED if "pressure" not in file])
def test_a_file_that_vanishes_costs_its_own_readings(machine: Machine, file: str) -> None:
    machine.unified("/a", **V2)
    before = later(machine.look(), 1.0)
    machine.lose(file)
    lost = missing_now(machine, before)

    assert set(lost) == HARMED[file]
    assert all(f"{machine.folder}/{file}: No such file" in each.missing for each in lost.values())


def test_garbage_of_the_machine_costs_what_no_group_limits(machine: Machine) -> None:
    machine.write("proc/meminfo", "no memory here\n")
    lost = missing_now(machine, later(machine.look(), 1.0))

    assert set(lost) == {"memory", "swap"}
    assert f"{machine.proc}/meminfo" in lost["memory"].missing


def test_a_look_at_nothing_at_all_gives_reasons(tmp_path: Path) -> None:
    """A folder without a single file is a machine without readings, and no error."""
    bare = Machine(tmp_path)
    bare.lose("proc")
    readings = bare.readings()

    known = {name for name, reading in readings.items() if reading.value is not None}
    assert known == set()


def test_processes_are_read_and_those_that_ended_are_empty(machine: Machine) -> None:
    (proc,) = machine.look().procs
    assert proc.rss_bytes == 50 * os.sysconf("SC_PAGE_SIZE")
    assert proc.cpu_s == 300 / os.sysconf("SC_CLK_TCK")
    machine.lose(f"proc/{PID}/statm")
    machine.lose(f"proc/{PID}/stat")
    (gone,) = machine.look().procs
    assert (gone.rss_bytes, gone.cpu_s) == (None, None)


def test_a_file_system_is_told_as_df_does(tmp_path: Path) -> None:
    facts = look_at_disk(str(tmp_path))
    readings = readings_of(tuple(facts.claims), facts, None)
    disk, inodes = readings[f"disk:{tmp_path}"], readings[f"inodes:{tmp_path}"]
    found = os.statvfs(tmp_path)

    assert disk.limit == pytest.approx(
        (found.f_blocks - found.f_bfree + found.f_bavail) * found.f_frsize, rel=0.01
    )
    assert disk.value is not None
    assert inodes.value is not None
    assert disk.scope == inodes.scope == "mount"


def test_a_path_that_is_not_there_is_missing(tmp_path: Path) -> None:
    facts = look_at_disk(f"{tmp_path}/nowhere")
    readings = readings_of(tuple(facts.claims), facts, None)

    assert len(readings) == 2
    assert all("nowhere: No such file" in reading.missing for reading in readings.values())


def test_the_report_names_each_reading_with_its_value_or_what_is_wrong(machine: Machine) -> None:
    machine.unified("/a", **V2)
    machine.block("v2/a/pids.current")
    text = as_text(list(machine.readings().values()))

    assert len(text.splitlines()) == 13
    assert "25.0% (512 Mi of 2,048 Mi)" in text
    assert f"cgroup v2: cannot read {machine.folder}/v2/a/pids.current" in text
