"""`ActionPool` from many threads, from asyncio, across Ctrl-C, fork, close and exit."""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lane_actions
import pool_actions as acts
import pytest

from fsmv2.ipc.linux import children_of, is_alive, orphan_of
from fsmv2.supervisor import ActionPool, ActionResult
from fsmv2.supervisor.core.errors import FsmError, SpecError
from fsmv2.supervisor.library import handles, naps
from fsmv2.supervisor.library.handles import Handle
from fsmv2.supervisor.pool import guard

pytestmark = pytest.mark.proc

PATIENCE_S = 60.0
SUPPORT = Path(__file__).parent.parent / "support"


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


def in_threads(*functions: Callable[[], object]) -> list[Any]:
    """Call each in a thread of its own; their results, in order."""
    with concurrent.futures.ThreadPoolExecutor(len(functions)) as threads:
        waiting = [threads.submit(function) for function in functions]
        return [each.result(PATIENCE_S) for each in waiting]


def script(tmp_path: Path, body: str) -> subprocess.CompletedProcess[str]:
    """Run ``body`` as a program."""
    file = tmp_path / "script.py"
    head = (
        "import os, signal, sys, threading, time\n"
        "import lane_actions\n"
        "import pool_actions as acts\n"
        "from fsmv2.supervisor import ActionPool\n"
        "if __name__ == '__main__':\n"
    )
    file.write_text(head + textwrap.indent(textwrap.dedent(body), "    "))
    return subprocess.run(
        [sys.executable, "-P", str(file)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
        check=False,
    )


# --- a handle is a future -------------------------------------------------------------------


def test_handles_work_with_the_functions_of_concurrent_futures(shared: ActionPool) -> None:
    handles = [shared.submit(acts.Echo(n)) for n in range(40)]
    hung = shared.submit(acts.Sleep(60))
    first = concurrent.futures.wait([hung, *handles], PATIENCE_S, "FIRST_COMPLETED")
    assert first.done
    assert {h.result().value for h in concurrent.futures.as_completed(handles, PATIENCE_S)} == {
        *range(40)
    }
    late = concurrent.futures.wait([hung, *handles], 0.01)
    assert late.not_done == {hung}
    hung.kill()
    assert concurrent.futures.wait([hung], PATIENCE_S).done == {hung}


def test_a_handle_mixes_with_other_futures(shared: ActionPool) -> None:
    other: concurrent.futures.Future[int] = concurrent.futures.Future()
    handle = shared.submit(acts.Echo(3))
    assert concurrent.futures.wait([other, handle], PATIENCE_S, "FIRST_COMPLETED").done == {handle}
    other.set_result(4)
    assert concurrent.futures.wait([other, handle], 0).not_done == set()


def test_the_end_of_an_action_is_a_result_and_no_exception(shared: ActionPool) -> None:
    handle = shared.submit(acts.Sleep(60))
    until(handle.running, "it runs")
    assert handle.certificate is None
    assert not handle.done()
    assert handle.kill()
    assert handle.result(PATIENCE_S).status == "cancelled"
    assert handle.exception(0) is None
    assert not handle.cancelled()
    assert not handle.running()
    assert not handle.kill()
    assert not handle.cancel()
    assert handle.certificate is handle.result().certificate is not None
    assert handle.certificate.signal == "SIGKILL"
    assert handle.attempt_id == handle.result().attempt_id


def test_a_wait_that_is_over_leaves_the_action_alone(shared: ActionPool, tmp_path: Path) -> None:
    handle = shared.submit(lane_actions.Await(str(tmp_path / "go")))
    with pytest.raises(TimeoutError, match="it goes on"):
        handle.result(0.01)
    with pytest.raises(TimeoutError):
        handle.exception(0)
    (tmp_path / "go").touch()
    assert handle.result(PATIENCE_S).succeeded


def test_a_wait_for_nan_seconds_is_refused_and_a_negative_one_is_over_at_once(
    shared: ActionPool,
) -> None:
    """No moment is later than NaN: the wait for one had no end. Negative is 0, as elsewhere."""
    nan = float("nan")
    handle = shared.submit(acts.Sleep(PATIENCE_S))
    for asks in (handle.result, handle.exception, handle.wait, handle.outcome):
        with pytest.raises(ValueError, match="cannot wait: got timeout nan, want seconds"):
            asks(nan)
    with pytest.raises(TimeoutError):
        handle.result(-1.0)
    assert not handle.wait(-math.inf)
    handle.cancel()
    assert handle.result(math.inf).status == "cancelled"
    with pytest.raises(ValueError, match="got timeout nan"):  # done or not
        handle.result(nan)
    refused = shared.run(acts.Echo(1), timeout_s=nan)
    assert refused.status == "refused"
    assert "got timeout_s nan, want a number of seconds" in str(refused.error)


def test_many_handles_can_be_awaited_in_one_loop(shared: ActionPool) -> None:
    async def ask() -> list[ActionResult]:
        handles = [shared.submit(acts.Echo(n)) for n in range(30)]
        wrapped = asyncio.wrap_future(shared.submit(acts.Echo(30)))
        return [*(await asyncio.gather(*map(value_of, handles))), await wrapped]

    async def value_of(handle: Handle) -> ActionResult:
        result: ActionResult = await handle
        return result

    assert [result.value for result in asyncio.run(ask())] == [*range(31)]


def test_a_cancelled_task_leaves_the_action_to_the_others(
    shared: ActionPool, tmp_path: Path
) -> None:
    async def ask() -> Any:
        handle = shared.submit(lane_actions.Await(str(tmp_path / "go")))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_await(handle), 0.01)
        (tmp_path / "go").touch()
        return (await handle).status

    assert asyncio.run(ask()) == "succeeded"


