"""What a pool may leak, read from outside of it.

Knows: /proc, the folder that temporary files go to, cgroup v2's folders.
Does not know: the pool's inside.
Invariants: reading starts nothing and leaves nothing behind.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fsmv2.ipc.linux import descendants_of

# What an allocator may keep beyond its warm-up: results of 900 kB were open, some 30 at a time.
KIB_MORE, SHARE_MORE = 16 * 1024, 0.15
# Of three procs and the pool: each may have its scratch folder, and what `Parent` left in it.
LIVING = {"run_folders": 4, "run_entries": 7}


class Reading(NamedTuple):
    """Counts and KiB at one moment; None: could not be read."""

    fds: int
    threads: int
    zombies: int
    root_rss_kib: int
    template_rss_kib: int | None
    descendants: int
    run_folders: int
    run_entries: int
    cgroups: int | None


def read(temporary: Path, template_pid: int | None) -> Reading:
    """Read everything of this process, what it started, and the folder ``temporary``."""
    below = descendants_of(os.getpid())
    entries = list(temporary.rglob("*"))
    return Reading(
        fds=len(os.listdir("/proc/self/fd")),
        threads=_status(os.getpid(), "Threads") or 0,
        zombies=sum(_is_zombie(pid) for pid in below),
        root_rss_kib=_status(os.getpid(), "VmRSS") or 0,
        template_rss_kib=_status(template_pid, "VmRSS") if template_pid else None,
        descendants=len(below),
        run_folders=sum(entry.is_dir() for entry in entries),
        run_entries=len(entries),
        cgroups=_cgroups(),
    )


def grown(warm: Reading, end: Reading) -> list[str]:
    """What is more at the end than after the warm-up, one text each. Memory may be a little more:
    an allocator keeps some for later."""
    found = []
    for name in Reading._fields:
        before, after = getattr(warm, name), getattr(end, name)
        if before is None or after is None:
            continue
        limit = max(before, LIVING.get(name, 0))
        if name.endswith("_kib"):
            limit = before + max(KIB_MORE, int(before * SHARE_MORE))
        if name == "zombies":
            limit = 0
        if after > limit:
            found.append(f"{name} grew: {before} after the warm-up, {after} at the end")
    return found


def table(heads: Sequence[str], readings: Sequence[Reading]) -> list[str]:
    """One line for each thing, one column for each reading."""
    lines = [f"{'':<18}" + "".join(f"{head:>16}" for head in heads)]
    for number, name in enumerate(Reading._fields):
        cells = ("-" if reading[number] is None else f"{reading[number]:,}" for reading in readings)
        lines.append(f"{name:<18}" + "".join(f"{cell:>16}" for cell in cells))
    return lines


def _status(pid: int, field: str) -> int | None:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(field.encode() + b":"):
                    return int(line.split()[1])
    except OSError:
        pass
    return None


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] == b"Z"
    except OSError:
        return False


def _cgroups() -> int | None:
    """Kernel groups that this process has made: fsmv2's carry the pid of their root. Those of
    other programs come and go. None without cgroup v2."""
    try:
        with open("/proc/self/mounts", encoding="utf-8") as file:
            mounts = [line.split() for line in file]
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            own = [line[3:].strip() for line in file if line.startswith("0::")]
    except OSError:
        return None
    tops = [mount[1] for mount in mounts if mount[2] == "cgroup2"]
    if not tops or not own:
        return None
    top = Path(tops[0] + own[0])
    mine = [path for path in top.glob(f"fsmv2-*-{os.getpid()}-*") if path.is_dir()]
    return len(mine) + sum(1 for one in mine for path in one.rglob("*") if path.is_dir())
