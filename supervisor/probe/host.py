"""What the machine as a whole says: CPUs, memory, swap, load, threads, open files, pressure.

Knows: psutil, and the files of /proc where psutil does not tell the CPUs or the threads apart.
Does not know: groups; which limit counts.
Invariants: one file that cannot be used breaks its own claim only; CPUs that this process may not
use are not counted.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import psutil  # type: ignore[import-untyped,unused-ignore]

from fsmv2.supervisor.core.kerneltexts import busy_ticks, loadavg, pressure, whole
from fsmv2.supervisor.core.readings import HOST, Claim
from fsmv2.supervisor.probe.files import Unreadable, claimed, parsed

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Host:
    """The machine; ``proc`` is where procfs is mounted."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc

    def memory(self) -> Claim:
        """Bytes that are not available to a new program, of all."""

        def read() -> tuple[float, float | None]:
            found = self._ask(psutil.virtual_memory, "meminfo")
            return float(found.total - found.available), float(found.total)

        return claimed(HOST, f"{self._proc}/meminfo", read)

    def swap(self) -> Claim:
        """Bytes of swap in use, of all."""

        def read() -> tuple[float, float | None]:
            found = self._ask(psutil.swap_memory, "meminfo")
            return float(found.used), float(found.total)

        return claimed(HOST, f"{self._proc}/meminfo, {self._proc}/vmstat", read)

    def _ask(self, ask: Callable[[], Any], name: str) -> Any:
        # Its one way to be told of another place is for the whole process.
        before, psutil.PROCFS_PATH = psutil.PROCFS_PATH, self._proc
        try:
            with warnings.catch_warnings():
                # It warns of a field that it replaces by 0, and we do not use.
                warnings.simplefilter("ignore")
                return ask()
        except Exception as error:  # it meets what nobody has thought of
            why = f"{type(error).__name__}: {error}"
            raise Unreadable(f"cannot use {self._proc}/{name}: {why}") from None
        finally:
            psutil.PROCFS_PATH = before

    def cpu(self) -> Claim:
        """CPU seconds since the boot, and how many CPUs, of those that we may use."""
        usable = os.sched_getaffinity(0)
        file = f"{self._proc}/stat"

        def read() -> tuple[float, float | None]:
            ticks, count = parsed(file, lambda text: busy_ticks(text, usable))
            return ticks / TICKS_PER_S, float(count)

        return claimed(HOST, file, read)

    def load(self) -> Claim:
        """Processes that ran or waited in the last minute, and all CPUs."""
        file = f"{self._proc}/loadavg"

        def read() -> tuple[float, float | None]:
            load, _threads = parsed(file, loadavg)
            _ticks, count = parsed(f"{self._proc}/stat", busy_ticks)
            return load, float(count)

        return claimed(HOST, file, read)

    def pids(self) -> Claim:
        """Threads, and how many there may be."""
        limits = [f"{self._proc}/sys/kernel/{name}" for name in ("threads-max", "pid_max")]

        def read() -> tuple[float, float | None]:
            _load, threads = parsed(f"{self._proc}/loadavg", loadavg)
            return threads, min(parsed(file, whole) for file in limits)

        return claimed(HOST, ", ".join((f"{self._proc}/loadavg", *limits)), read)

    def open_files(self) -> Claim:
        """Open files of all processes, and how many there may be."""
        file = f"{self._proc}/sys/fs/file-nr"

        def both(text: str) -> tuple[float, float]:
            fields = text.split()
            return whole(fields[0]), whole(fields[2])

        return claimed(HOST, file, lambda: parsed(file, both))

    def pressure(self, kind: str) -> str:
        """The pressure file for ``kind``: cpu, memory or io."""
        return f"{self._proc}/pressure/{kind}"


def pressure_claim(scope: str, file: str, which: str) -> Claim:
    """The share of time in which "some" or all ("full") waited, of a pressure file."""

    def read() -> tuple[float, float | None]:
        found = parsed(file, pressure)
        if which not in found:
            raise Unreadable(f"cannot use {file}: want a line {which}")
        return found[which], None

    return claimed(scope, file, read)
