"""A clock that stands still until it is told to move.

Knows: monotonic and wall seconds, which move together unless the wall clock is set.
Does not know: who reads it.
Invariants: monotonic seconds never go back.
"""

from __future__ import annotations

START = 1000.0  # monotonic seconds; not 0, so that nobody mistakes a moment for a duration
WALL = 1_700_000_000.0  # seconds since the epoch


class ManualClock:
    """``now`` is monotonic seconds, ``wall`` seconds since the epoch."""

    def __init__(self, start: float = START, wall: float = WALL) -> None:
        self.now = self.start = start
        self._ahead = wall - start

    def __repr__(self) -> str:
        return f"<ManualClock {self.elapsed_s:.3f} s after its start>"

    @property
    def wall(self) -> float:
        """Seconds since the epoch."""
        return self.now + self._ahead

    @property
    def elapsed_s(self) -> float:
        """Seconds since its start."""
        return self.now - self.start

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        self.set(self.now + seconds)

    def step_wall(self, seconds: float) -> None:
        """The wall clock is set forward or back, as by an operator or by NTP."""
        self._ahead += seconds

    def set(self, moment: float) -> None:
        """Stand at ``moment``; raises ValueError for one that has passed."""
        if not moment >= self.now:
            raise ValueError(f"cannot set the clock: got {moment!r}, want at least {self.now!r}")
        self.now = moment