async def _await(handle: Handle) -> Any:
    return await handle


def test_a_deadline_wakes_a_loop_that_awaits(shared: ActionPool) -> None:
    async def ask() -> Any:
        return await shared.submit(acts.Sleep(60), timeout_s=0.05)

    assert asyncio.run(ask()).status == "timed_out"


# --- callbacks ------------------------------------------------------------------------------


def test_callbacks_come_though_nobody_waits(shared: ActionPool, tmp_path: Path) -> None:
    came = threading.Event()
    threads: list[str] = []

    def note(handle: Handle) -> None:
        threads.append(threading.current_thread().name)
        assert shared.run(acts.Echo(1)).value == 1  # it may use the pool
        came.set()

    handle = shared.submit(lane_actions.Await(str(tmp_path / "go")))
    handle.add_done_callback(note)
    (tmp_path / "go").touch()
    assert came.wait(PATIENCE_S)
    assert threads == ["fsmv2-callbacks"]
    handle.add_done_callback(note)  # done: at once, here
    assert threads == ["fsmv2-callbacks", threading.current_thread().name]


def test_a_callback_that_hangs_delays_no_deadline(pool: ActionPool, tmp_path: Path) -> None:
    release = threading.Event()
    first = pool.submit(lane_actions.Await(str(tmp_path / "go")))
    first.add_done_callback(lambda _handle: release.wait(PATIENCE_S))
    (tmp_path / "go").touch()
    first.result(PATIENCE_S)
    second = pool.submit(acts.Spin(), timeout_s=0.1)
    until(second.done, "the second is killed")
    release.set()
    assert second.result().status == "timed_out"


