"""What happens to readings of the machine: a part of the closed set of `events`.

Knows: the events, their fields, how loud each is.
Does not know: how anything is read.
Invariants: as in `events`; trouble is told once per incident.
"""

from __future__ import annotations

from typing import ClassVar

from fsmv2.supervisor.core.events import Event, Level


class ReadingsLost(Event, frozen=True, kw_only=True):
    """Readings (names with commas) that have no value any more, all of one reason."""

    level: ClassVar[Level] = "warning"
    readings: str
    reason: str


class ReadingsBack(Event, frozen=True, kw_only=True):
    """Readings (names with commas) that have a value again."""

    readings: str
