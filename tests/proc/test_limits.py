"""Limits of action types as the proc holds them: in force for one attempt, lifted after it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import deadly_actions as deadly
import limited_actions as limited
import pytest
from driving import Driven, driven

from fsmv2.supervisor.pool.memoryshare import share_bytes

pytestmark = pytest.mark.proc


@pytest.fixture(scope="module")
def shared() -> Iterator[Driven]:
    """One proc, so that the next action runs where the last one did."""
    with driven({"actions": 1}, spares=0, preload=("limited_actions",)) as made:
        yield made


def test_limits_are_in_force_during_the_attempt_and_lifted_after_it(shared: Driven) -> None:
    before = shared.run(limited.TellLimits()).value
    during = shared.run(limited.TellLimited()).value
    after = shared.run(limited.TellLimits()).value

    assert after == before
    assert during["pid"] == before["pid"]
    assert during["RLIMIT_AS"] == 4 << 30
    assert 5 <= during["RLIMIT_CPU"] < 60
    assert 10 <= during["RLIMIT_NOFILE"] < 40
    assert during["RLIMIT_NPROC"] == before["RLIMIT_NPROC"]


def test_limits_are_lifted_when_the_action_raises(shared: Driven) -> None:
    before = shared.run(limited.TellLimits()).value
    assert shared.run(limited.RaiseInLimits()).status == "failed"
    assert shared.run(limited.TellLimits()).value == before


def test_exactly_so_many_files_can_be_open_beside_the_procs_own(shared: Driven) -> None:
    for _ in range(3):
        assert shared.run(limited.OpenFiles()).value == (7, "EMFILE")


def test_one_file_too_many_is_the_actions_own_error(shared: Driven) -> None:
    result = shared.run(limited.OpenTooMany())

    assert result.status == "failed"
    assert result.error is not None
    assert (result.error.type, "Too many open files" in result.error.message) == ("OSError", True)


def test_address_space_used_up_to_the_last_page_still_gives_an_answer(shared: Driven) -> None:
    pid = shared.run(limited.TellLimits()).value["pid"]
    result = shared.run(limited.FillMemory())

    assert result.status == "failed", result
    assert result.error is not None
    assert result.error.type == "MemoryError"
    assert shared.run(limited.TellLimits()).value["pid"] == pid


def test_limit_below_what_the_proc_has_is_refused_before_the_action_begins(
    shared: Driven,
) -> None:
    result = shared.run(limited.TooLittleSpace())

    assert result.status == "failed"
    assert result.error is not None
    assert result.error.type == "LimitError"
    wording = r"cannot limit address_space_bytes: got 1048576 bytes, want more than the \d+ bytes"
    assert re.search(wording, result.error.message)


def test_cpu_limit_counts_one_attempt_not_the_life_of_the_proc(shared: Driven) -> None:
    used = [shared.run(limited.BurnInBursts()).value for _ in range(6)]

    assert used == sorted(used), "one proc"
    assert used[-1] > 2.0


def test_spent_cpu_limit_ends_the_proc_with_its_stack_kept(shared: Driven) -> None:
    result = shared.run(deadly.BurnCpu())

    assert (result.status, result.verdict) == ("crashed", "crashed:SIGXCPU")
    assert result.certificate is not None
    assert "guilty_loop" in (result.certificate.stack or "")


def test_pages_that_processes_share_count_once_for_the_memory_limit(shared: Driven) -> None:
    """Six have 100 MiB each and the same; the limit is 256 MiB."""
    if share_bytes(os.getpid()) is None:
        pytest.skip("no smaps_rollup here: before Linux 4.14")
    result = shared.run(limited.ShareMemory(size=100 << 20, processes=5, seconds=1.0))

    assert result.value == 5, result


@pytest.mark.skipif(os.getuid() != 0, reason="only root may lower a niceness again")
def test_niceness_holds_for_the_attempt_and_is_put_back(shared: Driven) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    nice, pid = shared.run(limited.Nice()).value

    assert nice == max(7, own)
    after = shared.run(limited.TellLimits()).value
    assert (after["niceness"], after["pid"]) == (own, pid)


def test_proc_whose_niceness_could_not_be_put_back_is_recycled() -> None:
    with driven({"actions": 1}, spares=0) as made:
        pid = made.run(limited.GiveUpPrivileges()).value
        after = made.run(limited.TellLimits()).value

    assert after["pid"] != pid
    assert after["niceness"] == os.getpriority(os.PRIO_PROCESS, 0)


IN_FIRST_NAMESPACE = os.stat("/proc/self/ns/pid").st_ino == 0xEFFFFFFC
BINDS = """
import os, time
if os.getuid() == 0:
    os.setresuid(64321, 64321, 64321)
from types import SimpleNamespace
from fsmv2.workerproc.limits import applied
made = []
with applied(SimpleNamespace(processes=3), None):
    try:
        while len(made) < 50:
            pid = os.fork()
            if pid == 0:
                time.sleep(600)
            made.append(pid)
    except OSError as error:
        print(type(error).__name__, flush=True)
pid = os.fork()
if pid == 0:
    os._exit(0)
for each in made:
    os.kill(each, 9)
print(len(made), flush=True)
"""


@pytest.mark.skipif(not IN_FIRST_NAMESPACE, reason="a pid namespace hides the user's processes")
def test_processes_beyond_the_limit_cannot_be_started_by_an_ordinary_user() -> None:
    """And can be again once the limit is lifted."""
    done = subprocess.run(
        [sys.executable, "-c", f"import fsmv2.workerproc.limits\n{BINDS}"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.stderr == ""
    assert done.stdout.splitlines() == ["BlockingIOError", "3"]
