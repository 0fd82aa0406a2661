"""Machine readings that a test sets.

Knows: what is wrong with the machine, and until when.
Does not know: what the engine makes of it.
Invariants: without a word from the test, the machine is well.
"""

from __future__ import annotations

from fsmv2.supervisor.testing.clock import ManualClock


class FakeProbe:
    """In place of what reads the machine: `trip` opens the infrastructure breaker, `clear`
    closes it, both from the next tick on."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._reason: str | None = None
        self._until = float("inf")

    def __repr__(self) -> str:
        return f"<FakeProbe {self.trouble or 'well'}>"

    def trip(self, reason: str, for_s: float = float("inf")) -> None:
        """The machine is in trouble from now on, for so many seconds."""
        self._reason, self._until = reason, self._clock.now + for_s

    def clear(self) -> None:
        """The machine is well."""
        self._reason = None

    @property
    def trouble(self) -> str | None:
        """What is wrong now; None: nothing is."""
        return self._reason if self._clock.now < self._until else None

    def next_moment(self) -> float | None:
        """When that changes by itself."""
        is_due = self._reason is not None and self._clock.now < self._until < float("inf")
        return self._until if is_due else None
