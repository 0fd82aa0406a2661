"""What a root that was killed leaves behind, the next root ends and removes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pool_actions as acts
import pytest
from running import SUPPORT, until

from fsmv2.ipc.linux import descendants_of, is_alive
from fsmv2.supervisor import ActionPool
from fsmv2.supervisor.kernelgroups.cgroups import ProcGroups
from fsmv2.supervisor.kernelgroups.groupfolders import Folders, kill_in_tree, remove_leftovers
from fsmv2.supervisor.pool.runfolders import LOCK

ROOT = """
import os, subprocess, time
from fsmv2.supervisor.kernelgroups.cgroups import ProcGroups
groups = ProcGroups.open("killed")
group = groups.make("p1")
group.limit_processes(100)
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
group.join(child.pid)
print(groups.path, groups.limit_path, child.pid, flush=True)
time.sleep(1000)
"""


def test_what_a_killed_root_left_running_is_killed_by_the_next_one() -> None:
    opened = ProcGroups.open("test")
    can_kill, why_not = opened.can_kill, opened.why_not
    opened.close()
    if not can_kill:
        pytest.skip(f"no kernel groups here: {why_not}")
    with subprocess.Popen(
        [sys.executable, "-P", "-c", ROOT], stdout=subprocess.PIPE, text=True
    ) as root:
        assert root.stdout is not None
        path, limit_path, left = root.stdout.readline().split(" ", 2)
        try:
            ProcGroups.open("test").close()
            assert is_alive(int(left)), "its root lives"
        finally:
            root.kill()
            root.wait()

    def is_gone() -> bool:
        ProcGroups.open("test").close()
        return not any(os.path.exists(each) for each in (path, limit_path) if each)

    try:
        until(is_gone, "the folders of the dead root go")
        assert not is_alive(int(left))
    finally:
        if is_alive(int(left)):
            os.kill(int(left), signal.SIGKILL)


def test_a_folder_whose_lock_is_held_is_left_alone_though_nobody_here_has_its_pid(
    tmp_path: Path,
) -> None:
    """Its root lives in another PID namespace."""
    theirs = tmp_path / "fsmv2-root-999999999-1"
    theirs.mkdir()
    lock = os.open(theirs, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)

    assert remove_leftovers(str(tmp_path), "/proc", Folders()) == 0
    assert theirs.exists()

    os.close(lock)
    assert remove_leftovers(str(tmp_path), "/proc", Folders()) == 1
    assert not theirs.exists()


def test_leftovers_are_killed_one_by_one_where_the_kernel_has_no_such_call(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "1000"]) as left, subprocess.Popen(["sleep", "1000"]) as other:
        try:
            (tmp_path / "p1.1").mkdir()
            (tmp_path / "cgroup.procs").write_text(f"0\n{os.getpid()}\n")
            (tmp_path / "p1.1/cgroup.procs").write_text(f"{left.pid}\n")
            fd = os.open(tmp_path, os.O_RDONLY)
            fds = len(os.listdir("/proc/self/fd"))
            kill_in_tree(fd)

            assert len(os.listdir("/proc/self/fd")) == fds
            os.close(fd)
            assert left.wait(20) == -signal.SIGKILL
            assert is_alive(other.pid)
        finally:
            left.kill()
            other.kill()


# --- run folders ----------------------------------------------------------------------------

POOL = """
import sys, tempfile, time
import pool_actions as acts
from fsmv2.supervisor import ActionPool
tempfile.tempdir = sys.argv[1]
if __name__ == "__main__":
    with ActionPool(procs=1) as pool:
        pool.submit(acts.UseScratch())
        handle = pool.submit(acts.Sleep(1000.0))
        while not handle.running():
            time.sleep(0.01)
        print(pool._folder.path, flush=True)
        time.sleep(1000)
"""


def holders_of(path: str, pids: list[int]) -> list[int]:
    """Which of ``pids`` have the file ``path`` open."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{pid}/fd/{fd}") == path:
                        found.append(pid)
    return found


@contextlib.contextmanager
def other_pool(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A pool in a process of its own that uses ``folder``, with an action at work; and its run
    folder."""
    program = folder / "program.py"
    program.write_text(POOL)
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    with subprocess.Popen(
        [sys.executable, "-P", str(program), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as root:
        assert root.stdout is not None
        try:
            yield root, root.stdout.readline().strip()
        finally:
            root.kill()


def test_the_run_folder_of_a_killed_root_is_removed_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its root lives it is not, and no proc holds its lock."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with other_pool(tmp_path) as (root, left), ActionPool(procs=1) as pool:
        lock = os.path.join(left, LOCK)
        below = descendants_of(root.pid)
        assert len(below) >= 2
        assert holders_of(lock, [root.pid, *below]) == [root.pid]
        assert pool.run(acts.Echo(1)).succeeded
        assert os.path.exists(lock)
        root.kill()
        root.wait()
        until(lambda: not any(map(is_alive, below)), "its procs end")
        assert os.path.exists(lock)

        with ActionPool(procs=1):
            until(lambda: not os.path.exists(left), "its folder is removed")
        assert pool.run(acts.Echo(1)).succeeded
    assert os.listdir(tmp_path) == ["program.py"]
