"""Seeds: random trees in a random world, every promise checked after each step.

`ops/replay --seeds 0:20000` runs many more of them.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from twins import play_twins
from worlds import History

from fsmv2.supervisor.testing import FaultPlan
from fsmv2.supervisor.testing.faultplan import FAULTS

ROOT = Path(__file__).resolve().parents[2]
SEEDS = range(200)
BLOCKS = [SEEDS[first : first + 20] for first in range(0, len(SEEDS), 20)]
TWINS = [range(first, first + 10) for first in range(0, 40, 10)]


@pytest.mark.parametrize("seeds", BLOCKS, ids=str)
def test_every_promise_holds_whatever_happens(seeds: range) -> None:
    """I2 to I4 and I6 to I9 after each tick; then, faults off, all where they should be in bounded
    time; then a stop that is over within the longest grace of each level."""
    for seed in seeds:
        History(seed).begin().play()


@pytest.mark.parametrize("seeds", TWINS, ids=str)
def test_the_full_tick_decides_what_the_incremental_one_does(seeds: range) -> None:
    """The oracle: same events, same actions, same trees after each tick."""
    for seed in seeds:
        play_twins(History(seed))


@pytest.mark.parametrize("seed", range(5))
def test_the_same_seed_gives_the_same_trace(seed: int) -> None:
    """I10, in one process."""
    first, again = (History(seed).begin() for _ in range(2))
    first.play()
    again.play()
    assert first.sim.trace.lines == again.sim.trace.lines
    assert len(first.sim.trace.lines) > 10


@pytest.mark.proc
def test_the_replay_command_prints_the_same_trace_in_another_process() -> None:
    """I10 across processes: no hash seed, no address, no set's order is in a trace."""
    run = History(3).begin()
    run.play(60)
    done = subprocess.run(
        [sys.executable, "-P", "ops/replay.py", "3", "--ticks", "60"],
        capture_output=True, text=True, check=True, cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines() == run.sim.trace.lines


def test_the_seeds_have_every_fault_in_them() -> None:
    """A plan that is never carried out would show nothing."""
    seen: Counter[str] = Counter()
    for seed in range(40):
        run = History(seed).begin()
        run.play()
        text = "\n".join(run.sim.trace.lines)
        seen.update(name for name, words in WORDS.items() if words in text)
    assert set(seen) == set(FAULTS)


WORDS = {
    **{name: f"fault: {name} " for name in FAULTS},
    "twice": "comes again",
    "stale": "comes again",
    "spawn_fails": "no proc can be started",
    "spike": "bad readings",
    "respec": "has another spec",
    "vanish": "vanishes",
    "shutdown": "fault: shutdown",
}


def test_drawn_plans_differ_from_seed_to_seed() -> None:
    plans = {FaultPlan.drawn(random.Random(seed)) for seed in range(20)}
    assert len(plans) == 20
