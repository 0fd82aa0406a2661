"""How much of what was tried of late has failed, for an alert and for nothing else.

Knows: a window of outcomes, the share that alarms, that an alarm is given once.
Does not know: what was tried, clocks, logs, states.
Invariants: pure; a window never grows beyond its rule; an alarm is armed again only when the share
has fallen below the limit; what recorded nothing (an idle tick, a full inbox) dilutes nothing.

A reset of connections does not clear the window: in a long outage there is one every ten errors,
and a hundred outcomes would never come together.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class Rule(NamedTuple):
    """Alarm at a share of ``share`` failures among the last ``outcomes_max``, once there are at
    least ``outcomes_min``."""

    outcomes_max: int
    outcomes_min: int
    share: float = 0.9


SYNC = Rule(600, 100)
LOGIN = Rule(30, 5)


class FailureRate(msgspec.Struct, frozen=True):
    """The last ``count`` outcomes, newest in the lowest bit of ``failed`` (1 is a failure, the
    number big-endian); ``alarmed`` while the alarm that was given still holds."""

    count: int = 0
    failed: bytes = b""
    alarmed: bool = False

    @property
    def failures(self) -> int:
        """How many of them failed."""
        return int.from_bytes(self.failed, "big").bit_count()

    def with_outcome(self, failed: bool, rule: Rule) -> FailureRate:
        """The window one outcome later. It has just alarmed where ``alarmed`` is new."""
        count = min(self.count + 1, rule.outcomes_max)
        bits = (int.from_bytes(self.failed, "big") << 1 | failed) & ((1 << rule.outcomes_max) - 1)
        is_high = count >= rule.outcomes_min and bits.bit_count() >= rule.share * count
        return FailureRate(count, bits.to_bytes((bits.bit_length() + 7) // 8, "big"), is_high)
