"""A plug-in that spoils the template at import is named, left out, and works all the same."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import template_actions
from driving import Driven, driven
from running import until

from fsmv2.ipc.linux import is_alive
from fsmv2.supervisor.core.events import (
    PoolStuck,
    PreloadExcluded,
    ProcOutput,
    StartMethodChanged,
    TemplateEnded,
    TemplateStarted,
)
from fsmv2.supervisor.pool import templatekeeper

pytestmark = pytest.mark.proc

STRAY = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        with open({path!r}, "w") as file: file.write(str(os.getpid()))
        time.sleep(600)
    os._exit(0)
os.wait()
while not os.path.exists({path!r}) or not open({path!r}).read(): time.sleep(0.01)
"""
THREAD = """
import threading, time
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
"""
CHILD = """
import subprocess
KEPT = subprocess.Popen(["sleep", "600"])
"""
HANDLER_IN_C = """
import ctypes, signal
ctypes.CDLL(None).signal(int(signal.SIGUSR2), ctypes.c_void_p(1))
"""
LISTENING = """
import socket
KEPT = socket.create_server(("127.0.0.1", 0))
"""
TIMER = """
import signal
signal.setitimer(signal.ITIMER_REAL, 600)
"""
BLOCKS = "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})"
HANDLER = "import signal\nsignal.signal(signal.SIGUSR1, lambda *_: None)"
FORKS = "import os\nif os.fork() == 0: os.execvp('sleep', ['sleep', '600'])"
HANGS_IN_C = """
import collections, itertools
def guilty():
    collections.deque(itertools.repeat(0), maxlen=0)
guilty()
"""
SEGFAULT = "import ctypes\nctypes.string_at(0)"
# What a module does at import, and what is said of it.
SHAPES = {
    "thread": (THREAD, r"2 OS threads, 1 before"),
    "child": (CHILD, r"1 more child processes"),
    "daemon": (STRAY, r"1 more child processes"),
    "handler": (HANDLER, r"1 more signal handlers: SIGUSR1"),
    "handler_in_c": (HANDLER_IN_C, r"signals blocked, ignored, caught"),
    "mask": (BLOCKS, r"signals blocked, ignored, caught"),
    "listening": (LISTENING, r"1 more open sockets, \d before"),
    "epoll": (
        "import select\nKEPT = select.epoll()",
        r"1 more that a fork would share: anon_inode:\[eventpoll\] as \d+",
    ),
    "timer": (TIMER, r"an interval timer runs"),
    "leaves": ("import os\nos._exit(3)", r"its import ended the process: exited:3"),
    "segfault": (SEGFAULT, r"ended the process: crashed:SIGSEGV; File .*ctypes"),
    "sigkill": ("import os\nos.kill(os.getpid(), 9)", r"ended the process: killed_from_outside"),
    "forks": (FORKS, r"1 more child processes"),
}
HARMLESS = {
    "plain": "",
    "raises": "raise ValueError('not today')",
    "exits": "import sys\nsys.exit(4)",
    "joined": "import threading\nt = threading.Thread(target=int)\nt.start()\nt.join()",
    "prints": "print('hello from the import')",
    "file": "KEPT = open(__file__)",
    "waited": "import subprocess\nsubprocess.run(['true'], check=True)",
    "closed": "import socket\nsocket.create_server(('127.0.0.1', 0)).close()",
}


def write(folder: Path, name: str, code: str) -> str:
    """A module that does ``code`` in the template only, as a proc would not survive each of
    them; its answer is there in both."""
    module = f"shape_{name}"
    code = code.replace("{path!r}", repr(str(folder / f"{name}.pid")))
    body = "".join(f"    {line}\n" for line in code.splitlines())
    (folder / f"{module}.py").write_text(
        f"import os\nif 'FSMV2_SLOT' not in os.environ:\n    pass\n{body}ANSWER = {len(name)}\n"
    )
    return module


def excluded_of(made: Driven) -> dict[str, str]:
    return {event.module: event.reason for event in made.heard(PreloadExcluded)}


class Spoiled:
    """What became of all the shapes, in two pools: one template leaves out 8 modules at most."""

    def __init__(self, folder: Path) -> None:
        self.excluded: dict[str, str] = {}
        self.answers: dict[str, object] = {}
        self.stray = folder / "daemon.pid"
        names = list(SHAPES)
        for group in (names[:7], names[7:]):
            modules = tuple(write(folder, name, SHAPES[name][0]) for name in group)
            last = write(folder, "zz_last", "")
            with driven(
                {"actions": 1}, spares=0, preload=(*modules, last), search=(str(folder),)
            ) as made:
                made.wait_ready()
                loaded = made.run(template_actions.Loaded("shape_")).value
                assert loaded == [last], "only what is safe is in the template"
                for name in group:
                    self.answers[name] = made.run(template_actions.Use(f"shape_{name}")).value
                self.excluded |= excluded_of(made)
                assert made.pool.nursery.keeper.template.excluded == excluded_of(made)
                assert not made.heard(StartMethodChanged)
                # A SIGKILL may have come from outside: that module had a second try.
                ends = len(made.heard(TemplateEnded))
                assert ends == len(group) + ("sigkill" in group)
                assert len(made.heard(TemplateStarted)) == 1


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Spoiled:
    return Spoiled(tmp_path_factory.mktemp("modules"))


