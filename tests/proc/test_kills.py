"""Guarantees 1 to 3: whatever an action hangs in, it is killed, and the certificate says in what.

The shapes of a hang, and the causes of a death, with real processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import deadly_actions as deadly
import pytest
from driving import Driven, driven
from running import until

from fsmv2.ipc.linux import is_alive
from fsmv2.supervisor import Action
from fsmv2.supervisor.core.action import ActionResult
from fsmv2.supervisor.kernelgroups import cgroups
from fsmv2.supervisor.stacks.outsidereader import reader_capability
from fsmv2.supervisor.telemetry.evidence import read_dump

pytestmark = pytest.mark.proc

CAN_READ, WHY_NOT = reader_capability()

SHAPES = {
    "Python loop": (deadly.LoopForever(), {"timed_out"}, "guilty_loop"),
    "sleep": (deadly.SleepForever(), {"timed_out"}, "guilty_sleep"),
    "lock": (deadly.LockForever(), {"timed_out"}, "guilty_lock"),
    # The matcher and the big numbers of some Python versions look for signals, of others not.
    "catastrophic regex": (deadly.MatchForever(), {"timed_out", "hung_in_c"}, "guilty_match"),
    "big-int power": (deadly.PowerForever(), {"timed_out", "hung_in_c"}, "guilty_power"),
    "C loop": (deadly.CountInCForever(), {"hung_in_c"}, "guilty_count"),
    "GIL held in C": (deadly.HoldGilInThread(), {"hung_in_c"}, "guilty_count"),
    "SIGTERM ignored": (deadly.IgnoreTerm(), {"timed_out"}, "guilty_sleep"),
    "all signals blocked": (deadly.BlockAllSignals(), {"timed_out"}, "guilty_sleep"),
    "stopped": (deadly.StopMyself(), {"stopped_process"}, "guilty_stop"),
}
FROM_OUTSIDE = ("all signals blocked", "stopped")


UNANSWERED_MAX = LATE_MAX = 5


@pytest.fixture(scope="module")
def shared() -> Iterator[Driven]:
    with driven(preload=("deadly_actions",)) as made:
        yield made


def certified(result: ActionResult) -> ActionResult:
    assert result.certificate is not None, result
    return result


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_hang_is_killed_with_the_guilty_function_named(
    shared: Driven, shape: str
) -> None:
    action, verdicts, guilty = SHAPES[shape]
    for _ in range(UNANSWERED_MAX):
        shared.wait_ready()
        result = certified(shared.run(action))
        certificate = result.certificate
        assert certificate is not None
        # A busy machine may keep a victim from answering within the budget; not each time.
        if shape in FROM_OUTSIDE or "it did not answer" not in (certificate.stack or ""):
            break
    assert result.status == "timed_out"
    # Without a free core nobody can tell that it hangs in C: it had no CPU to show itself.
    assert certificate.verdict in verdicts | {"timed_out"}
    assert certificate.signal == "SIGKILL"
    assert certificate.slot_back_s is not None
    if shape in FROM_OUTSIDE and not CAN_READ:
        assert certificate.stack is None, WHY_NOT
        return
    assert guilty in (certificate.stack or ""), certificate
    assert "workerproc/proc.py" not in (certificate.stack or "")
    assert ("read from outside" in (certificate.stack or "")) == (shape in FROM_OUTSIDE)


def test_the_main_thread_is_told_beside_more_threads_than_a_dump_holds(shared: Driven) -> None:
    """The dump of a proc's own has the newest 100, so it is read from outside."""
    for _ in range(UNANSWERED_MAX):
        certificate = certified(shared.run(deadly.SleepBesideThreads(150))).certificate
        assert certificate is not None
        stack = certificate.stack or ""
        if "guilty_sleep" in stack:
            break
    if not CAN_READ:
        assert not read_dump(stack).guilty_known, WHY_NOT
        return
    assert any("in guilty_sleep" in frame for frame in read_dump(stack).threads[0])
    assert stack.startswith("(read from outside: its own dump")


