"""For how long the pool's background thread sleeps while callers drive.

Knows: whether results are asked for one after the other, whether more is open than that.
Does not know: threads, locks, the pool.
Invariants: what is open is looked at within `ROW_NAP_S` once nobody drives any more.

Each time the thread wakes, it takes the interpreter from a caller that asks for result after result
(measured: naps of 1 ms cost it 13 %). So in a row of such calls it naps for longer: for long while
nothing else is open, and then it is rung when there is more.
"""

from __future__ import annotations

NAP_S = 0.001
ROW_NAP_S = 0.003
LONG_NAP_S = 0.01
# The longest wait, and moments: not before it is rung, at once.
WAIT_S_MAX = 3600.0
NEVER = float("inf")
SOON = 0.0
# So many callers that lead in a nap are a row of calls.
ROW_OF_TERMS = 4


def how_long(is_row: bool, has_more: bool) -> float:
    """Seconds. ``is_row``: callers lead one after the other; ``has_more``: something is open that
    none of them waits for."""
    if not is_row:
        return NAP_S
    return ROW_NAP_S if has_more else LONG_NAP_S
