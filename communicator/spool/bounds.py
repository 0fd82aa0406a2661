"""How much a spool takes, and what it says when it is full.

Knows: the two bounds and the two policies.
Does not know: folders, who writes.
Invariants: pure; nothing is dropped here: what is not admitted is raised at whoever brings it.

The policies: ``refuse`` admits every message up to the bounds. ``replies_first``, the default,
admits statuses up to half of them only, so that an outage fills a spool with heartbeats to the
middle and all the rest is for replies, which nobody would send again. A status that is not
admitted is dropped by its publisher, counted, and made good by a full one later; dropping the
oldest instead would rewrite files under the eyes of the push, and break the row of increments
just the same.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec

REPLACEABLE_SHARE = 0.5
MESSAGE_BYTES_MAX = 64 * 1024 * 1024
# What others put there as a file may be of any size; more than this nobody reads.
FILE_BYTES_MAX = 256 * 1024 * 1024


class Policy(StrEnum):
    """What a spool does as it fills up."""

    REFUSE = "refuse"
    REPLIES_FIRST = "replies_first"


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At most ``messages_max`` messages and ``bytes_max`` bytes wait at a time.

    Every writer counts what is there before it writes; so many writers as write in the same
    moment, so many of their groups may be beyond it. ``policy`` is one of `Policy`, or its text.
    """

    messages_max: int = 10_000
    bytes_max: int = 256 * 1024 * 1024
    policy: str = Policy.REPLIES_FIRST

    def __post_init__(self) -> None:
        if self.messages_max < 1 or self.bytes_max < 1:
            raise ValueError(
                f"cannot bound a spool: got messages_max {self.messages_max} and bytes_max "
                f"{self.bytes_max}, want at least 1 of each"
            )
        if self.policy not in tuple(Policy):
            known = " or ".join(repr(str(each)) for each in Policy)
            raise ValueError(f"cannot bound a spool: got policy {self.policy!r}, want {known}")


class Usage(NamedTuple):
    """What waits in a folder."""

    messages: int = 0
    bytes: int = 0
    files: int = 0


class SpoolFull(Exception):
    """A spool that takes no more for now. Keep the message and try again, or drop and count it."""

    def __init__(self, where: str, usage: Usage, bounds: Bounds, share: float) -> None:
        self.usage = usage
        self.bounds = bounds
        super().__init__(
            f"cannot spool in {where}: {usage.messages} messages with {usage.bytes} bytes wait, "
            f"want at most {bounds.messages_max * share:.0f} and {bounds.bytes_max * share:.0f}"
            + ("" if share == 1.0 else " for statuses (policy replies_first)")
        )


class TooLarge(ValueError):
    """A message that no spool takes."""


def check_admitted(
    where: str, bounds: Bounds, present: Usage, more: Usage, replaceable: bool
) -> None:
    """Raise `SpoolFull` unless ``more`` may come to what is ``present`` in the spool ``where``.

    An empty spool admits any one message: one that is larger than the whole would wait for ever.
    """
    if not present.messages and more.messages <= 1:
        return
    halved = replaceable and bounds.policy == Policy.REPLIES_FIRST
    share = REPLACEABLE_SHARE if halved else 1.0
    messages = present.messages + more.messages
    size = present.bytes + more.bytes
    if messages > bounds.messages_max * share or size > bounds.bytes_max * share:
        raise SpoolFull(where, present, bounds, share)
