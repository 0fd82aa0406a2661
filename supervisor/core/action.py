"""Actions, their results and death certificates: the data that crosses to a proc and back.

Knows: what an action is, how it may end, what is said of one that did not end by itself.
Does not know: procs, channels, clocks.
Invariants: an action is immutable data plus `execute`; a result never raises for the action's
own fate.
"""

from __future__ import annotations

import re
import typing
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import msgspec

from fsmv2.supervisor.core.errors import FsmError, SpecError

Status = Literal["succeeded", "failed", "timed_out", "crashed", "cancelled", "refused"]
TIMEOUT_S_MAX = 86_400.0
HEARTBEAT_S_MIN = 0.01
LANE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


class Retry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the framework waits before it offers an action type again that has failed.

    The wait is ``base_s * factor ** (failures - 1)``, at most ``max_s``, spread by up to
    ``jitter`` (a share of the wait) so that many workers do not come back at one moment. After
    ``attempts`` failures in a row (None: never) it is not offered again until the worker's state
    or spec changes; a stop's actions always are. A worker's new config begins a new series: it is
    tried at once, whatever wait the old one had grown.
    Source: fsmv2-behaviour.md, decision "retries".
    """

    base_s: float = 1.0
    factor: float = 2.0
    max_s: float = 30.0
    jitter: float = 0.2
    attempts: int | None = None


class ActionPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a tree treats an action type, instead of what its class says; None: as it says."""

    timeout_s: float | None = None
    grace_s: float | None = None
    retry: Retry | None = None


AS_DECLARED = ActionPolicy()


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one attempt of an action type may use; None: no limit. Integers, all of them.

    Set in the proc before `Action.execute`, and lifted after it (soft limits, getrlimit(2); a
    limit that is stricter already stays):

    - ``address_space_bytes``: RLIMIT_AS, the proc's whole address space in bytes, what it had
      before included; an allocation beyond it is a MemoryError. Address space is more than
      memory in use: each thread reserves some 8 to 70 MiB of it.
    - ``cpu_s``: CPU seconds of this attempt over all threads. The kernel counts whole seconds,
      so the end comes between ``cpu_s`` and ``cpu_s`` + 1: SIGXCPU, with a stack.
    - ``open_files``: files, sockets and pipes open at a time beyond those the proc has itself;
      one more is OSError EMFILE.
    - ``processes``: processes and threads it may have started at a time. RLIMIT_NPROC counts
      all that the user runs, does not bind root, and cannot be set right where a container
      hides the user's other processes: there only the root's own watch holds this limit.
    - ``niceness``: 0 to 19, how far the attempt stands back (nice(2)). Lowering it again takes
      a privilege: without it the proc is recycled after the attempt.

    Held by the root:

    - ``memory_bytes``: resident memory of the proc; the root samples it and kills beyond it.
    - ``concurrency``: how many attempts of this type run at a time.

    What an action starts inherits the soft limits and may raise its own up to the hard ones.
    """

    address_space_bytes: int | None = None
    cpu_s: int | None = None
    open_files: int | None = None
    processes: int | None = None
    niceness: int | None = None
    memory_bytes: int | None = None
    concurrency: int | None = None


NO_LIMITS = Limits()
# The lowest that could make sense, and the highest: a larger one is a typing error.
_LIMIT_RANGES = {
    "address_space_bytes": (1 << 20, 1 << 47),
    "cpu_s": (1, int(TIMEOUT_S_MAX)),
    "open_files": (0, 1 << 20),
    "processes": (0, 1 << 20),
    "niceness": (0, 19),
    "memory_bytes": (1 << 20, 1 << 47),
    "concurrency": (1, 1 << 16),
}
_RETRY_RANGES = {
    "base_s": (0.0, TIMEOUT_S_MAX),
    "factor": (1.0, 100.0),
    "max_s": (0.0, TIMEOUT_S_MAX),
    "jitter": (0.0, 1.0),
}


class ActionContext(Protocol):
    """What a running action can ask for and say. Lives in the proc; any thread of the action
    may use it."""

    @property
    def attempt_id(self) -> int:
        """The number of this attempt; unique in the life of the root."""

    @property
    def deadline_s(self) -> float:
        """Seconds left until this attempt is killed, extensions included; negative inside
        ``grace_s``."""

    @property
    def cancelled(self) -> bool:
        """True once the root wants this attempt to end: clean up and return."""

    @property
    def stopping(self) -> bool:
        """True once the attempt's worker is asked to stop: end what has begun, begin nothing
        more. It is left alone for a few seconds yet; what the stop itself runs is not told."""

    @property
    def scratch(self) -> Path:
        """A folder of this proc's own, removed after its death."""

    def progress(self, text: str) -> None:
        """Say how far the action is; shown beside the action in flight."""

    def log(self, event: str, level: str = "info", **fields: Any) -> None:
        """Write one log record; the root adds path, attempt and action."""

    def heartbeat(self) -> None:
        """Say that the action gets on, see `Action.heartbeat_s`. Costs no system call."""

    def extend(self, seconds: float) -> float:
        """Ask for ``seconds`` more than `deadline_s` has now, up to `Action.timeout_s_max`.

        Returns the seconds left after it: no more than before where the ceiling is reached or
        the attempt is cancelled already. Raises ValueError unless ``seconds`` is a finite
        number from 0 up.
        """


