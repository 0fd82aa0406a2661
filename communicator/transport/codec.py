"""Messages to bytes and back: the envelope, the list around it, the content inside it.

Knows: the JSON keys (emitted exactly, read in any case), both places a trace id may be in, from
which size on content is compressed.
Does not know: HTTP, files, what a message means.
Invariants: a zero trace UUID is neither emitted nor taken for one; of bytes that are no message
decoding raises `CodecError` and nothing else; where memory ends it raises `MemoryError`, which may
pass and says nothing of the bytes. No error text and no `repr` shows content. Nothing is
unpacked beyond the bytes it may have, nor made into objects before it is known how many they
are (`jsonsize`), and of a list one message after the other, without what nobody reads. Of two
lists, or two texts of one name, none is dropped for the other: that is no message. Half a surrogate
pair is read as U+FFFD; of a list's elements one that is no JSON costs no other (`mending`). What is
encoded can be decoded. zstd is loaded when the first content needs it, so not in the root.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from fsmv2.communicator.transport.jsonsize import too_much
from fsmv2.communicator.transport.mending import mended, torn_list, torn_object

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
CONTENT_BYTES_MAX = 64 * 1024 * 1024
# Below this zstd gains nothing worth its price; the instances in the field draw the line here.
COMPRESSED_FROM_BYTES = 1024
# What a value takes as an object, at most, beside its text.
_VALUE_BYTES = 128
_PACKED = base64.b64encode(ZSTD_MAGIC)[:5].decode("ascii")
# zstd makes a little more of what it cannot pack.
_ZSTD_MORE = 1024
ZERO_UUID = "00000000-0000-0000-0000-000000000000"
# What is there twice may be either, and one of them would be lost.
_UNIQUE = frozenset(("umhinstance", "email", "content", "messagetype", "payload"))


class CodecError(ValueError):
    """Bytes that are no message, said without showing them."""


class _Key(str):
    """A key that is equal to no other: of two with one name both stay."""

    __slots__ = ()
    __hash__ = object.__hash__
    __eq__ = object.__eq__


# Made once: msgspec looks at a type anew with each call.
_TEXT: msgspec.json.Decoder[Any] = msgspec.json.Decoder(str)
_FIELDS: msgspec.json.Decoder[Any] = msgspec.json.Decoder(dict[str, msgspec.Raw])
_PAIRS: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
    dict[_Key, msgspec.Raw], dec_hook=lambda kind, name: kind(name)
)
_LIST: msgspec.json.Decoder[Any] = msgspec.json.Decoder(list[msgspec.Raw])
_ANYTHING: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One envelope. ``content`` is base64 text, see `decode_content`."""

    umh_instance: str = ""
    email: str = ""
    content: str = ""
    trace_id: str = ""

    def __repr__(self) -> str:
        return f"<Message {len(self.content)} characters of content>"


class Content(NamedTuple):
    """A decoded content. ``size``: so many bytes of memory it may take."""

    message_type: str
    payload: Any
    size: int

    def __repr__(self) -> str:
        return f"<Content of {self.size} bytes>"


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

    Raises `CodecError` for anything that is not an object with a list, or has two lists with
    something in them: one would be lost, for the relay has forgotten both.
    """
    if not body.strip():
        return Batch((), 0)
    _check(body, "pull reply")
    if _kind(body) == "null":
        _decode(body, "pull reply", _ANYTHING)
        return Batch((), 0)
    messages: list[Message] = []
    unreadable = 0
    for element in _elements(body):
        try:
            messages.append(_message(element))
        except CodecError:
            unreadable += 1
    return Batch(tuple(messages), unreadable)


def _elements(body: bytes) -> list[msgspec.Raw]:
    """What is in a pull reply's list, without nulls."""
    elements: list[msgspec.Raw] = []
    try:
        pairs = list(_pairs(body, "pull reply"))
        is_torn = False
    except CodecError as error:
        pairs = _torn(torn_object, body, error)
        is_torn = True
    for name, listed in pairs:
        if name != "umhmessages" or _kind(listed) == "null":
            continue
        if _kind(listed) != "list":
            raise CodecError(f"cannot read pull reply: UMHMessages is {_kind(listed)}, want a list")
        try:
            more = _decode(listed, "pull reply", _LIST)
        except CodecError as error:
            more = _torn(torn_list, listed, error)
        more = [element for element in more if not _is_null(element)]
        if elements and more:
            raise CodecError("cannot read pull reply: it has two UMHMessages, want one")
        elements = elements or more
    if is_torn and not elements:
        raise CodecError("cannot read pull reply: it is no JSON, and no message is in it")
    return elements