@pytest.mark.parametrize("shape", ["C loop", "GIL held in C"])
def test_a_hang_in_c_is_said_to_be_one_with_what_was_read(shared: Driven, shape: str) -> None:
    """Some of several: on a busy machine a single one may have had no CPU to show itself."""
    found = []
    for _ in range(20):
        certificate = certified(shared.run(SHAPES[shape][0])).certificate
        assert certificate is not None
        found.append(certificate.verdict)
        if certificate.verdict == "hung_in_c":
            assert "came to no Python code" in (certificate.detail or "")
            return
    raise AssertionError(found)


def test_a_hang_in_python_is_never_said_to_be_in_c(shared: Driven) -> None:
    for action in (deadly.LoopForever(), deadly.SleepForever(), deadly.LockForever()):
        for _ in range(3):
            assert certified(shared.run(action)).verdict == "timed_out"


def test_the_slot_runs_its_next_action_while_the_victim_of_a_huge_kill_is_still_dying(
    shared: Driven,
) -> None:
    shared.wait_ready()
    victims = [shared.submit(deadly.TouchMemory(200 << 20), timeout_s=3.0) for _ in range(2)]
    waiting = shared.submit(deadly.WhoAmI())

    assert shared.result(waiting).succeeded
    for victim in victims:
        result = certified(shared.result(victim))
        assert result.status == "timed_out"
        assert result.certificate is not None
        assert (result.certificate.peak_memory_bytes or 0) > 100 << 20


@pytest.mark.parametrize("with_groups", [True, False], ids=["kernel groups", "by hand"])
def test_no_process_of_a_fork_bomb_survives_its_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_groups: bool
) -> None:
    """With whatever this machine has, and as if it had no control groups."""
    if not with_groups:
        monkeypatch.setattr(cgroups.ProcGroups, "open", lambda name: cgroups.NO_GROUPS)
    marker = tmp_path / "pids"
    with driven() as made:
        attempt = made.submit(deadly.ForkOn(str(marker)), timeout_s=600.0)
        made.until(lambda: marker.exists() and marker.read_bytes().count(b"\n") >= 40, "all forked")
        made.let_expire(attempt)
        result = certified(made.result(attempt))

        assert result.status == "timed_out"
        assert result.certificate is not None
        pids = [int(line) for line in marker.read_text().split()]
        assert len(pids) >= 20
        assert result.certificate.descendants_killed >= 20
        made.until(lambda: not any(is_alive(pid) for pid in pids), "all of them dead")
        # Nor does one start another now.
        before = marker.read_text()
        made.drive_for(0.3)
        assert marker.read_text() == before
        assert made.run(deadly.WhoAmI()).succeeded