class Action(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One idempotent effect. Subclass it with ``frozen=True`` and override `execute`.

    Fields are the parameters and cross the channel as msgpack. The class variables say how
    the pool treats it:

    - ``timeout_s``: seconds from an attempt's true start until it is killed.
    - ``timeout_s_max``: the ceiling in seconds from that start which `ActionContext.extend`
      can reach; None: no extension beyond ``timeout_s``.
    - ``heartbeat_s``: an attempt that has not called `ActionContext.heartbeat` for so many
      seconds, counted from its start, is killed; None: no heartbeat is asked for.
    - ``grace_s``: seconds more in which `ActionContext.cancelled` is true before the kill.
    - ``retry``: the wait after a failure.
    - ``lane``: the name of the group of procs it runs on.
    - ``limits``: what an attempt may use, see `Limits`.

    Actions must be idempotent: an attempt may be killed at any instruction.
    """

    timeout_s: ClassVar[float] = 30.0
    timeout_s_max: ClassVar[float | None] = None
    heartbeat_s: ClassVar[float | None] = None
    grace_s: ClassVar[float] = 0.0
    retry: ClassVar[Retry] = Retry()
    lane: ClassVar[str] = "actions"
    limits: ClassVar[Limits] = NO_LIMITS

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
    timed_out, hung_in_c, stopped_process, crashed:SIGNAL, exited:CODE, killed_from_outside,
    out_of_memory, too_many_processes, cancelled, lost_channel. ``sent_by`` says who sent the
    signal and how we know. Seconds for durations, seconds since the epoch for moments, bytes for
    memory.
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

    @property
    def outcome(self) -> Outcome:
        """What a history keeps of it."""
        error = self.error.type if self.error is not None else None
        return Outcome(self.status, error, self.verdict, self.ended_at, self.ran_s)

    def value_or_raise(self) -> Any:
        """Return ``value``, or raise `ActionFailed` that carries this result."""
        if self.status == "succeeded":
            return self.value
        raise ActionFailed(self)


class Outcome(msgspec.Struct, frozen=True):
    """One attempt in a worker's history, without its value. ``error`` is the type of what was
    raised; ``ended_at`` seconds since the epoch, ``ran_s`` seconds."""

    status: Status
    error: str | None
    verdict: str
    ended_at: float
    ran_s: float


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


@lru_cache(maxsize=4096)  # asked before every submission; a type's declarations do not change
def check_action_type(kind: type[Action]) -> None:
    """Raise `SpecError` unless ``kind``'s class variables are usable."""
    _check_seconds(kind, "timeout_s", 1e-6, TIMEOUT_S_MAX)
    _check_seconds(kind, "grace_s", 0.0, TIMEOUT_S_MAX)
    if kind.timeout_s_max is not None:
        _check_seconds(kind, "timeout_s_max", kind.timeout_s, TIMEOUT_S_MAX)
    if kind.heartbeat_s is not None:
        _check_seconds(kind, "heartbeat_s", HEARTBEAT_S_MIN, TIMEOUT_S_MAX)
    # What a class declares is typed for readers only: look at what is really there.
    lane: Any = kind.lane
    if not isinstance(lane, str) or not LANE_NAME.fullmatch(lane):
        raise _unusable(kind, "lane", lane, f"a name like {LANE_NAME.pattern}")
    limits: Any = kind.limits
    if not isinstance(limits, Limits):
        raise _unusable(kind, "limits", limits, "Limits(…)")
    for name, (low, high) in _LIMIT_RANGES.items():
        got = getattr(limits, name)
        whole = isinstance(got, int) and not isinstance(got, bool)
        if got is not None and not (whole and low <= got <= high):
            raise _unusable(kind, f"limits.{name}", got, f"a whole number from {low} to {high}")
    _check_retry(kind)
    action_reference(kind)
    value_type(kind)


def _check_retry(kind: type[Action]) -> None:
    retry: Any = kind.retry
    if not isinstance(retry, Retry):
        raise _unusable(kind, "retry", retry, "Retry(…)")
    for name, (low, high) in _RETRY_RANGES.items():
        got = getattr(retry, name)
        if not _is_number(got) or not low <= got <= high:
            raise _unusable(kind, f"retry.{name}", got, f"a number from {low:g} to {high:g}")
    got = retry.attempts
    whole = isinstance(got, int) and not isinstance(got, bool)
    if got is not None and not (whole and got >= 1):
        raise _unusable(kind, "retry.attempts", got, "a whole number from 1 up, or None")


def _check_seconds(kind: type[Action], name: str, low: float, high: float) -> None:
    got = getattr(kind, name)
    if not _is_number(got) or not low <= got <= high:
        raise _unusable(kind, name, got, f"seconds from {low:g} to {high:g}")


def _is_number(got: object) -> bool:
    return isinstance(got, int | float) and not isinstance(got, bool)


def _unusable(kind: type[Action], name: str, got: object, want: str) -> SpecError:
    return SpecError(f"cannot use action {kind.__qualname__}: {name} is {got!r}, want {want}")
