"""Numbers of things in words.

Knows: when English wants a plural.
Does not know: what is counted.
Invariants: pure functions.
"""

from __future__ import annotations


def several(number: int, one: str, many: str = "") -> str:
    """``1 worker``, ``2 workers``; ``many`` where that is not ``one`` with an s."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"
