"""What the pool knows of each action type: how to send it, and how its attempts have fared.

Knows: a type's wire form, limits, running attempts, mean run time, quarantine.
Does not know: procs, queues, pipes.
Invariants: what is derived from a type is derived once; at most ``concurrency`` attempts of a
type are at work, one of a quarantined type; an attempt that is held back here is in no queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fsmv2.ipc.codec import decode
from fsmv2.supervisor.core import quarantine
from fsmv2.supervisor.core.action import (
    Action,
    action_name,
    action_reference,
    check_action_type,
    value_type,
)

if TYPE_CHECKING:
    from fsmv2.supervisor.attempts import Attempt

# A type whose attempts end faster than this on average may wait in a proc's pipe.
SHORT_S = 0.001
SHORT_AFTER = 4
_WEIGHT = 0.1
_PLAIN = frozenset({int, float, bool, str, bytes, type(None)})


class ActionKind:
    """One action type, for one pool."""

    __slots__ = (
        "concurrency",
        "grace_s",
        "held",
        "is_guarded",
        "lane",
        "limits",
        "may_hide",
        "mean_ran_s",
        "name",
        "record",
        "reference",
        "running",
        "timed",
        "timeout_s",
        "timeout_s_max",
        "heartbeat_s",
        "type",
        "value_type",
    )  # fmt: skip

    def __init__(self, kind: type[Action]) -> None:
        check_action_type(kind)
        self.type = kind
        self.name = action_name(kind)
        self.reference = action_reference(kind)
        self.value_type = value_type(kind)
        self.timeout_s = float(kind.timeout_s)
        self.timeout_s_max = kind.timeout_s_max
        self.heartbeat_s = kind.heartbeat_s
        self.grace_s = kind.grace_s
        self.lane = kind.lane
        self.limits = kind.limits
        self.concurrency = kind.limits.concurrency
        self.is_guarded = (
            kind.limits.memory_bytes is not None or kind.limits.processes is not None
        )
        self.may_hide = _may_hide(kind)
        self.running = 0
        self.timed = 0
        self.mean_ran_s = 0.0
        self.record = quarantine.CLEAN
        self.held: deque[Attempt] = deque()

    def __repr__(self) -> str:
        apart = ", quarantined" if self.record.is_quarantined else ""
        return f"<{self.name}: {self.running} running, {len(self.held)} held back{apart}>"

    @property
    def is_short(self) -> bool:
        """Whether attempts of this type end so soon that one may wait behind another."""
        return self.timed >= SHORT_AFTER and self.mean_ran_s < SHORT_S

    @property
    def is_full(self) -> bool:
        """Whether no further attempt may be given to a proc of a lane now."""
        return self.record.since is not None or (
            self.concurrency is not None and self.running >= self.concurrency
        )

    def ran(self, seconds: float) -> None:
        """An attempt answered after ``seconds``."""
        self.timed += 1
        # A share of each run: a single long one makes the type a long one for some dozens.
        self.mean_ran_s += (seconds - self.mean_ran_s) * _WEIGHT

    def decode(self, value: Any) -> Any:
        """The value of an attempt, as `execute` is annotated. Raises `FrameError`."""
        return decode(value, self.value_type)


def _may_hide(kind: type[Action]) -> bool:
    """Whether a field could hold a secret. Only types that cannot are sorted out."""
    return any(field.type not in _PLAIN for field in _fields(kind))


def _fields(kind: type[Action]) -> tuple[Any, ...]:
    from msgspec import structs

    return structs.fields(kind)


class Kinds:
    """All types a pool has seen. ``kinds[type]`` makes the record on first use."""

    __slots__ = ("_known", "_on_new")

    def __init__(self, on_new: Callable[[ActionKind], None] = lambda kind: None) -> None:
        self._known: dict[type[Action], ActionKind] = {}
        self._on_new = on_new

    def __getitem__(self, kind: type[Action]) -> ActionKind:
        """The record of ``kind``. Raises `SpecError` for a type that cannot be sent."""
        known = self._known.get(kind)
        if known is None:
            known = self._known[kind] = ActionKind(kind)
            self._on_new(known)
        return known

    def __iter__(self) -> Any:
        return iter(self._known.values())
