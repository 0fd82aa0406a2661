"""What the kernel's text files say, as numbers.

Knows: the formats of cgroup files, of pressure files and of a few files of /proc.
Does not know: files; what the numbers are good for.
Invariants: a text is understood or refused with ValueError, never guessed. Sources:
Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst, accounting/psi.rst, proc(5).
"""

from __future__ import annotations

import re
from collections.abc import Set

# Version 1 says "no limit" with the largest number of pages: 9223372036854771712 with 4 KiB.
UNLIMITED = 1 << 60
_CHARS_MAX = 40
_WHOLE = re.compile(r"[0-9]{1,20}")
_CPU_LINE = re.compile(r"cpu[0-9]+ .*")
# user, nice, system, irq, softirq, steal; not idle, iowait, nor guest, which is in user already.
_BUSY = (0, 1, 2, 5, 6, 7)


def _shown(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= _CHARS_MAX else f"{text[:_CHARS_MAX]}…")


def whole(text: str) -> float:
    """A whole number from 0 up."""
    text = text.strip()
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"got {_shown(text)}, want a whole number")
    return float(text)


def limit(text: str) -> float | None:
    """The limit that ``memory.max``, ``pids.max`` and their like name; None: there is none."""
    if text.strip() in ("max", "-1", "unlimited"):
        return None
    number = whole(text)
    return number if number < UNLIMITED else None


def keyed(text: str, *names: str) -> tuple[float, ...]:
    """The numbers called ``names`` of a file with a name and a number on each line."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name in names:
            found[name] = whole(value)
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"got {_shown(text)}, want a line {missing[0]}")
    return tuple(found[name] for name in names)


def quota(text: str) -> float | None:
    """How many CPUs the text of ``cpu.max`` grants (version 1: quota and period, joined by a
    blank); None: it sets no limit."""
    parts = text.split()
    if len(parts) != 2:
        raise ValueError(f"got {_shown(text)}, want a quota and a period")
    period = whole(parts[1])
    allowed = limit(parts[0])
    if period == 0:
        raise ValueError(f"got {_shown(text)}, want a period over 0")
    return None if allowed is None else allowed / period


def pressure(text: str) -> dict[str, float]:
    """The share of the last 10 s in which "some" or all ("full") waited, 0 to 1."""
    found = {}
    for line in text.splitlines():
        kind, *fields = line.split()
        averages = [field for field in fields if field.startswith("avg10=")]
        if kind not in ("some", "full") or len(averages) != 1:
            raise ValueError(f"got {_shown(line)}, want some or full with avg10=")
        percent = float(averages[0].removeprefix("avg10="))
        if not 0 <= percent <= 100:
            raise ValueError(f"got {_shown(line)}, want avg10 from 0 to 100")
        found[kind] = percent / 100
    if "some" not in found:
        raise ValueError(f"got {_shown(text)}, want a line some")
    return found


def busy_ticks(text: str, cpus: Set[int] | None = None) -> tuple[float, int]:
    """Clock ticks in which CPUs were busy since the boot, and how many CPUs these are, of the
    text of /proc/stat; ``cpus``: of these alone."""
    busy, count = 0.0, 0
    for line in text.splitlines():
        if not _CPU_LINE.fullmatch(line):
            continue
        name, *fields = line.split()
        if cpus is not None and int(name[3:]) not in cpus:
            continue
        if len(fields) <= max(_BUSY):
            raise ValueError(f"got {_shown(line)}, want 8 numbers")
        busy += sum(whole(fields[place]) for place in _BUSY)
        count += 1
    if not count:
        raise ValueError(f"got {_shown(text)}, want a line of a CPU that we may use")
    return busy, count


def loadavg(text: str) -> tuple[float, float]:
    """The load of the last minute, and how many threads there are, of the text of
    /proc/loadavg."""
    fields = text.split()
    if len(fields) < 4:
        raise ValueError(f"got {_shown(text)}, want 4 fields")
    return float(fields[0]), whole(fields[3].partition("/")[2])


def resource_limit(text: str, name: str) -> float | None:
    """The soft limit called ``name`` in the text of /proc/PID/limits; None: there is none."""
    for line in text.splitlines():
        if line.startswith(f"{name} "):
            fields = line.removeprefix(name).split()
            return limit(fields[0] if fields else "")
    raise ValueError(f"got {_shown(text)}, want a line {name}")


def cpu_ticks(text: str) -> float:
    """Clock ticks of CPU that a process has used, of the text of /proc/PID/stat."""
    # The name in brackets may hold anything, so count from its end: proc(5), fields 14 and 15.
    fields = text.rpartition(") ")[2].split()
    if len(fields) < 13:
        raise ValueError(f"got {_shown(text)}, want 15 fields")
    return whole(fields[11]) + whole(fields[12])
