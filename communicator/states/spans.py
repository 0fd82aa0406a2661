"""Times to come as the states' reasons tell them: in steps, not in ticks.

A reason is shown, published and kept whenever it changes. A count of tenths of a second would
change with every tick and say nothing: the store had eleven changes a second of an idle worker.

Knows: the steps.
Does not know: what there is to wait for.
Invariants: pure; what is said is true for all of its step: no later than, and at least.
"""

from __future__ import annotations

import math

SOON_S = 5
MINUTE_S, HOUR_S = 60, 3600


def within(what: str, seconds: float) -> str:
    """``; WHAT within 10 s``, rounded up; nothing for what comes in `SOON_S` or less."""
    if seconds <= SOON_S:
        return ""
    step_s, unit, unit_s = _step(seconds)
    return f"; {what} within {math.ceil(seconds / step_s) * step_s // unit_s} {unit}"


def at_least(seconds: float) -> str:
    """``22 h``, rounded down."""
    step_s, unit, unit_s = _step(seconds)
    return f"{math.floor(seconds / step_s) * step_s // unit_s} {unit}"


def _step(seconds: float) -> tuple[int, str, int]:
    """Seconds between two values that are told; the unit, and its seconds."""
    if seconds <= 2 * MINUTE_S:
        return SOON_S, "s", 1
    if seconds <= 2 * HOUR_S:
        return MINUTE_S, "min", MINUTE_S
    return HOUR_S, "h", HOUR_S
