"""Procs with interpreters of their own: asked for, or because no template can be kept alive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deadly_actions as deadly
import multiprocess
import pytest
import template_actions
from driving import Driven, driven
from running import until

from fsmv2.ipc.linux import is_alive
from fsmv2.supervisor.core.events import (
    Event,
    PoolRecovered,
    PoolStuck,
    ProcOutput,
    ProcStarted,
    StartMethodChanged,
    TemplateEnded,
    TemplateStarted,
)
from fsmv2.supervisor.pool import nursery, templatekeeper, templateprocess
from fsmv2.supervisor.pool.poolstatistics import pool_statistics

pytestmark = pytest.mark.proc


@pytest.fixture(scope="module")
def shared() -> Iterator[Driven]:
    with driven(start_method="spawn", preload=("deadly_actions",)) as made:
        yield made


def parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])


def test_spawned_proc_runs_actions_and_prints_like_any_other(shared: Driven) -> None:
    """There is no template then, and nothing is preloaded."""
    assert shared.run(template_actions.Loaded("deadly_")).value == []
    assert shared.run(deadly.WhoAmI()).value in {p.pid for p in shared.pool.nursery.procs}
    assert shared.run(deadly.Die(signal.SIGSEGV)).verdict == "crashed:SIGSEGV"
    assert "last words" in [event.line for event in shared.heard(ProcOutput)]
    assert pool_statistics(shared.pool)["template_pid"] == 0
    assert not shared.heard(TemplateStarted)
    # It was asked for, so nothing has changed.
    assert not shared.heard(StartMethodChanged)


def test_spawned_proc_is_the_roots_child_in_a_session_and_under_a_name_of_its_own(
    shared: Driven,
) -> None:
    shared.wait_ready()
    for proc in shared.pool.nursery.procs:
        name = shared.pool.nursery.name_of(proc)
        assert parent_of(proc.pid) == os.getpid()
        assert os.getsid(proc.pid) == proc.pid
        assert Path(f"/proc/{proc.pid}/comm").read_text().strip() == name[:15]


def test_spawned_proc_that_hangs_is_killed_with_its_stack_and_replaced(shared: Driven) -> None:
    pids = {proc.pid for proc in shared.pool.nursery.procs}
    result = shared.run(deadly.LoopForever())

    assert (result.status, result.verdict) == ("timed_out", "timed_out")
    assert result.certificate is not None
    assert "guilty_loop" in (result.certificate.stack or "")
    shared.wait_ready()
    assert {proc.pid for proc in shared.pool.nursery.procs} - pids
    assert shared.run(deadly.WhoAmI()).succeeded


def test_only_the_root_reaps_a_spawned_proc_so_its_cause_of_death_is_known(
    shared: Driven,
) -> None:
    """The package that starts it looks for ends of processes at every start of another."""
    attempt = shared.submit(deadly.SleepForever(), timeout_s=600.0)
    shared.until(lambda: shared.pool.in_flight(attempt).proc is not None, "at work")  # type: ignore[union-attr]
    proc = shared.pool.in_flight(attempt).proc  # type: ignore[union-attr]
    shared.until(lambda: proc.page.begun()[0] == attempt, "begun")

    os.kill(proc.pid, signal.SIGBUS)
    until(lambda: not is_alive(proc.pid), "it is dead")
    assert multiprocess.active_children() == []

    result = shared.result(attempt)
    assert (result.status, result.verdict) == ("crashed", "crashed:SIGBUS")


def test_spawning_leaves_no_descriptor_and_no_process(tmp_path: Path) -> None:
    with driven({"actions": 1}, spares=0, start_method="spawn") as made:  # what is made once
        made.wait_ready()
    before = sorted(os.listdir("/proc/self/fd"))
    with driven({"actions": 1}, spares=1, start_method="spawn") as made:
        for _ in range(3):
            made.run(deadly.Die(signal.SIGKILL))
        made.wait_ready()
        pids = [proc.pid for proc in made.pool.nursery.procs]

    assert sorted(os.listdir("/proc/self/fd")) == before
    assert not any(is_alive(pid) for pid in pids)


def test_procs_are_spawned_while_no_template_lives_and_forked_once_one_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(templatekeeper, "RETURN_S", 0.5)
    with monkeypatch.context() as broken:
        broken.setattr(templateprocess, "run_template", template_actions.ends_at_once)
        with driven({"actions": 1}, spares=0) as made:
            assert made.run(deadly.WhoAmI()).succeeded
            changed = made.heard(StartMethodChanged)
            assert [event.method for event in changed] == ["spawn"]
            assert "the template process keeps dying, the last time: exited:7" in changed[0].reason
            assert len(made.heard(TemplateEnded)) >= 3
            assert not made.heard(PoolStuck)

            broken.undo()
            made.until(lambda: made.heard(TemplateStarted), "a template that lives")
            made.run(deadly.Die(signal.SIGKILL))
            assert made.run(deadly.WhoAmI()).succeeded
            assert [e.method for e in made.heard(StartMethodChanged)] == ["spawn", "template"]


def test_nothing_is_spawned_when_only_a_template_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool says that it is stuck, and gets on once a template lives."""
    with monkeypatch.context() as broken:
        broken.setattr(templateprocess, "run_template", template_actions.ends_at_once)
        with driven({"actions": 1}, spares=0, start_method="template") as made:
            made.until(lambda: made.heard(PoolStuck), "it is stuck")
            assert made.pool.nursery.procs == []
            broken.undo()
            made.until(lambda: made.heard(PoolRecovered), "it has recovered")
            assert made.run(deadly.WhoAmI()).succeeded
            assert not made.heard(StartMethodChanged)


