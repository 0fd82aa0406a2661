"""Kernel groups on machines that are made up of files: what each kernel lacks, and what is then
done instead. The real kernel's are in tests/proc/test_groups.py, where the machine has them."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
from pathlib import Path

import pytest

from fsmv2.supervisor.kernelgroups.cgroups import ProcGroups
from fsmv2.supervisor.kernelgroups.groupfolders import (
    Folders,
    make_root_folder,
    remove_leftovers,
    remove_tree,
)

CHILD = 4_000_001  # above any pid the kernel gives
OTHER = 4_000_002


class Machine:
    """A cgroup v2 mount with this process in the group ``/app``, and if ``with_v1`` one of
    version 1 that has the pids controller. ``files`` are what a new v2 group has, name to text."""

    def __init__(self, top: Path, *, with_v1: bool = False, **files: str | None) -> None:
        self.top = top
        self.refuses: OSError | None = None
        new = {
            "cgroup.procs": "",
            "cgroup.kill": "",
            "cgroup.events": None,
            "cgroup.controllers": "cpu pids",
            "cgroup.subtree_control": "",
            "cgroup.type": "domain",
            "pids.max": "max",
        } | {name.replace("_", ".", 1): text for name, text in files.items()}
        self.files = {name: text for name, text in new.items() if text is not None}
        self.app = top / "v2/app"
        self.v1 = top / "v1/app"
        (top / "proc/self").mkdir(parents=True)
        for group in (self.app, self.v1):
            group.mkdir(parents=True)
            (group / "cgroup.procs").touch()
        mounts = f"1 0 0:1 / {top}/v2 rw - cgroup2 cgroup2 rw\n"
        if with_v1:
            mounts += f"2 0 0:2 / {top}/v1 rw - cgroup cgroup rw,pids\n"
        (top / "proc/self/mountinfo").write_text(mounts)
        (top / "proc/self/cgroup").write_text("1:pids:/app\n0::/app\n")
        (top / "proc/self/stat").write_text(f"{os.getpid()} (x) " + "7 " * 30)

    def open(self, name: str = "test") -> ProcGroups:
        """As a root does at its start."""
        return ProcGroups.open(name, proc=str(self.top / "proc"), folders=self.folders)

    @property
    def folders(self) -> Folders:
        """The kernel's part: a new group has its files; one with processes stays, unless they
        have been killed."""
        return Folders(self._mkdir, self._rmdir)

    def _mkdir(self, name: str, above: int) -> None:
        if self.refuses is not None:
            raise self.refuses
        os.mkdir(name, dir_fd=above)
        folder = Path(f"/proc/self/fd/{above}").readlink() / name
        for file, text in self.files.items():
            (folder / file).write_text(text)

    def _rmdir(self, name: str, above: int) -> None:
        folder = Path(f"/proc/self/fd/{above}").readlink() / name
        if not folder.exists():
            raise FileNotFoundError(errno.ENOENT, name)
        kill = folder / "cgroup.kill"
        is_killed = kill.exists() and kill.read_text() == "1"
        if (folder / "cgroup.procs").read_text().strip() and not is_killed:
            raise OSError(errno.EBUSY, name)
        if any(entry.is_dir() for entry in folder.iterdir()):
            raise OSError(errno.ENOTEMPTY, name)
        shutil.rmtree(folder)


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Who got which signal, instead of sending them."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    return sent


def fill(group: str | Path, *pids: int) -> Path:
    """Put ``pids`` into a group's list, as the kernel does when they join or are born there."""
    procs = Path(group) / "cgroup.procs"
    procs.write_text("".join(f"{pid}\n" for pid in pids))
    return procs


# --- cgroup v2 ------------------------------------------------------------------------------


