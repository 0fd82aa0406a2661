"""What simulated actions answer, since nothing of them is run.

Knows: per action type a value, an exception, a duration, a crash, or a callable that decides.
Does not know: procs, time.
Invariants: a type without an answer is an error that names it, never a made-up value.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from fsmv2.ipc.codec import decode, encode
from fsmv2.ipc.frames import FrameError
from fsmv2.ipc.redact import secrets_in, text_of
from fsmv2.supervisor.core.action import Action, ActionError, action_name, value_type
from fsmv2.supervisor.core.errors import BugError, SpecError


class Answer(msgspec.Struct, frozen=True):
    """See `SimPool.answer`."""

    value: Any = None
    takes_s: float | Callable[[Any], float] | None = None
    crashes: str | None = None
    gives_up_s: float | None = None
    stops_s: float | None = None

    def duration_of(self, action: Action) -> float | None:
        """How long it takes; None: as long as the shortest."""
        return self.takes_s(action) if callable(self.takes_s) else self.takes_s


def answer_of(given: object) -> Answer:
    """What a user has written into a table of answers."""
    if isinstance(given, Answer):
        return given
    if isinstance(given, datetime.timedelta):
        return Answer(takes_s=given.total_seconds())
    return Answer(given)


class Answers:
    """By action type."""

    def __init__(self, table: Mapping[type[Action], object]) -> None:
        self._table = {kind: answer_of(given) for kind, given in table.items()}

    def put(self, kind: type[Action], answer: Answer) -> None:
        """From now on; what has begun keeps its own."""
        self._table[kind] = answer

    def find(self, action: Action, key: str) -> Answer:
        """The answer of ``action``; raises `SpecError` where there is none."""
        kind = type(action)
        try:
            return self._table[kind]
        except KeyError:
            raise SpecError(
                f"cannot simulate {action_name(kind)} of {key or 'no key'}: it has no answer, "
                f"want one in Simulation(answers=…) or from pool.answer({kind.__name__}, …)"
            ) from None


_value_type = lru_cache(maxsize=1024)(value_type)


def carry_out(answer: Answer, action: Action) -> Any:
    """What `execute` would have come to: its value, as it arrives after its way through a
    channel, or what it raised as an `ActionError`."""
    try:
        given = answer.value(action) if callable(answer.value) else answer.value
        if isinstance(given, BaseException):
            raise given
    except BugError:
        raise
    except BaseException as error:  # as in a proc, whatever `execute` raises is its failure
        return ActionError(type(error).__name__, _text_of(error, action))
    return _through_a_channel(action, given)


def _through_a_channel(action: Action, value: Any) -> Any:
    kind = type(action)
    try:
        wire = encode(value)
    except Exception as error:  # a value's own code may raise whatever it likes
        text = _text_of(error, action, value)
        return ActionError(type(error).__name__, f"cannot encode the value: {text}")
    try:
        return decode(wire, _value_type(kind))
    except FrameError as error:
        text = _text_of(error, action, value)
        return ActionError(
            "ResultTypeError", f"not of {action_name(kind)}.execute's return annotation: {text}"
        )


def _text_of(error: BaseException, *holders: Any) -> str:
    return text_of(error, secrets_in(holders))
