"""The machine as the root knows it: looks submitted to the pool, their answers, and their age.

Each look is an action in a proc, with a deadline. One that hangs (`statvfs` of a dead mount) is
killed there and tried again with a growing wait, while all the others go on. Of paths one look is
out at a time, and each begins soon after a look at the machine has ended: a lane of one proc is
held up by dead mounts for one deadline between two looks at the machine, however many there are.

Knows: the pool's port, when a look is due, how old an answer may be.
Does not know: what a reading is good for; files.
Invariants: never waits and reads no file; a look that is out is not submitted again; what is too
old is missing, and says since when.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from fsmv2.supervisor.core import readingevents
from fsmv2.supervisor.core.action import Action, ActionResult
from fsmv2.supervisor.core.events import Event
from fsmv2.supervisor.core.poolreadings import PoolFacts, PoolHistory
from fsmv2.supervisor.core.readings import (
    DISK_KINDS,
    HOST,
    MACHINE_NAMES,
    Facts,
    ProcReading,
    Reading,
    missing,
    proc_readings,
    readings_of,
)
from fsmv2.supervisor.probe.actions import DEADLINE_S, ReadDisk, ReadMachine
from fsmv2.supervisor.tree.context import PoolPort

LANE = "observations"
INTERVAL_S = 1.0
# An answer of so many intervals ago says nothing of now; nor does one of so many seconds ago, which
# is what a dead mount may cost.
INTERVALS_MAX = 3.0
OLD_S_MIN = DEADLINE_S + 1.0
# The part of an interval, after a look at the machine, in which one at a path may begin.
DISK_SHARE = 0.5
WAIT_S_MAX = 60.0
# The machine's own files do not hang; whatever it was, it is over soon.
MACHINE_WAIT_S_MAX = 5.0


class _Look:
    """One thing that is looked at by itself, and what became of it."""

    def __init__(
        self,
        key: str,
        names: tuple[str, ...],
        make: Callable[[], Action],
        wait_s_max: float,
        where: tuple[str, str],
    ) -> None:
        self.key = key
        # Scope and source until it has answered.
        self.where = where
        self.names = names
        self.make = make
        self.wait_s_max = wait_s_max
        self.hung = f"statvfs did not answer within {DEADLINE_S:g} s"
        self.due = 0.0
        self.attempt_id: int | None = None
        self.asked_at = 0.0
        self.ended_at = float("-inf")
        # Since when an answer is waited for; None: none was asked for yet.
        self.since: float | None = None
        self.failures = 0
        self.is_dead = False
        self.why = ""
        self.facts: Facts | None = None
        self.before: Facts | None = None
        self.readings: dict[str, Reading] = {}

    def __repr__(self) -> str:
        return f"<look {self.key}, {self.failures} failures, {self.why or 'well'}>"

    def take(self, result: ActionResult, now: float, interval_s: float) -> None:
        """Its attempt has ended."""
        self.attempt_id, self.ended_at = None, now
        if result.succeeded and isinstance(result.value, Facts):
            self.before, self.facts = self.facts, result.value
            self.readings = readings_of(self.names, self.facts, self.before)
            self.since, self.failures, self.why, self.is_dead = now, 0, "", False
            self.due = max(now, self.asked_at + interval_s)
            return
        self.failures += 1
        self.why = self._told(result)
        # What else befalls a look says nothing of the file system.
        self.is_dead = self.key != MACHINE_KEY and result.status == "timed_out"
        self.due = now + min(self.wait_s_max, interval_s * 2.0 ** min(self.failures - 1, 16))

    def _told(self, result: ActionResult) -> str:
        if result.status == "timed_out":
            return self.hung
        told = str(result.error) if result.error is not None else result.verdict
        return f"not read: {told}"

    def lost(self, now: float, old_s: float) -> str:
        """Why there is nothing to say at ``now``; empty: there is."""
        if self.is_dead:
            return self.why
        age_s = now - (self.since if self.since is not None else now)
        if age_s > old_s:
            return f"the probe has not answered for {age_s:.1f} s" + (
                f" ({self.why})" if self.why else ""
            )
        return "" if self.facts is not None else "the probe has not looked yet"


MACHINE_KEY = ":probe"


class MachineProbe:
    """Call `tend` in each turn of the loop, `take` with each result of the pool, `readings` for
    what is known.

    ``pid`` is the process whose limits count; ``procs`` gives the pids of those that are told of
    one by one; ``pool_facts`` the pool's own counts; ``pass_on`` takes results that came while a
    look was submitted and are not ours; ``emit`` is told when readings are lost and back. ``disks``
    are the paths whose file systems are looked at, each by ``read_disk(path)``. ``proc`` is where
    procfs is mounted.
    """

    def __init__(
        self,
        pool: PoolPort,
        *,
        pid: int,
        procs: Callable[[], Mapping[str, int]] = dict,
        pool_facts: Callable[[float], PoolFacts] = lambda now: PoolFacts(),
        disks: Sequence[str] = (),
        read_disk: Callable[[str], Action] = ReadDisk,
        interval_s: float = INTERVAL_S,
        proc: str = "/proc",
        pass_on: Callable[[int, ActionResult], None] = lambda attempt_id, result: None,
        emit: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self._pool = pool
        self._pid = pid
        self._procs = procs
        self._pool_facts = pool_facts
        self._read_disk = read_disk
        self._interval_s = interval_s
        self._old_s = max(OLD_S_MIN, INTERVALS_MAX * interval_s)
        self._now = float("-inf")
        self._has_news = False
        self._proc = proc
        self._pass_on = pass_on
        self._emit = emit
        self._machine = _Look(
            MACHINE_KEY, MACHINE_NAMES, self._read_machine, MACHINE_WAIT_S_MAX, (HOST, proc)
        )
        self._machine.hung = f"its files were not read within {DEADLINE_S:g} s"
        self._disks: list[_Look] = []
        self._out: dict[int, _Look] = {}
        self._ended: list[tuple[_Look, ActionResult]] = []
        self._history = PoolHistory()
        self._pool_due = 0.0
        # While a look is submitted, a refusal may come before its number is known.
        self._early: list[tuple[int, ActionResult]] | None = None
        self._told: dict[str, str] = {}
        self._closed = False
        self.watch_disks(disks)

    def __repr__(self) -> str:
        return f"<MachineProbe {self._machine!r}, {self._disks!r}>"

    def watch_disks(self, disks: Sequence[str]) -> None:
        """From now on, look at the file systems of these paths; what is known of those that
        were looked at before stays."""
        known = {look.key: look for look in self._disks}
        self._disks = [
            known.get(f":disk:{path}")
            or _Look(
                f":disk:{path}",
                tuple(f"{kind}:{path}" for kind in DISK_KINDS),
                partial(self._read_disk, path),
                WAIT_S_MAX,
                ("mount", f"statvfs({path})"),
            )
            for path in dict.fromkeys(disks)
        ]

    # --- looking ----------------------------------------------------------------------------

    def tend(self, now: float) -> None:
        """Take what has come, submit what is due. Never waits."""
        self._now = now
        ended, self._ended = self._ended, []
        for look, result in ended:
            look.take(result, now, self._interval_s)
            self._has_news = True
        if self._closed:
            return
        if now >= self._pool_due:
            self._pool_due = now + self._interval_s
            self._history.add(self._pool_facts(now), now)
            self._has_news = True
            self._tell(now)
        if self._machine.attempt_id is None and now >= self._machine.due:
            self._submit(self._machine, now)
        disk = self._next_disk()
        if disk is not None and now >= disk.due:
            self._submit(disk, now)

    def _next_disk(self) -> _Look | None:
        """The path to be looked at next, if that may be before the next look at the machine."""
        if not self._disks or self._out or self._machine.attempt_id is not None:
            return None
        # Those that answer first: one that is tried again may hold them up.
        disk = min(self._disks, key=lambda look: (max(look.due, self._now), look.is_dead, look.due))
        until = self._machine.ended_at + DISK_SHARE * self._interval_s
        return disk if max(disk.due, self._now) <= until else None

    def _read_machine(self) -> Action:
        return ReadMachine(pid=self._pid, procs=dict(self._procs()), proc=self._proc)

    def _submit(self, look: _Look, now: float) -> None:
        look.asked_at = now
        if look.since is None:
            look.since = now
        self._early = []
        attempt_id = self._pool.submit(look.make(), key=look.key, lane=LANE, timeout_s=DEADLINE_S)
        early, self._early = self._early, None
        look.attempt_id = attempt_id
        self._out[attempt_id] = look
        for number, result in early:
            if not self.take(number, result):
                self._pass_on(number, result)

    def take(self, attempt_id: int, result: ActionResult) -> bool:
        """A result of the pool. False: it is not ours. What it says is known after `tend`."""
        if self._early is not None:
            self._early.append((attempt_id, result))
            return True
        look = self._out.pop(attempt_id, None)
        if look is None:
            return False
        self._ended.append((look, result))
        return True

    def next_moment(self) -> float | None:
        """When `tend` has something to do by the clock (monotonic seconds)."""
        if self._ended:
            return 0.0
        if self._closed:
            return None
        moments = [self._pool_due]
        if self._machine.attempt_id is None:
            moments.append(self._machine.due)
        disk = self._next_disk()
        if disk is not None:
            moments.append(disk.due)
        return min(moments)

    def close(self) -> None:
        """Look at nothing any more; what is out is cancelled."""
        self._closed = True
        for attempt_id in list(self._out):
            self._pool.cancel(attempt_id)

    # --- what is known ----------------------------------------------------------------------

    def readings(self, now: float) -> dict[str, Reading]:
        """All readings by name. What is too old, or could not be read, says so."""
        found: dict[str, Reading] = {}
        for look in (self._machine, *self._disks):
            why = look.lost(now, self._old_s_of(look))
            if not why:
                found.update(look.readings)
                continue
            for name in look.names:
                last = look.readings.get(name)
                scope, source = (last.scope, last.source) if last is not None else look.where
                at = last.at if last is not None else now
                found[name] = missing(name, why, at, scope=scope, source=source)
        found.update(self._history.readings())
        return found

    def _old_s_of(self, look: _Look) -> float:
        """From when on an answer says nothing of now. Each other path may hold a path up once."""
        others = 0 if look is self._machine else len(self._disks) - 1
        return self._old_s + others * (DEADLINE_S + self._interval_s)

    def news(self, now: float) -> dict[str, Reading] | None:
        """All readings if there may be new ones since the last call, and once an interval at
        least; else None."""
        if not self._has_news:
            return None
        self._has_news = False
        return self.readings(now)

    def procs(self, now: float) -> list[ProcReading]:
        """What each process uses; empty where that is not known."""
        look = self._machine
        if look.facts is None or look.lost(now, self._old_s):
            return []
        return proc_readings(look.facts, look.before)

    def _tell(self, now: float) -> None:
        """Report what has been lost or is back, once each."""
        reasons = {
            name: reading.missing
            for name, reading in self.readings(now).items()
            if reading.missing and not self._is_young(name)
        }
        by_reason: dict[str, list[str]] = {}
        for name, why in reasons.items():
            if name not in self._told:
                by_reason.setdefault(why, []).append(name)
        for why, names in by_reason.items():
            self._emit(readingevents.ReadingsLost(readings=", ".join(names), reason=why))
        back = ", ".join(name for name in self._told if name not in reasons)
        if back:
            self._emit(readingevents.ReadingsBack(readings=back))
        self._told = reasons

    def _is_young(self, name: str) -> bool:
        """Nothing is lost before there were two looks, which rates need."""
        look = next((each for each in (self._machine, *self._disks) if name in each.names), None)
        return look is not None and look.before is None and not look.failures
