"""What an import leaves behind: how it is told, and what of it keeps the template from forking."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from fsmv2.workerproc import preload
from fsmv2.workerproc.preload import Traces, import_all, look, misfits

CLEAN = Traces(1, frozenset({"socket:[1] as 3"}), frozenset(), {}, ("0", "0", "0"), (False,) * 3)


@pytest.mark.parametrize(
    ("after", "told"),
    [
        (CLEAN, ""),
        (CLEAN._replace(fds=frozenset()), ""),
        (CLEAN._replace(threads=3), "3 OS threads, 1 before"),
        (
            CLEAN._replace(fds=CLEAN.fds | {"socket:[2] as 4", "pipe:[3] as 5"}),
            "1 more open sockets, 1 before; 1 more that a fork would share: pipe:[3] as 5",
        ),
        (CLEAN._replace(children=frozenset({17})), "1 more child processes, 0 before"),
        (
            CLEAN._replace(dispositions=("0", "4", "0")),
            "signals blocked, ignored, caught: 0 4 0, before 0 0 0",
        ),
        (CLEAN._replace(timers=(True, False, False)), "an interval timer runs, none before"),
    ],
)
def test_what_an_import_left_is_told_with_numbers(after: Traces, told: str) -> None:
    assert misfits(CLEAN, after) == told


def test_a_handler_is_told_by_its_signal_and_its_trace_in_the_kernel_is_not_told_too() -> None:
    before = CLEAN._replace(handlers={signal.SIGUSR1: 0, signal.SIGRTMIN + 3: 0})
    after = before._replace(
        handlers={signal.SIGUSR1: print, signal.SIGRTMIN + 3: print}, dispositions=("0", "0", "9")
    )
    number = int(signal.SIGRTMIN + 3)
    assert misfits(before, after) == f"2 more signal handlers: SIGUSR1, signal {number}"


def test_two_looks_at_a_quiet_process_are_alike() -> None:
    assert misfits(look(), look()) == ""


def test_imports_stop_at_the_first_that_is_unsafe_and_go_on_after_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(preload, "SETTLE_S", 0.0)
    (tmp_path / "pre_quiet.py").write_text("")
    (tmp_path / "pre_raises.py").write_text("raise SystemExit")
    (tmp_path / "pre_leaves.py").write_text(
        "import signal\nbefore = signal.getitimer(signal.ITIMER_VIRTUAL)\n"
        "signal.setitimer(signal.ITIMER_VIRTUAL, 10_000)\n"
    )
    (tmp_path / "pre_never.py").write_text("raise AssertionError")
    told: list[str] = []
    try:
        failed, unsafe = import_all(
            ["pre_quiet", "pre_raises", "pre_missing", "pre_leaves", "pre_never"], told.append
        )
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        for name in ("pre_quiet", "pre_leaves"):
            sys.modules.pop(name, None)
    assert told == ["pre_quiet", "pre_raises", "pre_missing", "pre_leaves"]
    assert failed == {
        "pre_raises": "SystemExit",
        "pre_missing": "ModuleNotFoundError: No module named 'pre_missing'",
    }
    assert unsafe == {"pre_leaves": "an interval timer runs, none before"}
