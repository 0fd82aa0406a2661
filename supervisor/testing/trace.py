"""What happened, as lines of text: the same for the same seed.

Knows: events, remarks, their moments and ticks.
Does not know: why.
Invariants: I10, no line holds an address, a real time or the order of a set.
"""

from __future__ import annotations

from typing import Any

import msgspec

from fsmv2.supervisor.core.events import Event
from fsmv2.supervisor.testing.clock import ManualClock

LINES_SHOWN = 30
# Too long for a line, or told by another field.
_LEFT_OUT = frozenset({"traceback", "certificate", "error_scope", "impact"})


class Trace:
    """Lines, oldest first."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.lines: list[str] = []
        self.ticks = 0

    def add(self, text: str) -> None:
        """A remark."""
        self.lines.append(f"{self._clock.elapsed_s:9.3f} #{self.ticks:<4} {text}")

    def hear(self, event: Event) -> None:
        """An event."""
        fields = (
            f"{name}={_plain(value)}"
            for name, value in msgspec.structs.asdict(event).items()
            if name not in _LEFT_OUT and value not in ("", None)
        )
        self.add(f"{event.name()} {' '.join(fields)}")

    def tail(self, count: int = LINES_SHOWN) -> str:
        """The last lines."""
        return "\n".join(self.lines[-count:])


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value)
