"""The targets that were set for our pool, and whether a run holds them.

Knows: the table of targets, the names of figures.
Does not know: how they were measured.
Invariants: pure. What was not measured is neither held nor missed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from peers.figures import nevers, paired_ratios, percentile, short
from peers.tables import BASE, FIGURES, Measured, by_round, medians

OURS = "fsmv2"
_BY_NAME = {figure.name: figure for figure in FIGURES}


class Verdict(NamedTuple):
    """One row: what, the figure as text, the target as text, holds (None: not measured)."""

    what: str
    figure: str
    target: str
    holds: bool | None


def _values(rounds: Measured, name: str) -> list[float]:
    return [v for values in by_round(rounds, OURS, _BY_NAME[name]).values() for v in values]


def _median(rounds: Measured, name: str) -> float | None:
    middle = list(medians(rounds, OURS, _BY_NAME[name]).values())
    return percentile(middle, 0.5) if middle else None


def _ratio(rounds: Measured, name: str, base: str) -> float | None:
    """How many times better than the executor's ``base``, median of the rounds' ratios."""
    figure = _BY_NAME[base]
    found = paired_ratios(
        medians(rounds, OURS, _BY_NAME[name]),
        medians(rounds, BASE, figure),
        figure.better or "lower",
    )
    return percentile(found, 0.5) if found else None


def _limited(what: str, value: float | None, unit: str, limit: float, *, most: bool) -> Verdict:
    target = f"{'≤' if most else '≥'} {short(limit)} {unit}"
    if value is None:
        return Verdict(what, "not measured", target, None)
    return Verdict(
        what, f"{short(value)} {unit}", target, value <= limit if most else value >= limit
    )


def _never(rounds: Measured, name: str) -> int:
    return sum(nevers(each["figures"].get(name)) for each in rounds if each["peer"] == OURS)


def _p50_and_p99(rounds: Measured, what: str, name: str) -> list[Verdict]:
    values = _values(rounds, name)
    lost = _never(rounds, name)
    if lost:
        return [Verdict(what, f"{lost} times never", "always", False)]
    p50 = percentile(values, 0.5) if values else None
    p99 = percentile(values, 0.99) if values else None
    return [
        _limited(f"{what}, p50", p50, "ms", 3, most=True),
        _limited(f"{what}, p99 of {len(values)}", p99, "ms", 15, most=True),
    ]


def _all_true(rounds: Measured, what: str, name: str) -> Verdict:
    seen = [r["figures"][name] for r in rounds if r["peer"] == OURS and name in r["figures"]]
    if not seen:
        return Verdict(what, "not measured", "always", None)
    return Verdict(what, f"{sum(map(bool, seen))} of {len(seen)}", "always", all(seen))


def _exactly(rounds: Measured, what: str, name: str, wanted: int) -> Verdict:
    values = _values(rounds, name)
    if not values:
        return Verdict(what, "not measured", f"{wanted}", None)
    worst = max(values, key=lambda value: abs(value - wanted))
    return Verdict(what, f"{worst:g}", f"{wanted}", worst == wanted)


def _kills(rounds: Measured, planned: int) -> list[Verdict]:
    lost, survived = _values(rounds, "kills_lost"), _values(rounds, "kills_survived")
    rows = [_exactly(rounds, f"random SIGKILLs survived, of {planned}", "kills_survived", planned)]
    if lost and survived:
        fine = lost[0] <= survived[0]
        rows.append(Verdict("  tasks lost to them", f"{lost[0]:g}", "at most one each", fine))
    return rows


def verdicts(rounds: Measured, kills: int) -> list[Verdict]:
    """All rows, in the order of the table of targets. ``kills`` is how many were planned."""
    one_in_flight, trip = "one_in_flight_per_s", "round_trip_p50_us"
    pipelined = "throughput_per_s"
    limited: Callable[..., Verdict] = _limited
    return [
        limited("no-op round trip p50", _median(rounds, trip), "µs", 50, most=True),
        limited(
            "  against ProcessPoolExecutor", _ratio(rounds, trip, trip), "times", 4, most=False
        ),
        limited(
            "throughput, one in flight", _median(rounds, one_in_flight), "/s", 25_000, most=False
        ),
        limited(
            "  against ProcessPoolExecutor",
            _ratio(rounds, one_in_flight, "throughput_per_s"),
            "times",
            3,
            most=False,
        ),
        limited("throughput, pipelined", _median(rounds, pipelined), "/s", 100_000, most=False),
        limited(
            "  against ProcessPoolExecutor",
            _ratio(rounds, pipelined, pipelined),
            "times",
            12,
            most=False,
        ),
        limited("submit cost p50", _median(rounds, "submit_p50_us"), "µs", 2, most=True),
        *_p50_and_p99(rounds, "deadline to next action, loop", "slot_loop_ms"),
        _all_true(rounds, "  stack names the guilty", "stack_loop_named"),
        *_p50_and_p99(rounds, "same, SIGTERM ignored", "slot_noterm_ms"),
        *_p50_and_p99(rounds, "same, C holds the GIL", "slot_gil_ms"),
        limited("replaced after SIGKILL p50", _median(rounds, "replaced_ms"), "ms", 1, most=True),
        *_kills(rounds, kills),
        limited("killed mid-write, told", _median(rounds, "midwrite_told_ms"), "ms", 20, most=True),
        _exactly(rounds, "  bystanders lost", "midwrite_lost_bystanders", 0),
        limited("idle proc, USS", _median(rounds, "unique_mib"), "MiB", 8, most=True),
    ]


def verdict_rows(verdicts: list[Verdict]) -> list[list[str]]:
    """As a table with a head."""
    words = {True: "met", False: "not met", None: "-"}
    rows = [[each.what, each.figure, each.target, words[each.holds]] for each in verdicts]
    return [["target", "measured", "wanted", "verdict"], *rows]
