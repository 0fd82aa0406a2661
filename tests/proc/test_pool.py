"""The pool with real processes: results, deaths, kills, order, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lane_actions
import pool_actions as acts
import pytest

from fsmv2.ipc.linux import children_of, is_alive, place_of
from fsmv2.supervisor import Action, ActionPool, Secret
from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.kernelgroups.cgroups import ProcGroups

pytestmark = pytest.mark.proc

PATIENCE_S = 30.0


def until(claim: Callable[[], object], what: str) -> None:
    """Wait for ``claim``, long enough for a busy machine."""
    give_up = time.monotonic() + PATIENCE_S
    while not claim():
        assert time.monotonic() < give_up, f"never: {what}"
        time.sleep(0.005)


@pytest.fixture
def pool() -> Iterator[ActionPool]:
    with ActionPool(procs=2) as started:
        yield started


@pytest.fixture(scope="module")
def shared() -> Iterator[ActionPool]:
    with ActionPool(procs=2) as started:
        yield started


def test_value_comes_back(shared: ActionPool) -> None:
    result = shared.run(acts.Echo(7))
    assert result.status == "succeeded"
    assert result.value == 7
    assert result.certificate is None
    assert result.value_or_raise() == 7


def test_exception_comes_back_as_data_with_its_traceback(shared: ActionPool) -> None:
    result = shared.run(acts.Raise("no such valve"))
    assert result.status == "failed"
    assert result.error is not None
    assert (result.error.type, result.error.message) == ("ValueError", "no such valve")
    assert "pool_actions.py" in result.error.traceback
    assert "workerproc" not in result.error.traceback


def test_sys_exit_is_an_ordinary_error(shared: ActionPool) -> None:
    result = shared.run(acts.ExitPolitely())
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.type == "SystemExit"


@pytest.mark.parametrize(
    ("action", "names"),
    [
        (acts.Spin(), "guilty_loop"),
        (acts.WaitOnLock(), "pool_actions.py"),
        (acts.HoldTheGil(), "pool_actions.py"),
        (acts.IgnoreTerm(), "pool_actions.py"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Action) else "",
)
def test_hung_action_is_killed_at_its_deadline_with_its_stack(
    shared: ActionPool, action: Action, names: str
) -> None:
    result = shared.run(action)
    assert result.status == "timed_out"
    assert result.ran_s >= 0.2
    certificate = result.certificate
    assert certificate is not None
    assert certificate.verdict == "timed_out"
    assert certificate.signal == "SIGKILL"
    assert certificate.stack is not None
    assert names in certificate.stack
    assert "deadline of 0.2 s" in (certificate.sent_by or "")
    assert (certificate.peak_memory_bytes or 0) > 1 << 20


def test_stopped_process_is_killed_and_said_to_be_stopped(shared: ActionPool) -> None:
    result = shared.run(acts.StopMyself())
    assert (result.status, result.verdict) == ("timed_out", "stopped_process")


@pytest.mark.parametrize(
    ("action", "verdict", "signal_name"),
    [
        (acts.Segfault(), "crashed:SIGSEGV", "SIGSEGV"),
        (acts.Abort(), "crashed:SIGABRT", "SIGABRT"),
        (acts.Leave(0), "exited:0", None),
        (acts.Leave(3), "exited:3", None),
        (acts.KillMyself(), "killed_from_outside", "SIGKILL"),
    ],
)
def test_crash_is_told_with_its_cause(
    shared: ActionPool, action: Action, verdict: str, signal_name: str | None
) -> None:
    result = shared.run(action)
    assert (result.status, result.verdict) == ("crashed", verdict)
    assert result.certificate is not None
    assert result.certificate.signal == signal_name


def test_crash_leaves_its_stack_and_last_lines(shared: ActionPool) -> None:
    certificate = shared.run(acts.Segfault()).certificate
    assert certificate is not None
    assert certificate.stack is not None
    assert "pool_actions.py" in certificate.stack
    assert certificate.log_tail == ("about to read address 0",)


def test_other_attempts_in_flight_are_untouched_by_a_kill(pool: ActionPool) -> None:
    bystander = pool.submit(acts.Sleep(1.0))
    queued = [pool.submit(acts.Echo(n)) for n in range(20)]
    victim = pool.submit(acts.Spin())
    assert victim.result().status == "timed_out"
    assert bystander.result().value == "slept"
    assert [handle.result().value for handle in queued] == list(range(20))


def test_spare_takes_the_slot_so_the_next_action_does_not_wait_for_a_start(
    pool: ActionPool,
) -> None:
    until(lambda: len(_procs(pool, "idle")) == 3, "two procs and a spare")
    result = pool.run(acts.Spin())
    assert result.certificate is not None
    assert result.certificate.slot_back_s is not None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_proc_killed_from_outside_costs_exactly_its_attempt(
    pool: ActionPool, tmp_path: Path, number: int
) -> None:
    # Killed before it has begun, it would cost nothing at all: it would be run elsewhere.
    path = tmp_path / "marks"
    busy = pool.submit(acts.Append(str(path), "x", 60))
    until(path.exists, "the action has begun")
    [victim] = _procs(pool, "busy")
    other = pool.submit(acts.Sleep(0.5))
    os.kill(victim["pid"], number)
    assert busy.result(PATIENCE_S).status == "crashed"
    assert other.result(PATIENCE_S).value == "slept"
    assert pool.run(acts.Echo(1)).value == 1


def test_idle_proc_killed_costs_nothing(pool: ActionPool) -> None:
    until(lambda: len(_procs(pool, "idle")) == 3, "three idle procs")
    for proc in _procs(pool, "idle"):
        os.kill(proc["pid"], signal.SIGKILL)
    assert [pool.run(acts.Echo(n)).value for n in range(5)] == list(range(5))


def test_template_killed_costs_nothing_and_comes_back(pool: ActionPool, tmp_path: Path) -> None:
    running = pool.submit(lane_actions.Await(str(tmp_path / "go")))
    until(lambda: len(_procs(pool, "busy")) == 1, "a busy proc")
    first = pool.statistics()["template_pid"]
    os.kill(first, signal.SIGKILL)
    (tmp_path / "go").touch()
    assert running.result().succeeded
    until(lambda: pool.statistics()["template_pid"] not in (0, first), "a new template")
    assert pool.run(acts.Spin()).status == "timed_out"
    until(lambda: len(_procs(pool, "idle")) == 3, "procs from the new template")
    assert pool.run(acts.Echo(2)).value == 2


def test_every_action_is_accounted_for_once_while_procs_die_at_random() -> None:
    chance = random.Random(7)
    with ActionPool(procs=2, spares=2) as pool:
        handles = [pool.submit(acts.Echo(n)) for n in range(400)]
        killed = 0
        give_up = time.monotonic() + PATIENCE_S
        while killed < 40 and time.monotonic() < give_up:
            procs = [p for p in pool.statistics()["procs"] if p["pid"]]
            if procs:
                try:
                    os.kill(chance.choice(procs)["pid"], signal.SIGKILL)
                    killed += 1
                except ProcessLookupError:
                    continue
                handles += [pool.submit(acts.Echo(n)) for n in range(20)]
            time.sleep(0.01)
        results = [handle.result(PATIENCE_S) for handle in handles]
        counts = pool.statistics()["finished"]
        assert {result.status for result in results} <= {"succeeded", "crashed"}
        assert sum(counts.values()) == len(handles)
        assert len({result.attempt_id for result in results}) == len(handles)
        assert counts.get("crashed", 0) <= killed


def test_descendants_die_with_the_attempt_also_in_a_session_of_their_own(
    pool: ActionPool, tmp_path: Path
) -> None:
    path = tmp_path / "pids"
    path.touch()
    handle = pool.submit(acts.StartGrandchildren(str(path)), timeout_s=3600.0)
    until(lambda: path.read_bytes().count(b"\n") == 2, "both have begun")
    handle.cancel()
    result = handle.result()
    assert result.status == "cancelled"
    assert result.certificate is not None
    assert result.certificate.descendants_killed == 2
    pids = [int(line) for line in path.read_text().split()]
    assert len(pids) == 2
    until(lambda: not any(is_alive(pid) for pid in pids), "the descendants are dead")


def test_actions_of_one_key_run_in_order_and_never_overlap(
    pool: ActionPool, tmp_path: Path
) -> None:
    path = tmp_path / "marks"
    until(lambda: len(_procs(pool, "idle")) == 3, "procs that could run two at a time")
    handles = [pool.submit(acts.Append(str(path), str(n), 0.01), key="child-a") for n in range(10)]
    assert {handle.result().status for handle in handles} == {"succeeded"}
    expected = [mark for n in range(10) for mark in (f"+{n}", f"-{n}")]
    assert path.read_text().split() == expected


def test_killed_attempt_never_overlaps_with_the_next_of_its_key(
    pool: ActionPool, tmp_path: Path
) -> None:
    path = tmp_path / "marks"
    first = pool.submit(acts.Append(str(path), "a", 60), key="k", timeout_s=3600.0)
    second = pool.submit(acts.WhoAmI(), key="k")
    until(lambda: path.exists() and path.read_text(), "the first has begun")
    first.cancel()
    assert first.result().status == "cancelled"
    assert second.result().status == "succeeded"
    assert path.read_text().split() == ["+a"]


def test_full_queue_refuses_at_once(tmp_path: Path) -> None:
    with ActionPool(procs=1, queue=2) as pool:
        handles = [pool.submit(lane_actions.Await(str(tmp_path / "go"))) for _ in range(6)]
        until(lambda: any(handle.done() for handle in handles), "some are refused")
        (tmp_path / "go").touch()
        refused = [handle for handle in handles if handle.result().status == "refused"]
        assert refused
        error = refused[0].result().error
        assert error is not None
        assert "want at most 2" in error.message
        assert pool.run(acts.Echo(1)).value == 1


def test_cancelled_while_queued_never_runs(pool: ActionPool, tmp_path: Path) -> None:
    pool.submit(lane_actions.Await(str(tmp_path / "go")), key="k")
    path = tmp_path / "marks"
    waiting = pool.submit(acts.Append(str(path), "x"), key="k")
    assert waiting.cancel()
    assert waiting.result().status == "cancelled"
    (tmp_path / "go").touch()
    assert pool.submit(acts.Echo(1), key="k").result().value == 1
    assert not path.exists()
    assert not waiting.cancel()


def test_cancelled_while_running_may_clean_up_within_its_grace(
    pool: ActionPool, tmp_path: Path
) -> None:
    path = tmp_path / "mark"
    handle = pool.submit(acts.Cancellable(str(path)))
    until(path.exists, "the action runs")
    assert handle.cancel()
    result = handle.result(PATIENCE_S)
    assert result.status == "cancelled"
    assert result.certificate is None


def test_cancelled_without_grace_is_killed(pool: ActionPool) -> None:
    handle = pool.submit(acts.Sleep(60))
    until(lambda: len(_procs(pool, "busy")) == 1, "it runs")
    assert handle.cancel()
    result = handle.result(PATIENCE_S)
    assert (result.status, result.verdict) == ("cancelled", "cancelled")


def test_grace_lets_an_overdue_action_end_by_itself(shared: ActionPool) -> None:
    result = shared.run(acts.Cooperate())
    assert (result.status, result.value) == ("succeeded", "cleaned up")


def test_result_over_the_cap_is_a_clear_failure(shared: ActionPool) -> None:
    result = shared.run(acts.ReturnBytes(300 << 20))
    assert result.status == "failed"
    assert result.error is not None
    assert "want at most" in result.error.message
    for size in (900_000, 2 << 20):  # in a frame, and through a file
        assert shared.run(acts.ReturnBytes(size)).value_or_raise() == b"x" * size


def test_payload_over_the_cap_is_refused_and_a_large_one_arrives(shared: ActionPool) -> None:
    result = shared.run(acts.Carry(b"x" * (2 << 20)))
    assert result.status == "refused"
    assert shared.run(acts.Carry(b"x" * 900_000)).value == 900_000


def test_value_without_a_wire_form_is_a_clear_failure(shared: ActionPool) -> None:
    result = shared.run(acts.ReturnObject())
    assert result.status == "failed"
    assert result.error is not None
    assert "cannot encode" in result.error.message


def test_value_of_another_type_than_annotated_is_a_clear_failure(shared: ActionPool) -> None:
    result = shared.run(acts.WrongAnnotation())
    assert result.status == "failed"
    assert result.error is not None
    assert "annotation" in result.error.message


def test_flooding_proc_is_killed_and_harms_nobody(pool: ActionPool) -> None:
    flood = pool.submit(acts.Flood())
    assert [pool.run(acts.Echo(n)).value for n in range(20)] == list(range(20))
    assert flood.result(PATIENCE_S).status == "timed_out"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xff" * 64, "version 255"),
        (b"\x01\xff\xff\xff\x7f", "want at most"),
        (b"\x01\x04\x00\x00\x00\x81\xa4ty", "garbled frame"),
    ],
    ids=["wrong version", "oversized", "garbled"],
)
def test_bytes_that_are_no_frame_cost_only_that_proc(
    pool: ActionPool, data: bytes, says: str
) -> None:
    bystander = pool.submit(acts.Sleep(0.5))
    result = pool.run(acts.WriteGarbage(data))
    assert (result.status, result.verdict) == ("crashed", "lost_channel")
    assert result.certificate is not None
    assert says in (result.certificate.detail or "")
    assert bystander.result().value == "slept"
    assert pool.run(acts.Echo(1)).value == 1


def test_child_that_an_action_forks_never_gets_into_the_loop(shared: ActionPool) -> None:
    assert shared.run(acts.ForkAndReturn()).value > 0
    assert shared.run(acts.Echo(1)).value == 1


@pytest.mark.parametrize("text", ["plain-s3cr3t", "raise-s3cr3t", "crash-s3cr3t"])
def test_secret_is_in_no_error_stack_or_log_tail(shared: ActionPool, text: str) -> None:
    result = shared.run(acts.TellSecret(Secret(text)))
    assert text not in repr(result)
    if result.succeeded:
        assert result.value == Secret(text)
    else:
        assert "Secret(…)" in repr(result)


def test_action_class_made_in_a_function_is_refused_by_name(shared: ActionPool) -> None:
    class Local(Action, frozen=True):
        pass

    with pytest.raises(SpecError, match="top level of a module"):
        shared.submit(Local())


def test_closing_gives_every_open_handle_its_result() -> None:
    pool = ActionPool(procs=1)
    pool.start()
    running = pool.submit(acts.Sleep(60))
    waiting = pool.submit(acts.Echo(1))
    pool.close()
    assert running.result(0).status == "cancelled"
    assert waiting.result(0).status == "cancelled"
    assert pool.submit(acts.Echo(1)).result(0).status == "refused"


def test_nothing_is_left_after_many_kills_and_a_close(shared: ActionPool) -> None:
    # The other pool of this process may be about to replace a proc that an earlier test ended.
    until(lambda: len(_procs(shared, "idle")) == 3, "the other pool is at rest")
    before = len(os.listdir("/proc/self/fd"))
    others = set(children_of(os.getpid()))
    with ActionPool(procs=2) as pool:
        scratch = Path(pool.run(acts.UseScratch()).value)
        until(lambda: len(_procs(pool, "idle")) == 3, "all procs are there")
        steady = len(os.listdir("/proc/self/fd"))
        for _ in range(15):
            assert pool.run(acts.Spin(), timeout_s=0.01).status == "timed_out"
        until(lambda: len(_procs(pool, "idle")) == 3, "all procs are there again")
        # Of who was killed last some may still be open: it is to end first.
        until(lambda: len(os.listdir("/proc/self/fd")) == steady, "as many descriptors as before")
    assert not scratch.exists()
    assert not scratch.parent.exists()
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # the tracker of the start package
    left = set(children_of(os.getpid())) - others
    assert [pid for pid in left if b"resource_tracker" not in _command(pid)] == []


def test_what_a_proc_killed_from_outside_had_started_is_killed_and_reaped(
    shared: ActionPool, tmp_path: Path
) -> None:
    """Only the kernel's group knows the child for ours; no later death of a proc helps."""
    opened = ProcGroups.open("test")
    can_kill, why_not = opened.can_kill, opened.why_not
    opened.close()
    if not can_kill:
        pytest.skip(f"no kernel groups here: {why_not}")
    pids = tmp_path / "pids"
    handle = shared.submit(acts.ForkAway(str(pids)))
    until(pids.exists, "it has a child")
    proc, child = map(int, pids.read_text().split())
    os.kill(proc, signal.SIGKILL)
    assert handle.result().verdict == "killed_from_outside"
    until(lambda: place_of(child) is None, "the child is gone, no zombie either")


