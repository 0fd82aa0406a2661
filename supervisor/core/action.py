"""Actions, their results and death certificates: the data that crosses to a proc and back.

Knows: what an action is, how it may end, what is said of one that did not end by itself.
Does not know: procs, channels, clocks.
Invariants: an action is immutable data plus `execute`; a result never raises for the action's
own fate.
"""

from __future__ import annotations

import math
import typing
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import msgspec

from fsmv2.supervisor.core.errors import FsmError, SpecError

Status = Literal["succeeded", "failed", "timed_out", "crashed", "cancelled", "refused"]
TIMEOUT_S_MAX = 86_400.0


class Retry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the framework waits before it offers an action type again that has failed.

    The wait is ``base_s * factor ** (failures - 1)``, at most ``max_s``, spread by up to
    ``jitter`` (a share of the wait) so that many workers do not come back at one moment.
    Source: fsmv2-behaviour.md, decision "retries".
    """

    base_s: float = 1.0
    factor: float = 2.0
    max_s: float = 30.0
    jitter: float = 0.2


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    concurrency: int | None = None
    memory_bytes: int | None = None
    processes: int | None = None


class ActionContext(Protocol):
    """What a running action can ask for and say. Lives in the proc."""

    @property
    def attempt_id(self) -> int:
        """The number of this attempt; unique in the life of the root."""

    @property
    def deadline_s(self) -> float:
        """Seconds left until this attempt is killed; negative inside ``grace_s``."""

    @property
    def cancelled(self) -> bool:
        """True once the root wants this attempt to end: clean up and return."""

    @property
    def scratch(self) -> Path:
        """A folder of this proc's own, removed after its death."""

    def progress(self, text: str) -> None:
        """Say how far the action is; shown beside the action in flight."""

    def log(self, event: str, level: str = "info", **fields: Any) -> None:
        """Write one log record; the root adds path, attempt and action."""


class Action(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One idempotent effect. Subclass it with ``frozen=True`` and override `execute`.

    Fields are the parameters and cross the channel as msgpack. The class variables say how
    the pool treats it: ``timeout_s`` seconds from its start until it is killed; ``grace_s``
    seconds more in which `ActionContext.cancelled` is true before the kill; ``retry`` the wait
    after a failure. Actions must be idempotent: an attempt may be killed at any instruction.
    """

    timeout_s: ClassVar[float] = 30.0
    grace_s: ClassVar[float] = 0.0
    retry: ClassVar[Retry] = Retry()
    timeout_s_max: ClassVar[float | None] = None
    heartbeat_s: ClassVar[float | None] = None
    lane: ClassVar[str] = "actions"
    limits: ClassVar[Limits] = Limits()

    def execute(self, ctx: ActionContext) -> Any:
        """Do it. Runs in a proc; may block, crash, leak or hang. What it returns is encoded as
        msgpack and decoded in the root as this method's return annotation."""
        raise NotImplementedError(f"{type(self).__qualname__}.execute")


class ActionError(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an action raised: the exception's type, text and traceback."""

    type: str
    message: str
    traceback: str = ""

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class DeathCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """Why and how an attempt was ended from outside, or its proc died under it.

    Every field says what was read; None means it could not be. ``verdict`` is one of
    timed_out, crashed:SIGNAL, exited:CODE, killed_from_outside, stopped_process, cancelled,
    lost_channel. ``sent_by`` says who sent the signal and how we know. Seconds for durations,
    seconds since the epoch for moments, bytes for memory.
    """

    verdict: str
    signal: str | None = None
    exit_code: int | None = None
    sent_by: str | None = None
    stack: str | None = None
    wait_channel: str | None = None
    cpu_s: float | None = None
    peak_memory_bytes: int | None = None
    descendants_killed: int = 0
    log_tail: tuple[str, ...] = ()
    started_at: float | None = None
    ended_at: float | None = None
    slot_back_s: float | None = None
    detail: str | None = None


class ActionResult(msgspec.Struct, frozen=True, kw_only=True):
    """How one attempt ended. ``status`` decides; the other fields explain.

    ``queued_s`` and ``ran_s`` are seconds; ``ended_at`` is seconds since the epoch. ``value``
    is set for succeeded, ``error`` for failed and refused, ``certificate`` for timed_out,
    crashed and cancelled-while-running.
    """

    status: Status
    action_type: str
    attempt_id: int
    value: Any = None
    error: ActionError | None = None
    certificate: DeathCertificate | None = None
    queued_s: float = 0.0
    ran_s: float = 0.0
    ended_at: float = 0.0

    @property
    def succeeded(self) -> bool:
        """True when the action returned."""
        return self.status == "succeeded"

    @property
    def verdict(self) -> str:
        """The certificate's verdict where there is one, else the status."""
        return self.certificate.verdict if self.certificate is not None else self.status

    def value_or_raise(self) -> Any:
        """Return ``value``, or raise `ActionFailed` that carries this result."""
        if self.status == "succeeded":
            return self.value
        raise ActionFailed(self)


class ActionFailed(FsmError):
    """Raised by `ActionResult.value_or_raise`; ``result`` holds the whole story."""

    def __init__(self, result: ActionResult) -> None:
        self.result = result
        why = str(result.error) if result.error is not None else result.verdict
        super().__init__(f"{result.action_type} {result.status} after {result.ran_s:.3f} s: {why}")


def action_name(kind: type[Action]) -> str:
    """The short name an action type is shown and counted under."""
    return kind.__qualname__


def action_reference(kind: type[Action]) -> str:
    """``module:qualname``, which a proc imports.

    Raises `SpecError` for a class made inside a function: no other process can import it.
    """
    if "<locals>" in kind.__qualname__:
        raise SpecError(
            f"cannot send action {kind.__qualname__}: it is defined inside a function, "
            "want a class at the top level of a module"
        )
    return f"{kind.__module__}:{kind.__qualname__}"


def value_type(kind: type[Action]) -> Any:
    """The type an action's value is decoded as: the return annotation of `execute`.

    Raises `SpecError` when the annotation names something its module does not have.
    """
    try:
        hints = typing.get_type_hints(kind.execute)
    except (NameError, TypeError, AttributeError) as error:
        raise SpecError(
            f"cannot read the return annotation of {kind.__qualname__}.execute: {error}"
        ) from None
    return hints.get("return", Any)


def check_action_type(kind: type[Action]) -> None:
    """Raise `SpecError` unless ``kind``'s class variables are usable."""
    for name, low in (("timeout_s", 1e-6), ("grace_s", 0.0)):
        got = getattr(kind, name)
        fine = isinstance(got, int | float) and not isinstance(got, bool) and math.isfinite(got)
        if not fine or not low <= got <= TIMEOUT_S_MAX:
            raise SpecError(
                f"cannot use action {kind.__qualname__}: {name} is {got!r}, "
                f"want seconds from {low:g} to {TIMEOUT_S_MAX:g}"
            )
    action_reference(kind)
    value_type(kind)
