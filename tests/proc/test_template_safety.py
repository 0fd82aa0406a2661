"""Guarantee 12: no plug-in breaks the template; without one, procs are spawned."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import deadly_actions as deadly
import harmful_imports
import pytest
from driving import driven
from running import until

from fsmv2.ipc.linux import is_alive
from fsmv2.supervisor.core import events
from fsmv2.supervisor.pool import templatekeeper

pytestmark = pytest.mark.proc


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    harmful_imports.write(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in harmful_imports.SOURCES:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", harmful_imports.WORDS)
def test_module_that_harms_the_template_is_left_out_and_said_why(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only where it is needed: on a busy machine others take as long.
    if name == "harm_hangs":
        monkeypatch.setattr(templatekeeper, "IMPORT_S_MAX", harmful_imports.IMPORT_S_MAX)
    with driven(preload=("harm_not", name, "deadly_actions")) as made:
        assert made.run(deadly.WhoAmI()).succeeded
        (told,) = made.heard(events.PreloadExcluded)

        assert told.module == name
        assert harmful_imports.WORDS[name] in told.reason
        assert made.heard(events.StartMethodChanged) == []
        assert len(made.heard(events.TemplateStarted)) == 1


def test_all_of_them_together_leave_a_template_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templatekeeper, "IMPORT_S_MAX", harmful_imports.IMPORT_S_MAX)
    with driven(preload=tuple(harmful_imports.SOURCES)) as made:
        assert made.run(deadly.WhoAmI()).succeeded

        told = {one.module for one in made.heard(events.PreloadExcluded)}
        assert told == set(harmful_imports.WORDS)
        failed = made.pool.nursery.keeper.template.import_failures
        assert failed == {"harm_raises": "ValueError: no such broker"}


def test_module_that_was_left_out_is_imported_by_the_proc_that_needs_it() -> None:
    with driven(preload=("harm_thread",)) as made:
        made.wait_ready()
        action = importlib.import_module("harm_thread").Threads()
        assert made.run(action).value == 2


def test_what_a_module_prints_at_its_import_is_told_as_the_templates() -> None:
    with driven(preload=("harm_crashes",)) as made:
        made.wait_ready()
        lines = [one.line for one in made.heard(events.ProcOutput) if one.slot == "template"]
        assert "last words" in lines


def test_child_that_an_import_started_does_not_outlive_its_template() -> None:
    with driven(preload=("harm_child",)) as made:
        made.wait_ready()

    def sleepers() -> list[int]:
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit() and is_alive(int(name)):
                try:
                    command = Path(f"/proc/{name}/cmdline").read_bytes()
                except OSError:
                    continue
                if command == f"sleep\x00{harmful_imports.SLEEP_S}\x00".encode():
                    found.append(int(name))
        return found

    until(lambda: not sleepers(), "it has died")


def test_spawned_procs_are_like_forked_ones() -> None:
    with driven(start_method="spawn") as made:
        made.wait_ready()
        assert made.pool.nursery.keeper.pid == 0, "no template"
        assert made.run(deadly.WhoAmI()).succeeded

        hung = made.run(deadly.LoopForever())
        crashed = made.run(deadly.Die(signal.SIGSEGV))

        assert hung.certificate is not None
        assert hung.verdict == "timed_out"
        assert "guilty_loop" in (hung.certificate.stack or "")
        assert crashed.verdict == "crashed:SIGSEGV"
        assert made.run(deadly.WhoAmI()).succeeded
        pids = [proc.pid for proc in made.pool.nursery.procs]
    assert not any(is_alive(pid) for pid in pids)


def test_template_that_cannot_be_kept_alive_is_done_without_until_it_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(templatekeeper, "RETURN_S", 0.5)
    with driven() as made:
        keeper = made.pool.nursery.keeper
        made.wait_ready()

        def kill_it() -> bool:
            if keeper.pid and not keeper.template.ready:
                os.kill(keeper.pid, signal.SIGKILL)
            return keeper.method == "spawn"

        os.kill(keeper.pid, signal.SIGKILL)
        made.until(kill_it, "fallen back")
        (told,) = made.heard(events.StartMethodChanged)
        assert told.method == "spawn"
        assert "template process keeps dying" in told.reason
        for _ in range(4):  # more than there were procs
            made.run(deadly.Die(signal.SIGKILL))
        assert made.run(deadly.WhoAmI()).succeeded

        made.until(lambda: keeper.method == "template", "forking again")
        assert made.run(deadly.WhoAmI()).succeeded


def test_start_method_template_never_spawns_and_says_that_it_is_stuck() -> None:
    with driven(start_method="template") as made:
        keeper = made.pool.nursery.keeper
        made.wait_ready()

        def kill_it() -> bool:
            if keeper.pid:
                os.kill(keeper.pid, signal.SIGKILL)
            return bool(made.heard(events.PoolStuck))

        made.until(kill_it, "stuck")
        assert made.heard(events.StartMethodChanged) == []
        made.until(lambda: made.pool.nursery.keeper.template.ready, "there again")
        for _ in range(4):
            made.run(deadly.Die(signal.SIGKILL))
        assert made.run(deadly.WhoAmI()).succeeded
        assert made.heard(events.PoolRecovered)


def test_a_template_that_was_killed_is_given_no_order_while_it_dies() -> None:
    """The order would be lost with it, and the proc missing for as long as a start may take."""
    with driven() as made:
        made.wait_ready()
        nursery = made.pool.nursery
        nursery.keeper.template.kill()
        victim = made.pool.spares[0]
        made.pool.retire(victim, "retired")
        before = list(nursery.procs)
        nursery.tend(time.monotonic())
        assert nursery.procs == before, "nothing is ordered"
        made.until(lambda: victim not in nursery.procs, "it has left")
        made.wait_ready()
        assert made.run(deadly.WhoAmI()).succeeded
        assert all(one.pid for one in made.heard(events.ProcEnded))
        assert made.heard(events.StartMethodChanged) == []
