"""Kills the procs of a pool at random, thousands of times, and accounts for every action.

    python benchmarks/soak.py [--kills 10000] [--seed N] [--seconds LIMIT]

Four clients submit from threads of their own, with keys and without, small results and large
ones, some with a child process. Meanwhile random procs, idle ones and spares too, get SIGKILL,
SIGSEGV or SIGSTOP at random moments; a part of the strikes is aimed at procs that are in the
middle of writing a result. Then it is checked that each action has one result and the right one,
that no more of them failed than procs were struck, that the actions of each key ran in order and
never two at a time, and that nothing grew. The seed decides what is struck with what and when,
not how the machine schedules.

Exit status: 0 when everything is accounted for and nothing grew, 1 when not (each fault has a
line that begins with "FAULT"), 2 for wrong options.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from aim import Aim
from soaking import actions, leaks
from soaking.accounts import Accounts, order_faults

from fsmv2.supervisor import ActionPool

CLIENTS, KEYS, WINDOW = 4, 2, 8
PIDS = "pids"
TIMEOUT_S = 4.0  # hundreds of times what an action takes: only a stopped proc is over it
PAUSE_S_MAX = 0.06  # between two strikes
PATIENCE_S = 90.0  # a result that takes longer is lost
WARM_KILLS = 60
WEIGHTS = {signal.SIGKILL: 66, signal.SIGSEGV: 30, signal.SIGSTOP: 4}
STRUCK_WHILE_STARTING = 0.03  # more would be all the pool ever does
# How long the same procs must stand idle.
SETTLED_S = 0.5
LAST_VICTIMS_S = 10.0
KILLED_AFTER_STOP = 0.75  # the others stay stopped until their deadline


class Client(threading.Thread):
    """Submits, keeps a window of open handles, reads results in order of submission."""

    def __init__(self, pool: ActionPool, accounts: Accounts, name: str, folder: Path) -> None:
        super().__init__(name=name, daemon=True)
        self._pool, self._accounts, self._folder = pool, accounts, folder
        self._choice = random.Random(name)
        self._open: deque[tuple[int, Any, Any, tuple[str, int] | None]] = deque()
        self.succeeded = {f"{name}-key{number}": bytearray() for number in range(KEYS)}
        self.ending = threading.Event()

    def run(self) -> None:
        """Until told to end; then the open ones."""
        while not self.ending.is_set():
            while len(self._open) < WINDOW:
                self._submit()
            self._read()
        while self._open:
            self._read()

    def _submit(self) -> None:
        token = self._accounts.open()
        kind, seconds = self._choice.random(), self._choice.uniform(0, 0.003)
        expected: Any = actions.stamp_of(token)
        turn = None
        pids = str(self._folder / PIDS)
        if kind < 0.45:
            key = self._choice.choice(list(self.succeeded))
            turn = (key, len(self.succeeded[key]))
            self.succeeded[key].append(0)
            action = actions.Keyed(token, pids, str(self._folder / key), turn[1], seconds)
            handle = self._pool.submit(action, key=key, timeout_s=TIMEOUT_S)
        elif kind < 0.65:
            expected = None  # made when it is needed, so that open ones cost no memory
            handle = self._pool.submit(actions.Large(token, pids), timeout_s=TIMEOUT_S)
        elif kind < 0.69:
            handle = self._pool.submit(actions.Parent(token, pids, seconds), timeout_s=TIMEOUT_S)
        else:
            handle = self._pool.submit(actions.Stamp(token, pids, seconds), timeout_s=TIMEOUT_S)
        handle.add_done_callback(lambda _: self._accounts.told(token))
        self._open.append((token, handle, expected, turn))

    def _read(self) -> None:
        token, handle, expected, turn = self._open.popleft()
        try:
            result = handle.result(PATIENCE_S)
        except TimeoutError:
            self._accounts.lost(token, f"no result within {PATIENCE_S:g} s")
            return
        except Exception as error:
            self._accounts.lost(token, f"its handle raised {error!r}")
            return
        if expected is None:
            expected = actions.large_of(token)
        if self._accounts.settle(token, result, expected) and turn is not None:
            self.succeeded[turn[0]][turn[1]] = 1


class Killer:
    """Strikes procs as a seed says, and counts what it struck with what."""

    def __init__(self, pool: ActionPool, accounts: Accounts, aim: Aim, seed: int) -> None:
        self._pool, self._accounts, self._aim = pool, accounts, aim
        self._choice = random.Random(seed)
        self._struck: set[int] = set()  # dying; the pool may not have seen it yet
        self._stopped: dict[int, float] = {}  # pid to when it is killed, if it is
        self.strikes: Counter[int] = Counter()
        self.strikes_of: Counter[tuple[int, int]] = Counter()
        self.caught_writing = self.caught_idle = 0

    @property
    def count(self) -> int:
        """Strikes so far."""
        return self.strikes.total()

    def strike(self) -> None:
        """Strike one proc, if there is one."""
        procs = [p for p in self._pool.statistics()["procs"] if p["pid"]]
        pids = {proc["pid"] for proc in procs}
        self._struck &= pids
        self._stopped = {pid: at for pid, at in self._stopped.items() if pid in pids}
        due = [pid for pid, at in self._stopped.items() if at < time.monotonic()]
        if due:
            self._order(due[0], signal.SIGKILL, 0.0)
            return
        fit = [p for p in procs if p["pid"] not in self._struck and p["pid"] not in self._stopped]
        if self._choice.random() > STRUCK_WHILE_STARTING:
            fit = [proc for proc in fit if proc["state"] in ("idle", "busy")]
        if not fit:
            time.sleep(0.002)
            return
        signals, weights = zip(*WEIGHTS.items(), strict=True)
        number = self._choice.choices(signals, weights)[0]
        writers = [p for p in fit if "Large" in str(p.get("action"))]
        aimed = bool(writers) and self._choice.random() < 0.7
        chosen = self._choice.choice(writers if aimed else fit)
        self.caught_idle += chosen["state"] == "idle"
        self._order(chosen["pid"], number, 0.03 if aimed else 0.0)
        self._pause()

    def _pause(self) -> None:
        """Let some actions through: a pool that only starts procs would show little."""
        wanted = self._accounts.statuses["succeeded"] + self._choice.randint(0, 16)
        give_up = time.monotonic() + PAUSE_S_MAX
        while self._accounts.statuses["succeeded"] < wanted and time.monotonic() < give_up:
            time.sleep(0.001)
        time.sleep(self._choice.uniform(0.0, 0.004))

    def _order(self, pid: int, number: int, aim_s: float) -> None:
        # Holding the GIL keeps the root from reading, so that the aimed-at proc stays in its write.
        strike = self._aim.order(pid, number, parent=os.getpid(), aim_s=aim_s, hold=aim_s > 0)
        if strike.kind == "gone":
            self._struck.add(pid)
            return
        self.strikes[number] += 1
        self.strikes_of[pid, number] += 1
        self.caught_writing += strike.kind == "hit"
        if number == signal.SIGSTOP:
            killed = self._choice.random() < KILLED_AFTER_STOP
            after_s = self._choice.uniform(0.0, 0.05) if killed else 3600.0
            self._stopped[pid] = time.monotonic() + after_s
        else:
            self._struck.add(pid)
            self._stopped.pop(pid, None)


def settled(pool: ActionPool, procs: int) -> None:
    """Wait until nothing runs and all procs are there again, as long as it takes within reason.

    They must be the same ones for a while: the last strike may not have arrived yet, and a victim
    that is idle until it dies is no leak.
    """
    give_up = time.monotonic() + PATIENCE_S
    seen: set[int] = set()
    while time.monotonic() < give_up:
        statistics = pool.statistics()
        idle = {proc["pid"] for proc in statistics["procs"] if proc["state"] == "idle"}
        are_all = len(idle) == len(statistics["procs"]) == procs and not statistics["open"]
        if are_all and idle == seen:
            break
        seen = idle if are_all else set()
        time.sleep(SETTLED_S if are_all else 0.02)
    gc.collect()


class Soak:
    """One run. `phase` submits and kills, `read` adds a column to the leak table."""

    def __init__(self, options: argparse.Namespace, aim: Aim, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.keys = folder / "keys"
        self.keys.mkdir()
        (self.keys / PIDS).touch()
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        tempfile.tempdir = os.environ["TMPDIR"] = str(self.temporary)
        self.accounts = Accounts()
        self.pool = ActionPool(procs=2, queue=1000, preload=("soaking.actions",))
        self.killer = Killer(self.pool, self.accounts, aim, options.seed)
        self.clients: list[Client] = []
        self.readings: dict[str, leaks.Reading] = {}
        self.faults: list[str] = []
        self.began = time.monotonic()

    def read(self, name: str, template_pid: int | None = None, warm: str | None = None) -> None:
        """Add a column. With ``warm``, the one to compare with: what is more is read again for a
        while, for on a busy machine the last victims take their time. A leak stays."""
        give_up = time.monotonic() + LAST_VICTIMS_S
        while True:
            reading = self.readings[name] = leaks.read(self.temporary, template_pid)
            if warm is None or time.monotonic() > give_up:
                return
            if not leaks.grown(self.readings[warm], reading):
                return
            time.sleep(SETTLED_S)

    def phase(self, name: str, kills: int) -> None:
        """Submit and kill until there were ``kills`` strikes in all, or the time is over."""
        clients = [
            Client(self.pool, self.accounts, f"{name}-client{number}", self.keys)
            for number in range(CLIENTS)
        ]
        self.clients += clients
        for client in clients:
            client.start()
        told, seen, seen_at = time.monotonic(), -1, time.monotonic()
        while self.killer.count < kills:
            self.killer.strike()
            now = time.monotonic()
            if self.killer.count != seen:
                seen, seen_at = self.killer.count, now
            if now - seen_at > PATIENCE_S:
                self.faults.append(f"the pool stands still: no proc to strike in {PATIENCE_S:g} s")
                break
            if now - self.began > self.options.seconds:
                break
            if now - told > 5.0:
                told = now
                self.progress(name)
        for client in clients:
            client.ending.set()
        for client in clients:
            client.join(PATIENCE_S * 2)
        self.progress(name)

    def progress(self, name: str) -> None:
        """One line on standard error."""
        counts = dict(self.accounts.statuses)
        took_s = time.monotonic() - self.began
        print(
            f"{took_s:5.0f} s  {name:<5} {self.killer.count:>6} kills "
            f"({self.killer.count / took_s:.0f}/s), {self.accounts.submitted} actions, {counts}",
            file=sys.stderr,
            flush=True,
        )

    def check(self) -> list[str]:
        """All faults of the run."""
        self.accounts.check_pids(actions.pids_of(self.keys / PIDS), self.killer.strikes_of)
        faults = self.faults + self.accounts.check(self.killer.strikes)
        for client in self.clients:
            if client.is_alive():
                faults.append(f"{client.name} still waits")
            for key, succeeded in client.succeeded.items():
                path = self.keys / key
                lines = path.read_text().splitlines() if path.exists() else []
                faults += order_faults(key, lines, bytes(succeeded))
        faults += leaks.grown(self.readings["after warm-up"], self.readings["at the end"])
        closed, before = self.readings["after close"], self.readings["before"]
        for name in ("zombies", "run_entries", "threads"):
            if getattr(closed, name) > getattr(before, name):
                faults.append(f"{name}: {getattr(closed, name)} after the pool was closed")
        return faults


def run(options: argparse.Namespace, aim: Aim, folder: Path) -> int:
    """The whole soak; gives the exit status."""
    soak = Soak(options, aim, folder)
    soak.read("before")
    with soak.pool as pool:
        procs = 3  # two and a spare
        soak.phase("warm", min(WARM_KILLS, options.kills // 4))
        settled(pool, procs)
        soak.read("after warm-up", pool.statistics().get("template_pid"))
        soak.phase("main", options.kills)
        settled(pool, procs)
        soak.read("at the end", pool.statistics().get("template_pid"), warm="after warm-up")
        statistics = pool.statistics()
        last = pool.run(actions.Stamp(1, os.devnull, 0.0))
        if last.value != actions.stamp_of(1):
            soak.faults.append(f"an action after all kills: {last.status} ({last.verdict})")
    soak.read("after close")
    told = sum(statistics["finished"].values())
    if told != soak.accounts.submitted:
        soak.faults.append(f"the pool counts {told} results of {soak.accounts.submitted} actions")
    faults = soak.check()
    report(soak, statistics, faults)
    return int(bool(faults))


def report(soak: Soak, statistics: dict[str, Any], faults: list[str]) -> None:
    """Everything on standard output."""
    killer, accounts = soak.killer, soak.accounts
    by_signal = ", ".join(
        f"{count} {signal.Signals(number).name}" for number, count in killer.strikes.items()
    )
    print(
        f"seed {soak.options.seed}: {killer.count} kills ({by_signal}) in "
        f"{time.monotonic() - soak.began:.0f} s, {killer.caught_writing} of them in the middle of "
        f"a write, {killer.caught_idle} of idle procs and spares; load {os.getloadavg()[0]:.1f}"
    )
    print(f"{accounts.submitted} actions: {dict(accounts.statuses)}; {dict(accounts.verdicts)}")
    print(f"late results dropped by the pool: {statistics.get('late_results_dropped')}")
    print("\n".join(leaks.table(list(soak.readings), list(soak.readings.values()))))
    for fault in faults:
        print(f"FAULT {fault}")
    if not faults:
        print("every action accounted for exactly once, nothing grew")


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after that long")
    options = parser.parse_args()
    with Aim() as aim, tempfile.TemporaryDirectory(prefix="fsmv2-soak-") as folder:
        return run(options, aim, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
