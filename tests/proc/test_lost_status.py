"""A proc whose exit status somebody else has taken: nobody says how it ended."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterator

import pool_actions as actions
import pytest
from driving import Driven, driven
from running import until

from fsmv2.ipc.linux import place_of
from fsmv2.supervisor.core.action import ActionResult
from fsmv2.supervisor.core.procfsm import ProcState
from fsmv2.supervisor.pool.procs import SIGCHLD_IGNORED, STATUS_TAKEN, ProcHandle

pytestmark = pytest.mark.proc


@pytest.fixture
def handle() -> Iterator[ProcHandle]:
    made = ProcHandle("p1", 1, 0.0)
    yield made
    made.close()


def test_a_status_that_was_taken_is_no_exit_code(handle: ProcHandle) -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        handle.set_pid(process.pid)
        is_alive = handle.reap() is None
        process.kill()
        process.wait()
    assert is_alive
    assert handle.reap() == (None, 0.0)
    assert handle.status_lost == STATUS_TAKEN


def test_who_ignores_the_signal_of_a_death_is_told_so(handle: ProcHandle) -> None:
    """Then the kernel reaps by itself, and there was no other waiter."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        pid = os.posix_spawn("/bin/sleep", ["sleep", "0"], {})
        if handle.set_pid(pid):
            until(lambda: handle.reap() is not None, "it has ended")
            assert handle.status_lost == SIGCHLD_IGNORED
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_dead_one_that_is_not_ours_yet_is_not_lost(handle: ProcHandle) -> None:
    """Its parent, which the template has forked, lives a moment longer."""
    program = "sleep 0 & echo $!; exec sleep 1000"
    with subprocess.Popen(["sh", "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        try:
            until(lambda: (place := place_of(pid)) and place.state == "Z", "a zombie of another")
            handle.set_pid(pid)
            assert handle.reap() is None
            assert handle.status_lost is None
        finally:
            parent.kill()


def taken(made: Driven, attempt_id: int) -> ActionResult:
    """The result of an attempt whose proc's status the test takes."""
    proc = next(p for p in made.pool.nursery.procs if p.attempt and p.attempt.id == attempt_id)
    os.waitpid(proc.pid, 0)
    return made.result(attempt_id)


def test_a_death_nobody_knows_is_told_as_that() -> None:
    with driven({"actions": 1}, spares=0) as made:
        made.wait_ready()
        attempt_id = made.submit(actions.Leave(0))
        result = taken(made, attempt_id)
    assert result.certificate is not None
    assert (result.status, result.verdict) == ("crashed", "lost_channel")
    assert result.certificate.exit_code is None
    assert result.certificate.signal is None
    assert result.certificate.sent_by is None
    assert result.certificate.detail == STATUS_TAKEN


def test_a_kill_whose_effect_nobody_knows_is_still_ours() -> None:
    """The deadline has passed, that much is sure; which signal has ended it is not."""
    with driven({"actions": 1}, spares=0) as made:
        made.wait_ready()
        attempt_id = made.submit(actions.Sleep(1000.0), timeout_s=0.2)
        proc = next(p for p in made.pool.nursery.procs if p.attempt)
        # In one step it is killed, in a later one the kernel's word is heard.
        made.until(lambda: proc.state is ProcState.KILLED, "it is killed")
        result = taken(made, attempt_id)
    assert result.certificate is not None
    assert (result.status, result.verdict) == ("timed_out", "timed_out")
    assert result.certificate.signal is None
    assert result.certificate.detail is not None
    assert result.certificate.detail.endswith(f"had passed; {STATUS_TAKEN}")


def test_a_proc_that_dies_with_garbage_in_its_pipe_is_not_killed_once_more() -> None:
    """It is reaped by the time that is read: its pid may be a stranger's, its end is known."""
    with driven({"actions": 1}, spares=0) as made:
        made.wait_ready()
        (proc,) = made.pool.lanes["actions"].members
        attempt = made.submit(actions.WriteGarbage(b"\x01\x04\x00\x00\x00\x81\xa4ty"))
        made.pool.poller.unwatch(proc.channel.read_fd)
        made.until(lambda: select.select([proc.channel.read_fd], [], [], 0)[0], "garbage")
        os.kill(proc.pid, signal.SIGKILL)
        certificate = made.result(attempt).certificate
        assert certificate is not None
        assert certificate.verdict == "killed_from_outside"
        assert certificate.signal == "SIGKILL"
        assert proc.killed_at is None
