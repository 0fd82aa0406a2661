"""What the control groups of a process say: what it may use, and what is used of it.

Of each controller by itself, v1 or v2 as it is mounted, the group that counts the process and all
groups above it that are to be seen: any of them may be the one that limits.

Knows: the files of the controllers cpu, cpuacct, memory and pids, and pressure files.
Does not know: which limit counts: `core.readings`.
Invariants: a group without a limit makes no claim; a file that is there and cannot be used makes
one that says so; nothing is written. Sources: Documentation/admin-guide/cgroup-v2.rst,
cgroup-v1/memory.rst, scheduler/sched-bwc.rst.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from fsmv2.supervisor.core import kerneltexts
from fsmv2.supervisor.core.kerneltexts import keyed, limit, whole
from fsmv2.supervisor.core.readings import Claim
from fsmv2.supervisor.kernelgroups.cgroupplaces import Place, Places
from fsmv2.supervisor.probe.files import Unreadable, claimed, parsed

# Page cache that the kernel gives up at once when a group needs the memory is not counted, as
# kubelet does not: else each group that reads files would look full.
_LEVELS_MAX = 64
Read = Callable[[Place, str], "Claim | None"]


class Groups:
    """The groups of process ``pid``; ``proc`` is where procfs is mounted."""

    def __init__(self, pid: int, proc: str = "/proc") -> None:
        self._pid = pid
        self._places = Places(proc)
        # Per controller, why no group of it is to be seen.
        self.unseen: dict[str, str] = {}

    def memory(self) -> tuple[Claim, ...]:
        """Bytes of memory, without the page cache that can be given up at once."""
        return self._claims("memory", _memory)

    def swap(self) -> tuple[Claim, ...]:
        """Bytes of swap."""
        return self._claims("memory", _swap)

    def pids(self) -> tuple[Claim, ...]:
        """Processes and threads."""
        return self._claims("pids", _pids)

    def cpu(self) -> tuple[Claim, ...]:
        """CPU seconds used since the group was made, and how many CPUs it may use."""
        return self._claims("cpu", self._cpu)

    def throttled(self) -> tuple[Claim, ...]:
        """Periods in which the group was held back, and periods in all."""
        return self._claims("cpu", _throttled)

    def pressure(self, kind: str) -> str | None:
        """The group's pressure file for ``kind`` (cpu, memory or io); None: it has none."""
        place = self._places.unified(self._pid)
        if isinstance(place, str):
            return None
        file = f"{place.folder}/{kind}.pressure"
        return file if os.path.exists(file) else None

    def _claims(self, controller: str, read: Read) -> tuple[Claim, ...]:
        place = self._places.controller(controller, self._pid)
        if isinstance(place, str):
            self.unseen[controller] = place
            return ()
        found = (read(place, folder) for folder in _upwards(place))
        return tuple(claim for claim in found if claim is not None)

    def _cpu(self, place: Place, folder: str) -> Claim | None:
        scope = _scope(place)
        if place.version == 2:
            source, usage = f"{folder}/cpu.max", f"{folder}/cpu.stat"
        else:
            source, usage = f"{folder}/cpu.cfs_quota_us", self._usage_file(place, folder)
        cpus = _unless_absent(source, lambda: _quota(place, folder))
        if cpus is None or isinstance(cpus, str):
            return _broken(scope, source, cpus)

        def read() -> tuple[float, float | None]:
            if place.version == 2:
                return parsed(usage, lambda text: keyed(text, "usage_usec"))[0] / 1e6, cpus
            return parsed(usage, whole) / 1e9, cpus

        return claimed(scope, f"{usage}, {source}", read)

    def _usage_file(self, place: Place, folder: str) -> str:
        """Version 1 counts CPU time in a hierarchy that need not be the one of the quota."""
        beside = f"{folder}/cpuacct.usage"
        if os.path.exists(beside):
            return beside
        counted = self._places.controller("cpuacct", self._pid)
        if isinstance(counted, str):
            return beside
        below = folder.removeprefix(place.mount_point.rstrip("/"))
        return f"{counted.mount_point.rstrip('/')}{below}/cpuacct.usage"


def _upwards(place: Place) -> list[str]:
    """The group's folder and those above it, up to where the hierarchy is mounted."""
    folder, found = place.folder, []
    top = place.mount_point.rstrip("/") or "/"
    for _ in range(_LEVELS_MAX):
        found.append(folder)
        if folder == top or len(folder) <= len(top):
            break
        folder = os.path.dirname(folder)
    return found


