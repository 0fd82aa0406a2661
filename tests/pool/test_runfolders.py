"""What a killed root left is removed by the next one; what belongs to anybody else is not."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fsmv2.supervisor.pool import runfolders
from fsmv2.supervisor.pool.runfolders import (
    FOLDERS_MAX,
    LOCK,
    Leftovers,
    RunFolder,
    clearing_of_dead,
)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run folders are made here."""
    monkeypatch.setattr(runfolders.tempfile, "tempdir", str(tmp_path))
    return tmp_path


def made() -> RunFolder:
    folder = RunFolder("fsmv2-test-")
    folder.make()
    return folder


def dead(files: int = 1) -> Path:
    """The folder of a root that has died with so many files in it, some of them deeper."""
    folder = made()
    path = Path(folder.path)
    (path / "scratch-p1-1" / "deeper").mkdir(parents=True)
    (path / "removed" / "0").mkdir(parents=True)
    for number in range(files):
        place = ("", "scratch-p1-1", "scratch-p1-1/deeper", "removed/0")[number % 4]
        (path / place / f"file-{number}").touch()
    folder.let_go()  # as the kernel does
    return path


def removed(leftovers: Leftovers) -> int:
    """Run it to its end: how many portions that took."""
    portions = 1
    while leftovers.go_on():
        portions += 1
        assert portions < 10_000, "it does not end"
    return portions


def fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_the_folder_of_a_dead_root_is_removed_and_that_of_a_living_one_is_not() -> None:
    left, living = dead(), made()
    before = fds()
    leftovers = Leftovers()
    removed(leftovers)
    assert not left.exists()
    assert leftovers.folders == 1
    assert fds() == before
    assert os.path.exists(os.path.join(living.path, LOCK))
    living.remove()
    assert not os.path.exists(living.path)
    assert fds() == before - 1


def test_a_folder_is_there_only_from_its_making_to_its_removal(temporary: Path) -> None:
    """For its user only."""
    before = fds()
    folder = RunFolder("fsmv2-test-")
    assert os.listdir(temporary) == []
    folder.make()
    assert os.listdir(temporary) == [os.path.basename(folder.path)]
    assert os.stat(folder.path).st_mode & 0o777 == 0o700
    (Path(folder.path) / "scratch-p1-1").mkdir()
    folder.remove()
    folder.remove()
    assert os.listdir(temporary) == []
    assert fds() == before


def test_no_portion_removes_many_entries() -> None:
    left = dead(4 * runfolders.ENTRIES_AT_ONCE)

    def entries() -> int:
        return sum(len(files) for _, _, files in os.walk(left))

    leftovers = Leftovers()
    while (before := entries()) and leftovers.go_on():
        assert before - entries() <= runfolders.ENTRIES_AT_ONCE
    removed(leftovers)
    assert not left.exists()


def test_what_was_cut_short_is_gone_on_with_by_the_next_root() -> None:
    left = dead(4 * runfolders.ENTRIES_AT_ONCE)
    first = Leftovers()
    for _ in range(3):
        assert first.go_on()
    other = Leftovers()
    assert not other.go_on(), "it is in somebody's hands"
    first.close()
    assert left.exists()
    removed(Leftovers())
    assert not left.exists()


def test_one_start_removes_a_bounded_number_of_folders() -> None:
    left = [dead() for _ in range(FOLDERS_MAX + 3)]
    removed(Leftovers())
    assert sum(path.exists() for path in left) == 3
    removed(Leftovers())
    assert not any(path.exists() for path in left)


def test_one_start_removes_a_bounded_number_of_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runfolders, "TOTAL_ENTRIES_MAX", 3 * runfolders.ENTRIES_AT_ONCE)
    left = dead(8 * runfolders.ENTRIES_AT_ONCE)
    assert removed(Leftovers()) == 3
    assert left.exists()


