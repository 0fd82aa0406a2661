"""A machine as files below a folder: /proc and control groups of either version, as tests want it.

`Machine(folder).unified("/a/b")` mounts cgroup v2 and puts the root into ``/a/b``; `controller`
mounts one of version 1. `write` changes any file, `lose` removes one, `look` takes one look.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fsmv2.supervisor.core.readings import MACHINE_NAMES, Facts, Reading, readings_of
from fsmv2.supervisor.probe.looks import look_at_machine

PID = 4242
GIB = 1 << 30
UNLIMITED_V1 = "9223372036854771712"
CPUS = sorted(os.sched_getaffinity(0))

MEMINFO = """MemTotal:       16777216 kB
MemFree:         4194304 kB
MemAvailable:    8388608 kB
Buffers:               0 kB
Cached:                0 kB
Shmem:                 0 kB
Active:                0 kB
Inactive:              0 kB
Slab:                  0 kB
SReclaimable:          0 kB
SwapTotal:       4194304 kB
SwapFree:        3145728 kB
"""
STATM = "100 50 0 0 0 0 0"
PROC_STAT = "4242 (root) S 1 1 1 0 -1 0 0 0 0 0 200 100 0 0 20 0 1 0 5"
LIMITS = "Limit   Soft Limit  Hard Limit  Units\nMax open files            100     200   files\n"


def pressure(some: float, full: float) -> str:
    """The text of a pressure file; percent."""
    line = "avg60=0.00 avg300=0.00 total=0"
    return f"some avg10={some:.2f} {line}\nfull avg10={full:.2f} {line}\n"


class Machine:
    """A host of 16 GiB, half of it available, a quarter of 4 GiB of swap in use, without groups."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.proc = str(folder / "proc")
        self._mounts: list[str] = []
        self._groups: list[str] = []
        self.write("proc/meminfo", MEMINFO)
        self.write("proc/vmstat", "pswpin 0\npswpout 0\n")
        self.write("proc/loadavg", "3.00 2.00 1.00 2/500 4242\n")
        self.write("proc/sys/kernel/threads-max", "1000\n")
        self.write("proc/sys/kernel/pid_max", "4000000\n")
        self.write("proc/sys/fs/file-nr", "300\t0\t1000\n")
        for kind in ("cpu", "memory", "io"):
            self.write(f"proc/pressure/{kind}", pressure(50, 25))
        self.write(f"proc/{PID}/limits", LIMITS)
        self.write(f"proc/{PID}/statm", STATM)
        self.write(f"proc/{PID}/stat", PROC_STAT)
        for number in range(20):
            self.write(f"proc/{PID}/fd/{number}", "")
        self.cpu_ticks(0)
        self._mount()

    def write(self, name: str, text: str) -> None:
        """The file ``name`` says ``text``."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def lose(self, name: str) -> None:
        """The file or folder ``name`` is gone."""
        file = self.folder / name
        if file.is_dir():
            shutil.rmtree(file)
        else:
            file.unlink()

    def block(self, name: str) -> None:
        """The file ``name`` is there and cannot be read, by root either."""
        self.lose(name)
        (self.folder / name).mkdir()

    def cpu_ticks(self, busy: int) -> None:
        """Each CPU was busy for so many ticks since the boot."""
        lines = [f"cpu{cpu} {busy} 0 0 9 9 0 0 0 0 0" for cpu in CPUS]
        self.write("proc/stat", "\n".join(["cpu 0 0 0 0 0 0 0 0 0 0", *lines, "intr 0"]))

    def unified(self, group: str, **files: str) -> None:
        """Cgroup v2 is mounted, and the root is in ``group``; ``files`` are its files, with __ for
        a dot in their names."""
        self._mounts.append(f"1 1 0:1 / {self.folder}/v2 rw - cgroup2 cgroup2 rw")
        self._groups.append(f"0::{group}")
        self._mount()
        self.group(f"v2{group}", **files)

    def controller(self, name: str, group: str, **files: str) -> None:
        """Controller ``name`` of version 1 is mounted, and counts the root in ``group``."""
        self._mounts.append(f"1 1 0:1 / {self.folder}/v1/{name} rw - cgroup cgroup rw,{name}")
        self._groups.append(f"7:{name}:{group}")
        self._mount()
        self.group(f"v1/{name}{group}", **files)

    def group(self, name: str, **files: str) -> None:
        """The files of a group, by the name of its folder."""
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            self.write(
                f"{name}/{file.replace('__', '.')}", text if text.endswith("\n") else f"{text}\n"
            )

    def _mount(self) -> None:
        self.write("proc/self/mountinfo", "".join(f"{line}\n" for line in self._mounts))
        self.write(f"proc/{PID}/cgroup", "".join(f"{line}\n" for line in self._groups))

    def look(self) -> Facts:
        """One look at the machine."""
        return look_at_machine(PID, {"root": PID}, self.proc)

    def readings(self, before: Facts | None = None) -> dict[str, Reading]:
        """All readings of one look."""
        return readings_of(MACHINE_NAMES, self.look(), before)
