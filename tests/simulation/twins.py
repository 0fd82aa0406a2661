"""One history, two simulations side by side: one looks at what has changed, one at everything.

Knows: what must be equal after each tick.
Does not know: what the history is.
Invariants: both tick on one grid of moments. (A decision that depends on the time may be taken at
any tick; so that it is taken at the same one, no tick comes between two of the grid.)
"""

from __future__ import annotations

from typing import Any

from worlds import INTERVAL_S, History, Run

from fsmv2.supervisor.tree.node import Node


def play_twins(history: History) -> tuple[Run, Run]:
    """Play ``history`` in both ways; raises AssertionError at the first difference."""
    pair = history.begin(), history.begin(full=True)
    heard = 0
    ticks = int((history.length_s + 20) / INTERVAL_S)
    for count in range(1, ticks):
        moment = pair[0].sim.clock.start + count * INTERVAL_S
        for run in pair:
            if run.sim.stopped:
                return pair
            run.do_due()
            if moment > run.sim.clock.start + history.length_s and run.sim.engine.stopping is None:
                run.sim.stop("the history is over")
            run.sim.tick_at(moment)
        heard = compare(pair, heard)
    return pair


def compare(pair: tuple[Run, Run], heard: int) -> int:
    """Whether both have heard and done the same up to now."""
    lines, full_lines = (run.sim.trace.lines for run in pair)
    seed = pair[0].history.seed
    for one, other in zip(lines[heard:], full_lines[heard:], strict=False):
        assert one == other, story(seed, lines, one, other)
    count = min(len(lines), len(full_lines))
    assert len(lines) == len(full_lines), story(
        seed, lines[:count], *(["".join(each[count : count + 1]) for each in (lines, full_lines)])
    )
    for one, other in zip(*(run.sim.engine.nodes() for run in pair), strict=True):
        assert seen(one) == seen(other), story(seed, lines, str(seen(one)), str(seen(other)))
    return count


def seen(node: Node) -> tuple[Any, ...]:
    """What decisions come to; not the reason, which may hold how long something takes."""
    in_flight = node.attempt.attempt_id if node.attempt is not None else None
    looks = node.observation.attempt_id if node.observation is not None else None
    return (
        node.path, node.generation, node.state_name, node.desired_word, node.stop_asked,
        node.held_by, node.leaving, in_flight, looks, node.status, node.fault_count,
        tuple(node.children),
    )  # fmt: skip


def story(seed: int, lines: list[str], one: str, other: str) -> str:
    """What differs, and what came before it."""
    before = "\n".join(lines[-30:])
    return (
        f"seed {seed}: the incremental tick and the full one differ\nincremental: {one}\n"
        f"full:        {other}\nbefore it:\n{before}"
    )