def test_a_group_is_joined_counted_limited_and_killed_through_its_files(tmp_path: Path) -> None:
    groups = Machine(tmp_path).open("My Root")
    assert (groups.why_not, groups.can_kill, groups.can_limit) == ("", True, True)
    assert groups.path == groups.limit_path == f"{tmp_path}/v2/app/fsmv2-my.root-{os.getpid()}-7"
    folder = Path(groups.path)
    assert (folder / "cgroup.subtree_control").read_text() == "+pids"

    group = groups.make("p1")
    assert group.members_path == f"{folder}/p1.1/cgroup.procs"
    assert (group.is_empty(), group.count()) == (True, 0)
    assert group.join(CHILD)
    assert Path(group.members_path).read_text() == str(CHILD)
    fill(folder / "p1.1", CHILD, 0, OTHER)
    assert group.pids() == [CHILD, OTHER], "0 is one that we do not see"
    assert (group.is_empty(), group.count()) == (False, 3)

    limit = folder / "p1.1/pids.max"
    assert group.limit_processes(17)
    assert limit.read_text().startswith("17")
    limit.write_text("")
    assert group.limit_processes(None)
    assert limit.read_text() == "max"

    assert not group.remove(), "somebody is in it"
    assert "leaving=1" in repr(groups)
    assert group.kill(), "also without the descriptor that `remove` has closed"
    assert (folder / "p1.1/cgroup.kill").read_text() == "1"
    assert groups.sweep() == 0
    assert not (folder / "p1.1").exists()
    assert groups.close()
    assert not folder.exists()


def test_what_the_kernel_says_of_a_group_counts_more_than_its_list(tmp_path: Path) -> None:
    """Processes may be in a group below: the list of the group itself is empty then."""
    groups = Machine(tmp_path, cgroup_events="populated 1\nfrozen 0\n").open()
    group = groups.make("p1")
    assert group.count() == 0
    assert not group.is_empty()
    Path(group.members_path).with_name("cgroup.events").write_text("populated 0\nfrozen 0\n")
    assert group.is_empty()
    groups.close()


def test_a_list_longer_than_one_look_ends_with_a_whole_pid(tmp_path: Path) -> None:
    groups = Machine(tmp_path).open()
    group = groups.make("p1")
    fill(Path(group.members_path).parent, *[CHILD] * 10_000)
    found = group.pids()
    assert 8_000 < len(found) < 10_000
    assert set(found) == {CHILD}
    fill(Path(group.members_path).parent)
    groups.close()


def test_a_group_that_got_away_is_killed_by_the_next_sweep(tmp_path: Path) -> None:
    groups = Machine(tmp_path).open()
    group = groups.make("p1")
    kill = Path(group.members_path).with_name("cgroup.kill")
    fill(kill.parent, CHILD)
    assert not group.remove()
    assert kill.read_text() == ""
    assert groups.sweep() == 1
    assert kill.read_text() == "1"
    groups.make("p2")  # does a little of the sweeping
    assert not kill.exists()
    assert groups.close()


# --- what a kernel lacks --------------------------------------------------------------------


def test_without_cgroup_kill_each_process_gets_its_signal(
    tmp_path: Path, signalled: list[tuple[int, int]]
) -> None:
    groups = Machine(tmp_path, cgroup_kill=None).open()
    assert groups.why_not == "no cgroup.kill: it came with Linux 5.14"
    assert groups.available
    assert not groups.can_kill
    group = groups.make("p1")
    assert (group.can_kill, group.kill(), group.kill_or_signal()) == (False, False, False)
    procs = fill(Path(group.members_path).parent, CHILD, os.getpid(), OTHER)

    assert group.kill_or_signal()

    assert signalled == [(CHILD, signal.SIGKILL), (OTHER, signal.SIGKILL)], "never us"
    procs.write_text("")
    assert groups.close()


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"cgroup_controllers": "cpu io"}, "does not hand out the pids controller"),
        ({"cgroup_controllers": None}, "does not hand out the pids controller"),
        ({"cgroup_subtree_control": None}, "cannot enable the pids controller in"),
    ],
)
def test_a_limit_that_is_not_to_be_had_costs_nothing_else(
    files: dict[str, str | None], why: str, tmp_path: Path
) -> None:
    groups = Machine(tmp_path, **files).open()
    assert groups.why_not.startswith("no process limit: ")
    assert why in groups.why_not
    assert (groups.can_kill, groups.can_limit, groups.limit_path) == (True, False, "")
    group = groups.make("p1")
    assert not group.limit_processes(3)
    assert group.kill()
    assert groups.close()


