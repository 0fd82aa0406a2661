"""Whether the kernel's OOM killer was at work: its counters, and what it wrote in the kernel log.

Knows: memory control groups v1 and v2, /proc/vmstat, /dev/kmsg.
Does not know: procs' ends, verdicts.
Invariants: never waits, never raises for what the machine lacks; a counter of our own group is
proof unless the kernel log names others for all it has counted, one of the whole machine is proof
only together with a line of the log that names the process; one kill explains one death.
Sources: Documentation/admin-guide/cgroup-v2.rst (memory.events), cgroup-v1/memory.rst
(memory.oom_control), proc(5), dev-kmsg.
"""

from __future__ import annotations

import contextlib
import os
import re

from fsmv2.supervisor.kernelgroups.cgroupplaces import Places, read_text

KMSG_RECORDS_MAX = 500
LOG_CHARS_MAX = 200
LINES_MAX = 100
_KMSG_BYTES = 8192
_UNLIMITED = 1 << 60


class OomCounters:
    """`open` it, `look` now and then while there is work; `risen` says what has changed since.

    ``proc`` is where procfs is mounted, ``kmsg`` the kernel log's device.
    """

    def __init__(self, proc: str = "/proc", kmsg: str = "/dev/kmsg") -> None:
        self._proc = proc
        self._kmsg_path = kmsg
        self._files: list[str] = []
        self._vmstat = f"{proc}/vmstat"
        self._kmsg = -1
        self._seen: dict[str, int] = {}
        self._before: dict[str, int] = {}
        # The log's lines about kills, of the time since the last look and of that before it.
        self._lines: list[str] = []
        self._old_lines: list[str] = []

    def open(self) -> OomCounters:
        """Begin: what was counted and written so far is not about us. Returns itself. Until then
        nothing has risen, and no descriptor is open."""
        self.close()
        self._files = _counter_files(self._proc)
        with contextlib.suppress(OSError):
            self._kmsg = os.open(self._kmsg_path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._kmsg, 0, os.SEEK_END)
        self._seen = self._read()
        self._before = dict(self._seen)
        return self

    @property
    def is_sure(self) -> bool:
        """Whether a kill can be told from others: by our own group, or by the kernel's log."""
        return self._group_counts() != [] or (self._vmstat in self._seen and self._kmsg >= 0)

    @property
    def source(self) -> str:
        """Where it is read from."""
        found = self._group_counts() or [file for file in (self._vmstat,) if file in self._seen]
        log = "the kernel log" if self._kmsg >= 0 else "no kernel log"
        return f"oom_kill in {', '.join(found) or 'no file'}; {log}"

    def _group_counts(self) -> list[str]:
        return [file for file in self._files if file in self._seen]

    def look(self) -> None:
        """What was counted up to the look before this one is not about a later death. (Up to
        that one: a large process takes a while from the kill that is counted to its end.)"""
        self._read_kmsg()
        self._old_lines, self._lines = self._lines, []
        # A kill that has explained a death already must not be found again.
        self._before = {
            file: max(count, self._before.get(file, 0)) for file, count in self._seen.items()
        }
        self._seen = self._read()

    def risen(self, pid: int, name: str) -> str | None:
        """What says that the OOM killer has ended the process ``pid`` called ``name`` since the
        last look, and where it was read; None: nothing does. One kill explains one death."""
        now = self._read()
        self._read_kmsg()
        named = next((line for line in self._all_lines() if _names(line, pid, name)), None)
        for file, count in now.items():
            old = self._before.get(file)
            if old is None or count <= old:
                continue
            told = f"oom_kill of {file} rose from {old} to {count}"
            if named is not None:
                told += f", and the kernel log says: {named[:LOG_CHARS_MAX]}"
            elif file == self._vmstat or len(self._all_lines()) >= count - old:
                # Somebody on this machine; or each that was counted, and the log names others.
                continue
            self._spend(now, named)
            return told
        return None

    def _all_lines(self) -> list[str]:
        return [*self._old_lines, *self._lines]

    def _spend(self, now: dict[str, int], named: str | None) -> None:
        for file, count in now.items():
            if count > self._before.get(file, count):
                self._before[file] += 1
        for lines in (self._old_lines, self._lines):
            if named in lines:
                lines.remove(named)
                break

    def _read(self) -> dict[str, int]:
        found = {}
        for file in (*self._files, self._vmstat):
            for line in read_text(file).splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill" and value.strip().isdigit():
                    found[file] = int(value)
        return found

    def _read_kmsg(self) -> None:
        if self._kmsg < 0:
            return
        for _ in range(KMSG_RECORDS_MAX):
            try:
                record = os.read(self._kmsg, _KMSG_BYTES)
            except BrokenPipeError:  # overwritten before we read it; the next one is there
                continue
            except OSError:
                return
            text = record.partition(b";")[2].partition(b"\n")[0].decode("utf-8", "replace")
            if "illed process" in text:
                self._lines.append(text)
                del self._lines[:-LINES_MAX]

    def close(self) -> None:
        """Close the kernel log. Safe to call twice."""
        if self._kmsg >= 0:
            os.close(self._kmsg)
            self._kmsg = -1


def _names(line: str, pid: int, name: str) -> bool:
    # "Killed process 17 (fsmv2.1.p3)"; in another PID namespace the number is another one, and
    # a process may have given itself another name.
    return f"illed process {pid} (" in line or f"({name})" in line


def _counter_files(proc: str) -> list[str]:
    place = Places(proc).controller("memory")
    if isinstance(place, str):
        return []
    names = ("memory.events",) if place.version == 2 else ("memory.oom_control",)
    return [f"{place.folder}/{name}" for name in names if os.path.exists(f"{place.folder}/{name}")]


def memory_limit(proc: str = "/proc") -> int | None:
    """The bytes that our own memory control group may use; None: no limit, or not known."""
    place = Places(proc).controller("memory")
    if isinstance(place, str):
        return None
    name = "memory.max" if place.version == 2 else "memory.limit_in_bytes"
    match = re.fullmatch(r"(\d+)", read_text(f"{place.folder}/{name}").strip())
    # Version 1 says "unlimited" with the largest number of pages.
    return int(match[1]) if match is not None and int(match[1]) < _UNLIMITED else None
