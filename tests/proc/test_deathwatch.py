"""A proc's death is noticed by its lifeline, before and without the end of its pipes."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pool_actions as acts
import pytest

from fsmv2.ipc.linux import children_of
from fsmv2.supervisor import ActionPool
from fsmv2.supervisor.core.procfsm import ProcState
from fsmv2.supervisor.pool import deathwatch
from fsmv2.supervisor.pool.certificate import is_exiting
from fsmv2.supervisor.pool.guard import resident_bytes
from fsmv2.supervisor.pool.pool import Pool
from fsmv2.supervisor.pool.procs import ProcHandle

pytestmark = pytest.mark.proc
PATIENCE_S = 60.0


@pytest.fixture
def pool() -> Iterator[ActionPool]:
    with ActionPool(procs=1) as made:
        assert made.run(acts.Echo(1)).succeeded
        yield made


def until(claim: Callable[[], object], what: str) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not claim():
        assert time.monotonic() < give_up, f"never: {what}"
        time.sleep(0.005)


def look(pool: ActionPool, function: Callable[[Pool], Any]) -> Any:
    return pool._driver.look(function)


def worker_of(pool: Pool) -> ProcHandle:
    return next(iter(pool.lanes["actions"].members))


def has_begun(pool: Pool) -> bool:
    proc = worker_of(pool)
    return proc.attempt is not None and proc.page.is_begun(proc.attempt.id)


def go_deaf(pool: Pool) -> ProcHandle:
    """Hear no more of what the kernel says of the proc at work, but by its lifeline."""
    proc = worker_of(pool)
    pool.poller.unwatch(proc.channel.read_fd)
    pool.poller.unwatch(proc.pidfd)
    return proc


def test_a_spare_takes_over_when_the_lifeline_ends(pool: ActionPool) -> None:
    until(lambda: look(pool, lambda inner: len(inner.spares)), "a spare")
    pool.submit(acts.Sleep(60.0))
    until(lambda: look(pool, has_begun), "it is at work")
    waiting = pool.submit(acts.Echo(7))
    proc = pool._driver.change(go_deaf)
    os.kill(proc.pid, signal.SIGKILL)
    assert waiting.result(PATIENCE_S).value == 7
    assert proc.state is ProcState.LEAVING


def test_without_early_word_a_death_is_noticed_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An old kernel, or one that does not let us."""
    monkeypatch.setattr(deathwatch, "wait_for_end", lambda words: False)
    with ActionPool(procs=1) as pool:
        assert pool.run(acts.Echo(1)).succeeded
        until(lambda: "fsmv2-deaths" not in [t.name for t in threading.enumerate()], "it ended")
        handle = pool.submit(acts.Sleep(60.0))
        until(lambda: look(pool, has_begun), "it is at work")
        os.kill(look(pool, worker_of).pid, signal.SIGKILL)
        assert handle.result(PATIENCE_S).verdict == "killed_from_outside"
        assert pool.run(acts.Echo(7)).value == 7


def without_a_thread_called(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are as many as the machine lets us have."""
    start = threading.Thread.start

    def start_if_it_can(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_if_it_can)


def test_without_a_thread_for_it_a_death_is_noticed_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_a_thread_called("fsmv2-deaths", monkeypatch)
    with ActionPool(procs=1) as pool:
        assert pool.run(acts.KillMyself()).status == "crashed"
        assert pool.run(acts.Echo(7)).value == 7


def test_a_pool_that_gets_no_thread_to_be_driven_by_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads, children = threading.active_count(), set(children_of(os.getpid()))
    without_a_thread_called("fsmv2-pool", monkeypatch)
    pool = ActionPool(procs=1)
    with pytest.raises(OSError, match="cannot start the pool's thread"):
        pool.start()
    pool.close()
    until(lambda: threading.active_count() <= threads, "no thread is left")
    left = [pid for pid in {*children_of(os.getpid())} - children if not is_tracker(pid)]
    assert not left
    assert not os.path.exists(pool._folder.path)


def is_tracker(pid: int) -> bool:
    """multiprocessing's own helper, which stays for the next time."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return b"resource_tracker" in file.read()


def test_the_thread_ends_with_the_pool() -> None:
    before = threading.active_count()
    for _ in range(3):
        with ActionPool(procs=2) as pool:
            assert pool.run(acts.Echo(1)).succeeded
    until(lambda: threading.active_count() <= before, "no thread is left")


def test_a_process_that_is_being_taken_apart_or_just_was_is_told_from_the_living() -> None:
    assert not is_exiting(os.getpid())
    assert not is_exiting(0)
    # The kernel may be faster than our looks.
    assert any(_is_seen_exiting() for _ in range(20))


def _is_seen_exiting() -> bool:
    pid = os.fork()
    if pid == 0:
        memory = bytearray(300 << 20)  # takes the kernel a while to free
        while memory:
            time.sleep(1)
    until(lambda: (resident_bytes(pid) or 0) > 250 << 20, "its memory is there")
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    seen = False
    while not select.select([pidfd], [], [], 0)[0]:
        seen |= is_exiting(pid)
    # Its report is on its way; else who asks just before would take it for one that lives on.
    assert is_exiting(pid)
    os.close(pidfd)
    os.waitpid(pid, 0)
    assert not is_exiting(pid)
    return seen


def test_a_bug_met_by_the_deaths_thread_is_told_to_all_who_wait(
    pool: ActionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half changed, the pool must not go on as if nothing had been."""

    def bug(*_: object) -> None:
        raise AssertionError("planted")

    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    handle = pool.submit(acts.Sleep(60.0))
    until(lambda: look(pool, has_begun), "it is at work")
    pid = pool._driver.change(go_deaf).pid
    monkeypatch.setattr(Pool, "dies", bug)
    os.kill(pid, signal.SIGKILL)
    result = handle.result(PATIENCE_S)
    assert result.status == "refused"
    assert "planted" in str(result.error)