CAUSES = {
    "SIGSEGV": (deadly.Die(signal.SIGSEGV), "crashed:SIGSEGV", "guilty_death"),
    "SIGABRT": (deadly.Die(signal.SIGABRT), "crashed:SIGABRT", "guilty_death"),
    "SIGBUS": (deadly.ReadBeyondFile(), "crashed:SIGBUS", "guilty_read"),
    "SIGTERM": (deadly.Die(signal.SIGTERM), "crashed:SIGTERM", None),
    "os._exit": (deadly.ExitAtOnce(3), "exited:3", None),
    "os._exit 0": (deadly.ExitAtOnce(0), "exited:0", None),
    "SIGKILL": (deadly.Die(signal.SIGKILL), "killed_from_outside", None),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_cause_of_death_is_told_right(shared: Driven, cause: str) -> None:
    action, verdict, guilty = CAUSES[cause]

    result = certified(shared.run(action))

    assert (result.status, result.verdict) == ("crashed", verdict)
    certificate = result.certificate
    assert certificate is not None
    if guilty is not None:
        assert guilty in (certificate.stack or "")
    if isinstance(action, deadly.Die):
        assert certificate.log_tail[-1] == "last words"
        assert certificate.signal == signal.Signals(action.number).name
    if verdict == "killed_from_outside":
        assert "not this root" in (certificate.sent_by or "")


def test_an_interpreter_that_gives_up_says_why_and_where(shared: Driven) -> None:
    """It has switched its crash handler off by then, and writes to its standard error."""
    result = certified(shared.run(deadly.GiveUp()))

    assert (result.status, result.verdict) == ("crashed", "crashed:SIGABRT")
    certificate = result.certificate
    assert certificate is not None
    assert "register table corrupted" in (certificate.detail or "")
    assert (certificate.stack or "").startswith("Fatal Python error")
    assert "guilty_giving_up" in read_dump(certificate.stack or "").threads[0][3]
    assert "workerproc/proc.py" not in (certificate.stack or "")
    assert certificate.log_tail == ("before it",)


def test_memory_guard_kills_before_the_kernel_does_and_says_what_it_read(shared: Driven) -> None:
    result = certified(shared.run(deadly.TouchTooMuch(400 << 20)))

    assert (result.status, result.verdict) == ("crashed", "out_of_memory")
    assert result.certificate is not None
    said = result.certificate.sent_by or ""
    assert said.startswith("the root's memory guard: ")
    assert f"its limit is {64 << 20} bytes" in said
    assert "statm" in said
    assert "smaps_rollup" in said


def test_memory_of_what_an_action_started_counts_too(shared: Driven) -> None:
    result = certified(shared.run(deadly.TouchTooMuchBelow(300 << 20)))

    assert result.verdict == "out_of_memory"
    assert result.certificate is not None
    assert "2 processes" in (result.certificate.sent_by or "")


def test_too_many_processes_are_the_end_of_the_action(shared: Driven) -> None:
    result = shared.run(deadly.ForkTooMuch())

    if result.status == "failed":  # the kernel holds it to that where it can
        assert result.error is not None
        assert result.error.type == "BlockingIOError"
        return
    assert (result.status, result.verdict) == ("crashed", "too_many_processes")
    assert "its limit is 5" in (certified(result).certificate.sent_by or "")  # type: ignore[union-attr]


def test_address_space_limit_is_a_memory_error_of_the_action(shared: Driven) -> None:
    result = shared.run(deadly.TakeAddressSpace())

    assert result.status == "failed"
    assert result.error is not None
    assert result.error.type == "MemoryError"
    assert shared.run(deadly.WhoAmI()).succeeded


def test_spent_cpu_limit_is_told_with_its_stack(shared: Driven) -> None:
    result = certified(shared.run(deadly.BurnCpu()))

    assert (result.status, result.verdict) == ("crashed", "crashed:SIGXCPU")
    assert result.certificate is not None
    assert "guilty_loop" in (result.certificate.stack or "")
    assert "RLIMIT_CPU" in (result.certificate.sent_by or "")


def test_operator_kill_and_cancel_are_told_apart(shared: Driven) -> None:
    for cause, said in (("operator", "an operator killed it"), ("cancelled", "it was cancelled")):
        attempt = shared.submit(deadly.SleepForever(), timeout_s=600.0)
        shared.until(lambda a=attempt: shared.pool.in_flight(a).proc is not None, "at work")  # type: ignore[misc]
        assert shared.pool.cancel(attempt, cause)
        result = certified(shared.result(attempt))
        assert (result.status, result.verdict) == ("cancelled", "cancelled")
        assert result.certificate is not None
        assert said in (result.certificate.sent_by or "")


def test_proc_killed_by_somebody_else_while_at_work_is_told_so(shared: Driven) -> None:
    attempt = shared.submit(deadly.SleepForever(), timeout_s=600.0)
    shared.until(lambda: shared.pool.in_flight(attempt).proc is not None, "at work")  # type: ignore[union-attr]
    proc = shared.pool.in_flight(attempt).proc  # type: ignore[union-attr]
    shared.until(lambda: proc.page.begun()[0] == attempt, "begun")

    os.kill(proc.pid, signal.SIGKILL)

    result = certified(shared.result(attempt))
    assert (result.status, result.verdict) == ("crashed", "killed_from_outside")


def in_time(
    shared: Driven, action: Action, is_so: Callable[[ActionResult], object]
) -> ActionResult:
    """The result of which that is so, of several: a busy machine may keep a proc from its work
    for longer than these short times; not each time."""
    for _ in range(LATE_MAX):
        result = shared.run(action)
        if is_so(result):
            break
    return result


def test_missing_heartbeat_ends_an_action_long_before_its_deadline(shared: Driven) -> None:
    action = deadly.BeatThenStop(3)
    result = in_time(shared, action, lambda one: "guilty_sleep" in str(certified(one).certificate))

    assert result.status == "timed_out"
    assert result.certificate is not None
    assert "no heartbeat had come for 0.4 s" in (result.certificate.sent_by or "")
    assert "guilty_sleep" in (result.certificate.stack or "")
    assert result.ran_s < deadly.BeatThenStop.timeout_s - 10.0
    assert in_time(shared, deadly.BeatToTheEnd(8), lambda one: one.succeeded).succeeded


def test_an_action_may_extend_its_time_up_to_the_ceiling_of_its_type(shared: Driven) -> None:
    fine = in_time(shared, deadly.ExtendAgain(1.0), lambda one: one.succeeded)
    greedy = certified(in_time(shared, deadly.ExtendAgain(3600.0), lambda one: one.ran_s >= 2.0))

    assert fine.value == "done"
    assert greedy.status == "timed_out"
    assert greedy.ran_s >= 2.0
    assert "deadline of 2 s" in (greedy.certificate.sent_by or "")  # type: ignore[union-attr]


def test_sigterm_comes_half_way_through_the_grace_to_those_who_catch_it(shared: Driven) -> None:
    began = time.monotonic()
    result = shared.run(deadly.CatchTerm())

    assert result.status == "failed"
    assert result.error is not None
    assert result.error.type == "SystemExit"
    assert time.monotonic() - began < deadly.CatchTerm.grace_s


def test_others_in_flight_and_in_the_queue_are_untouched_by_all_of_these(
    tmp_path: Path,
) -> None:
    victims: list[Action] = [
        deadly.Die(signal.SIGSEGV),
        deadly.LoopForever(),
        deadly.ExitAtOnce(1),
        deadly.StopMyself(),
        deadly.Die(signal.SIGKILL),
    ]
    with driven({"actions": 3}) as made:
        path = tmp_path / "log"
        steady = made.submit(deadly.OneAtATime(str(path), 3.0), timeout_s=120.0)
        queued = [made.submit(deadly.WhoAmI(), key=f"k{n % 5}") for n in range(50)]
        hit = [made.submit(victim) for victim in victims]

        assert made.result(steady).succeeded
        assert all(made.result(attempt).succeeded for attempt in queued)
        assert all(made.result(attempt).certificate is not None for attempt in hit)
        assert path.read_text() == "begin\nend\n"  # once


MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")
MEMORY_GROUPS_V2 = Path("/sys/fs/cgroup")

RUN_IN_GROUP = """
import os, sys
with open(sys.argv[1], "w") as file:
    file.write(str(os.getpid()))
import deadly_actions as deadly
from fsmv2.supervisor.telemetry.evidence import read_dump
from driving import driven

if __name__ == "__main__":
    with driven() as made:
        made.wait_ready()
        bystander = made.submit(deadly.OneAtATime(os.devnull, 3.0))
        result = made.run(deadly.TouchMemory(400 << 20))
        print(result.status, result.verdict, result.certificate.sent_by, sep="|")
        print(made.result(bystander).status)
"""


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A memory control group of 200 MiB; its list of processes."""
    v1 = MEMORY_GROUPS.is_dir()
    parent, limit, swap = (
        (MEMORY_GROUPS, "memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        if v1
        else (MEMORY_GROUPS_V2, "memory.max", "memory.swap.max")
    )
    group = parent / f"fsmv2test{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"cannot make a memory control group: {error}")
    try:
        try:
            (group / limit).write_text(str(200 << 20))
        except OSError as error:
            pytest.skip(f"cannot limit a memory control group: {error}")
        if (group / swap).exists():
            (group / swap).write_text(str(200 << 20) if v1 else "0")
        yield group / "cgroup.procs"
    finally:
        until(lambda: not (group / "cgroup.procs").read_text(), "the group is empty")
        group.rmdir()


def test_kill_by_the_kernels_oom_killer_is_told_from_other_kills(small_group: Path) -> None:
    here = Path(__file__).parent
    ended = subprocess.run(
        [sys.executable, "-P", "-c", RUN_IN_GROUP, str(small_group)],
        env={**os.environ, "PYTHONPATH": f"{here}:{here.parent / 'support'}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    told, bystander = ended.stdout.splitlines()
    status, verdict, sent_by = told.split("|")
    assert (status, verdict) == ("crashed", "out_of_memory")
    assert sent_by.startswith("the kernel's OOM killer: oom_kill of ")
    assert bystander == "succeeded"
