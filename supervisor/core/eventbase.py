"""What all events have in common.

Knows: the base of all events, how loud one may be.
Does not know: which events there are: `events` and its neighbours have them.
Invariants: past tense; one event is one log line; the event's name is static and only its
fields vary; no event holds a value of an action or a config, so no secret can be in one.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from fsmv2.supervisor.core.fsm import snake_case

Level = Literal["debug", "info", "warning", "error"]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Base. ``level`` is how loud the event is in the log."""

    level: ClassVar[Level] = "info"

    @classmethod
    def name(cls) -> str:
        """The static name: ``StateChanged`` is logged as ``state_changed``."""
        return snake_case(cls.__name__)

    def loudness(self) -> Level:
        """``level``, where this event's fields do not say otherwise."""
        return self.level
