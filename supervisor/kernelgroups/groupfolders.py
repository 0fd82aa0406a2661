"""The one folder a root has in a cgroup hierarchy, and what dead roots left beside it.

Knows: the folder's name and lock, when its root is gone, how to remove a tree of groups.
Does not know: procs, what is written into a group.
Invariants: only folders that carry our naming scheme are touched; one is removed only if no
living process holds its lock, its root is gone, and the kernel finds no process in it; only in
such a folder are processes killed; nothing here waits, and nothing raises for what the machine
lacks.

A folder is called ``fsmv2-NAME-PID-START`` with the root's pid and its start in clock ticks
since boot (proc(5), field 22 of stat). The lock decides: pids of another PID namespace say
nothing here, a lock does. The kernel drops it with the last descriptor (flock(2)).
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import signal
from collections.abc import Callable
from typing import NamedTuple

from fsmv2.supervisor.kernelgroups.cgroupplaces import read_text

LEFTOVERS_MAX = 64
GROUPS_MAX = 1_000
DEPTH_MAX = 8
NAME_CHARS_MAX = 32
_NAMES_TRIED = 4
_MEMBERS_BYTES_MAX = 4096
_SCHEME = re.compile(r"fsmv2-[a-z0-9.]+-(\d+)-(\d+)(?:-\d+)?")
_NOT_IN_A_NAME = re.compile(r"[^a-z0-9.]+")


def _mkdir(name: str, dir_fd: int) -> None:
    os.mkdir(name, 0o755, dir_fd=dir_fd)


def _rmdir(name: str, dir_fd: int) -> None:
    os.rmdir(name, dir_fd=dir_fd)


class Folders(NamedTuple):
    """How folders are made and removed, name and parent's descriptor given: the kernel's calls.
    A test's own may put the files into a new folder that the kernel would."""

    mkdir: Callable[[str, int], None] = _mkdir
    rmdir: Callable[[str, int], None] = _rmdir


class RootFolder(NamedTuple):
    """A root's own folder. ``fd`` is open on it and holds its lock."""

    path: str
    fd: int


def stat_of(proc: str, pid: int | str) -> tuple[int, int]:
    """Pid and start (clock ticks since boot) of ``pid``; zeros if it is gone."""
    text = read_text(f"{proc}/{pid}/stat")
    try:
        # The name in brackets may hold anything, so count from its end.
        return int(text.partition(" ")[0]), int(text.rpartition(")")[2].split()[19])
    except (ValueError, IndexError):
        return 0, 0


def make_root_folder(parent: str, name: str, proc: str, folders: Folders) -> RootFolder | str:
    """Make and lock this root's folder in ``parent``; or why that cannot be done."""
    try:
        above = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        return f"cannot open {parent}: {error.strerror}"
    pid, start = stat_of(proc, "self")
    clean = _NOT_IN_A_NAME.sub(".", name.lower())[:NAME_CHARS_MAX] or "root"
    why = f"other roots took every name we tried in {parent}"
    try:
        for number in range(1, _NAMES_TRIED + 1):
            folder = f"fsmv2-{clean}-{pid}-{start}" + (f"-{number}" if number > 1 else "")
            try:
                folders.mkdir(folder, above)
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=above)
            except FileExistsError:
                continue
            except OSError as error:
                why = f"cannot make a folder in {parent}: {error.strerror}"
                break
            if is_locked_by_us(fd) and os.path.isdir(f"{parent}/{folder}"):
                return RootFolder(f"{parent}/{folder}", fd)
            # Another root held it for a leftover in the moment before we had locked it.
            os.close(fd)
    finally:
        os.close(above)
    return why


def is_locked_by_us(fd: int) -> bool:
    """Lock the folder ``fd`` for this process, if nobody else has locked it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_leftovers(parent: str, proc: str, folders: Folders) -> int:
    """Remove folders of dead roots in ``parent``, at most 64 a call; how many went.

    Processes in them were started by an action of a root that could not end them, as it was
    killed itself: they get SIGKILL now, and their folder goes with a later call.
    """
    removed = 0
    with contextlib.suppress(OSError):
        above = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            named = [name for name in sorted(os.listdir(above)) if _is_of_a_dead_root(name, proc)]
            for name in named[:LEFTOVERS_MAX]:
                removed += _remove_if_unlocked(name, above, folders)
        finally:
            os.close(above)
    return removed


def _is_of_a_dead_root(name: str, proc: str) -> bool:
    match = _SCHEME.fullmatch(name)
    if match is None:
        return False
    pid, start = int(match[1]), int(match[2])
    return stat_of(proc, pid) != (pid, start)


def _remove_if_unlocked(name: str, above: int, folders: Folders) -> bool:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=above)
    except OSError:
        return False
    try:
        if not is_locked_by_us(fd):
            return False
        if remove_tree(name, above, folders):
            return True
        kill_in_tree(fd)
        return remove_tree(name, above, folders)
    finally:
        os.close(fd)


def kill_in_tree(fd: int) -> None:
    """SIGKILL to all processes in the group ``fd`` and in groups below it: with one write where
    the kernel can, else one by one in at most 1,000 groups."""
    with contextlib.suppress(OSError):
        kill = os.open("cgroup.kill", os.O_WRONLY | os.O_CLOEXEC, dir_fd=fd)
        try:
            os.write(kill, b"1")
            return
        finally:
            os.close(kill)
    with contextlib.suppress(OSError):
        for _, _, _, folder in itertools.islice(os.fwalk(dir_fd=fd), GROUPS_MAX):
            _signal_members(folder)


def _signal_members(folder: int) -> None:
    with contextlib.suppress(OSError):
        members = os.open("cgroup.procs", os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
        try:
            pids = os.read(members, _MEMBERS_BYTES_MAX).split()
        finally:
            os.close(members)
        for pid in map(int, pids):
            # 0 is a process of a PID namespace that we do not see into, and ourselves to kill(2).
            if pid not in (0, os.getpid()):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)


def remove_tree(name: str, above: int, folders: Folders, depth: int = DEPTH_MAX) -> bool:
    """Remove the group ``name`` below the folder ``above`` with all groups in it. False: a
    process is in one of them, or one is deeper than ``depth``. Groups without processes are
    gone then, those with are untouched."""
    try:
        folders.rmdir(name, above)
        return True
    except FileNotFoundError:
        return True
    except OSError:
        if depth == 0:
            return False
    try:
        fd = os.open(
            name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above
        )
    except OSError:
        return False
    try:
        # The kernel's own files in a group are no folders.
        below = [entry.name for entry in os.scandir(fd) if entry.is_dir(follow_symlinks=False)]
        # A list, so that one that cannot go does not keep the others.
        gone = [remove_tree(each, fd, folders, depth - 1) for each in below]
        if not below or not all(gone):
            return False
        folders.rmdir(name, above)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
