"""Kernel groups, kills by hand, and what the doctor says of a machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Container, Iterator
from pathlib import Path

import pytest
from running import fsmv2, until

from fsmv2.ipc.linux import children_of, descendants_of, is_alive
from fsmv2.supervisor.capabilities import as_text, capabilities, tried
from fsmv2.supervisor.kernelgroups import cgroups
from fsmv2.supervisor.kernelgroups.cgroupplaces import (
    Hierarchy,
    Places,
    folder_of,
    groups_of,
    hierarchies,
)
from fsmv2.supervisor.kernelgroups.cgroups import NO_GROUPS, ProcGroups
from fsmv2.supervisor.kernelgroups.groupfolders import Folders, make_root_folder, remove_leftovers
from fsmv2.supervisor.pool import descendants
from fsmv2.supervisor.pool.descendants import kill_tree

pytestmark = pytest.mark.proc

KILL_S_MAX = 30.0
FOREVER = "import time\nwhile True: time.sleep(1)"

MOUNTINFO = r"""
31 24 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
32 31 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
33 31 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
34 31 0:30 /docker/abc /sys/fs/cgroup/cpu\040and\040acct rw - cgroup cgroup rw,cpu,cpuacct
half a line
"""


# --- where we stand -------------------------------------------------------------------------


def test_mounted_hierarchies_are_read_with_their_controllers_and_escapes() -> None:
    assert hierarchies(MOUNTINFO) == (
        Hierarchy(2, frozenset(), "/sys/fs/cgroup/unified", "/"),
        Hierarchy(1, frozenset({"rw", "pids"}), "/sys/fs/cgroup/pids", "/"),
        Hierarchy(
            1, frozenset({"rw", "cpu", "cpuacct"}), "/sys/fs/cgroup/cpu and acct", "/docker/abc"
        ),
    )


def test_groups_of_a_process_are_read_by_controller() -> None:
    text = "5:cpu,cpuacct:/a\n4:pids:/b:c\n0::/d\n"
    assert groups_of(text) == {"cpu": "/a", "cpuacct": "/a", "pids": "/b:c", "": "/d"}


def test_a_group_outside_of_what_is_mounted_has_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    shown = Hierarchy(2, frozenset(), str(tmp_path), "/docker/abc")

    assert folder_of(shown, "/docker/abc/x") == str(tmp_path / "x")
    assert folder_of(shown, "/docker/abc") == str(tmp_path)
    for group in ("/docker/abcdef", "/../x", "/", "/docker/abc/not-there", "relative"):
        assert folder_of(shown, group) is None


def test_places_say_why_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text("")
    assert "no cgroup v2 is mounted" in str(Places(str(tmp_path)).unified())
    (tmp_path / "self/mountinfo").write_text(MOUNTINFO)
    assert "names no group of cgroup v2" in str(Places(str(tmp_path)).unified())
    (tmp_path / "self/cgroup").write_text("0::/not/there\n")
    assert "is not to be seen at" in str(Places(str(tmp_path)).unified())


# --- folders of roots -----------------------------------------------------------------------


def test_folder_of_a_dead_root_goes_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    ours = make_root_folder(str(tmp_path), "Root One!", "/proc", Folders())
    assert not isinstance(ours, str)
    dead = tmp_path / "fsmv2-root-999999999-1"
    (dead / "p1.1").mkdir(parents=True)
    (tmp_path / "fsmv2-of-somebody-else").mkdir()
    try:
        assert remove_leftovers(str(tmp_path), "/proc", Folders()) == 1
        assert not dead.exists()
        assert sorted(os.listdir(tmp_path)) == sorted(
            [os.path.basename(ours.path), "fsmv2-of-somebody-else"]
        )
        assert os.path.basename(ours.path).startswith(f"fsmv2-root.one.-{os.getpid()}-")
    finally:
        os.close(ours.fd)


def test_a_place_without_room_is_a_reason_and_no_error() -> None:
    assert "cannot make a folder in /proc" in str(
        make_root_folder("/proc", "x", "/proc", Folders())
    )


# --- groups ---------------------------------------------------------------------------------


@pytest.fixture
def groups() -> Iterator[ProcGroups]:
    opened = ProcGroups.open("test")
    if not opened.can_kill:
        pytest.skip(f"no kernel groups here: {opened.why_not}")
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", FOREVER]) as child:
        try:
            yield child
        finally:
            child.kill()


def test_a_group_kills_all_that_are_in_it(
    groups: ProcGroups, sleeper: subprocess.Popen[bytes]
) -> None:
    group = groups.make("p1")
    assert group.is_empty()
    assert group.join(sleeper.pid)
    assert group.pids() == [sleeper.pid]
    assert group.count() == 1
    assert not group.remove(), "somebody is in it"

    assert group.kill()

    assert sleeper.wait(20) == -signal.SIGKILL
    until(group.is_empty, "empty")
    assert group.remove()
    assert not os.path.exists(f"{groups.path}/{group.name}")


def test_closing_kills_and_removes_what_is_left(sleeper: subprocess.Popen[bytes]) -> None:
    opened = ProcGroups.open("test")
    if not opened.can_kill:
        pytest.skip(f"no kernel groups here: {opened.why_not}")
    path = opened.path
    opened.make("p1").join(sleeper.pid)
    fds = len(os.listdir("/proc/self/fd"))

    opened.close()
    sleeper.wait(20)
    opened.close()

    assert not os.path.exists(path) or not os.path.exists(f"{path}/p1.1/cgroup.procs")
    assert len(os.listdir("/proc/self/fd")) < fds


def test_processes_beyond_the_limit_of_a_group_are_refused(groups: ProcGroups) -> None:
    group = groups.make("p1")
    if not group.limit_processes(3):
        pytest.skip(f"no process limits here: {groups.why_not}")
    program = f"""
