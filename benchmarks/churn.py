"""Reloads a tree and has its children come and go, thousands of times, and looks at what is left.

    python benchmarks/churn.py [--reloads 10000] [--children 10000] [--json FILE]

The tree stands over a real pool with real procs. Each reload changes a line's config, a variable,
and how many stations there are; each child comes up, half of them under a name that nobody had
before, every tenth runs actions, and is gone. Read are nodes, moments to wake at, attempts waited
for, descriptors, threads, processes, folders and memory: after a tenth of it, after half of it, at
the end.

Exit status: 0 when nothing grew, 1 when something did (each has a line that begins with "FAULT").
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import tick_workers as workers
from soaking import leaks

from fsmv2.supervisor import ActionResult
from fsmv2.supervisor.core.events import Event, WorkerAdded, WorkerRemoved
from fsmv2.supervisor.core.fsm import Phase
from fsmv2.supervisor.core.spec import ChildSpec, UserSpec
from fsmv2.supervisor.core.variables import VariableBundle
from fsmv2.supervisor.core.worker import WorkerFactory
from fsmv2.supervisor.pool.pool import Pool
from fsmv2.supervisor.pool.pooloptions import PoolOptions
from fsmv2.supervisor.tree.engine import WAKES_MIN, Engine

LINES, STATIONS = 3, 3
NODES = 1 + LINES * (1 + STATIONS)
AT_ONCE = 50  # children that come and go together
PATIENCE_S = 30.0
SETTLED_S = 0.5  # how long the same procs must be there
WORKS_S = 0.0005


class Tree:
    """An engine over a real pool, ticked as fast as it asks for."""

    def __init__(self, folder: Path) -> None:
        self.added = self.removed = 0
        self.folder = folder
        options = PoolOptions(preload=("tick_workers",), search=(str(Path(__file__).parent),))
        lanes = {"actions": 2, "observations": 1}
        self.pool = Pool(lanes, options, run_folder=str(folder), on_result=self._take)
        self.engine = Engine(
            name="churn",
            children=tree(0),
            factory=WorkerFactory(workers.WORKERS),
            pool=self.pool,
            emit=self._hear,
            now=time.monotonic(),
            wall=time.time(),
            interval_s=0.005,
        )

    def _take(self, attempt_id: int, result: ActionResult) -> None:
        self.engine.deliver(attempt_id, result)

    def _hear(self, event: Event) -> None:
        self.added += isinstance(event, WorkerAdded)
        self.removed += isinstance(event, WorkerRemoved)

    def tick(self) -> None:
        """Let the pool work for a moment, then one tick."""
        self.pool.wait(0.001)
        self.engine.tick(time.monotonic(), time.time())

    def until(self, claim: Callable[[], bool], what: str) -> None:
        """Tick until ``claim()`` is true."""
        end = time.monotonic() + PATIENCE_S
        while not claim():
            if time.monotonic() > end:
                sys.exit(f"FAULT not within {PATIENCE_S:g} s: {what}")
            self.tick()

    def all_run(self) -> bool:
        """Whether every node runs."""
        return all(node.phase is Phase.RUNNING for node in self.engine.nodes())

    def read(self) -> dict[str, int]:
        """What there is now, with the tree as it began."""
        self.engine.reload(tree(0))
        self.until(lambda: self.is_as_it_began() and self.all_run(), "the tree as it began")
        gc.collect()
        seen = self._settled()
        return {
            "nodes": sum(1 for _ in self.engine.nodes()),
            "wakes": len(self.engine._wakes),
            "attempts": len(self.engine._inbox._owners),
            "generations": len(self.engine.root.generations),
            **{name: value for name, value in seen._asdict().items() if value is not None},
        }

    def _settled(self) -> leaks.Reading:
        """What the pool has when no proc is being started any more."""
        seen, since = leaks.read(self.folder, None), time.monotonic()
        while time.monotonic() < since + SETTLED_S:
            self.tick()
            now = leaks.read(self.folder, None)
            if (now.descendants, now.fds) != (seen.descendants, seen.fds):
                since = time.monotonic()
            seen = now
        return seen

    def is_as_it_began(self) -> bool:
        """Whether nobody else is there any more."""
        return sum(1 for _ in self.engine.nodes()) == NODES


def tree(number: int) -> tuple[ChildSpec, ...]:
    """What is declared at reload ``number``."""
    stations = [
        {"name": f"s{n}", "seconds": WORKS_S if n == 0 else 0.0}
        for n in range(STATIONS + number % 3)
    ]
    user = VariableBundle({"n": number})
    return tuple(
        ChildSpec(f"line{n}", "line", UserSpec({"stations": stations}, user)) for n in range(LINES)
    )


def guests(turn: int) -> tuple[ChildSpec, ...]:
    """Those that come and go."""
    return tuple(
        ChildSpec(
            f"g{n}" if n % 2 else f"g{turn}-{n}",
            "station",
            UserSpec({"seconds": 0.0 if n % 10 else WORKS_S}),
        )
        for n in range(AT_ONCE)
    )


def reload_once(there: Tree, number: int) -> None:
    """Another config; the tick that applies it."""
    there.engine.reload(tree(number), variables=VariableBundle(global_={"n": number}))
    there.tick()


def churn_once(there: Tree, turn: int) -> None:
    """So many children come, run, and are gone."""
    there.engine.reload((*tree(0), *guests(turn)))
    there.until(lambda: len(there.engine.root.children) > AT_ONCE and there.all_run(), "guests run")
    there.engine.reload(tree(0))
    there.until(there.is_as_it_began, "guests gone")


def series(there: Tree, what: str, times: int, once: Callable[[Tree, int], None]) -> list[str]:
    """Do it so many times; what grew after the first tenth of it, and the readings, printed."""
    readings: dict[str, dict[str, int]] = {}
    marks = {times // 10: "after a tenth", times // 2: "after half", times: "at the end"}
    for number in range(1, times + 1):
        once(there, number)
        if number in marks:
            readings[marks[number]] = there.read()
    print(f"\n{times} times {what}")
    print(f"{'':<18}" + "".join(f"{head:>16}" for head in readings))
    first, last = readings["after a tenth"], readings["at the end"]
    for name in first:
        print(f"{name:<18}" + "".join(f"{one[name]:>16,}" for one in readings.values()))
    return [f"{what}: {name} grew: {first[name]} to {last[name]}"
            for name in first if last[name] > limit(name, first)]  # fmt: skip


def limit(name: str, first: dict[str, int]) -> int:
    """How much of it may be there at the end."""
    if name.endswith("_kib"):
        return first[name] + max(leaks.KIB_MORE, int(first[name] * leaks.SHARE_MORE))
    if name == "wakes":  # what no longer counts is swept out when there are more than this
        return WAKES_MIN + 4 * first["nodes"]
    # Between two actions, while the pool starts a proc: one more or less. Names are kept up to a
    # number, which a tenth of the turns need not have reached.
    slack = {"attempts": first["nodes"], "generations": 1_000}
    return max(first[name] + slack.get(name, 0), leaks.LIVING.get(name, 0))


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--reloads", type=int, default=10_000)
    parser.add_argument("--children", type=int, default=10_000)
    parser.add_argument("--json", metavar="FILE", help="write the counts there too")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fsmv2-churn-"))
    there, faults = Tree(folder), []
    try:
        there.pool.start()
        there.until(there.all_run, "the tree runs")
        there.until(lambda: bool(there.pool.lanes["observations"].idle), "the pool is up")
        faults += series(there, "reloaded", max(10, options.reloads), reload_once)
        turns = max(10, options.children // AT_ONCE)
        faults += series(there, f"{AT_ONCE} children came and went", turns, churn_once)
    finally:
        there.pool.close()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{there.added} workers added, {there.removed} removed")
    print("\n".join(f"FAULT {fault}" for fault in faults) or "nothing grew")
    if options.json:
        told = {"added": there.added, "removed": there.removed, "faults": faults}
        Path(options.json).write_text(json.dumps(told, indent=2) + "\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