def test_a_callback_that_raises_is_logged_and_harms_nobody(
    shared: ActionPool, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    told: list[Handle] = []
    handle = shared.submit(lane_actions.Await(str(tmp_path / "go")))
    handle.add_done_callback(lambda _handle: 1 / 0)
    handle.add_done_callback(told.append)
    (tmp_path / "go").touch()
    until(lambda: told, "the second callback")
    assert "exception calling callback" in caplog.text


# --- who drives -----------------------------------------------------------------------------


def test_a_deadline_is_kept_though_nobody_waits(shared: ActionPool) -> None:
    for _ in range(5):
        assert shared.run(acts.Echo(1)).value == 1  # so that a caller has led just before
        handle = shared.submit(acts.Spin(), timeout_s=0.05)
        until(handle.done, "it is killed")
        assert handle.result().status == "timed_out"
        assert handle.result().ran_s < 8  # at its own deadline, not with an earlier attempt's


def test_a_follower_leads_when_the_leader_leaves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The background thread, which would notice a little later, sleeps on here."""
    monkeypatch.setattr(naps, "NAP_S", 3600.0)
    with ActionPool(procs=2) as pool:
        for _ in range(3):
            assert pool.run(acts.Echo(1)).value == 1
        first, slow = (pool.submit(lane_actions.Await(str(tmp_path / name))) for name in "ab")
        leader = threading.Thread(target=first.result)
        leader.start()
        until(lambda: pool._driver._leads, "the other thread leads")
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            follower = threads.submit(slow.result, PATIENCE_S)
            until(lambda: pool._driver._followers, "one follows")
            (tmp_path / "a").touch()
            leader.join(PATIENCE_S)
            (tmp_path / "b").touch()
            assert follower.result(PATIENCE_S).succeeded


def test_a_moment_that_comes_up_while_a_caller_leads_is_not_missed_when_it_leaves(
    pool: ActionPool,
) -> None:
    """The background thread still waits for what it knew of before."""
    drives, deadlines = pool._driver, pool._pool.deadlines
    came: list[float] = []
    until(lambda: _idle(pool) == 3, "two procs and the spare are there, nothing else will happen")
    # It would look at the OOM killer's counters each second, and so never wait for long.
    pool._pool.guard.is_awake = True
    handle = pool.submit(acts.Sleep(60))
    until(lambda: time.monotonic() + 5 < drives._thread_looks_at < naps.NEVER, "it waits for long")
    would_look_at = drives._thread_looks_at
    with drives._lock:
        now = time.monotonic()
        deadlines.call(
            now + 0.1, lambda: deadlines.call(now + 0.6, lambda: came.append(time.monotonic()))
        )
        drives._looks_at = now + 0.1
    with pytest.raises(TimeoutError):
        handle.result(0.3)
    until(lambda: came, "the moment")
    assert came[0] < would_look_at
    handle.kill()


def _has_thread_nap(pool: ActionPool) -> bool:
    for _ in range(100):
        pool.run(acts.Echo(1))
    time.sleep(0.02)  # a short nap would be over
    return pool._driver._thread_naps


def _is_killed(handle: Handle) -> bool:
    return handle.done() and handle.result().status == "timed_out"


def test_after_a_row_of_calls_the_long_nap_ends_when_something_is_submitted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(naps, "LONG_NAP_S", 3600.0)
    with ActionPool(procs=2) as pool:
        until(lambda: _has_thread_nap(pool), "the background thread naps")
        handle = pool.submit(acts.Spin(), timeout_s=0.05)
        until(lambda: _is_killed(handle), "it is killed, though nobody waits for it")
        until(lambda: _has_thread_nap(pool), "it naps again")
        with pytest.raises(TimeoutError):
            pool.submit(lane_actions.Await(str(tmp_path / "go"))).result(0.01)
        left = pool.open_handles()
        (tmp_path / "go").touch()
        until(lambda: all(each.done() for each in left), "it is done, though its waiter left")
        until(lambda: _has_thread_nap(pool), "it naps again")
        handle = pool.submit(acts.Sleep(60))
        assert handle.kill()
        until(handle.done, "it is killed")


def test_every_thread_gets_its_own_results(shared: ActionPool) -> None:
    def ask(thread: int) -> list[Any]:
        return [shared.run(acts.Echo(thread * 1000 + n)).value for n in range(60)]

    got = in_threads(*((lambda n=n: ask(n)) for n in range(8)))  # type: ignore[misc]
    assert got == [[n * 1000 + m for m in range(60)] for n in range(8)]


def test_a_leader_that_gives_up_leaves_nobody_waiting(shared: ActionPool, tmp_path: Path) -> None:
    """Threads that wait briefly lead and leave; one that waits long has to be woken to lead."""
    slow = shared.submit(lane_actions.Await(str(tmp_path / "go")))

    def impatient() -> int:
        given_up = 0
        while not slow.done():
            try:
                slow.result(0.003)
            except TimeoutError:
                given_up += 1
            if given_up == 60:
                (tmp_path / "go").touch()
        return given_up

    results = in_threads(impatient, impatient, slow.result, slow.result)
    assert results[2].status == results[3].status == "succeeded"
    assert max(results[:2]) >= 60


def test_a_thread_that_follows_gets_a_result_that_comes_before_the_leaders(
    shared: ActionPool,
) -> None:
    slow = shared.submit(acts.Sleep(60))
    leader = threading.Thread(target=slow.result)
    leader.start()
    until(lambda: shared._driver._leads, "the other thread leads")
    assert shared.run(acts.Echo(5)).value == 5
    assert not slow.done()
    slow.kill()
    leader.join(PATIENCE_S)
    assert not leader.is_alive()


def test_a_leader_gets_a_result_that_another_thread_brings_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It polls, and from what it waits for nothing will come: that has not begun."""
    monkeypatch.setattr(guard, "LOOK_S", 3600.0)  # or that would wake it
    with ActionPool(procs=1) as pool:
        assert pool.run(acts.Echo(0)).succeeded
        until(lambda: pool.statistics()["starts"] == 2, "the spare is there, too")
        pool.submit(acts.Sleep(3600.0), timeout_s=3600.0)
        waiting = pool.submit(acts.Echo(1))
        leader = threading.Thread(target=waiting.result)
        leader.start()
        until(lambda: pool._driver._leads, "it leads")
        time.sleep(0.1)
        assert waiting.cancel()
        leader.join(PATIENCE_S / 2)
        assert not leader.is_alive()


def test_what_an_action_leaves_behind_is_reaped_when_it_ends_though_no_proc_dies() -> None:
    def dead() -> list[int]:
        return [pid for pid in children_of(os.getpid()) if orphan_of(pid).is_zombie]

    before = set(dead())
    with ActionPool(procs=1) as pool:
        assert pool.run(acts.LeaveDaemons(20)).succeeded
        left = set(children_of(os.getpid()))
        until(lambda: set(dead()) <= before, "all are reaped")
        until(lambda: len(left & set(children_of(os.getpid()))) <= len(left) - 20, "all ended")
        assert pool.statistics()["deaths"] == 0


def test_a_large_value_is_read_once_by_whoever_asks_first(shared: ActionPool) -> None:
    handle = shared.submit(acts.ReturnBytes(3 << 20))
    values = in_threads(*[lambda: handle.result(PATIENCE_S).value] * 4)
    assert {len(value) for value in values} == {3 << 20}
    assert all(value is values[0] for value in values)


def test_a_large_value_that_is_awaited_is_read_in_the_loops_thread(
    shared: ActionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not in the thread that drives the pool, where a deadline would have to wait for it."""
    load, threads = handles.load, []

    def noted(result: ActionResult) -> ActionResult:
        threads.append(threading.current_thread())
        return load(result)

    async def ask() -> ActionResult:
        result: ActionResult = await shared.submit(acts.ReturnBytes(3 << 20))
        return result

    monkeypatch.setattr(handles, "load", noted)
    assert len(asyncio.run(ask()).value) == 3 << 20
    assert threads == [threading.current_thread()]


# --- options --------------------------------------------------------------------------------


def test_an_unknown_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SpecError, match=r"spare_procs.*result_bytes_max"):
        ActionPool(procs=1, spare_procs=3)


def test_options_reach_the_pool() -> None:
    with ActionPool(
        1, lanes={"reading": 1}, spares=0, pipeline=1, result_bytes_max=1000, queue=7
    ) as pool:
        until(lambda: _idle(pool) == 2, "both lanes have their proc")
        assert pool.run(acts.ReturnBytes(3 << 20)).status == "failed"
        assert {
            name: lane["size"] for name, lane in pool.statistics()["lanes"].items()
        }.items() >= {
            "actions": 1,
            "reading": 1,
        }.items()
        assert pool._pool.options.queue == 7


@pytest.mark.parametrize("start_method", ["spawn", "template"])
def test_a_pool_of_either_start_method_runs_what_it_is_given(start_method: str) -> None:
    # Nothing was started with "spawn" once: the first moment to do so, 0.0, was taken for none.
    with ActionPool(1, start_method=start_method) as pool:
        handle = pool.submit(acts.Echo(7))
        assert handle.result(PATIENCE_S).value == 7


def _idle(pool: ActionPool) -> int:
    return sum(proc["state"] == "idle" for proc in pool.statistics()["procs"])


# --- signals --------------------------------------------------------------------------------


def test_ctrl_c_ends_the_wait_and_the_action_and_nothing_else(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        with ActionPool(procs=1) as pool:
            def interrupt():
                while not any(handle.running() for handle in pool.open_handles()):
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGINT)
            threading.Thread(target=interrupt).start()
            try:
                pool.run(acts.Sleep(60))
            except KeyboardInterrupt:
                print("interrupted")
            print(pool.run(acts.Echo(4)).value)
            while pool.open_handles():
                time.sleep(0.01)
            print(pool.statistics()["finished"]["cancelled"])
        """,
    )
    assert (done.stdout, done.stderr) == ("interrupted\n4\n1\n", "")


def test_ctrl_c_at_any_moment_loses_no_attempt_and_no_proc(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        with ActionPool(procs=2) as pool:
            pool.run(acts.Echo(0))
            enough = threading.Event()
            def interrupt():
                while not enough.wait(0.0007):
                    os.kill(os.getpid(), signal.SIGINT)
            thread = threading.Thread(target=interrupt)
            handles, interrupted = [], 0
            try:
                thread.start()
            except KeyboardInterrupt:
                pass
            while interrupted < 400:
                try:
                    handles.append(pool.submit(acts.Echo(1)))
                    pool.run(acts.Echo(2))
                    handles.append(pool.submit(acts.Echo(3)))
                    handles[-1].result()
                except KeyboardInterrupt:
                    interrupted += 1
            while True:
                try:
                    enough.set()
                    thread.join()
                    break
                except KeyboardInterrupt:
                    pass
            print({handle.result(30).status for handle in handles} - {"cancelled"})
            go = __file__ + ".go"
            both = [pool.submit(lane_actions.Await(go)) for _ in range(2)]
            while not all(handle.running() for handle in both):
                time.sleep(0.01)
            open(go, "w").close()
            print([handle.result(30).status for handle in both])
            print(len(pool.open_handles()))
        """,
    )
    assert (done.stdout, done.stderr) == ("{'succeeded'}\n['succeeded', 'succeeded']\n0\n", "")


def test_a_signals_handler_may_use_and_close_the_pool_its_thread_waits_for(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        pool = ActionPool(procs=2)
        pool.start()
        said = threading.Event()
        signal.signal(signal.SIGUSR1, lambda *_: (print(pool.run(acts.Echo(7)).value), said.set()))
        signal.signal(signal.SIGTERM, lambda *_: pool.close())
        def interrupt():
            while not any(handle.running() for handle in pool.open_handles()):
                time.sleep(0.01)
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGUSR1)
            said.wait()
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGTERM)
        threading.Thread(target=interrupt).start()
        print(pool.run(acts.Sleep(60)).status)
        """,
    )
    assert (done.stdout, done.stderr) == ("7\ncancelled\n", "")


# --- fork, close, exit ----------------------------------------------------------------------


def test_a_forked_process_is_told_that_the_pool_is_not_its_own(
    pool: ActionPool, tmp_path: Path
) -> None:
    handle = pool.submit(lane_actions.Await(str(tmp_path / "go")))
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:  # the child must not get back into pytest
        said = ""
        for use in (
            lambda: pool.submit(acts.Echo(1)),
            lambda: pool.run(acts.Echo(1)),
            handle.result,
            handle.cancel,
            handle.running,
            pool.statistics,
        ):
            try:
                use()
                said += "no error;"
            except FsmError as error:
                said += "forked;" if f"process {os.getppid()}" in str(error) else str(error)
        pool.close()
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    assert os.read(read, 1000) == b"forked;" * 6
    os.close(read)
    (tmp_path / "go").touch()
    assert handle.result(PATIENCE_S).succeeded
    assert pool.run(acts.Echo(2)).value == 2


def test_closing_gives_those_who_wait_their_results() -> None:
    pool = ActionPool(procs=1)
    pool.start()
    running = pool.submit(acts.Sleep(60))
    waiting = pool.submit(acts.Echo(1))
    told: list[str] = []
    waiting.add_done_callback(lambda handle: told.append(handle.result().status))
    until(running.running, "it runs")
    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        results = [threads.submit(handle.result) for handle in (running, waiting, running)]
        until(lambda: pool._driver._leads and len(pool._driver._followers) == 2, "all three wait")
        closing = [threads.submit(pool.close) for _ in range(2)]
        assert [each.result(PATIENCE_S).status for each in results] == ["cancelled"] * 3
        assert [each.result(PATIENCE_S) for each in closing] == [None, None]
    assert told == ["cancelled"]
    pool.close()
    late = pool.submit(acts.Echo(1)).result(0)
    assert (late.status, late.error and late.error.type) == ("refused", "PoolClosed")
    assert not running.kill()
    with pytest.raises(FsmError, match="started before"):
        pool.start()


def test_two_that_close_at_once_are_both_back_when_all_is_done() -> None:
    """The last steps were taken by both at a time: one came back before the folder was gone, and
    each could close a descriptor that was somebody else's by then."""
    fds = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        pool = ActionPool(procs=1)
        pool.start()
        pool.submit(acts.Sleep(60))
        folder = Path(pool._folder.path)
        running = [proc["pid"] for proc in pool.statistics()["procs"]]
        assert folder.exists()
        begin = threading.Barrier(4)

        def close_and_look(
            pool: ActionPool = pool, begin: threading.Barrier = begin, folder: Path = folder
        ) -> bool:
            begin.wait(PATIENCE_S)
            pool.close()
            return folder.exists()

        assert in_threads(*[close_and_look] * 4) == [False] * 4
        assert not any(is_alive(pid) for pid in running if pid)
    assert len(os.listdir("/proc/self/fd")) == fds


def test_the_last_steps_of_a_close_are_taken_once() -> None:
    """The slow one, removing the folder, is waited for by the second caller, who takes none."""
    pool = ActionPool(procs=1)
    pool.start()
    goes_on, begun, taken = threading.Event(), threading.Event(), []
    remove = pool._folder.remove

    def slow() -> None:
        begun.set()
        assert goes_on.wait(PATIENCE_S)
        taken.append("removed")
        remove()

    pool._last_steps[0] = slow
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        first = threads.submit(pool.close)
        assert begun.wait(PATIENCE_S)
        second = threads.submit(pool.close)
        with pytest.raises(TimeoutError):
            second.result(0.05)
        goes_on.set()
        assert [first.result(PATIENCE_S), second.result(PATIENCE_S)] == [None, None]
    assert taken == ["removed"]


def test_a_pool_that_never_started_can_be_closed(tmp_path: Path) -> None:
    pool = ActionPool(procs=1)
    folder = pool._folder.path
    pool.close()
    pool.close()
    assert not os.path.exists(folder)


def test_an_exit_without_close_ends_everything(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        pool = ActionPool(procs=2)
        pool.start()
        handle = pool.submit(acts.Sleep(60))
        while not handle.running():
            time.sleep(0.01)
        print(pool._folder.path, *(p["pid"] for p in pool.statistics()["procs"] if p["pid"]))
        """,
    )
    folder, *pids = done.stdout.split()
    assert (done.returncode, done.stderr) == (0, "")
    assert len(pids) >= 1
    assert not os.path.exists(folder)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_of_ours_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    with ActionPool(procs=1) as pool:
        handle = pool.submit(acts.Sleep(60))
        until(handle.running, "it runs")
        monkeypatch.setattr(pool._pool, "react", lambda _ready: 1 / 0)
        handle.cancel()  # something to look at
        until(handle.done, "the handle is done")
        assert handle.result().status == "refused"
        assert handle.result().error == pool.submit(acts.Echo(1)).result().error
        assert "ZeroDivisionError" in str(handle.result().error)
        monkeypatch.undo()