import os, sys
open({group.members_path!r}, "w").write("0")
sys.stdin.readline()
made = 0
try:
    while made < 20:
        if os.fork() == 0:
            sys.stdin.read()
            os._exit(0)
        made += 1
except BlockingIOError:
    pass
print(made, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        until(lambda: group.count() == 1, "joined by itself")
        assert group.limit_processes(3)
        child.stdin.write("go\n")
        child.stdin.flush()
        assert child.stdout.readline() == "2\n"
        group.kill()


def test_without_any_facility_a_group_does_nothing_and_says_so() -> None:
    group = NO_GROUPS.make("p1")
    assert not group.is_made
    assert group.members_path == ""
    assert (group.join(1), group.kill(), group.pids(), group.is_empty()) == (False, False, [], True)
    assert group.remove()
    with pytest.raises(ValueError, match="want at least 1"):
        group.limit_processes(0)


# --- by hand --------------------------------------------------------------------------------


def test_a_tree_is_killed_by_hand_also_where_it_is_stopped_and_forks_on() -> None:
    program = """
import os, sys, time
for number in range(5):
    if os.fork() == 0:
        os.setsid()
        while True:
            if os.fork() == 0:
                time.sleep(1000)
            os.wait()
print("ready", flush=True)
time.sleep(1000)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        until(lambda: len(descendants_of(child.pid)) >= 10, "each has forked")
        os.kill(child.pid, signal.SIGSTOP)
        killed = kill_tree(child.pid)
        assert child.wait(20) == -signal.SIGKILL

    assert killed.is_complete
    assert child.pid in killed.pids
    assert len(killed.pids) >= 11
    until(lambda: not any(is_alive(pid) for pid in killed.pids), "all dead")


def test_a_kill_by_hand_has_a_bound_and_goes_on_when_asked_again() -> None:
    program = (
        "import os, time\n"
        "for _ in range(20):\n    if os.fork() == 0: time.sleep(1000)\n"
        "print('ready', flush=True)\ntime.sleep(1000)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        calls, killed = 0, []
        while True:
            calls += 1
            answer = kill_tree(child.pid, processes_max=8)
            assert len(answer.pids) <= 9
            killed += answer.pids
            if answer.is_complete:
                break
            assert calls < 20
        child.wait(20)
    assert calls > 1
    assert len(set(killed)) == 21


def test_a_kill_by_hand_finds_the_living_behind_more_dead_than_it_may_look_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their parent, stopped, does not reap them; each call adds those that it has killed."""
    monkeypatch.setattr(descendants, "LOOKS_MAX", 25)
    program = (
        "import os, time\n"
        "for number in range(80):\n"
        "    if os.fork() == 0:\n"
        "        if number >= 40: time.sleep(1000)\n"
        "        os._exit(0)\n"
        "print('ready', flush=True)\ntime.sleep(1000)"
    )
    looks: list[int] = []

    def look(pid: int, limit: int, skip: Container[int]) -> list[int]:
        found = descendants_of(pid, limit, skip)
        looks.append(len(found))
        return found

    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        trail = descendants.Trail()
        killed: list[int] = []
        is_complete = False
        give_up = time.monotonic() + KILL_S_MAX
        while not is_complete and time.monotonic() < give_up:
            looks.clear()
            answer = kill_tree(child.pid, look=look, trail=trail)
            assert sum(looks) <= 25
            killed += answer.pids
            is_complete = answer.is_complete
            time.sleep(0.002)  # those that were killed are to die
        for pid in () if is_complete else (*children_of(child.pid), child.pid):
            os.kill(pid, signal.SIGKILL)
        assert is_complete
        child.wait(20)
    assert len(set(killed)) >= 41  # some of those that end at once may not have ended yet


# --- the doctor -----------------------------------------------------------------------------


def test_doctor_names_each_facility_and_leaves_nothing_behind() -> None:
    found = json.loads(fsmv2("doctor", "--json").stdout)["capabilities"]
    names = [one["name"] for one in found]

    assert len(names) == len(set(names)) >= 10
    assert all(one["read"] and one["instead"] for one in found)
    home = Places().unified()
    if not isinstance(home, str):
        # Another test's doctor may be at work beside this one.
        until(
            lambda: not [name for name in os.listdir(home.folder) if "-doctor-" in name],
            "the doctor's folders are gone",
        )


def test_doctor_ends_what_it_tries_and_kills_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks at a machine on which others work: their leftovers are theirs."""
    cleared: list[object] = []
    monkeypatch.setattr(cgroups, "remove_leftovers", lambda *what: cleared.append(what))
    # What is left of an earlier test may end meanwhile.
    threads, fds = {*threading.enumerate()}, len(os.listdir("/proc/self/fd"))
    capabilities()

    assert {*threading.enumerate()} <= threads
    assert len(os.listdir("/proc/self/fd")) <= fds
    assert not cleared


def test_a_probe_that_fails_in_a_way_nobody_thought_of_is_a_no() -> None:
    def fails() -> tuple[bool, str]:
        raise IndexError("no such field")

    found = tried("x", fails, "y")

    assert (found.there, found.read) == (False, "IndexError: no such field")


def test_doctor_says_what_is_done_instead_of_what_is_missing() -> None:
    text = as_text(capabilities())
    for one in capabilities():
        assert one.name in text
        assert (one.instead in text) == (not one.there)