def _procs(pool: ActionPool, state: str) -> list[dict]:  # type: ignore[type-arg]
    return [proc for proc in pool.statistics()["procs"] if proc["state"] == state]


@pytest.fixture(scope="module", autouse=True)
def zombies_before() -> set[int]:
    """Of tests in other modules, whose programs left orphans that came to this process."""
    return zombies()


def zombies() -> set[int]:
    found = set()
    for pid in children_of(os.getpid()):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
            if file.read().rpartition(b")")[2].split()[0] == b"Z":
                found.add(pid)
    return found


def test_no_zombie_is_left_by_the_tests_above(zombies_before: set[int]) -> None:
    until(lambda: zombies() <= zombies_before, "all that have ended are reaped")


def _command(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def test_action_cannot_take_the_shared_page_from_under_the_root(shared: ActionPool) -> None:
    """Shrinking a mapped file would end the root with SIGBUS."""
    assert shared.run(acts.ShrinkThePage()).value == "not permitted"
    assert shared.run(acts.Echo(1)).value == 1


def test_proc_that_closes_its_channel_and_goes_on_is_killed_and_said_so(
    shared: ActionPool,
) -> None:
    result = shared.run(acts.CloseEverything())
    assert (result.status, result.verdict) == ("crashed", "lost_channel")


def test_secret_printed_without_a_newline_is_in_no_later_attempts_log_tail() -> None:
    with ActionPool(procs=1) as pool:
        pool.run(acts.PrintWithoutNewline(Secret("s3cr3t-t0ken")))
        result = pool.run(acts.Segfault())
    assert result.certificate is not None
    assert result.certificate.log_tail == ("about to read address 0",)
