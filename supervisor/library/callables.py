"""Plain callables as an action: the opt-in form, for notebooks and existing code.

Knows: dill, the one action that carries a call, what comes back of it.
Does not know: the pool's inside, executors.
Invariants: nothing here is used unless a pool was made with ``callables=True``; what a call
raises is its answer and never ends the proc's loop; dill is loaded in the proc and in the
caller's thread only, never in the thread that drives the pool.

The proc imports this module like any action's: it takes no more of ours than the core.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import dill
import msgspec

from fsmv2.supervisor.core.action import Action, ActionContext
from fsmv2.supervisor.core.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

# An exception with more in it than this is described instead of sent.
ERROR_BYTES_MAX = 256 << 10
TRACEBACK_CHARS_MAX = 16_000


class Outcome(msgspec.Struct, frozen=True):
    """What became of a call: ``value`` as dill, or ``error`` (the exception) as dill with its
    type's name, text and traceback."""

    value: bytes = b""
    error: bytes | None = None
    kind: str = ""
    message: str = ""
    traceback: str = ""


class Call(Action, frozen=True):
    """``function``, ``args`` and ``kwargs`` as dill. ``setup`` is dill of a function and its
    arguments, to be called once in each proc before its first call."""

    payload: bytes
    setup: bytes = b""

    def execute(self, ctx: ActionContext) -> Outcome:
        """Call it."""
        try:
            if self.setup and self.setup not in _set_up:
                function, args = dill.loads(self.setup)
                function(*args)
                _set_up.add(self.setup)
            function, args, kwargs = dill.loads(self.payload)
            return Outcome(value=_dumps(function(*args, **kwargs)))
        except BaseException as error:
            return _outcome_of(error)


class UnlimitedCall(Call, frozen=True):
    """A `Call` for an executor without a time limit: a day, the most an action may have."""

    timeout_s: ClassVar[float] = 86_400.0


_set_up: set[bytes] = set()


def _dumps(value: Any) -> bytes:
    # `recurse`: of a function of `__main__`, take along the globals it uses, not all or none.
    return bytes(dill.dumps(value, recurse=True))


def pack(what: str, *parts: Any) -> bytes:
    """``parts`` as dill. Raises `SpecError` naming ``what`` if dill cannot."""
    try:
        return _dumps(parts)
    except Exception as error:
        raise SpecError(f"cannot send {what}: {type(error).__name__}: {error}") from error


def call_of(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """The action that calls ``function`` in a proc."""
    return Call(pack(f"call of {function!r}", function, args, kwargs))


def unpack(data: bytes) -> Any:
    """What `Outcome.value` or `Outcome.error` stands for. Runs code that is in it."""
    return dill.loads(data)


def _outcome_of(error: BaseException) -> Outcome:
    # Without the frames of ours on top; `__traceback__` itself does not cross.
    trace = error.__traceback__.tb_next if error.__traceback__ is not None else None
    text = "".join(traceback.format_exception(type(error), error, trace))[-TRACEBACK_CHARS_MAX:]
    kind, message = type(error).__name__, _text_of(error)
    try:
        data = _dumps(error.with_traceback(None))
        if len(data) > ERROR_BYTES_MAX:
            raise ValueError("too large")
        dill.loads(data)  # many an exception can be packed and not unpacked
    except Exception:
        data = _dumps(RuntimeError(f"{kind}: {message[:4000]}"))
    return Outcome(error=data, kind=kind, message=message[:4000], traceback=text)


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "<the exception's text could not be made>"
