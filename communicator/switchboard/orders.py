"""Orders: what a user asks of the instance, and the replies to it.

Knows: the payload of an ``action`` and of an ``action-reply``, which end of an action is told how.
Does not know: who runs it, when a reply is sent.
Invariants: pure; every result has one reply, which says why where it is a failure; no reply shows
a stack or a log of the instance.
"""

from __future__ import annotations

import threading
from enum import StrEnum
from typing import Any

import msgspec

from fsmv2.communicator.spool import TooLarge
from fsmv2.communicator.transport.codec import (
    CodecError,
    read_text,
    read_value,
    unpack_content,
)
from fsmv2.communicator.transport.mending import mended, torn_object
from fsmv2.supervisor import Action, ActionResult, Secret

REPLY = "action-reply"
UUID_CHARS_MAX = 200
TYPE_BYTES_MAX = 1_000
WHY_CHARS_MAX = 2_000
# Consoles offer another try for codes that begin so.
RETRY = "ERR_RETRY_"


class ReplyState(StrEnum):
    """What a reply says: confirmed, executing, then exactly one of the last two."""

    CONFIRMED = "action-confirmed"
    EXECUTING = "action-executing"
    SUCCESS = "action-success"
    FAILURE = "action-failure"


LAST = (ReplyState.SUCCESS, ReplyState.FAILURE)
# How an action ended otherwise than by success: the code of the reply.
CODES = {
    "failed": "ERR_ACTION_FAILED",
    "timed_out": "ERR_RETRY_TIMED_OUT",
    "crashed": "ERR_RETRY_CRASHED",
    "cancelled": "ERR_RETRY_CANCELLED",
    "refused": "ERR_RETRY_REFUSED",
}
UNKNOWN_TYPE = "ERR_UNKNOWN_ACTION"
BAD_PAYLOAD = "ERR_BAD_PAYLOAD"
BAD_VALUE = "ERR_VALUE_NOT_SENT"
NOT_STARTED = "ERR_RETRY_NOT_STARTED"
INTERRUPTED = "ERR_INTERRUPTED"
NO_MEMORY = "ERR_RETRY_NO_MEMORY"
NOT_ROUTED = "ERR_NOT_ROUTED"


class WhenInterrupted(StrEnum):
    """What becomes of an order that was begun before a kill, or before a stop that did not wait
    for it: whether it has had its effect, or half of it, nobody knows."""

    FAIL = "fail"
    RUN_AGAIN = "run_again"


class Order(msgspec.Struct, frozen=True):
    """One action that is asked for. ``payload`` becomes the action's fields."""

    uuid: str
    action_type: str
    payload: Any

    def __repr__(self) -> str:
        return "<Order>"


class Refused(Exception):
    """An order that is not begun; the text and the ``code`` go into its failure reply. ``is_ours``:
    no order of that type can be begun, or not now, which is the operator's business too."""

    def __init__(self, code: str, text: str, *, is_ours: bool = False) -> None:
        self.code = code
        self.is_ours = is_ours
        super().__init__(text)


def read_order(payload: Any) -> Order:
    """The order in the payload of an ``action`` message.

    Raises `CodecError` for one that nobody could be answered about: no object, no UUID.
    """
    if not isinstance(payload, dict):
        raise CodecError(f"cannot read an action: got {type(payload).__name__}, want an object")
    uuid = read_text(payload, "actionUUID")
    if not 0 < len(uuid) <= UUID_CHARS_MAX:
        raise CodecError(
            f"cannot read an action: actionUUID has {len(uuid)} characters, want 1 to "
            f"{UUID_CHARS_MAX}"
        )
    return Order(uuid, read_text(payload, "actionType"), read_value(payload, "actionPayload"))


_NONE = msgspec.Raw(b'""')


class _Named(msgspec.Struct, frozen=True):
    uuid: str = msgspec.field(name="actionUUID", default="")
    action_type: msgspec.Raw = msgspec.field(name="actionType", default=_NONE)


class _Head(msgspec.Struct, frozen=True):
    message_type: str = msgspec.field(name="MessageType", default="")
    payload: _Named = msgspec.field(name="Payload", default=_Named())


def read_head(content: str) -> Order | None:
    """The order in a content that cannot be taken, without making objects of what it is about;
    None: it is none that somebody could be answered about. For keys as the wire has them, or in any
    case where something else in it is no JSON."""
    try:
        inner = mended(unpack_content(content))
        try:
            head = msgspec.json.decode(inner, type=_Head)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            head = _torn_head(inner)
    except (CodecError, msgspec.MsgspecError, ValueError):
        return None
    uuid = head.payload.uuid
    if head.message_type != "action" or not 0 < len(uuid) <= UUID_CHARS_MAX:
        return None
    try:
        name = msgspec.json.decode(bytes(head.payload.action_type)[:TYPE_BYTES_MAX], type=str)
    except (msgspec.MsgspecError, ValueError):
        name = "the action"
    return Order(uuid, name, None)


