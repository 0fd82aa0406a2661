"""Readings of the machine, and the arithmetic behind them.

What was read are claims: what is used of one limit, a group's or the whole machine's. Of several
the tightest counts, and the machine's only where no group limits.

Knows: which readings there are, shares, rates between two looks, which limit counts.
Does not know: files, clocks, what a reading is good for.
Invariants: a reading has a value that is a finite number, or says why it has none; a share is 0 to
1; what could not be read on the way to the tightest limit is not passed over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

HOST = "host"
Unit = Literal["share", "s", "1/min", "bytes", "1"]


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One figure. ``value`` None: there is none, and ``missing`` says why. ``scope`` is what it is
    about: "cgroup v2", "cgroup v1", "host", "process", "mount" or "pool"; ``source`` the files or
    the call it was read from; ``at`` the moment in monotonic seconds. ``used`` and ``limit`` are
    the figures behind a share (of "cpu": CPUs; of "load": processes and CPUs)."""

    name: str
    value: float | None
    unit: Unit
    scope: str
    source: str
    at: float
    missing: str = ""
    used: float | None = None
    limit: float | None = None


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What is used of one limit. ``used`` may be a counter that only grows; ``limit`` None: this
    one does not limit; ``missing``: why it could not be read."""

    scope: str
    source: str
    used: float = 0.0
    limit: float | None = None
    missing: str = ""


class ProcFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What one process uses: memory that is resident, and CPU seconds since it began; None: it
    could not be read."""

    name: str
    pid: int
    rss_bytes: int | None
    cpu_s: float | None


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What one look has read: claims by the name of their reading, its own group's first and the
    machine's last. ``at`` is in monotonic seconds."""

    at: float
    claims: dict[str, tuple[Claim, ...]]
    procs: tuple[ProcFacts, ...] = ()


class ProcReading(msgspec.Struct, frozen=True, kw_only=True):
    """What one process uses; ``cpu`` in CPUs (1.0: one whole CPU), None until there were two looks
    at it."""

    name: str
    pid: int
    rss_bytes: int | None
    cpu: float | None


# --- from claims to a reading ---------------------------------------------------------------


def counting(claims: Sequence[Claim]) -> list[Claim]:
    """Those whose limits hold: the groups' that are tighter than the machine's; if none is, the
    machine's; alone the first that could not be read, if there is one on the way."""
    groups = [claim for claim in claims if claim.scope != HOST]
    hosts = [claim for claim in claims if claim.scope == HOST]
    broken = [claim for claim in groups if claim.missing]
    if broken:
        return broken[:1]
    most = min(
        (host.limit for host in hosts if host.limit is not None and not host.missing),
        default=math.inf,
    )
    limiting = [claim for claim in groups if claim.limit is not None and claim.limit < most]
    return limiting or hosts or groups


def _share(used: float, limit: float | None) -> float:
    if limit is None or used <= 0:
        return 0.0
    return min(1.0, used / limit) if limit > 0 else 1.0


_Figure = tuple[float, float, float | None]  # the value, and what is behind it: used, limit
_Figures = Callable[[Claim, Claim | None, float], "_Figure | str"]


def _share_now(claim: Claim, _before: Claim | None, _elapsed_s: float) -> _Figure | str:
    return _share(claim.used, claim.limit), claim.used, claim.limit


def _rate(claim: Claim, before: Claim | None, elapsed_s: float) -> _Figure | str:
    grown = _grown(claim, before, elapsed_s)
    if isinstance(grown, str):
        return grown
    rate = grown / elapsed_s
    return _share(rate, claim.limit), rate, claim.limit


def _ratio(claim: Claim, before: Claim | None, elapsed_s: float) -> _Figure | str:
    grown = _grown(claim, before, elapsed_s)
    if isinstance(grown, str):
        return grown
    total = (claim.limit or 0.0) - ((before.limit if before is not None else None) or 0.0)
    return (_share(grown, total) if total > 0 else 0.0), grown, total


