"""`KillableExecutor` in the place of ProcessPoolExecutor, with limits per call."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from fsmv2.supervisor import KillableExecutor
from fsmv2.supervisor.core.action import ActionFailed

pytestmark = pytest.mark.proc

PATIENCE_S = 60.0


def until(claim: Callable[[], object], what: str) -> None:
    """Wait for ``claim``, long enough for a busy machine."""
    give_up = time.monotonic() + PATIENCE_S
    while not claim():
        assert time.monotonic() < give_up, f"never: {what}"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def executor() -> Iterator[KillableExecutor]:
    with KillableExecutor(2, timeout_s=30) as started:
        yield started


def test_it_is_an_executor_that_submits_and_maps(executor: KillableExecutor) -> None:
    assert isinstance(executor, concurrent.futures.Executor)
    assert executor.submit(pow, 2, exp=5).result(PATIENCE_S) == 32
    assert [*executor.map(pow, range(6), [2] * 6, timeout=PATIENCE_S, chunksize=3)] == [
        n * n for n in range(6)
    ]
    futures = [executor.submit(lambda n=n: n) for n in range(10)]  # type: ignore[misc]
    done = concurrent.futures.as_completed(futures, PATIENCE_S)
    assert {future.result() for future in done} == {*range(10)}


def test_a_future_raises_what_its_call_raised(executor: KillableExecutor) -> None:
    def guilty() -> None:
        raise LookupError("lost", 3)

    future = executor.submit(guilty)
    with pytest.raises(LookupError) as caught:
        future.result(PATIENCE_S)
    assert caught.value.args == ("lost", 3)
    assert "in guilty" in caught.value.__notes__[0]
    assert isinstance(future.exception(), LookupError)
    assert executor.submit(len, "abc").exception(PATIENCE_S) is None


def test_a_first_exception_ends_a_wait_for_it(executor: KillableExecutor) -> None:
    hung = executor.submit(time.sleep, 60)
    raising = executor.submit(divmod, 1, 0)
    done = concurrent.futures.wait([hung, raising], PATIENCE_S, "FIRST_EXCEPTION")
    assert done.done == {raising}
    hung.cancel()


@pytest.mark.parametrize("wide", [True, False], ids=["the executor's", "the view's"])
def test_a_call_over_its_limit_raises_a_timeout_with_its_stack(
    executor: KillableExecutor, wide: bool
) -> None:
    def guilty_loop() -> None:
        while True:
            pass

    if wide:
        with KillableExecutor(1, timeout_s=0.1) as impatient:
            future = impatient.submit(guilty_loop)
            error = future.exception(PATIENCE_S)
            # With time for it, as the proc may be a fresh one.
            assert impatient.limited(timeout_s=30).submit(len, "abc").result(PATIENCE_S) == 3
    else:
        future = executor.limited(timeout_s=0.1).submit(guilty_loop)
        error = future.exception(PATIENCE_S)
    assert isinstance(error, TimeoutError)
    assert isinstance(error, ActionFailed)
    assert error.result.certificate is not None
    assert "guilty_loop" in (error.result.certificate.stack or "")
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result()


def test_a_crash_breaks_its_own_call_only(executor: KillableExecutor) -> None:
    bystander = executor.submit(lambda: (time.sleep(0.3), 5)[1])
    crashed = [executor.submit(os._exit, 3), executor.submit(os.abort)]
    for future, verdict in zip(crashed, ("exited:3", "crashed:SIGABRT"), strict=True):
        with pytest.raises(BrokenProcessPool, match=verdict) as caught:
            future.result(PATIENCE_S)
        assert isinstance(caught.value, ActionFailed)
        assert caught.value.result.verdict == verdict
    assert bystander.result(PATIENCE_S) == 5
    assert executor.submit(len, "abc").result(PATIENCE_S) == 3


def test_cancel_ends_a_running_call_and_one_that_waits(executor: KillableExecutor) -> None:
    running = [executor.submit(time.sleep, 60) for _ in range(2)]
    until(lambda: all(future.running() for future in running), "both run")
    waiting = executor.submit(len, "abc")
    for future in (waiting, *running):
        assert future.cancel()
    assert concurrent.futures.wait([waiting, *running], PATIENCE_S).not_done == set()
    for future in (waiting, *running):
        assert future.cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            future.result()
        with pytest.raises(concurrent.futures.CancelledError):
            future.exception()


def test_what_is_too_large_to_send_is_refused_by_name(executor: KillableExecutor) -> None:
    with pytest.raises(RuntimeError, match="PayloadTooLarge"):
        executor.submit(len, b"x" * (2 << 20)).result(PATIENCE_S)


def test_the_initializer_runs_once_in_each_proc_before_its_first_call(tmp_path: Path) -> None:
    file = tmp_path / "inits"

    def initialize(name: str) -> None:
        os.environ["INITIALIZED_AS"] = name
        with file.open("a") as out:
            out.write(f"{os.getpid()}\n")

    with KillableExecutor(1, initializer=initialize, initargs=("x",)) as executor:
        for _ in range(3):
            assert executor.submit(os.getenv, "INITIALIZED_AS").result(PATIENCE_S) == "x"
        with pytest.raises(BrokenProcessPool):
            executor.submit(os._exit, 1).result(PATIENCE_S)
        assert executor.submit(os.getenv, "INITIALIZED_AS").result(PATIENCE_S) == "x"
    pids = file.read_text().split()
    assert len(pids) == len(set(pids)) == 2


def test_what_the_initializer_raises_the_call_raises() -> None:
    with KillableExecutor(1, initializer=lambda: 1 / 0) as executor:
        future = executor.submit(len, "abc")
        assert isinstance(future.exception(PATIENCE_S), ZeroDivisionError)


def test_a_proc_ends_after_so_many_calls() -> None:
    with KillableExecutor(1, max_tasks_per_child=1) as executor:
        pids = [executor.submit(os.getpid).result(PATIENCE_S) for _ in range(4)]
    assert len(set(pids)) == 4


def test_shutdown_waits_for_what_was_taken_and_takes_no_more() -> None:
    executor = KillableExecutor(1)
    futures = [executor.submit(lambda n=n: (time.sleep(0.1), n)[1]) for n in range(3)]  # type: ignore[misc]
    executor.shutdown()
    assert [future.result(0) for future in futures] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(len, "abc")
    executor.shutdown()


def test_shutdown_can_cancel_what_does_not_run_yet(tmp_path: Path) -> None:
    def wait_for(go: str) -> int:
        while not os.path.exists(go):
            time.sleep(0.01)
        return 1

    executor = KillableExecutor(1)
    running = executor.submit(wait_for, str(tmp_path / "go"))
    until(running.running, "it runs")
    waiting = executor.submit(len, "abc")
    executor.shutdown(wait=False, cancel_futures=True)
    assert waiting.cancelled()
    (tmp_path / "go").touch()
    assert running.result(PATIENCE_S) == 1


def test_an_interpreter_that_ends_waits_for_a_shutdown_under_way(tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    file.write_text(
        "import time\n"
        "from fsmv2.supervisor import KillableExecutor\n"
        "if __name__ == '__main__':\n"
        "    executor = KillableExecutor(1)\n"
        "    future = executor.submit(lambda: (time.sleep(0.5), print('ran'))[1])\n"
        "    future.add_done_callback(lambda f: print('done', f.result(), flush=True))\n"
        "    executor.shutdown(wait=False)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done None\n", "")


def test_a_forked_process_leaves_the_executor_alone_and_ends_without_a_word(tmp_path: Path) -> None:
    """Neither the end of its ``with`` block nor its exit is about what it does not have."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "from fsmv2.supervisor import KillableExecutor\n"
        "if __name__ == '__main__':\n"
        "    with KillableExecutor(1) as executor:\n"
        "        pid = os.fork()\n"
        "        if pid == 0:\n"
        "            sys.exit(6)\n"
        "        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        "        print(executor.submit(abs, -7).result())\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", str(script)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("6\n7\n", "")


def test_an_interpreter_that_ends_without_a_shutdown_cancels_what_is_open(tmp_path: Path) -> None:
    """It does not wait for calls that may never end, as `ProcessPoolExecutor` would."""
    file = tmp_path / "script.py"
    file.write_text(
        "import time\n"
        "from fsmv2.supervisor import KillableExecutor\n"
        "if __name__ == '__main__':\n"
        "    executor = KillableExecutor(1)\n"
        "    for name in ('running', 'waiting'):\n"
        "        future = executor.submit(time.sleep, 3600)\n"
        "        future.add_done_callback(lambda f: print(f.cancelled(), flush=True))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "True\n" * 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"max_workers": 0}, "more than 0"),
        ({"mp_context": object()}, "clean template"),
        ({"initializer": 3}, "want a callable"),
        ({"max_tasks_per_child": 0}, "1 or more"),
        ({"max_tasks_per_child": 1.5}, "whole number"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments: dict[str, object], says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        KillableExecutor(**arguments)  # type: ignore[arg-type]