def _torn_head(inner: bytes) -> _Head:
    """The same of what is no JSON, for it is the payload that is not, most likely."""
    fields = dict(torn_object(inner))
    payload = dict(torn_object(fields.get("payload", _NONE)))
    return _Head(
        msgspec.json.decode(fields.get("messagetype", _NONE), type=str),
        _Named(
            msgspec.json.decode(payload.get("actionuuid", _NONE), type=str),
            payload.get("actiontype", _NONE),
        ),
    )


def when_interrupted(name: str, kind: type[Action]) -> WhenInterrupted:
    """The policy of an action class: its class variable ``when_interrupted``, else `FAIL`.

    Raises `ValueError` for what is no policy, or no action class.
    """
    if not (isinstance(kind, type) and issubclass(kind, Action)):
        raise ValueError(f"cannot take orders {name!r}: got {kind!r}, want a subclass of Action")
    said = getattr(kind, "when_interrupted", WhenInterrupted.FAIL)
    try:
        return WhenInterrupted(said)
    except ValueError:
        known = " or ".join(repr(str(each)) for each in WhenInterrupted)
        what = f"{kind.__name__}.when_interrupted is {said!r}, want {known}"
        raise ValueError(f"cannot take orders {name!r}: {what}") from None


def action_of(order: Order, kinds: dict[str, type[Action]]) -> Action:
    """The action to run; raises `Refused` for an unknown type, fields that are not its own, and a
    class that raises whatever it likes. Only its type is told: the text may be of the payload."""
    kind = kinds.get(order.action_type)
    if kind is None:
        known = ", ".join(sorted(kinds)) or "none"
        raise Refused(
            UNKNOWN_TYPE, f"cannot run action type {order.action_type[:100]!r}, want of: {known}"
        )
    fields = {} if order.payload is None or order.payload == "" else order.payload
    try:
        return msgspec.convert(fields, kind, dec_hook=_hidden)
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise Refused(BAD_PAYLOAD, f"cannot run {order.action_type}: {_short(error)}") from None
    except BaseException as error:
        if is_interrupt(error):
            raise
        why = f"cannot make {order.action_type}: its class raised {type(error).__name__}"
        raise Refused(CODES["failed"], why, is_ours=True) from None


def is_interrupt(error: BaseException) -> bool:
    """Whether it is Ctrl-C, which only the main thread is sent: nothing that an action has done."""
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and isinstance(error, KeyboardInterrupt)


def reply(
    order: Order, state: ReplyState, message: str, *, code: str = "", value: Any = None
) -> dict[str, Any]:
    """The payload of one ``action-reply``."""
    second: dict[str, Any] = {"message": message}
    if code:
        second["errorCode"] = code
    if value is not None:
        second["payload"] = value
    return {
        "actionUUID": order.uuid,
        "actionReplyState": state,
        "actionReplyPayload": message if value is None else value,
        "actionReplyPayloadV2": second,
    }


def last_reply(order: Order, result: ActionResult) -> dict[str, Any]:
    """The reply to how an action ended."""
    if result.succeeded:
        return reply(order, ReplyState.SUCCESS, "done", value=result.value)
    name = order.action_type
    match result.status:
        case "failed" | "refused":
            why = f"{name} {result.status}: {_short(result.error)}"
        case "timed_out":
            why = f"{name} timed out: ended after {result.ran_s:.1f} s ({result.verdict})"
        case "crashed":
            why = f"{name} ended with its process after {result.ran_s:.1f} s: {result.verdict}"
        case _:
            why = f"{name} was cancelled"
    return reply(order, ReplyState.FAILURE, why, code=CODES[result.status])


def interrupted(order: Order) -> str:
    """What is told of an order that was begun before a kill and is not run again."""
    return (
        f"{order.action_type[:100]} was interrupted by a restart: it is not known whether it ran, "
        "and it is not run again"
    )


def unsendable(order: Order, error: Exception) -> str:
    """What is told of an action whose value cannot be sent: its size, where that is why."""
    sized = isinstance(error, TooLarge | CodecError)
    why = str(error) if sized else type(error).__name__
    return f"{order.action_type} is done, its value cannot be sent: {why}"


def _hidden(kind: type, value: Any) -> Any:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise TypeError(f"got {type(value).__name__}, want {kind.__name__}")


def _short(error: object) -> str:
    text = str(error)
    return text if len(text) <= WHY_CHARS_MAX else f"{text[: WHY_CHARS_MAX - 1]}…"