def _grown(claim: Claim, before: Claim | None, elapsed_s: float) -> float | str:
    if before is None or before.missing or elapsed_s <= 0:
        return "it takes two looks, and this was the first"
    grown = claim.used - before.used
    return grown if grown >= 0 else f"the counter went back from {before.used:g} to {claim.used:g}"


def _per_limit(claim: Claim, _before: Claim | None, _elapsed_s: float) -> _Figure | str:
    if not claim.limit:
        return "there is nothing to divide it by"
    return claim.used / claim.limit, claim.used, claim.limit


def _as_read(claim: Claim, _before: Claim | None, _elapsed_s: float) -> _Figure | str:
    return min(1.0, max(0.0, claim.used)), claim.used, None


# By the part of a name before ":".
_KINDS: dict[str, tuple[Unit, _Figures]] = {
    "cpu": ("share", _rate),
    "cpu.throttled": ("share", _ratio),
    "memory": ("share", _share_now),
    "swap": ("share", _share_now),
    "load": ("1", _per_limit),
    "pids": ("share", _share_now),
    "open_files": ("share", _share_now),
    "open_files.host": ("share", _share_now),
    "pressure.cpu": ("share", _as_read),
    "pressure.memory": ("share", _as_read),
    "pressure.memory.full": ("share", _as_read),
    "pressure.io": ("share", _as_read),
    "pressure.io.full": ("share", _as_read),
    "disk": ("share", _share_now),
    "inodes": ("share", _share_now),
}
DISK_KINDS = ("disk", "inodes")
MACHINE_NAMES = tuple(name for name in _KINDS if name not in DISK_KINDS)


def reading_of(name: str, facts: Facts, before: Facts | None) -> Reading:
    """The reading called ``name``: the tightest of its claims that count. ``before`` is the look
    before this one, of which rates need the same claims."""
    unit, figure_of = _KINDS[name.partition(":")[0]]
    elapsed_s = facts.at - before.at if before is not None else 0.0
    old = {
        (claim.scope, claim.source): claim
        for claim in (before.claims.get(name, ()) if before is not None else ())
    }
    best: tuple[_Figure, Claim] | None = None
    why, where = "nothing on this machine tells it", Claim(scope=HOST, source="")
    for claim in counting(facts.claims.get(name, ())):
        where = claim if best is None else where
        if claim.missing:
            why = claim.missing
            continue
        figure = figure_of(claim, old.get((claim.scope, claim.source)), elapsed_s)
        if isinstance(figure, str):
            why = figure
        elif not math.isfinite(figure[0]):
            why = f"got {figure[0]}, want a finite number"
        elif best is None or figure[0] > best[0][0]:
            best, where = (figure, claim), claim
    if best is None:
        return missing(name, why, facts.at, scope=where.scope, source=where.source)
    value, used, limit = best[0]
    return Reading(
        name=name, value=value, unit=unit, scope=where.scope, source=where.source, at=facts.at,
        used=used, limit=limit,
    )  # fmt: skip


def missing(name: str, why: str, at: float, *, scope: str = HOST, source: str = "") -> Reading:
    """The reading called ``name``, which could not be had."""
    unit = _KINDS[name.partition(":")[0]][0]
    return Reading(name=name, value=None, unit=unit, scope=scope, source=source, at=at, missing=why)


def readings_of(names: Sequence[str], facts: Facts, before: Facts | None) -> dict[str, Reading]:
    """All readings called ``names``, of two looks."""
    return {name: reading_of(name, facts, before) for name in names}


def proc_readings(facts: Facts, before: Facts | None) -> list[ProcReading]:
    """What each process uses, of two looks."""
    elapsed_s = facts.at - before.at if before is not None else 0.0
    old = {(proc.name, proc.pid): proc for proc in (before.procs if before is not None else ())}
    found = []
    for proc in facts.procs:
        was = old.get((proc.name, proc.pid))
        cpu = None
        if was is not None and None not in (proc.cpu_s, was.cpu_s) and elapsed_s > 0:
            cpu = max(0.0, (proc.cpu_s or 0.0) - (was.cpu_s or 0.0)) / elapsed_s
        found.append(ProcReading(name=proc.name, pid=proc.pid, rss_bytes=proc.rss_bytes, cpu=cpu))
    return found
