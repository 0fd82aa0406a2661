"""Messages to bytes and back: the envelope, the list around it, the content inside it.

Knows: the JSON keys (emitted exactly, read in any case), both places a trace id may be in, from
which size on content is compressed.
Does not know: HTTP, files, what a message means.
Invariants: a zero trace UUID is neither emitted nor taken for one; decoding raises `CodecError`
and nothing else, and unpacks no more than it was told to; no error text and no `repr` shows
content. zstd is loaded when the first content needs it, so not in the root.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
CONTENT_BYTES_MAX = 64 * 1024 * 1024
# Below this zstd gains nothing worth its price; the instances in the field draw the line here.
COMPRESSED_FROM_BYTES = 1024
ZERO_UUID = "00000000-0000-0000-0000-000000000000"


class CodecError(ValueError):
    """Bytes that are no message, said without showing them."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One envelope. ``content`` is base64 text, see `decode_content`."""

    umh_instance: str = ""
    email: str = ""
    content: str = ""
    trace_id: str = ""

    def __repr__(self) -> str:
        return f"<Message {len(self.content)} characters of content>"


class Batch(NamedTuple):
    """A decoded list: what was readable, in order, and how many elements were not."""

    messages: tuple[Message, ...]
    unreadable: int


def encode_message(message: Message, instance_uuid: str = "") -> dict[str, str]:
    """The wire form of one message.

    ``instance_uuid`` replaces the message's own unless it is empty: the relay refuses a whole
    batch for one foreign instance.
    """
    wire = {
        "umhInstance": instance_uuid or message.umh_instance,
        "content": message.content,
        "email": message.email,
    }
    if message.trace_id and message.trace_id != ZERO_UUID:
        wire["traceId"] = message.trace_id
    return wire


def encode_batch(messages: Sequence[Message], instance_uuid: str = "") -> bytes:
    """The body of a push."""
    listed = [encode_message(message, instance_uuid) for message in messages]
    return msgspec.json.encode({"UMHMessages": listed})


def decode_batch(body: bytes) -> Batch:
    """The messages of a pull reply; an empty body, ``{}``, ``null`` and null elements are fine.

    Raises `CodecError` for anything that is not an object with a list.
    """
    if not body.strip():
        return Batch((), 0)
    document = _json(body, "pull reply")
    if document is None:
        return Batch((), 0)
    listed = _field(_object(document, "pull reply"), "UMHMessages")
    if listed is None:
        return Batch((), 0)
    if not isinstance(listed, list):
        raise CodecError(
            f"cannot read pull reply: UMHMessages is {type(listed).__name__}, want a list"
        )
    messages: list[Message] = []
    unreadable = 0
    for element in listed:
        if element is None:
            continue
        try:
            messages.append(message_from(element))
        except CodecError:
            unreadable += 1
    return Batch(tuple(messages), unreadable)


def decode_message(data: bytes) -> Message:
    """One envelope from its JSON; raises `CodecError`."""
    return message_from(_json(data, "message"))


def message_from(document: Any) -> Message:
    """One envelope from decoded JSON, keys in any case; raises `CodecError`.

    The trace id is read flat and inside ``metadata``: old and new senders differ there.
    """
    fields = _object(document, "message")
    metadata = _field(fields, "metadata")
    trace_id = _trace_id(_field(fields, "traceId"))
    if not trace_id and isinstance(metadata, dict):
        trace_id = _trace_id(_field(metadata, "traceId"))
    return Message(
        umh_instance=_text(fields, "umhInstance"),
        email=_text(fields, "email"),
        content=_text(fields, "content"),
        trace_id=trace_id,
    )


def encode_content(message_type: str, payload: Any, *, compress: bool = True) -> str:
    """The content of an envelope: JSON in base64, zstd around the JSON from 1024 bytes on.

    ``compress`` False leaves it plain, as consoles send it; every decoder reads both.
    """
    inner = msgspec.json.encode({"Payload": payload, "MessageType": message_type})
    if compress and len(inner) >= COMPRESSED_FROM_BYTES:
        from fsmv2.communicator.transport import compression

        inner = compression.compress(inner)
    return base64.b64encode(inner).decode("ascii")


def decode_content(content: str, bytes_max: int = CONTENT_BYTES_MAX) -> tuple[str, Any]:
    """``(message type, payload)`` of a content, whose JSON has at most ``bytes_max`` bytes.

    Raises `CodecError`.
    """
    if len(content) > (bytes_max + 2) // 3 * 4:
        raise CodecError(
            f"cannot read content: got {len(content)} characters, want at most {bytes_max} bytes"
        )
    try:
        inner = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise CodecError("cannot read content: got no base64, want standard base64") from None
    if inner.startswith(ZSTD_MAGIC):
        from fsmv2.communicator.transport import compression

        try:
            inner = compression.decompress(inner, bytes_max)
        except compression.CompressionError as error:
            raise CodecError(f"cannot read content: {error}") from None
    fields = _object(_json(inner, "content"), "content")
    return _text(fields, "MessageType"), _field(fields, "Payload")


def read_object(body: bytes, what: str) -> dict[str, Any]:
    """A JSON object from ``body``; raises `CodecError` that names ``what``."""
    return _object(_json(body, what), what)


def read_text(fields: dict[str, Any], key: str) -> str:
    """The text under ``key`` in any case, empty where missing; raises `CodecError`."""
    return _text(fields, key)


def _json(data: bytes, what: str) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        # The decoder's own text may quote the input.
        raise CodecError(f"cannot read {what}: {len(data)} bytes are no JSON") from None


def _object(document: Any, what: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise CodecError(f"cannot read {what}: got {type(document).__name__}, want an object")
    return document


def _trace_id(value: Any) -> str:
    return value if isinstance(value, str) and value != ZERO_UUID else ""


def _field(fields: dict[str, Any], key: str) -> Any:
    if key in fields:
        return fields[key]
    wanted = key.lower()
    return next((value for name, value in fields.items() if name.lower() == wanted), None)


def _text(fields: dict[str, Any], key: str) -> str:
    value = _field(fields, key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CodecError(f"cannot read {key}: got {type(value).__name__}, want str")
    return value