def test_a_group_below_a_threaded_one_is_given_back(tmp_path: Path) -> None:
    machine = Machine(tmp_path, cgroup_type="domain invalid\n")
    groups = machine.open()
    assert "is of type domain invalid, want domain" in groups.why_not
    assert groups.why_not.endswith("no process limit: no group to limit")
    assert not groups.available
    assert os.listdir(machine.app) == ["cgroup.procs"]


def test_a_place_where_nobody_may_be_moved_is_no_place(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    (machine.app / "cgroup.procs").unlink()
    assert "/v2/app/cgroup.procs is not writable" in machine.open().why_not


def test_a_group_that_is_delegated_to_us_from_above_is_where_ours_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit of systemd with DelegateSubgroup=: the processes are one below what it hands over."""
    machine = Machine(tmp_path)
    inner = machine.app / "inner"
    inner.mkdir()
    (tmp_path / "proc/self/cgroup").write_text("0::/app/inner\n")

    def getxattr(path: str, name: str) -> bytes:
        if path == str(machine.app) and name == "user.delegate":
            return b"1"
        raise OSError(errno.ENODATA, path)

    monkeypatch.setattr(os, "getxattr", getxattr)
    groups = machine.open()
    assert os.path.dirname(groups.path) == str(machine.app)
    assert groups.close()


def test_without_room_for_one_more_a_group_can_do_nothing(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    groups = machine.open()
    machine.refuses = OSError(errno.ENOSPC, "full")
    group = groups.make("p1")
    assert repr(group) == "<group p1.1 (not made)>"
    assert (group.kill(), group.pids(), group.is_empty(), group.remove()) == (False, [], True, True)
    assert groups.close()
    assert "cannot make a folder in" in machine.open().why_not


# --- limits of version 1 --------------------------------------------------------------------


def test_a_limit_of_version_1_is_a_second_folder_that_all_members_are_moved_to(
    tmp_path: Path,
) -> None:
    groups = Machine(tmp_path, with_v1=True, cgroup_controllers="cpu").open()
    assert groups.why_not == ""
    assert groups.limit_path.startswith(f"{tmp_path}/v1/app/fsmv2-test-")
    group = groups.make("p1")
    limit = Path(groups.limit_path) / "p1.1"
    assert group.limit_processes(None), "it never was limited"
    assert not limit.exists()
    fill(Path(group.members_path).parent, CHILD)

    assert group.limit_processes(5)

    assert (limit / "pids.max").read_text().startswith("5")
    assert (limit / "cgroup.procs").read_text() == str(CHILD)
    assert group.join(OTHER)
    assert (limit / "cgroup.procs").read_text() == str(OTHER)
    assert Path(group.members_path).read_text().startswith(str(OTHER))
    fill(limit)
    fill(Path(group.members_path).parent)
    assert group.remove()
    assert not limit.exists()
    assert groups.close()


def test_a_limit_that_has_no_room_is_refused(tmp_path: Path) -> None:
    machine = Machine(tmp_path, with_v1=True)
    groups = machine.open()
    group = groups.make("p1")
    machine.refuses = OSError(errno.ENOSPC, "full")
    assert not group.limit_processes(5)
    machine.refuses = None
    del machine.files["pids.max"]
    assert not group.limit_processes(5)
    assert groups.close()


# --- the end of a root ----------------------------------------------------------------------


def test_closing_kills_who_is_left_and_waits_no_longer_than_it_may(
    tmp_path: Path, signalled: list[tuple[int, int]]
) -> None:
    groups = Machine(tmp_path, cgroup_kill=None).open()
    group = groups.make("p1")
    procs = fill(Path(group.members_path).parent, CHILD)
    fds = set(os.listdir("/proc/self/fd"))

    assert not groups.close(patience_s=0.01)

    assert (CHILD, signal.SIGKILL) in signalled
    assert procs.exists()
    assert len(fds - set(os.listdir("/proc/self/fd"))) == 1, "the root's folder"
    assert (groups.available, group.kill(), group.is_made) == (False, False, False)
    assert groups.close(), "there is nothing left that it knows of"


def test_a_fork_of_the_root_closes_and_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = Machine(tmp_path).open()
    folder = Path(groups.path)
    group = groups.make("p1")
    monkeypatch.setattr(os, "getpid", lambda: CHILD)
    assert not group.remove()
    groups.close()
    assert (folder / "p1.1/cgroup.kill").read_text() == ""


# --- what dead roots have left --------------------------------------------------------------


@pytest.mark.parametrize("can_kill", [True, False])
def test_the_next_root_kills_what_a_dead_one_has_left_running(
    can_kill: bool, tmp_path: Path, signalled: list[tuple[int, int]]
) -> None:
    """With one write where the kernel can; else all in it and below, but neither us nor those of
    another pid namespace."""
    machine = Machine(tmp_path, **{} if can_kill else {"cgroup_kill": None})
    dead = machine.app / "fsmv2-test-999999999-1"
    fd = os.open(machine.app, os.O_RDONLY)
    machine.folders.mkdir(dead.name, fd)
    os.close(fd)
    inner = dead / "p1.1"
    inner.mkdir()
    fill(inner, CHILD, 0, os.getpid())
    fill(dead, OTHER)

    assert remove_leftovers(str(machine.app), str(tmp_path / "proc"), machine.folders) == 0

    if can_kill:
        assert (dead / "cgroup.kill").read_text() == "1"
        assert signalled == []
    else:
        assert sorted(signalled) == [(CHILD, signal.SIGKILL), (OTHER, signal.SIGKILL)]
    fill(inner)
    fill(dead)
    assert remove_leftovers(str(machine.app), str(tmp_path / "proc"), machine.folders) == 1
    assert not dead.exists()


def test_a_folder_that_somebody_has_locked_stays(tmp_path: Path) -> None:
    """Its root's pid says nothing if it lives in another pid namespace; the lock does."""
    machine = Machine(tmp_path)
    theirs = machine.app / "fsmv2-test-999999999-1"
    theirs.mkdir()
    fill(theirs)
    fd = os.open(theirs, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        assert remove_leftovers(str(machine.app), str(tmp_path / "proc"), machine.folders) == 0
        assert theirs.exists()
    finally:
        os.close(fd)
    assert remove_leftovers(str(machine.app), str(tmp_path / "proc"), machine.folders) == 1


def test_a_root_takes_another_name_when_its_own_is_taken(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    proc = str(tmp_path / "proc")
    made = [make_root_folder(str(machine.app), "a", proc, machine.folders) for _ in range(5)]
    paths = [one.path for one in made if not isinstance(one, str)]
    stem = f"{machine.app}/fsmv2-a-{os.getpid()}-7"
    assert paths == [stem, f"{stem}-2", f"{stem}-3", f"{stem}-4"]
    assert made[-1] == f"other roots took every name we tried in {machine.app}"
    for one in made:
        if not isinstance(one, str):
            os.close(one.fd)
    gone = make_root_folder(f"{machine.app}/no", "a", proc, machine.folders)
    assert gone == f"cannot open {machine.app}/no: No such file or directory"


def test_groups_nested_deeper_than_anybody_nests_them_stay(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    inner = machine.app / "a/b/c"
    inner.mkdir(parents=True)
    for folder in (inner, inner.parent, inner.parent.parent):
        fill(folder)
    above = os.open(machine.app, os.O_RDONLY)
    try:
        assert not remove_tree("a", above, machine.folders, depth=1)
        assert inner.exists()
        assert remove_tree("a", above, machine.folders, depth=2)
        assert not (machine.app / "a").exists()
        assert remove_tree("a", above, machine.folders), "it is gone"
    finally:
        os.close(above)
