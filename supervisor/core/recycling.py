"""When a healthy proc is replaced: after so many actions, seconds, or so much memory.

Knows: the limits, their spread.
Does not know: procs, clocks, how memory is read.
Invariants: the spread only ever shortens a life, so that no limit is exceeded; procs that were
born together do not end together.
"""

from __future__ import annotations

import msgspec


class Recycling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A proc is replaced after ``actions`` actions, ``seconds`` seconds, or once it keeps more
    than ``memory_bytes`` resident bytes after an action. None: never for that reason. Up to
    ``spread`` (a share) is taken off, another one for each proc."""

    actions: int | None = None
    seconds: float | None = None
    memory_bytes: int | None = None
    spread: float = 0.2


NEVER = Recycling()


def due(
    rules: Recycling, spread: float, *, actions: int, seconds: float, memory_bytes: int | None
) -> str | None:
    """Why a proc that has run ``actions`` actions in ``seconds`` is to be replaced now, or None.

    ``spread`` in [0, 1) is the proc's own, drawn once. ``memory_bytes`` None: not read.
    """
    share = 1.0 - rules.spread * spread
    if rules.actions is not None and actions >= max(1, rules.actions * share):
        return f"{actions} actions"
    if rules.seconds is not None and seconds >= rules.seconds * share:
        return f"{seconds:.0f} s"
    if (
        rules.memory_bytes is not None
        and memory_bytes is not None
        and memory_bytes > rules.memory_bytes * share
    ):
        return f"{memory_bytes} bytes resident"
    return None


def oldest_s(rules: Recycling, spread: float) -> float | None:
    """The age in seconds at which a proc is replaced even if it is idle."""
    return None if rules.seconds is None else rules.seconds * (1.0 - rules.spread * spread)