def _scope(place: Place) -> str:
    return f"cgroup v{place.version}"


def _unless_absent(file: str, read: Callable[[], float | None]) -> float | str | None:
    """What ``read`` gives; None also if ``file`` is not there (the group at the top has none, nor
    has one without the controller); why it could not be read."""
    try:
        return read()
    except Unreadable as why:
        return str(why) if os.path.exists(file) else None


def _broken(scope: str, source: str, why: str | None) -> Claim | None:
    return None if why is None else Claim(scope=scope, source=source, missing=why)


def _quota(place: Place, folder: str) -> float | None:
    if place.version == 2:
        return parsed(f"{folder}/cpu.max", kerneltexts.quota)
    period = parsed(f"{folder}/cpu.cfs_period_us", str.strip)
    file = f"{folder}/cpu.cfs_quota_us"
    return parsed(file, lambda text: kerneltexts.quota(f"{text.strip()} {period}"))


def _memory(place: Place, folder: str) -> Claim | None:
    scope, stat = _scope(place), f"{folder}/memory.stat"
    if place.version == 2:
        source, usage, cache = f"{folder}/memory.max", f"{folder}/memory.current", "inactive_file"
    else:
        source, usage = f"{folder}/memory.limit_in_bytes", f"{folder}/memory.usage_in_bytes"
        cache = "total_inactive_file"
    allowed = _unless_absent(source, lambda: _memory_limit(place, folder, source))
    if allowed is None or isinstance(allowed, str):
        return _broken(scope, source, allowed)

    def read() -> tuple[float, float | None]:
        (given_up,) = parsed(stat, lambda text: keyed(text, cache))
        return max(0.0, parsed(usage, whole) - given_up), allowed

    return claimed(scope, f"{usage} without {cache}, {source}", read)


def _memory_limit(place: Place, folder: str, file: str) -> float | None:
    own = parsed(file, limit)
    if place.version == 2 or folder != place.folder:
        return own
    # Version 1 tells the tightest of all groups above, those that we cannot see included.
    stat = f"{folder}/memory.stat"
    above = parsed(stat, lambda text: limit(f"{keyed(text, 'hierarchical_memory_limit')[0]:.0f}"))
    return min((each for each in (own, above) if each is not None), default=None)


def _swap(place: Place, folder: str) -> Claim | None:
    scope = _scope(place)
    if place.version == 2:
        source, usage = f"{folder}/memory.swap.max", f"{folder}/memory.swap.current"
        allowed = _unless_absent(source, lambda: parsed(source, limit))
        if allowed is None or isinstance(allowed, str):
            return _broken(scope, source, allowed)
        swap_max: float = allowed
        return claimed(scope, f"{usage}, {source}", lambda: (parsed(usage, whole), swap_max))
    # Version 1 limits memory and swap together: what is left beside the memory's limit is swap.
    source = f"{folder}/memory.memsw.limit_in_bytes"
    both = _unless_absent(source, lambda: parsed(source, limit))
    if both is None or isinstance(both, str):
        return _broken(scope, source, both)
    together: float = both

    def read() -> tuple[float, float | None]:
        memory = parsed(f"{folder}/memory.limit_in_bytes", limit)
        (used,) = parsed(f"{folder}/memory.stat", lambda text: keyed(text, "total_swap"))
        return used, max(0.0, together - memory) if memory is not None else together

    return claimed(scope, f"{folder}/memory.stat, {source}", read)


def _pids(place: Place, folder: str) -> Claim | None:
    scope, source, usage = _scope(place), f"{folder}/pids.max", f"{folder}/pids.current"
    allowed = _unless_absent(source, lambda: parsed(source, limit))
    if allowed is None or isinstance(allowed, str):
        return _broken(scope, source, allowed)
    most: float = allowed
    return claimed(scope, f"{usage}, {source}", lambda: (parsed(usage, whole), most))


def _throttled(place: Place, folder: str) -> Claim | None:
    file = f"{folder}/cpu.max" if place.version == 2 else f"{folder}/cpu.cfs_quota_us"
    cpus = _unless_absent(file, lambda: _quota(place, folder))
    if cpus is None or isinstance(cpus, str):
        return _broken(_scope(place), file, cpus)
    stat = f"{folder}/cpu.stat"

    def read() -> tuple[float, float | None]:
        held_back, periods = parsed(stat, lambda text: keyed(text, "nr_throttled", "nr_periods"))
        return held_back, periods

    return claimed(_scope(place), stat, read)
