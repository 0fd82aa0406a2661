"""What a pool as a library refuses before it starts anything."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import pool_actions as acts
import pytest

from fsmv2.supervisor import Action, ActionContext, ActionPool
from fsmv2.supervisor.core.errors import FsmError, SpecError


class Nothing(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> None:
        """Never run."""


def open_files() -> list[str]:
    """What this process has open."""
    gc.collect()
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the list itself
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(found)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"procs": 0}, "procs is 0, want a whole number from 1 up"),
        ({"procs": 2.5}, "procs is 2.5"),
        ({"lanes": {"conversions": -1}}, r"lanes\['conversions'\] is -1"),
        ({"spares": -1}, "spares is -1"),
        ({"queue": "many"}, "Expected `int`, got `str` - at `.*queue`"),
        ({"pipeline": 0}, "pipeline is 0, want a whole number from 1 up"),
        ({"starts_per_s": 0.0}, "starts_per_s is 0.0, want more than 0"),
        ({"start_method": "forkserver"}, "forkserver"),
        ({"recycling": 5}, "recycling"),
        ({"surprise": 1}, "surprise"),
        ({"lanes": {"quarantine": 1}}, "a lane called 'quarantine': the pool has one of its own"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(
    options: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool without procs would keep everybody waiting; one of no known start method would
    take another. Nothing is opened or made before."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fds = open_files()
    with pytest.raises(SpecError, match=says):
        ActionPool(**options)
    assert os.listdir(tmp_path) == []
    assert open_files() == fds


def test_a_pool_that_was_not_started_says_so() -> None:
    """Not an error about attributes it has not got yet."""
    pool = ActionPool(procs=1)
    try:
        for use in (lambda: pool.submit(Nothing()), lambda: pool.run(Nothing()), pool.statistics):
            with pytest.raises(FsmError, match="it was not started"):
                use()
    finally:
        pool.close()
    assert pool.run(Nothing()).status == "refused"


def test_a_pool_that_was_not_started_has_nothing_open_when_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor the kernel's log before it is."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fds = open_files()
    pool = ActionPool(procs=1)
    assert "/dev/kmsg" not in set(open_files()) - set(fds)
    pool.close()
    assert open_files() == fds
    assert os.listdir(tmp_path) == []


def test_a_start_that_the_machine_refuses_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be tried again."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fds = open_files()
    pool = ActionPool(procs=1)

    def refuse(_now: float) -> None:
        raise OSError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr(pool._pool.nursery.keeper, "start", refuse)
    for _ in range(2):
        with pytest.raises(OSError, match="no more processes"):
            pool.start()
    pool.close()
    assert open_files() == fds
    assert os.listdir(tmp_path) == []


def test_a_pool_that_was_not_started_and_is_forgotten_leaves_nothing_open() -> None:
    fds = open_files()
    for _ in range(3):
        ActionPool(procs=1)
    assert open_files() == fds


def without_thread(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The machine has no thread left when the one called ``name`` is started."""
    start = threading.Thread.start

    def start_or_refuse(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_refuse)


@pytest.mark.proc
def test_a_start_without_a_thread_to_be_had_leaves_no_template_and_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The template would keep the interpreter from its exit."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    without_thread(monkeypatch, "fsmv2-pool")
    pool = ActionPool(procs=1)
    with pytest.raises(OSError, match="cannot start the pool's thread: can't start new thread"):
        pool.start()
    assert pool._pool.nursery.keeper.pid == 0
    assert os.listdir(tmp_path) == []
    assert [thread.name for thread in threading.enumerate() if "fsmv2" in thread.name] == []
    pool.close()


@pytest.mark.proc
def test_a_pool_works_without_the_thread_that_hears_of_deaths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_thread(monkeypatch, "fsmv2-deaths")
    with ActionPool(procs=1) as pool:
        assert pool.submit(acts.Echo(7)).result(60.0).value == 7
