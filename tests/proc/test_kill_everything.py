"""All that a process started dies with it: fork bombs, daemons, stopped ones.

Each way to kill is tried on its own: kernel groups, and by hand, as an ordinary user too.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import pytest
from running import until

from fsmv2.ipc.linux import descendants_of, is_alive, place_of
from fsmv2.supervisor.kernelgroups.cgroups import ProcGroup, ProcGroups
from fsmv2.supervisor.pool.descendants import kill_tree

# A number nobody has, so that RLIMIT_NPROC counts this test's processes and no others.
ORDINARY_USER = 1_000_000 + os.getpid()
BOMB_PROCESSES_MAX = 60

# Each child forks on, as fast as it can, until the kernel refuses; then it tries again.
BOMB = """
import os, time
print("ready", flush=True)
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.001)
"""

# In a session of its own, with neither our mark in its environment nor a parent of its own.
DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        os.execve("/bin/sleep", ["sleep", "1000"], {})
    os._exit(0)
time.sleep(1000)
"""

# What an ordinary user's process looks like: setuid(2) alone would leave its /proc unreadable.
BE_ORDINARY = f"""
import ctypes, os
os.setgroups([])
os.setresgid({ORDINARY_USER}, {ORDINARY_USER}, {ORDINARY_USER})
os.setresuid({ORDINARY_USER}, {ORDINARY_USER}, {ORDINARY_USER})
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
os.chdir("/")
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@pytest.fixture
def groups() -> Iterator[ProcGroups]:
    opened = ProcGroups.open("test")
    if not opened.can_kill:
        pytest.skip(f"no kernel groups here: {opened.why_not}")
    try:
        yield opened
    finally:
        opened.close()


def as_ordinary_user(body: str, imports: str = "") -> Any:
    """Run ``body`` in a process that has ceased to be root (if it was); what it prints as JSON.

    ``imports`` come before: an ordinary user may have no leave to read this checkout.
    """
    prelude = BE_ORDINARY if os.geteuid() == 0 else ""
    ended = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(imports) + prelude + textwrap.dedent(body)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def kill_hard(group: ProcGroup) -> bool:
    """Kill who is in ``group`` without the code under test; whether somebody was."""
    pids = group.pids()
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
    return bool(pids)


# --- with kernel groups ---------------------------------------------------------------------


def test_a_fork_bomb_is_killed_wholly_with_its_group(groups: ProcGroups) -> None:
    group = groups.make("p1")
    if not group.limit_processes(BOMB_PROCESSES_MAX):
        pytest.skip(f"no process limits here: {groups.why_not}")
    join = f"open({group.members_path!r}, 'w').write('0')\nimport sys\nsys.stdin.readline()\n"
    with subprocess.Popen(
        [sys.executable, "-c", join + BOMB], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as bomb:
        assert bomb.stdin is not None
        try:
            until(lambda: group.count() == 1, "it has joined")
            # In the limit's group too before it forks: the machine is to survive this test.
            assert group.limit_processes(BOMB_PROCESSES_MAX)
            bomb.stdin.write(b"\n")
            bomb.stdin.flush()
            until(lambda: (group.count() or 0) >= BOMB_PROCESSES_MAX, "all it may have")
            members = group.pids()

            assert group.kill()

            until(lambda: not any(is_alive(pid) for pid in members), "all are dead")
        finally:
            until(lambda: group.is_empty() or not kill_hard(group), "nobody is left")
        assert bomb.wait(20) == -signal.SIGKILL
    until(group.remove, "the group goes")


def test_a_daemon_without_mark_or_parent_dies_with_its_group(groups: ProcGroups) -> None:
    group = groups.make("p1")
    join = f"open({group.members_path!r}, 'w').write('0')\n"
    with subprocess.Popen(
        [sys.executable, "-c", join + DAEMON], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        daemon = int(child.stdout.readline())
        assert is_alive(daemon)
        os.kill(daemon, signal.SIGSTOP)
        try:
            assert group.kill()
            until(lambda: not is_alive(daemon), "the daemon is dead")
        finally:
            kill_hard(group)
        child.wait(20)
    until(group.is_empty, "nobody is left")


def test_who_comes_back_into_a_group_that_was_given_up_is_killed_by_the_sweep(
    groups: ProcGroups,
) -> None:
    group = groups.make("p1")
    with subprocess.Popen(["sleep", "1000"]) as late:
        try:
            assert group.join(late.pid)
            assert not group.remove(), "somebody is in it"

            groups.sweep()

            assert late.wait(20) == -signal.SIGKILL
        finally:
            late.kill()
    until(lambda: groups.sweep() == 0, "the group goes")


# --- without kernel groups ------------------------------------------------------------------


@needs_root
def test_a_fork_bomb_is_killed_wholly_by_hand() -> None:
    """Held by RLIMIT_NPROC, which does not bind root."""
    bound = (
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_NPROC, ({BOMB_PROCESSES_MAX}, {BOMB_PROCESSES_MAX}))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", bound + BE_ORDINARY + BOMB], stdout=subprocess.PIPE
    ) as bomb:
        assert bomb.stdout is not None
        try:
            assert bomb.stdout.readline() == b"ready\n"
            until(lambda: len(of_ordinary_user()) >= BOMB_PROCESSES_MAX // 2, "it has grown")

            until(lambda: kill_tree(bomb.pid).is_complete, "all are found")

            assert bomb.wait(20) == -signal.SIGKILL
            until(lambda: not of_ordinary_user(), "nobody is left")
        finally:
            # All are stopped first: one that runs would replace those that die.
            for number in (*[signal.SIGSTOP] * 20, *[signal.SIGKILL] * 2):
                for pid in of_ordinary_user():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)


def test_all_are_stopped_before_the_second_look_and_nobody_dies_before_it() -> None:
    """Who is stopped cannot fork, so that one who is not seen twice is not there."""
    states: list[str] = []

    def look(pid: int, limit: int, skip: Container[int]) -> list[int]:
        found = descendants_of(pid, limit, skip)
        if not states:
            states.append("first")
        elif len(states) == 1:
            # A signal is sent at once; that it stops its receiver takes a moment.
            until(lambda: {state_of(each) for each in (pid, *found)} <= {"T", "Z"}, "all stopped")
            states.append("".join(state_of(each) for each in (pid, *found)))
        return found

    with subprocess.Popen(
        ["sh", "-c", "sleep 1000 & sleep 1000 & echo ready; wait"], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        below = descendants_of(child.pid)
        try:
            assert kill_tree(child.pid, look=look).is_complete
        finally:
            for pid in (child.pid, *below):
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)

    assert states == ["first", "TTT"]


def state_of(pid: int) -> str:
    """The state letter of ``pid``, Z if it is gone."""
    place = place_of(pid)
    return place.state if place is not None else "Z"


def of_ordinary_user() -> list[int]:
    """The living processes of our ordinary user."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                is_theirs = os.stat(f"/proc/{name}").st_uid == ORDINARY_USER
            except OSError:
                continue
            if is_theirs and is_alive(int(name)):
                found.append(int(name))
    return found


