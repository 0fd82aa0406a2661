"""What a root that was killed leaves in kernel groups: the next root ends and removes it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from running import until

from fsmv2.ipc.linux import is_alive
from fsmv2.supervisor.cgroups import ProcGroups
from fsmv2.supervisor.groupfolders import Folders, kill_in_tree, remove_leftovers

ROOT = """
import os, subprocess, time
from fsmv2.supervisor.cgroups import ProcGroups
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
