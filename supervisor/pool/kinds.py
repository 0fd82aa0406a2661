"""What the pool knows of each action type: how to send it, and how its attempts have fared.

Knows: a type's wire form, limits, running attempts, mean run time, quarantine.
Does not know: procs, queues, pipes.
Invariants: what is derived from a type is derived once; at most ``concurrency`` attempts of a
type are at work, one of a quarantined type; an attempt that is held back here is in no queue.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fsmv2.ipc.codec import decoder_of, plain_decoder
from fsmv2.ipc.redact import may_hide
from fsmv2.supervisor.core import quarantine
from fsmv2.supervisor.core.action import (
    Action,
    action_name,
    action_reference,
    check_action_type,
    value_type,
)
from fsmv2.supervisor.core.errors import SpecError

if TYPE_CHECKING:
    from fsmv2.supervisor.pool.attempts import Attempt
    from fsmv2.supervisor.pool.lanes import Lane

# A type whose attempts end faster than this on average may wait in a proc's pipe.
SHORT_S = 0.001
_WEIGHT = 0.1
# What waits in one pipe is done within this time, if all is as it was: so long an urgent attempt
# may have to wait, too.
PIPE_S = 0.015
# What is not known yet counts as long: some four short ones make a short type.
_UNKNOWN_S = 1.4 * SHORT_S
# The limits that a proc sets itself, and may fail to lift.
_IN_PROC = ("address_space_bytes", "cpu_s", "open_files", "processes", "niceness")


class ActionKind:
    """One action type, for one pool."""

    __slots__ = (
        "concurrency",
        "decode",
        "decode_bare",
        "flows",
        "grace_s",
        "heartbeat_s",
        "held",
        "home",
        "is_guarded",
        "is_limited",
        "is_proven",
        "is_quiet",
        "is_simple",
        "lane",
        "limits",
        "may_hide",
        "may_wait_in_pipe",
        "mean_ran_s",
        "name",
        "record",
        "reference",
        "running",
        "timeout_s",
        "timeout_s_max",
        "type",
        "value_may_hide",
        "value_type",
        "wakes_at",
    )  # fmt: skip

    def __init__(self, kind: type[Action], home: Lane | None = None) -> None:
        check_action_type(kind)
        # Where its attempts go unless told otherwise; None: there is no such lane.
        self.home = home
        self.type = kind
        self.name = action_name(kind)
        self.reference = action_reference(kind)
        self.value_type = value_type(kind)
        # The value of an attempt, as `execute` is annotated. Raises `FrameError`.
        self.decode = decoder_of(self.value_type)
        # The same for the hottest path, where any exception is a reason to leave it.
        self.decode_bare = _bare_decoder(self.value_type, self.decode)
        self.timeout_s = float(kind.timeout_s)
        self.timeout_s_max = kind.timeout_s_max
        self.heartbeat_s = math.inf if kind.heartbeat_s is None else kind.heartbeat_s
        self.grace_s = kind.grace_s
        self.lane = kind.lane
        self.limits = kind.limits
        self.concurrency = kind.limits.concurrency
        self.is_guarded = kind.limits.memory_bytes is not None or kind.limits.processes is not None
        self.may_hide = may_hide(kind)
        self.value_may_hide = may_hide(self.value_type)
        self.running = 0
        self.mean_ran_s = _UNKNOWN_S
        self.is_limited = any(getattr(kind.limits, name) is not None for name in _IN_PROC)
        # Nothing must be redacted, sampled or lifted for one of several in a pipe.
        self.is_quiet = not (self.may_hide or self.is_guarded or self.is_limited)
        self.may_wait_in_pipe = False
        # Whether it may, without a further look at the type.
        self.flows = False
        # Whether an attempt has ever answered: its module can be imported in a proc.
        self.is_proven = False
        # Whether an answer asks for nothing but to be passed on: see `Answers`.
        self.is_simple = False
        self.record = quarantine.CLEAN
        self.held: deque[Attempt] = deque()
        # When the next of those that are in quarantine is looked at, if a look is due at all.
        self.wakes_at = 0.0

    def __repr__(self) -> str:
        apart = ", quarantined" if self.record.is_quarantined else ""
        return f"<{self.name}: {self.running} running, {len(self.held)} held back{apart}>"

    @property
    def is_full(self) -> bool:
        """Whether no further attempt may be given to a proc of a lane now."""
        return self.record.since is not None or (
            self.concurrency is not None and self.running >= self.concurrency
        )

    def prove(self) -> None:
        """An attempt has answered for the first time."""
        self.is_proven = True
        self.is_simple = not (self.is_limited or self.may_hide) and self.concurrency is None

    def ran(self, *seconds: float) -> None:
        """Attempts answered after so many ``seconds`` each."""
        mean = self.mean_ran_s
        for each in seconds:
            # A share of each run: a single long one makes the type a long one for some dozens.
            mean += (each - mean) * _WEIGHT
        self.mean_ran_s = mean
        self.may_wait_in_pipe = mean < SHORT_S and self.is_quiet
        self.flows = self.may_wait_in_pipe and self.is_simple

    def depth(self, most: int) -> int:
        """How many attempts may wait in the pipe of a proc that runs one of these, of ``most``."""
        mean = self.mean_ran_s
        return most if mean * most <= PIPE_S else int(PIPE_S / mean)

    def spoke(self) -> None:
        """An attempt wrote to standard output or error. Whose lines those are is certain only
        while no other attempt of the type waits in the same proc's pipe."""
        self.is_quiet = self.may_wait_in_pipe = self.flows = False


def _bare_decoder(kind: Any, decode: Callable[[Any], Any]) -> Callable[[Any], Any]:
    try:
        return plain_decoder(kind)
    except TypeError:  # an annotation that says nothing: `decode` says so
        return decode


class Kinds(dict[type[Action], ActionKind]):
    """All types a pool with these ``lanes`` has seen. ``kinds[type]`` makes the record on first
    use."""

    def __init__(self, lanes: Mapping[str, Lane], graces: Mapping[str, float]) -> None:
        super().__init__()
        self._lanes = lanes
        self._graces = graces

    def quarantined(self) -> dict[str, ActionKind]:
        """Those that are kept apart by name; by reference (``module:name``) where several of them
        have one name."""
        apart = [kind for kind in list(self.values()) if kind.record.is_quarantined]
        by_name: dict[str, set[str]] = {}
        for kind in apart:
            by_name.setdefault(kind.name, set()).add(kind.reference)
        return {
            kind.name if len(by_name[kind.name]) == 1 else kind.reference: kind for kind in apart
        }

    def quarantined_as(self, name: str) -> list[ActionKind]:
        """Those in quarantine that ``name`` means: a type's short name or its reference. Raises
        `SpecError` when it means several."""
        apart = [kind for kind in list(self.values()) if kind.record.is_quarantined]
        found = [kind for kind in apart if name in (kind.name, kind.reference)]
        references = sorted({kind.reference for kind in found})
        if len(references) > 1:
            raise SpecError(
                f"cannot tell which action type {name!r} is: {len(references)} of that name are in "
                f"quarantine; want one of {', '.join(references)}"
            )
        return found

    def __missing__(self, kind: type[Action]) -> ActionKind:
        """The record of ``kind``. Raises `SpecError` for a type that cannot be sent."""
        home = self._lanes.get(kind.lane) if isinstance(kind.lane, str) else None
        known = self[kind] = ActionKind(kind, home)
        known.grace_s = self._graces.get(known.reference, known.grace_s)
        return known
