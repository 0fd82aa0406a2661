"""Growing waits. Arithmetic only.

Knows: delays from failure counts.
Does not know: clocks, what is retried; the spread is an argument in [0, 1).
Invariants: a delay never exceeds its cap. Source of the defaults: ticket phase 1 (1 s × 2, cap
60 s).
"""

from __future__ import annotations


def delay_s(
    failures: int,
    spread: float,
    *,
    base_s: float = 1.0,
    factor: float = 2.0,
    max_s: float = 60.0,
    jitter: float = 0.2,
) -> float:
    """Seconds to wait after ``failures`` failures in a row (0 gives 0).

    ``spread`` in [0, 1) takes up to ``jitter`` (a share) off, so that the cap holds.
    """
    if failures <= 0:
        return 0.0
    # The exponent is bounded: 2.0 ** 5000 would overflow a float.
    wait = min(max_s, base_s * factor ** min(failures - 1, 64))
    return wait * (1.0 - jitter * spread)
