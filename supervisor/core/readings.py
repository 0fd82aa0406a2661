"""What was read of the machine.

Knows: a reading, its unit and where it came from.
Does not know: files, limits.
Invariants: a reading without a value says why.
"""

from __future__ import annotations

import msgspec


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One reading: see the module."""

    name: str
    value: float | None
    unit: str
    scope: str
    source: str
    at: float
    missing: str = ""