def test_a_folder_without_our_lock_is_nobodys_proof(temporary: Path) -> None:
    """An older root's, an action's, a test's."""
    for name in ("fsmv2-1", "fsmv2-pool-2", "other"):
        (temporary / name).mkdir()
    (temporary / "other" / LOCK).touch()
    os.mkfifo(temporary / "fsmv2-1" / LOCK)
    (temporary / "fsmv2-pool-3").touch()
    before = fds()
    removed(Leftovers())
    assert len(os.listdir(temporary)) == 4
    assert fds() == before


def test_links_are_not_followed(temporary: Path) -> None:
    """Neither to a folder nor to a lock nor inside of what is removed."""
    other = temporary / "other"
    other.mkdir()
    (other / LOCK).touch()
    (other / "kept").touch()
    (temporary / "fsmv2-link").symlink_to(other)
    (temporary / "fsmv2-lock").mkdir()
    (temporary / "fsmv2-lock" / LOCK).symlink_to(other / LOCK)
    left = dead()
    (left / "link").symlink_to(other)
    (left / "scratch-p1-1" / "link").symlink_to(other)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(str(left / "s"))
    removed(Leftovers())
    assert not left.exists()
    assert (temporary / "fsmv2-lock").exists()
    assert sorted(os.listdir(other)) == ["kept", LOCK]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's folder")
def test_another_users_folder_is_left_alone(temporary: Path) -> None:
    left = dead()
    os.chown(left, 12345, -1)
    assert clearing_of_dead(str(left)) is None
    os.chown(left, os.geteuid(), -1)
    clearing = clearing_of_dead(str(left))
    assert clearing is not None
    clearing.let_go()


def test_who_was_faster_leaves_nothing_to_remove(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock was opened before the other had done its work, and got after that."""
    left = dead()
    before = fds()
    lock = runfolders.fcntl.flock

    def late(fd: int, how: int) -> None:
        os.unlink(left / LOCK)
        lock(fd, how)

    monkeypatch.setattr(runfolders.fcntl, "flock", late)
    assert clearing_of_dead(str(left)) is None
    assert fds() == before


def test_a_process_forked_from_the_root_does_not_hold_the_lock() -> None:
    """Else a daemon of the program would keep what its dead parent left."""
    folder = made()
    ready, told = os.pipe()
    go_on, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(told, b"x")
        os.close(go)
        os.read(go_on, 1)
        os._exit(0)
    try:
        os.read(ready, 1)
        assert clearing_of_dead(folder.path) is None
        folder.let_go()
        clearing = clearing_of_dead(folder.path)
        assert clearing is not None
        clearing.let_go()
    finally:
        os.close(go)
        os.waitpid(pid, 0)
        for fd in (ready, told, go_on):
            os.close(fd)


def test_a_forked_process_removes_nothing() -> None:
    folder = made()
    pid = os.fork()
    if pid == 0:
        folder.remove()
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.path.exists(os.path.join(folder.path, LOCK))
    assert clearing_of_dead(folder.path) is None
    folder.remove()


def test_a_pools_timers_do_it_until_it_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    """And never before its first step."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(runfolders, "time", SimpleNamespace(monotonic=lambda: clock.now))
    left = [dead() for _ in range(2)]
    calls: list[Any] = []
    deadlines = SimpleNamespace(call=lambda moment, handler: calls.append((moment, handler)))
    pool: Any = SimpleNamespace(closing=False, deadlines=deadlines)
    leftovers = Leftovers()
    leftovers.begin(pool)
    assert all(path.exists() for path in left)
    moments = []
    while calls:
        moment, handler = calls.pop()
        moments.append(moment)
        clock.now = moment
        handler()
    assert not any(path.exists() for path in left)
    assert all(b - a > runfolders.REST_S / 2 for a, b in itertools.pairwise(moments))

    pool.closing = True
    leftovers.begin(pool)
    calls.pop()[1]()
    assert calls == []
