"""What the OOM killer leaves behind, read from files made up here.

The kernel's own killer is at work in `tests/proc/test_kills.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fsmv2.supervisor.pool.memoryevents import OomCounters, memory_limit


def make_proc(folder: Path, version: int, kills: int, vmstat: int = 0) -> None:
    group = folder / "group"
    group.mkdir(exist_ok=True)
    (folder / "self").mkdir(exist_ok=True)
    kind = "cgroup2 cgroup2 rw" if version == 2 else "cgroup cgroup rw,memory"
    (folder / "self/mountinfo").write_text(f"1 1 0:1 / {group} rw - {kind}\n")
    (folder / "self/cgroup").write_text("0::/\n" if version == 2 else "3:memory:/\n")
    name = "memory.events" if version == 2 else "memory.oom_control"
    (group / name).write_text(f"oom 5\noom_kill {kills}\n")
    (folder / "vmstat").write_text(f"nr_free_pages 7\noom_kill {vmstat}\n")


@pytest.mark.parametrize("version", [1, 2])
def test_risen_counter_of_our_group_is_told_with_where_it_was_read(
    tmp_path: Path, version: int
) -> None:
    make_proc(tmp_path, version, 2)
    counters = OomCounters(str(tmp_path), kmsg="/nonexistent").open()
    assert counters.is_sure
    assert counters.risen(1, "x") is None

    make_proc(tmp_path, version, 3)
    told = counters.risen(1, "x")

    assert told is not None
    assert "rose from 2 to 3" in told
    assert str(tmp_path / "group") in told
    assert counters.risen(1, "x") is None, "one rise explains one death"
    make_proc(tmp_path, version, 4)
    counters.look()
    assert counters.risen(1, "x") is not None, "a large process takes a while to die"
    counters.close()


def test_a_rise_two_looks_ago_explains_nothing(tmp_path: Path) -> None:
    make_proc(tmp_path, 2, 2)
    counters = OomCounters(str(tmp_path), kmsg="/nonexistent").open()
    make_proc(tmp_path, 2, 3)
    counters.look()
    counters.look()
    assert counters.risen(1, "x") is None
    counters.close()


def test_counter_of_the_whole_machine_counts_only_if_the_kernel_log_names_the_process(
    tmp_path: Path,
) -> None:
    make_proc(tmp_path, 2, 0)
    (tmp_path / "group/memory.events").unlink()
    log = tmp_path / "kmsg"
    log.write_text("")
    counters = OomCounters(str(tmp_path), kmsg=str(log)).open()
    make_proc(tmp_path, 2, 0, vmstat=1)
    (tmp_path / "group/memory.events").unlink()
    assert counters.risen(17, "fsmv2.1.p3") is None

    with log.open("a") as file:
        file.write("3,1,1,-;Out of memory: Killed process 17 (fsmv2.1.p3) total-vm:1kB\n")
    told = counters.risen(17, "fsmv2.1.p3")
    assert told is not None
    assert "Killed process 17 (fsmv2.1.p3)" in told
    counters.close()


def test_two_kills_at_once_explain_two_deaths_and_no_third(tmp_path: Path) -> None:
    make_proc(tmp_path, 2, 0)
    (tmp_path / "group/memory.events").unlink()
    log = tmp_path / "kmsg"
    log.write_text("")
    counters = OomCounters(str(tmp_path), kmsg=str(log)).open()
    (tmp_path / "vmstat").write_text("oom_kill 2\n")
    with log.open("a") as file:
        file.write("3,1,1,-;Out of memory: Killed process 17 (fsmv2.1.p3) total-vm:1kB\n")
    counters.look()
    with log.open("a") as file:
        file.write("3,1,2,-;Out of memory: Killed process 18 (fsmv2.1.p4) total-vm:1kB\n")

    assert "process 18 (" in str(counters.risen(18, "fsmv2.1.p4"))
    assert counters.risen(19, "fsmv2.1.p5") is None
    assert "process 17 (" in str(counters.risen(17, "fsmv2.1.p3")), "of the look before"
    assert counters.risen(17, "fsmv2.1.p3") is None
    counters.close()


@pytest.mark.parametrize("looks_between", [0, 1])
def test_as_many_deaths_are_explained_as_our_group_has_counted(
    tmp_path: Path, looks_between: int
) -> None:
    make_proc(tmp_path, 2, 5)
    counters = OomCounters(str(tmp_path), kmsg="/nonexistent").open()
    make_proc(tmp_path, 2, 7)

    told = [counters.risen(1, "x") is not None]
    for _ in range(looks_between):
        counters.look()
    told += [counters.risen(number, "x") is not None for number in (2, 3)]

    assert told == [True, True, False]
    counters.close()


def test_our_groups_counter_explains_no_death_if_the_log_names_somebody_else(
    tmp_path: Path,
) -> None:
    make_proc(tmp_path, 2, 0)
    log = tmp_path / "kmsg"
    log.write_text("")
    counters = OomCounters(str(tmp_path), kmsg=str(log)).open()
    make_proc(tmp_path, 2, 1)
    with log.open("a") as file:
        file.write("3,1,1,-;Memory cgroup out of memory: Killed process 17 (fsmv2.1.p3)\n")

    assert counters.risen(18, "fsmv2.1.p4") is None
    assert counters.risen(17, "fsmv2.1.p3") is not None
    counters.close()


def test_no_limit_is_told_as_none(tmp_path: Path) -> None:
    make_proc(tmp_path, 2, 0)
    limit = tmp_path / "group/memory.max"
    for text, want in (("max\n", None), ("1048576\n", 1 << 20)):
        limit.write_text(text)
        assert memory_limit(str(tmp_path)) == want
