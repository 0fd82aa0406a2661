"""One kernel group: the processes of one proc, killed with one write.

Knows: the files of a group, v1 and v2; what a group's folder may still wait for.
Does not know: procs, when anything is killed; where a root's folder is.
Invariants: no call waits, and none raises for what the machine lacks; one descriptor while the
group is there, none after `remove`. A process that is root can move itself out of its group;
then the scan of `descendants` is what is left. Source: Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import os
import signal

from fsmv2.supervisor.kernelgroups.groupfolders import Folders, RootFolder, remove_tree

PIDS_BYTES_MAX = 1 << 16
_LOOKS_MAX = 4


class SharedGroups:
    """What the groups of one root share. On cgroup v2 limits are files of the same group, so
    that ``limit_in`` is ``kill_in``; on v1 it is another folder."""

    __slots__ = ("can_kill", "folders", "kill_in", "leaving", "limit_in", "living", "root_pid")

    def __init__(
        self, kill_in: RootFolder | None, limit_in: RootFolder | None, folders: Folders
    ) -> None:
        self.root_pid = os.getpid()
        self.folders = folders
        self.kill_in = kill_in
        self.limit_in = limit_in
        self.can_kill = kill_in is not None and os.path.exists(f"{kill_in.path}/cgroup.kill")
        self.living: set[ProcGroup] = set()
        # Given up by their owners while a process in them had not ended: to be removed later.
        self.leaving: dict[ProcGroup, None] = {}


class ProcGroup:
    """The kernel's group of one proc and everything it starts. Made by `ProcGroups.make`."""

    __slots__ = ("_home", "_kill_fd", "_limit_home", "_shared", "name")

    def __init__(self, shared: SharedGroups, name: str) -> None:
        self._shared = shared
        self.name = name
        self._kill_fd = -1
        # Where its folders are: nowhere yet. A v1 limit's is made when a limit is asked for.
        self._home: RootFolder | None = None
        self._limit_home: RootFolder | None = None
        home = shared.kill_in or shared.limit_in
        if home is None or not _make(shared, name, home):
            return
        self._home = home
        if home is shared.limit_in:
            self._limit_home = home
        if shared.can_kill:
            with contextlib.suppress(OSError):
                # Open from now on: 9 µs instead of 23 for a kill, measured.
                flags = os.O_WRONLY | os.O_CLOEXEC
                self._kill_fd = os.open(f"{name}/cgroup.kill", flags, dir_fd=home.fd)

    @property
    def is_made(self) -> bool:
        """Whether the kernel has this group."""
        return self._home is not None

    @property
    def can_kill(self) -> bool:
        """Whether `kill` can be expected to work."""
        return self._home is not None and self._shared.can_kill

    @property
    def members_path(self) -> str:
        """The file to which a process writes ``0`` to join by itself; empty without a group."""
        return f"{self._home.path}/{self.name}/cgroup.procs" if self._home is not None else ""

    def join(self, pid: int) -> bool:
        """Put ``pid`` with all its threads into the group; what it forks from now on is born
        into it. False: ``pid`` is gone, or the kernel does not let us.

        Takes 0.1 to 0.4 ms: the kernel waits until nobody forks or exits. With `members_path`
        the new process bears that instead.
        """
        joined = write_in(self._home, f"{self.name}/cgroup.procs", b"%d" % pid)
        if self._limit_home is None or self._limit_home is self._home:
            return joined
        return write_in(self._limit_home, f"{self.name}/cgroup.procs", b"%d" % pid) and joined

    def kill(self) -> bool:
        """SIGKILL all processes of the group and of groups below it, at once; 10 µs. False:
        the kernel cannot, nothing was done; `pids` is then whom to kill.

        Before Linux 6.14 a fork in this very moment could escape it: where `is_empty` stays
        False, kill again.
        """
        if self._home is None or not self._shared.can_kill:
            return False
        if self._kill_fd < 0:
            return write_in(self._home, f"{self.name}/cgroup.kill", b"1")
        try:
            return os.write(self._kill_fd, b"1") == 1
        except OSError:
            return False

    def kill_or_signal(self) -> bool:
        """`kill`, or SIGKILL to each pid where the kernel has no such call. False: nobody was
        there, or it could not be done."""
        if self.kill():
            return True
        pids = [pid for pid in self.pids() if pid != os.getpid()]
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        return bool(pids)

    def pids(self) -> list[int]:
        """The processes of the group, no zombies; at most the first 64 KiB of the list."""
        text = read_in(self._home, f"{self.name}/cgroup.procs", PIDS_BYTES_MAX) or b""
        if len(text) == PIDS_BYTES_MAX:
            text = text.rpartition(b"\n")[0]
        # 0 is a process of a PID namespace that we do not see into.
        return [pid for pid in map(int, text.split()) if pid]

    def count(self) -> int | None:
        """How many processes are in it; None: the kernel does not tell."""
        text = read_in(self._home, f"{self.name}/cgroup.procs", PIDS_BYTES_MAX)
        return None if text is None else text.count(b"\n")

    def limit_processes(self, n: int | None) -> bool:
        """Let at most ``n`` tasks (processes and threads, the proc's own included) be in the
        group; a fork beyond fails with EAGAIN. None: no limit. False: not possible here.

        Processes that are in it already stay. Raises ValueError for ``n`` below 1.
        """
        if n is not None and n < 1:
            raise ValueError(f"cannot limit the processes of {self.name}: got {n}, want at least 1")
        home = self._shared.limit_in
        if self._home is None or home is None:
            return False
        if self._limit_home is None:
            if n is None:
                return True  # never limited
            if home is not self._home and not _make(self._shared, self.name, home):
                return False
            self._limit_home = home
        limit = b"max" if n is None else b"%d" % n
        if not write_in(self._limit_home, f"{self.name}/pids.max", limit):
            return False
        if self._limit_home is not self._home:
            self._move_to_limit()
        return True

    def _move_to_limit(self) -> None:
        moved: set[int] = set()
        # Who is forked by one that was not moved yet is seen by the next look.
        for _ in range(_LOOKS_MAX):
            new = [pid for pid in self.pids() if pid not in moved]
            for pid in new:
                write_in(self._limit_home, f"{self.name}/cgroup.procs", b"%d" % pid)
            if not new:
                break
            moved.update(new)

    def is_empty(self) -> bool:
        """Whether no process is left in it, zombies aside, nor in a group below it. A group
        that was never made is empty."""
        events = read_in(self._home, f"{self.name}/cgroup.events", 256)
        if events is not None:
            return b"populated 1" not in events
        return self.count() == 0 if self.is_made else True

    def remove(self) -> bool:
        """Remove the group. False: its processes have not ended yet; it is remembered, and
        `ProcGroups.sweep` tries again."""
        shared = self._shared
        if shared.root_pid != os.getpid():
            return False
        self.close()
        for slot in ("_limit_home", "_home"):
            home = getattr(self, slot)
            if home is None:
                continue
            # The limit's folder is the group's own on v2, and gone by then: that counts too.
            if not remove_tree(self.name, home.fd, shared.folders):
                shared.living.discard(self)
                shared.leaving[self] = None
                return False
            setattr(self, slot, None)
        shared.living.discard(self)
        shared.leaving.pop(self, None)
        return True

    def close(self) -> None:
        """Close the descriptor that makes `kill` fast; `kill` still works."""
        if self._kill_fd >= 0:
            os.close(self._kill_fd)
            self._kill_fd = -1

    def forget(self) -> None:
        """Be a group that can do nothing, whatever is left of it: its root folder is closed."""
        self.close()
        self._home = self._limit_home = None

    def __repr__(self) -> str:
        return f"<group {self.name}{'' if self.is_made else ' (not made)'}>"


def _make(shared: SharedGroups, name: str, home: RootFolder) -> bool:
    try:
        shared.folders.mkdir(name, home.fd)
    except OSError:
        return False
    return True


def write_in(home: RootFolder | None, file: str, text: bytes) -> bool:
    """Write ``text`` to ``file`` below ``home``; whether all of it was taken."""
    if home is None:
        return False
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC, dir_fd=home.fd)
        try:
            return os.write(fd, text) == len(text)
        finally:
            os.close(fd)
    except OSError:
        return False


def read_in(home: RootFolder | None, file: str, bytes_max: int) -> bytes | None:
    """What is in ``file`` below ``home``, at most ``bytes_max``; None: it cannot be read."""
    if home is None:
        return None
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC, dir_fd=home.fd)
        try:
            found = b""
            # The kernel gives a page at a time.
            while len(found) < bytes_max and (more := os.read(fd, bytes_max - len(found))):
                found += more
            return found
        finally:
            os.close(fd)
    except OSError:
        return None
