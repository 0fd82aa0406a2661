"""Values to msgpack and back, with closed types.

Knows: msgspec's msgpack, and the wire protocol of value types that msgspec has no form for:
``__wire_encode__(self) -> builtin`` and ``__wire_decode__(cls, builtin)``. They hide themselves, so
on the wire they are marked: whoever was not told their type gets a `Hidden`, and no plain text.
Does not know: which types those are.
Invariants: decoding raises `FrameError` and nothing else, whatever the bytes are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import msgspec

from fsmv2.ipc.frames import FrameError
from fsmv2.ipc.hidden import Hidden

# msgpack's extension type of what hides itself; applications have 0 to 127.
HIDDEN_TYPE = 83


def _enc_hook(value: Any) -> Any:
    encode_value = getattr(value, "__wire_encode__", None)
    if encode_value is None:
        raise TypeError(
            f"cannot encode a value of type {type(value).__module__}.{type(value).__qualname__}: "
            "want msgspec Structs, dataclasses, str, bytes, numbers, None, dict, list, datetime"
        )
    return encode_value()


def _wire_hook(value: Any) -> Any:
    return msgspec.msgpack.Ext(HIDDEN_TYPE, _encoder.encode(_enc_hook(value)))


def _ext_hook(code: int, data: memoryview) -> Any:
    if code != HIDDEN_TYPE:
        return msgspec.msgpack.Ext(code, bytes(data))
    return Hidden(_decode_plain(data))


def _dec_hook(kind: type, raw: Any) -> Any:
    if isinstance(raw, Hidden):
        raw = raw.reveal()
    decode_value = getattr(kind, "__wire_decode__", None)
    if decode_value is None:
        raise ValueError(f"no wire form for type {kind.__qualname__}")
    return decode_value(raw)


_encoder = msgspec.msgpack.Encoder(enc_hook=_wire_hook)
_decode_plain = msgspec.msgpack.Decoder().decode


@lru_cache(maxsize=1024)
def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind, dec_hook=_dec_hook, ext_hook=_ext_hook)


# Returns a value as msgpack. Raises `TypeError` for a type without a wire form, `OverflowError`
# for an integer beyond 64 bits, `RecursionError` for a value nested too deep. The method itself:
# a function around it would cost as much again.
encode: Callable[[Any], bytes] = _encoder.encode


def decode(data: bytes | bytearray | msgspec.Raw, kind: Any) -> Any:
    """Return ``data`` decoded as ``kind``; raises `FrameError` whatever is wrong with it."""
    try:
        decoder = _decoder(kind)
    except TypeError as error:  # an unhashable or unsupported annotation
        raise FrameError(f"cannot decode as {kind!r}: {error}") from None
    try:
        return decoder.decode(data)
    except Exception as error:  # a type's __post_init__ may raise whatever it likes
        raise fault_of(data, error) from None


def decoder_of(kind: Any) -> Callable[[bytes | bytearray | msgspec.Raw], Any]:
    """A function that decodes as ``kind``, like `decode`, for those who do it often."""
    try:
        decode_it = _decoder(kind).decode
    except TypeError:
        return partial(decode, kind=kind)  # raises at each call

    def decode_as(data: bytes | bytearray | msgspec.Raw) -> Any:
        try:
            return decode_it(data)
        except Exception as error:
            raise fault_of(data, error) from None

    return decode_as


def plain_decoder(kind: Any) -> Callable[[bytes | bytearray | msgspec.Raw], Any]:
    """The bare decoder of ``kind``, for the hottest paths: whatever it raises is for `fault_of`."""
    return _decoder(kind).decode


def fault_of(data: bytes | bytearray | msgspec.Raw, error: Exception) -> FrameError:
    """The `FrameError` that says why ``data`` could not be decoded."""
    kind_of = "" if isinstance(error, msgspec.MsgspecError) else f"{type(error).__name__}: "
    text = str(error).replace("got `ext`", "got a Secret, which only its own type or Any takes")
    return FrameError(f"cannot decode {len(bytes(data))} bytes: {kind_of}{text}")


def to_builtins(value: Any, hide: bool = True) -> Any:
    """Return ``value`` as JSON-ready builtins. Values with a wire form show as their `repr`
    when ``hide`` (a Secret stays hidden); with ``hide=False`` they show as on the wire."""
    return msgspec.to_builtins(value, enc_hook=repr if hide else _enc_hook)