def _torn(parts: Callable[[bytes | msgspec.Raw], list[Any]], data: Any, why: CodecError) -> Any:
    """``parts`` of what is no JSON; raises ``why`` where it has none."""
    try:
        return parts(data)
    except (msgspec.MsgspecError, ValueError):
        raise why from None


def _is_null(element: msgspec.Raw) -> bool:
    return _kind(element) == "null" and bytes(memoryview(element)).strip(b" \t\r\n") == b"null"


def decode_message(data: bytes) -> Message:
    """One envelope from its JSON, keys in any case; raises `CodecError`, also for a text that is
    there twice: it may be either."""
    _check(data, "message")
    return _message(data)


def _message(data: bytes | msgspec.Raw) -> Message:
    """The same of bytes that have been checked.

    The trace id is read flat and inside ``metadata``: old and new senders differ there.
    """
    fields = _object(data, "message", _UNIQUE)
    trace_id = _trace_id(fields)
    metadata = fields.get("metadata")
    if not trace_id and metadata is not None and _kind(metadata) == "object":
        trace_id = _trace_id(_object(metadata, "metadata"))
    return Message(
        umh_instance=_text(fields, "umhInstance"),
        email=_text(fields, "email"),
        content=_text(fields, "content"),
        trace_id=trace_id,
    )


def encode_content(message_type: str, payload: Any, *, compress: bool = True) -> str:
    """The content of an envelope: JSON in base64, zstd around the JSON from 1024 bytes on.

    ``compress`` False leaves it plain, as consoles send it; every decoder reads both. Raises
    `CodecError` for what `decode_content` would refuse.
    """
    inner = msgspec.json.encode({"Payload": payload, "MessageType": message_type})
    if len(inner) > CONTENT_BYTES_MAX:
        raise CodecError(
            f"cannot write content: got {len(inner)} bytes of JSON, want at most "
            f"{CONTENT_BYTES_MAX}"
        )
    fault = too_much(inner)
    if fault:
        raise CodecError(f"cannot write content: {fault}")
    if compress and len(inner) >= COMPRESSED_FROM_BYTES:
        from fsmv2.communicator.transport import compression

        inner = compression.compress(inner)
    return base64.b64encode(inner).decode("ascii")


def decode_content(content: str, bytes_max: int | None = None) -> tuple[str, Any]:
    """``(message type, payload)`` of a content, whose JSON has at most ``bytes_max`` bytes, which
    is `CONTENT_BYTES_MAX` where nothing else is said.

    Raises `CodecError`.
    """
    read = read_content(content, bytes_max)
    return read.message_type, read.payload


def read_content(content: str, bytes_max: int | None = None) -> Content:
    """`decode_content`, with how much it takes."""
    inner = unpack_content(content, bytes_max)
    _check(inner, "content")
    fields = _object(inner, "content", _UNIQUE)
    payload = fields.get("payload")
    values = inner.count(b",") + inner.count(b"[") + inner.count(b"{")
    return Content(
        _text(fields, "MessageType"),
        None if payload is None else _decode(payload, "content", _ANYTHING),
        len(inner) + _VALUE_BYTES * values,
    )


def unpack_content(content: str, bytes_max: int | None = None) -> bytes:
    """The JSON of a content, not looked at. Raises `CodecError`."""
    return _inner(content, CONTENT_BYTES_MAX if bytes_max is None else bytes_max)


def is_packed(content: str) -> bool:
    """Whether a content may be much larger than it looks."""
    return content.startswith(_PACKED)


def _inner(content: str, bytes_max: int) -> bytes:
    """The JSON of a content."""
    packed_max = bytes_max + bytes_max // 128 + _ZSTD_MORE
    if len(content) > (packed_max + 2) // 3 * 4:
        raise CodecError(
            f"cannot read content: got {len(content)} characters, want at most {bytes_max} bytes"
        )
    try:
        inner = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise CodecError("cannot read content: got no base64, want standard base64") from None
    if not inner.startswith(ZSTD_MAGIC):
        if len(inner) > bytes_max:
            raise CodecError(
                f"cannot read content: got {len(inner)} bytes, want at most {bytes_max}"
            )
        return inner
    from fsmv2.communicator.transport import compression

    try:
        return compression.decompress(inner, bytes_max)
    except compression.CompressionError as error:
        raise CodecError(f"cannot read content: {error}") from None


