"""Where a process stands in the machine's control groups, as folders.

Knows: /proc/self/mountinfo, /proc/PID/cgroup, cgroup v1, v2 and both at once, cgroup namespaces.
Does not know: what is done with a folder.
Invariants: a folder is given only if it exists; nothing here raises for what the machine lacks;
nothing is guessed: a group that lies outside what is mounted has no folder. Sources:
cgroup_namespaces(7), proc(5), Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

_OCTAL = re.compile(r"\\([0-7]{3})")
_READ_BYTES_MAX = 1 << 20


class Hierarchy(NamedTuple):
    """A mounted hierarchy: ``version`` 1 or 2, the controllers of version 1 (empty for 2), the
    mount point, and which group of the hierarchy the mount point shows."""

    version: int
    controllers: frozenset[str]
    mount_point: str
    shows: str


class Place(NamedTuple):
    """A group as a folder: ``folder`` at or below ``mount_point``, and the cgroup version."""

    folder: str
    mount_point: str
    version: int


def read_text(path: str) -> str:
    """The file's text, at most 1 MiB; empty when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(_READ_BYTES_MAX).decode("utf-8", "surrogateescape")
    except OSError:
        return ""


def hierarchies(mountinfo: str) -> tuple[Hierarchy, ...]:
    """All mounted cgroup hierarchies of the text of a mountinfo file, in its order."""
    found: dict[str, Hierarchy] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, tail = before.split(), after.split()
        if len(fields) < 5 or len(tail) < 3 or tail[0] not in ("cgroup", "cgroup2"):
            continue
        shows, mount_point = _unescaped(fields[3]), _unescaped(fields[4])
        version = 2 if tail[0] == "cgroup2" else 1
        controllers = frozenset(tail[2].split(",")) if version == 1 else frozenset()
        # A later mount on the same point hides the earlier one.
        found[mount_point] = Hierarchy(version, controllers, mount_point, shows)
    return tuple(found.values())


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def groups_of(cgroup: str) -> dict[str, str]:
    """The text of a /proc/PID/cgroup file as controller → group; version 2 is named ``""``."""
    found: dict[str, str] = {}
    for line in cgroup.splitlines():
        _, _, rest = line.partition(":")
        names, _, group = rest.partition(":")
        for name in names.split(","):
            found[name] = group
    return found


def folder_of(hierarchy: Hierarchy, group: str) -> str | None:
    """The folder of ``group``, or None if the mount does not show it."""
    shown = hierarchy.shows.rstrip("/")
    # "/../x": the group lies outside our cgroup namespace; no name leads there.
    if not group.startswith("/") or "/.." in group or "/.." in shown:
        return None
    if shown and group != shown and not group.startswith(f"{shown}/"):
        return None
    folder = (hierarchy.mount_point.rstrip("/") + group[len(shown) :]).rstrip("/")
    return folder if os.path.isdir(folder) else None


class Places:
    """The machine's hierarchies, read once; ``proc`` is where procfs is mounted."""

    def __init__(self, proc: str = "/proc") -> None:
        self.proc = proc
        self.mounted = hierarchies(read_text(f"{proc}/self/mountinfo"))

    def unified(self, pid: int | str = "self") -> Place | str:
        """The cgroup v2 group of ``pid``, or why there is none that we can reach."""
        mounts = [each for each in self.mounted if each.version == 2]
        if not mounts:
            return f"no cgroup v2 is mounted, says {self.proc}/self/mountinfo"
        return self._place(mounts, "", pid)

    def controller(self, name: str, pid: int | str = "self") -> Place | str:
        """The group in which controller ``name`` (such as "pids") counts ``pid``: of the v1
        hierarchy where that is mounted, else of v2; or why there is none that we can reach."""
        mounts = [each for each in self.mounted if name in each.controllers]
        if mounts:
            return self._place(mounts, name, pid)
        return self.unified(pid)

    def _place(self, mounts: list[Hierarchy], name: str, pid: int | str) -> Place | str:
        file = f"{self.proc}/{pid}/cgroup"
        group = groups_of(read_text(file)).get(name)
        if group is None:
            return f"{file} names no group of {name or 'cgroup v2'}"
        for hierarchy in mounts:
            folder = folder_of(hierarchy, group)
            if folder is not None:
                return Place(folder, hierarchy.mount_point, hierarchy.version)
        points = ", ".join(each.mount_point for each in mounts)
        return f"group {group} of {file} is not to be seen at {points}"
