"""The tables of `pools.py`: which figures there are and how they are shown.

Knows: the names that `peers.measure` and `peers.hurt` give their figures.
Does not know: how they were measured.
Invariants: pure: data in, text out. "×" is how many times better than ProcessPoolExecutor, the
median of one ratio per round, so above 1 is better for times and for rates alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from peers.figures import Better, nevers, paired_ratios, per_round, percentile, short, spread

BASE = "ProcessPoolExecutor"


class Figure(NamedTuple):
    """One column: ``name`` as recorded, the two lines of its head, which way is better, and
    whether the whole of a round's repeats is shown or their median."""

    name: str
    title: str
    unit: str
    better: Better | None = "lower"
    group: str = "speed"


FIGURES = (
    Figure("round_trip_p50_us", "round trip p50", "µs"),
    Figure("round_trip_p99_us", "round trip p99", "µs"),
    Figure("submit_p50_us", "submit cost p50", "µs"),
    Figure("submit_p99_us", "submit cost p99", "µs"),
    Figure("throughput_per_s", "single submissions", "/s", "higher"),
    Figure("one_in_flight_per_s", "same, one in flight", "/s", "higher"),
    Figure("pool_up_ms", "pool up", "ms", "lower", "start"),
    Figure("unique_mib", "idle proc, USS", "MiB", "lower", "start"),
    Figure("slot_loop_ms", "Python loop", "ms", "lower", "hangs"),
    Figure("slot_noterm_ms", "SIGTERM ignored", "ms", "lower", "hangs"),
    Figure("slot_gil_ms", "C holds the GIL", "ms", "lower", "hangs"),
    Figure("replaced_ms", "SIGKILL by hand", "ms", "lower", "hangs"),
    Figure("proc_start_ms", "same, no spare", "ms", "lower", "hangs"),
    Figure("told_ms", "death told", "ms", "lower", "deaths"),
    Figure("lost_bystanders", "bystander lost", "of 1", None, "deaths"),
    Figure("lost_queued", "queued lost", "of 4", None, "deaths"),
    Figure("midwrite_told_ms", "mid-write: told", "ms", "lower", "deaths"),
    Figure("midwrite_lost_bystanders", "bystander lost", "of 1", None, "deaths"),
    Figure("midwrite_new_tasks_run", "new tasks run", "of 4", None, "deaths"),
    Figure("kills_survived", "kills survived", "", None, "kills"),
    Figure("kills_lost", "tasks told as lost", "", None, "kills"),
    Figure("kills_untold", "tasks not told of within 1 s", "", None, "kills"),
    Figure("kills_fds_more", "fds more", "", None, "kills"),
    Figure("kills_zombies", "zombies", "", None, "kills"),
)
TITLES = {
    "speed": "Speed: no-op tasks from one thread",
    "start": "Start and memory: constructor to first result; private memory of one idle proc",
    "hangs": "Deadline (50 ms) to the next task running on the slot, while a task holds the other",
    "deaths": "One proc SIGKILLed: under a task; in the middle of writing a 900 kB result",
    "kills": "Random SIGKILLs under traffic, until nothing submitted later succeeds any more",
}

Measured = Sequence[dict[str, Any]]  # rounds as in the JSON: round, peer, group, figures


def by_round(rounds: Measured, peer: str, figure: Figure) -> dict[int, list[float]]:
    """Round number to what that round gave; rounds without the figure are left out."""
    found = {}
    for each in rounds:
        if each["peer"] == peer and each["group"] == figure.group:
            values = per_round(each["figures"].get(figure.name))
            if values:
                found[each["round"]] = values
    return found


def medians(rounds: Measured, peer: str, figure: Figure) -> dict[int, float]:
    """Round number to the median of that round."""
    return {
        number: percentile(values, 0.5) for number, values in by_round(rounds, peer, figure).items()
    }


def cell(rounds: Measured, peer: str, figure: Figure) -> str:
    """Median of the rounds' medians [lowest-highest seen] ×ratio, "never" where nothing came."""
    mine = [r for r in rounds if r["peer"] == peer and r["group"] == figure.group]
    never = sum(nevers(r["figures"].get(figure.name)) for r in mine)
    middle = medians(rounds, peer, figure)
    seen = spread([value for values in by_round(rounds, peer, figure).values() for value in values])
    whole = spread(list(middle.values()))
    if seen is None or whole is None:
        return "never" if never else "-"
    if figure.better is None:
        return (
            _count(seen.low) if seen.low == seen.high else f"{_count(seen.low)}-{_count(seen.high)}"
        )
    text = short(whole.median)
    if seen.low != seen.high:
        text += f" [{short(seen.low)}-{short(seen.high)}]"
    if peer != BASE:
        ratios = spread(paired_ratios(middle, medians(rounds, BASE, figure), figure.better))
        if ratios is not None:
            text += f" ×{short(ratios.median)}"
    return text + (f", {never}× never" if never else "")


def _count(value: float) -> str:
    return f"{value:,.0f}"


def rows_of(rounds: Measured, peers: Iterable[str], group: str) -> list[list[str]]:
    """One group's table with its head; empty when nothing of it was measured."""
    rows = [
        peer for peer in peers if any(r["peer"] == peer and r["group"] == group for r in rounds)
    ]
    shown = [
        figure
        for figure in FIGURES
        if figure.group == group and any(cell(rounds, peer, figure) != "-" for peer in rows)
    ]
    if not rows or not shown:
        return []
    heads = ["pool", *(f"{f.title} {f.unit}".strip() for f in shown)]
    return [heads, *([peer, *(cell(rounds, peer, figure) for figure in shown)] for peer in rows)]
