"""Machine readings that a test sets.

Knows: what is read of the machine, what is wrong with it, and until when.
Does not know: what the engine makes of it.
Invariants: without a word from the test, the machine is well; it is read once a second.
"""

from __future__ import annotations

from collections.abc import Mapping

from fsmv2.supervisor.core.readings import Reading
from fsmv2.supervisor.testing.clock import ManualClock

INTERVAL_S = 1.0


class FakeProbe:
    """In place of what reads the machine. `set` a reading and the breaker judges it by its limit;
    `trip` is trouble that needs no limit, until `clear`."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._reason: str | None = None
        self._until = float("inf")
        self._values: dict[str, tuple[float | None, str]] = {}
        self._next = clock.now

    def __repr__(self) -> str:
        return f"<FakeProbe {self.trouble or 'well'}>"

    def set(self, name: str, value: float) -> None:
        """What is read as ``name`` from the next reading on, in its unit (shares are 0 to 1)."""
        self._values[name] = (value, "")

    def fail(self, name: str, why: str) -> None:
        """``name`` cannot be read from the next reading on."""
        self._values[name] = (None, why)

    def trip(self, reason: str, for_s: float = float("inf")) -> None:
        """The machine is in trouble from now on, for so many seconds."""
        self._reason, self._until = reason, self._clock.now + for_s

    def clear(self) -> None:
        """The machine is well: no trouble, and all that was set reads 0."""
        self._reason = None
        self._values = dict.fromkeys(self._values, (0.0, ""))

    @property
    def trouble(self) -> str | None:
        """What is wrong now; None: nothing is."""
        return self._reason if self._clock.now < self._until else None

    def take(self) -> Mapping[str, Reading] | None:
        """The readings, where it is time for new ones."""
        now = self._clock.now
        if not self._values or now < self._next:
            return None
        self._next = now + INTERVAL_S
        return {
            name: Reading(
                name=name,
                value=value,
                unit="1",
                scope="host",
                source="the test",
                at=now,
                missing=missing,
            )
            for name, (value, missing) in self._values.items()
        }

    def next_moment(self) -> float | None:
        """When something changes by itself, or is read anew."""
        is_due = self._reason is not None and self._clock.now < self._until < float("inf")
        moments = [self._until] if is_due else []
        if self._values:
            moments.append(self._next)
        return min(moments, default=None)
