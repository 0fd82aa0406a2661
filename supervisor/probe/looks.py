"""One look at the machine, and one at a file system.

Knows: what a look reads, and of which process.
Does not know: rates, who asks, how often.
Invariants: read-only; never raises for what a machine lacks. Not for the root: `statvfs` may hang.
"""

from __future__ import annotations

import os
import time

import msgspec

from fsmv2.supervisor.core.kerneltexts import cpu_ticks, resource_limit
from fsmv2.supervisor.core.readings import HOST, Claim, Facts, ProcFacts
from fsmv2.supervisor.pool.memoryshare import resident_bytes
from fsmv2.supervisor.probe.files import Unreadable, claimed, parsed
from fsmv2.supervisor.probe.groups import Groups
from fsmv2.supervisor.probe.host import TICKS_PER_S, Host, pressure_claim

_PRESSURES = (
    ("pressure.cpu", "cpu", "some"),
    ("pressure.memory", "memory", "some"),
    ("pressure.memory.full", "memory", "full"),
    ("pressure.io", "io", "some"),
    ("pressure.io.full", "io", "full"),
)


def look_at_machine(pid: int, procs: dict[str, int], proc: str = "/proc") -> Facts:
    """Read what the machine lets process ``pid`` use, and what the processes ``procs`` (pids by
    name) use. ``proc`` is where procfs is mounted."""
    groups, host = Groups(pid, proc), Host(proc)
    unlimited = Claim(scope=HOST, source="no group has a CPU quota", limit=0.0)
    claims = {
        "cpu": (*groups.cpu(), _because(host.cpu(), groups, "cpu")),
        "cpu.throttled": groups.throttled() or (unlimited,),
        "memory": (*groups.memory(), _because(host.memory(), groups, "memory")),
        "swap": (*groups.swap(), _because(host.swap(), groups, "memory")),
        "load": (host.load(),),
        "pids": (*groups.pids(), _because(host.pids(), groups, "pids")),
        "open_files": (_open_files(pid, proc),),
        "open_files.host": (host.open_files(),),
    }
    for name, kind, which in _PRESSURES:
        own = groups.pressure(kind)
        scope, file = ("cgroup v2", own) if own else (HOST, host.pressure(kind))
        claims[name] = (pressure_claim(scope, file, which),)
    return Facts(
        at=time.monotonic(),
        claims=claims,
        procs=tuple(_proc_facts(name, each, proc) for name, each in procs.items()),
    )


def _because(claim: Claim, groups: Groups, controller: str) -> Claim:
    """The machine's claim; where no group is to be seen, it says why."""
    why = groups.unseen.get(controller)
    if why is None:
        return claim
    return msgspec.structs.replace(claim, source=f"{claim.source} ({why})")


def _open_files(pid: int, proc: str) -> Claim:
    folder, limits = f"{proc}/{pid}/fd", f"{proc}/{pid}/limits"

    def read() -> tuple[float, float | None]:
        most = parsed(limits, lambda text: resource_limit(text, "Max open files"))
        try:
            return float(len(os.listdir(folder))), most
        except OSError as error:
            raise Unreadable(f"cannot read {folder}: {os.strerror(error.errno or 0)}") from None

    return claimed("process", f"{folder}, {limits}", read)


def _proc_facts(name: str, pid: int, proc: str) -> ProcFacts:
    try:
        cpu_s = parsed(f"{proc}/{pid}/stat", cpu_ticks) / TICKS_PER_S
    except Unreadable:
        cpu_s = None  # it has ended
    return ProcFacts(name=name, pid=pid, rss_bytes=resident_bytes(pid, proc), cpu_s=cpu_s)


def look_at_disk(path: str) -> Facts:
    """Read how full the file system at ``path`` is. Hangs where the file system does."""
    source = f"statvfs({path})"
    names = (f"disk:{path}", f"inodes:{path}")
    try:
        found = os.statvfs(path)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        lost = Claim(scope="mount", source=source, missing=f"cannot read {path}: {why}")
        return Facts(at=time.monotonic(), claims=dict.fromkeys(names, (lost,)))
    blocks, inodes = found.f_blocks - found.f_bfree, found.f_files - found.f_ffree
    # As df counts: what is kept back for root is free to nobody else.
    used = (float(blocks * found.f_frsize), float(inodes))
    limits = (
        float((blocks + found.f_bavail) * found.f_frsize),
        float(inodes + found.f_favail) if found.f_files else None,
    )
    return Facts(
        at=time.monotonic(),
        claims={
            name: (Claim(scope="mount", source=source, used=used[place], limit=limits[place]),)
            for place, name in enumerate(names)
        },
    )
