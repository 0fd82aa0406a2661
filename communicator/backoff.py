"""How long to leave a relay alone after an error.

Knows: the delays per kind, Retry-After, the cap, the spread.
Does not know: clocks, states, what is tried.
Invariants: the same error of the same worker waits equally long, whoever asks and how often;
a spread only ever lengthens a wait, so that no promise of a minimum is broken.
"""

from __future__ import annotations

import hashlib

from fsmv2.communicator.transport.errors import FACTS, Problem

WAIT_S_MAX = 3600.0
SPREAD = 0.2


def delay_s(problem: Problem, errors_in_row: int) -> float:
    """Seconds to wait after the ``errors_in_row``-th error, before the spread.

    What the relay asked for wins over the schedule, from the first error on.
    """
    if problem.retry_after_s is not None and problem.retry_after_s > 0:
        return min(problem.retry_after_s, WAIT_S_MAX)
    delays = FACTS[problem.kind].delays_s
    return delays[min(max(errors_in_row, 1), len(delays)) - 1]


def wait_s(problem: Problem, errors_in_row: int, path: str) -> float:
    """Seconds from the last attempt to the next, spread by up to 20 % and at most 1 h.

    The spread comes from ``path`` and the count, not from a dice: many workers part, and the
    same decision is taken twice from the same snapshot.
    """
    spread_out = delay_s(problem, errors_in_row) * (1 + SPREAD * spread(path, errors_in_row))
    return min(spread_out, WAIT_S_MAX)


def spread(path: str, count: int) -> float:
    """A number in [0, 1) that depends on its arguments only."""
    digest = hashlib.blake2b(f"{path}#{count}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