def read_texts(body: bytes, what: str, keys: Sequence[str]) -> list[str]:
    """The texts under ``keys``, in any case, of a JSON object, empty where missing; raises
    `CodecError` that names ``what``."""
    try:
        _check(body, what)
        fields = _object(body, what)
        return [_text(fields, key) for key in keys]
    except MemoryError:  # nothing is kept of this body that another try could read
        raise CodecError(f"cannot read {what}: it needs more memory than there is") from None


def read_text(fields: Mapping[str, Any], key: str) -> str:
    """The text under ``key`` in any case of a decoded object, empty where missing; raises
    `CodecError`."""
    value = read_value(fields, key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CodecError(f"cannot read {key}: got {type(value).__name__}, want str")
    return value


def read_value(fields: Mapping[str, Any], key: str) -> Any:
    """What is under ``key`` in any case of a decoded object; None where it is missing."""
    if key in fields:
        return fields[key]
    wanted = key.lower()
    return next((value for name, value in fields.items() if name.lower() == wanted), None)


def _check(data: bytes, what: str) -> None:
    fault = too_much(data)
    if fault:
        raise CodecError(f"cannot read {what}: {fault}")


def _decode(data: bytes | msgspec.Raw, what: str, wanted: msgspec.json.Decoder[Any]) -> Any:
    try:
        try:
            return wanted.decode(data)
        except (msgspec.MsgspecError, ValueError):
            return wanted.decode(mended(bytes(memoryview(data))))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        # The decoder's own text may quote the input.
        size = memoryview(data).nbytes
        raise CodecError(f"cannot read {what}: {size} bytes are no JSON") from None


_NO_BLANK = re.compile(rb"[^ \t\r\n]")
_KINDS = {
    **dict.fromkeys(b"-0123456789", "number"),
    **dict(zip(b'{["ntf', ("object", "list", "text", "null", "true", "false"), strict=True)),
}


def _kind(data: bytes | msgspec.Raw) -> str:
    """What a JSON value is, by its first character."""
    view = memoryview(data)
    kind = _KINDS.get(view[0]) if view.nbytes else None
    if kind is None:  # any number of blanks may be before it
        first = _NO_BLANK.search(view)
        kind = _KINDS.get(view[first.start()]) if first else None
    return kind or "no JSON"


def _object(
    data: bytes | msgspec.Raw, what: str, unique: Collection[str] = ()
) -> dict[str, msgspec.Raw]:
    """Its fields, not decoded, by their names in small letters. The last of two of a name counts,
    unless it is in ``unique``: then it is a `CodecError`."""
    kind = _kind(data)
    if kind != "object":
        raise CodecError(f"cannot read {what}: got {kind}, want an object")
    fields: dict[str, msgspec.Raw] = _decode(data, what, _FIELDS)
    found = {name.lower(): value for name, value in fields.items()}
    if len(found) == len(fields) and len(msgspec.json.encode(fields)) == memoryview(data).nbytes:
        return found  # as nearly all: nothing of it is missing, so no name was there twice
    found.clear()
    for name, value in _pairs(data, what):
        if name in unique and name in found:
            raise CodecError(f"cannot read {what}: {name} is there twice, want it once")
        found[name] = value
    return found


def _pairs(data: bytes | msgspec.Raw, what: str) -> Iterator[tuple[str, msgspec.Raw]]:
    """All fields of an object, not decoded, in their order, by their names in small letters."""
    kind = _kind(data)
    if kind != "object":
        raise CodecError(f"cannot read {what}: got {kind}, want an object")
    fields: dict[_Key, msgspec.Raw] = _decode(data, what, _PAIRS)
    for name, value in fields.items():
        yield name.lower(), value


def _trace_id(fields: Mapping[str, msgspec.Raw]) -> str:
    value = fields.get("traceid")
    if value is None or _kind(value) != "text":
        return ""
    text = _text(fields, "traceId")
    return text if text != ZERO_UUID else ""


def _text(fields: Mapping[str, msgspec.Raw], key: str) -> str:
    raw = fields.get(key.lower())
    if raw is None or _kind(raw) == "null":
        return ""
    if _kind(raw) != "text":
        raise CodecError(f"cannot read {key}: got {_kind(raw)}, want text")
    text: str = _decode(raw, key, _TEXT)
    return text