@pytest.mark.parametrize("name", SHAPES)
def test_module_that_spoils_the_template_is_named_with_what_it_left(
    spoiled: Spoiled, name: str
) -> None:
    assert re.search(SHAPES[name][1], spoiled.excluded[f"shape_{name}"])


@pytest.mark.parametrize("name", SHAPES)
def test_module_that_was_left_out_is_imported_by_the_proc_itself(
    spoiled: Spoiled, name: str
) -> None:
    assert spoiled.answers[name] == len(name)


def test_daemon_that_an_import_started_is_ended_with_its_template(spoiled: Spoiled) -> None:
    pid = int(spoiled.stray.read_text())
    until(lambda: not is_alive(pid), "the daemon is gone")


def test_harmless_modules_stay_and_one_that_raises_is_only_reported(tmp_path: Path) -> None:
    modules = tuple(write(tmp_path, name, code) for name, code in HARMLESS.items())
    with driven({"actions": 1}, spares=0, preload=modules, search=(str(tmp_path),)) as made:
        made.wait_ready()
        failed = {"shape_raises", "shape_exits"}
        assert excluded_of(made) == {}
        assert made.pool.nursery.keeper.template.import_failures.keys() == failed
        assert "not today" in made.pool.nursery.keeper.template.import_failures["shape_raises"]
        loaded = made.run(template_actions.Loaded("shape_")).value
        assert loaded == sorted(set(modules) - failed)
        lines = [e.line for e in made.heard(ProcOutput) if e.slot == "template"]
        assert "hello from the import" in lines


HANGS = {
    "in Python": ("def guilty():\n    import time\n    time.sleep(600)\nguilty()", "in guilty"),
    "in C": (HANGS_IN_C, "in guilty"),
    "stopped": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", ""),
}


@pytest.mark.parametrize(("code", "frame"), HANGS.values(), ids=HANGS)
def test_import_that_hangs_is_ended_and_named_with_where_it_hung(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, frame: str
) -> None:
    monkeypatch.setattr(templatekeeper, "IMPORT_S_MAX", 2.0)
    # On a busy machine it may not run, and so not answer, for longer than it is waited for else.
    monkeypatch.setattr(templatekeeper, "STACK_BUDGET_S", 1.0)
    module = write(tmp_path, "hangs", code)
    with driven({"actions": 1}, spares=0, preload=(module,), search=(str(tmp_path),)) as made:
        made.wait_ready()
        assert "its import did not end within 2 s" in excluded_of(made)[module]
        assert frame in excluded_of(made)[module]
        assert made.run(template_actions.Use(module)).value == len("hangs")


def test_after_eight_modules_the_rest_is_left_out_untried(tmp_path: Path) -> None:
    """The number of tries is bounded, whatever the number of plug-ins."""
    good = write(tmp_path, "good", "")
    bad = [write(tmp_path, f"bad{i}", "import os\nos._exit(3)") for i in range(10)]
    never = write(tmp_path, "never", "")
    preload = (good, *bad, never)
    with driven({"actions": 1}, spares=0, preload=preload, search=(str(tmp_path),)) as made:
        made.wait_ready()
        excluded = excluded_of(made)
        assert list(excluded) == [*bad, never]
        tried = [m for m, why in excluded.items() if "exited:3" in why]
        assert tried == bad[:8]
        assert all("not tried" in excluded[module] for module in (*bad[8:], never))
        assert made.run(template_actions.Loaded("shape_")).value == [good]


def test_template_killed_while_it_imports_costs_no_module_its_place(tmp_path: Path) -> None:
    """Somebody's kill -9 is not the module's doing."""
    go = tmp_path / "go"
    code = f"import time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"
    module = write(tmp_path, "slow", code)
    with driven({"actions": 1}, spares=0, preload=(module,), search=(str(tmp_path),)) as made:
        template = made.pool.nursery.keeper.template
        made.until(lambda: template.importing == module, "the import began")
        os.kill(template.pid, signal.SIGKILL)
        go.touch()
        made.wait_ready()
        assert excluded_of(made) == {}
        assert [e.verdict for e in made.heard(TemplateEnded)] == ["killed_from_outside"]
        assert made.run(template_actions.Loaded("shape_")).value == [module]
        assert not made.heard(PoolStuck)