SCRIPT = """
import os, sys, threading, time
import deadly_actions as deadly
from driving import driven
from fsmv2.supervisor.core.events import StartMethodChanged

{at_import}

def main():
    with driven({{"actions": 1}}, spares=0, {options}) as made:
        {body}

if __name__ == "__main__":
    {run}
"""
HOLDER = """proc = made.submit(deadly.SleepForever(), timeout_s=600.0)
        made.until(lambda: made.pool.in_flight(proc).proc is not None, "at work")
        victim = made.pool.in_flight(proc).proc
        made.until(lambda: victim.page.begun()[0] == proc, "begun")
        print(victim.pid, flush=True)
        made.drive_for(600)"""
TELL = """print(made.run(deadly.WhoAmI()).status, flush=True)
        print(made.heard(StartMethodChanged)[0].reason, flush=True)"""


def script(folder: Path, **parts: str) -> subprocess.Popen[str]:
    path = folder / "program.py"
    path.write_text(SCRIPT.format(**parts))
    return subprocess.Popen(
        [sys.executable, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_program_that_starts_threads_at_import_gets_spawned_procs(tmp_path: Path) -> None:
    """The template imports the program, as a spawned interpreter does: no module to leave out."""
    thread = "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()"
    with script(tmp_path, at_import=thread, options="", body=TELL, run="main()") as program:
        told, _ = program.communicate(timeout=100)

    assert program.returncode == 0
    status, reason = told.splitlines()
    assert status == "succeeded"
    assert "__main__ cannot be forked: 2 OS threads" in reason


@pytest.mark.parametrize("run", ["main()", "threading.Thread(target=main).start()"])
def test_spawned_proc_that_hangs_dies_with_the_root_whichever_thread_started_it(
    tmp_path: Path, run: str
) -> None:
    options = "start_method='spawn'"
    with script(tmp_path, at_import="", options=options, body=HOLDER, run=run) as program:
        try:
            assert program.stdout is not None
            pid = int(program.stdout.readline())
            assert is_alive(pid)
        finally:
            program.kill()
    until(lambda: not is_alive(pid), "the proc is gone")


@pytest.fixture
def hanging_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A template that imports all, says that it is ready, and never forks."""
    monkeypatch.setattr(nursery, "START_BUDGET_S", 2.0)
    (tmp_path / "shape_hook.py").write_text(
        "import os, time\n"
        "if 'FSMV2_SLOT' not in os.environ:\n"
        "    os.register_at_fork(before=lambda: time.sleep(600))\n"
    )
    return {"preload": ("shape_hook",), "search": (str(tmp_path),)}


def have_time_once_spawned(made: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a template that hangs is given is too little for interpreters of their own on a busy
    machine."""
    tell = made.pool.on_event

    def on_event(event: Event) -> None:
        if isinstance(event, StartMethodChanged):
            monkeypatch.setattr(nursery, "START_BUDGET_S", 30.0)
        tell(event)

    made.pool.on_event = on_event


def test_actions_wait_for_the_pool_to_do_without_a_template_that_hangs(
    hanging_hook: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All its orders are lost at once; that is one failure, and not one of the procs' own."""
    with driven({"actions": 3}, spares=1, **hanging_hook) as made:
        have_time_once_spawned(made, monkeypatch)
        assert made.run(deadly.WhoAmI()).succeeded
        assert "spawn" in [event.method for event in made.heard(StartMethodChanged)]


def test_where_only_a_template_will_do_one_that_hangs_is_told_to_those_who_wait(
    hanging_hook: dict[str, Any],
) -> None:
    """It is a mistake in the program: nobody else has killed anything."""
    with driven({"actions": 3}, spares=1, start_method="template", **hanging_hook) as made:
        result = made.run(deadly.WhoAmI())
        assert result.error is not None
        assert (result.status, result.error.type) == ("refused", "PoolStuck")
        again = made.run(deadly.WhoAmI())  # whoever comes later is told why, too
        assert again.error is not None
        assert "failures in a row" in again.error.message
        assert made.pool.nursery.keeper.template.failures >= 3


def test_template_that_hangs_in_a_fork_hook_is_done_without(
    hanging_hook: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with driven({"actions": 1}, spares=0, **hanging_hook) as made:
        have_time_once_spawned(made, monkeypatch)
        made.until(lambda: made.heard(ProcStarted), "a proc")
        assert "spawn" in [event.method for event in made.heard(StartMethodChanged)]
        assert made.run(deadly.WhoAmI()).succeeded


def test_template_that_hangs_now_and_then_is_done_without_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though each time the next one forks again. One change is told, not one a hang."""
    monkeypatch.setattr(nursery, "START_BUDGET_S", 2.0)
    hang = tmp_path / "hang"
    (tmp_path / "moody_hook.py").write_text(
        "import os, time\n"
        "def hook():\n"
        f"    while os.path.exists({str(hang)!r}):\n"
        "        time.sleep(0.01)\n"
        "if 'FSMV2_SLOT' not in os.environ:\n"
        "    os.register_at_fork(before=hook)\n"
    )
    with driven({"actions": 1}, spares=0, preload=("moody_hook",), search=(str(tmp_path),)) as made:
        have_time_once_spawned(made, monkeypatch)
        for hangs in range(1, 4):
            assert not made.heard(StartMethodChanged)
            assert made.run(deadly.WhoAmI()).succeeded
            made.until(lambda: made.pool.nursery.keeper.template.failures == 0, "it has forked")
            hang.touch()
            made.run(deadly.Die(signal.SIGKILL))
            made.until(lambda n=hangs: len(made.heard(TemplateEnded)) == n, "a hang")  # type: ignore[misc]
            hang.unlink()
        assert made.run(deadly.WhoAmI()).succeeded
        assert [event.method for event in made.heard(StartMethodChanged)] == ["spawn"]
        assert made.heard(TemplateEnded)[-1].retry_in_s >= templatekeeper.RETURN_S / 2


def test_program_that_hangs_at_import_in_the_template_gets_spawned_procs(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    hang = (
        "from fsmv2.supervisor.pool import templatekeeper\n"
        "templatekeeper.MAIN_S_MAX = 3.0\n"
        f"if __name__ != '__main__' and not os.path.exists({str(mark)!r}):\n"
        f"    open({str(mark)!r}, 'w').close()\n"
        "    time.sleep(600)"
    )
    with script(tmp_path, at_import=hang, options="", body=TELL, run="main()") as program:
        told, _ = program.communicate(timeout=100)

    assert program.returncode == 0
    status, reason = told.splitlines()
    assert status == "succeeded"
    assert "__main__ cannot be forked: its import did not end within 3 s" in reason
