"""From raw figures of rounds to medians, spreads and paired ratios.

Knows: numbers.
Does not know: pools, processes, how tables look.
Invariants: pure; a ratio compares two figures of one round only, because on a shared machine
rounds differ more than pools do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

Better = Literal["lower", "higher"]


class Spread(NamedTuple):
    """The middle, the smallest and the largest of some figures."""

    median: float
    low: float
    high: float


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` (0 to 1) of ``values`` lie at or below: the nearest rank, no
    interpolation, so that it is a value that was seen. Raises ValueError without values."""
    if not values:
        raise ValueError("cannot give a percentile: got no values, want at least one")
    ordered = sorted(values)
    rank = -int(-len(ordered) * share // 1)  # rounded up
    return ordered[min(len(ordered), max(1, rank)) - 1]


def spread(values: Sequence[float]) -> Spread | None:
    """Median, low and high; None without values. Of an even number the lower middle."""
    if not values:
        return None
    return Spread(percentile(values, 0.5), min(values), max(values))


def times_better(value: float, base: float, better: Better) -> float | None:
    """How many times better ``value`` is than ``base``; None where the quotient has no sense."""
    if value <= 0 or base <= 0:
        return None
    return base / value if better == "lower" else value / base


def paired_ratios(
    values: Mapping[int, float], base: Mapping[int, float], better: Better
) -> list[float]:
    """One ratio for each round (the mappings' keys) in which both were measured."""
    found = []
    for number, value in values.items():
        if number in base:
            ratio = times_better(value, base[number], better)
            if ratio is not None:
                found.append(ratio)
    return found


def short(value: float) -> str:
    """A figure with three significant digits or so: 0.61, 8.3, 147, 27,200."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}".removesuffix(".0")
    return f"{value:.2f}"


def per_round(values: object) -> list[float]:
    """What one round gave for one figure: a number, a list of them, None for "never"."""
    if isinstance(values, bool) or values is None:
        return []
    if isinstance(values, int | float):
        return [float(values)]
    if isinstance(values, list):
        return [float(each) for each in values if isinstance(each, int | float)]
    return []


def nevers(values: object) -> int:
    """How often one round's repeats of a figure did not come within the watch limit."""
    return sum(each is None for each in values) if isinstance(values, list) else 0