def test_an_ordinary_user_without_groups_kills_daemons_and_stopped_ones_by_hand() -> None:
    """Double fork and a session of its own: the sub-reaper gets it, its name says whose it is."""
    told = as_ordinary_user(
        """
        set_subreaper(True)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            ctypes.CDLL(None).prctl(15, b"fsmv2.9.p1", 0, 0, 0)
            os.setsid()
            if os.fork() == 0:  # a daemon
                os.setsid()
                if os.fork() == 0:
                    os.write(write, b"%d " % os.getpid())
                    time.sleep(1000)
                os._exit(0)
            stopped = os.fork()
            if stopped == 0:
                if os.fork() == 0:
                    os.write(write, b"%d " % os.getpid())
                    time.sleep(1000)
                os.write(write, b"%d " % os.getpid())
                os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(1000)
        started = b""
        while started.count(b" ") < 3:
            started += os.read(read, 100)
        time.sleep(0.1)
        calls = 1
        while not (killed := kill_tree(pid)).is_complete and calls < 20:
            calls += 1
        ended = os.waitpid(pid, 0)[1]
        for _ in range(2000):
            if not any(is_alive(int(each)) for each in started.split()):
                break
            time.sleep(0.01)
        left = [int(each) for each in started.split() if is_alive(int(each))]
        for each in left:
            os.kill(each, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(ended)
        print(json.dumps([killed.is_complete, code, left, os.geteuid()]))
        """,
        imports="""
        import ctypes, json, os, signal, time
        from fsmv2.ipc.linux import is_alive, set_subreaper
        from fsmv2.supervisor.pool.descendants import kill_tree
        """,
    )

    assert told[:3] == [True, -signal.SIGKILL, []]
    assert told[3] != 0


def test_an_ordinary_user_without_leave_gets_groups_that_do_nothing_and_a_reason() -> None:
    can_kill, why_not, killed, fds = as_ordinary_user(
        """
        before = len(os.listdir("/proc/self/fd"))
        groups = ProcGroups.open("ordinary")
        group = groups.make("p1")
        answers = [groups.can_kill, groups.why_not, group.kill()]
        group.limit_processes(5)
        groups.close()
        print(json.dumps([*answers, len(os.listdir("/proc/self/fd")) - before]))
        """,
        imports="""
        import json, os
        from fsmv2.supervisor.kernelgroups.cgroups import ProcGroups
        """,
    )

    if can_kill:
        pytest.skip("groups are delegated to this user")
    assert why_not
    assert not killed
    assert fds == 0


def test_an_ordinary_users_doctor_answers_too() -> None:
    found = as_ordinary_user(
        "print(json.dumps({one.name: [one.there, one.read] for one in capabilities()}))",
        imports="import json\nfrom fsmv2.supervisor.capabilities import capabilities\n",
    )

    assert len(found) >= 10
    assert all(read for _, read in found.values())


def test_without_cgroup_kill_the_group_still_says_who_is_to_be_killed(tmp_path: Path) -> None:
    """Where only version 1 is mounted: groups know their members, a daemon among them."""
    groups = ProcGroups.open("test", proc=str(proc_with_version_1_only(tmp_path)))
    if not groups.available:
        pytest.skip(f"no group of version 1 here: {groups.why_not}")
    try:
        assert not groups.can_kill
        group = groups.make("p1")
        join = f"open({group.members_path!r}, 'w').write('0')\n"
        with subprocess.Popen(
            [sys.executable, "-c", join + DAEMON], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            daemon = int(child.stdout.readline())
            assert not group.kill()
            assert daemon in group.pids()

            try:
                assert group.kill_or_signal()
                until(lambda: not is_alive(daemon), "the daemon is dead")
                assert child.wait(20) == -signal.SIGKILL
            finally:
                kill_hard(group)
        until(group.remove, "the group goes")
    finally:
        assert groups.close()


def proc_with_version_1_only(folder: Path) -> Path:
    """What /proc says of us, the lines about version 2 left out."""
    (folder / "self").mkdir()
    mounts = Path("/proc/self/mountinfo").read_text().splitlines(keepends=True)
    (folder / "self/mountinfo").write_text("".join(x for x in mounts if " - cgroup2 " not in x))
    (folder / "self/cgroup").write_text(Path("/proc/self/cgroup").read_text())
    (folder / "self/stat").write_text(Path("/proc/self/stat").read_text())
    return folder
