"""Compares plain data with a type and tells everything that does not fit.

msgspec's own conversion stops at the first error and elides keys of mappings; this walk goes
on, and names the nearest key.

Knows: `msgspec.inspect`'s description of a type, how to say what is wanted.
Does not know: files, the settings' meaning.
Invariants: whatever msgspec refuses is reported; nothing is reported twice.
"""

from __future__ import annotations

import datetime
import decimal
import re
import uuid
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import inspect

from fsmv2.supervisor.config.configfault import at_key, hint, shown
from fsmv2.supervisor.core.errors import SpecError

Misfit = tuple[str, str]  # path, message
_Lists = (
    inspect.ListType
    | inspect.VarTupleType
    | inspect.SetType
    | inspect.FrozenSetType
    | inspect.CollectionType
)
_Fields = inspect.StructType | inspect.DataclassType | inspect.TypedDictType
# Types that have no form of their own in a config: what is written for them.
_WRITTEN: dict[type[inspect.Type], tuple[type, str]] = {
    inspect.DateTimeType: (datetime.datetime, "a date and time like 2026-01-31T12:00:00Z"),
    inspect.DateType: (datetime.date, "a date like 2026-01-31"),
    inspect.TimeType: (datetime.time, "a time of day like 12:00:00"),
    inspect.TimeDeltaType: (datetime.timedelta, "a duration like PT5M"),
    inspect.UUIDType: (uuid.UUID, "a UUID"),
    inspect.DecimalType: (decimal.Decimal, "a number"),
    inspect.BytesType: (bytes, "a text in base64"),
    inspect.ByteArrayType: (bytearray, "a text in base64"),
}
_PLACE = re.compile(r"^(?P<text>.*?) - at `\$(?P<place>.*)`$", re.DOTALL)


@lru_cache(maxsize=256)
def describe(kind: Any) -> inspect.Type:
    """msgspec's description of ``kind``; raises TypeError for a type it cannot handle."""
    return inspect.type_info(kind)


def misfits(kind: inspect.Type, value: Any, path: str) -> list[Misfit]:
    """Everything in ``value`` that does not fit ``kind``, as (path, message), in its order."""
    return list(_walk(kind, value, path))


def _walk(kind: inspect.Type, value: Any, path: str) -> Iterator[Misfit]:
    match kind:
        case inspect.StructType() | inspect.DataclassType() | inspect.TypedDictType():
            yield from _walk_fields(kind, value, path)
        case inspect.DictType():
            if not isinstance(value, dict):
                yield _wrong(kind, value, path)
                return
            for key, item in value.items():
                yield from _walk(kind.value_type, item, at_key(path, str(key)))
        case (
            inspect.ListType()
            | inspect.VarTupleType()
            | inspect.SetType()
            | inspect.FrozenSetType()
            | inspect.CollectionType()
        ):
            yield from _walk_list(kind, value, path)
        case inspect.UnionType():
            fitting = [member for member in kind.types if _has_shape(member, value)]
            if not fitting:
                yield _wrong(kind, value, path)
            elif len(fitting) == 1:
                yield from _walk(fitting[0], value, path)
        case inspect.LiteralType() | inspect.EnumType():
            allowed = _choices(kind)
            if not any(type(value) is type(one) and value == one for one in allowed):
                near = hint(value, map(str, allowed)) if isinstance(value, str) else ""
                tail = near if near.startswith(", did") else f", want {wanted(kind)}"
                yield path, f"got {shown(value, path)}{tail}"
        case _:
            if not _fits_scalar(kind, value):
                yield _wrong(kind, value, path)


def _wrong(kind: inspect.Type, value: Any, path: str) -> Misfit:
    return path, f"got {shown(value, path)}, want {wanted(kind)}"


def _walk_fields(kind: _Fields, value: Any, path: str) -> Iterator[Misfit]:
    if not isinstance(value, dict):
        yield _wrong(kind, value, path)
        return
    if isinstance(kind, inspect.StructType) and (kind.array_like or kind.tag is not None):
        yield from _convert(kind.cls, value, path)
        return
    fields = {field.encode_name: field for field in kind.fields}
    closed = isinstance(kind, inspect.StructType | inspect.DataclassType) and getattr(
        kind, "forbid_unknown_fields", False
    )
    fine = True
    for key, item in value.items():
        if key in fields:
            for misfit in _walk(fields[key].type, item, at_key(path, key)):
                fine = False
                yield misfit
        elif closed:
            unused = [name for name in fields if name not in value]
            near = hint(key, unused)
            tail = near if near.startswith(", did") else hint(key, fields)
            yield at_key(path, key), f"unknown key {key!r}{tail}"
    for name, field in fields.items():
        if field.required and name not in value:
            fine = False
            yield at_key(path, name), f"missing, want {wanted(field.type)}"
    if fine:
        # What only the class itself can say: __post_init__, custom types, dates, ...
        known = {name: item for name, item in value.items() if name in fields}
        yield from _convert(kind.cls, known, path)


def _convert(kind: type, value: Any, path: str) -> Iterator[Misfit]:
    try:
        msgspec.convert(value, kind, dec_hook=decode_wire_type)
    except msgspec.ValidationError as error:
        found = _PLACE.match(str(error))
        text, place = (found["text"], found["place"]) if found else (str(error), "")
        yield (f"{path}{place}" if path else place.removeprefix(".")), text
    except SpecError as error:
        yield path, str(error)
    except Exception as error:  # a user's __post_init__ may raise anything
        yield path, f"cannot build {kind.__name__}: {type(error).__name__}: {error}"


def _walk_list(kind: _Lists, value: Any, path: str) -> Iterator[Misfit]:
    if not isinstance(value, list | tuple):
        yield _wrong(kind, value, path)
        return
    low, high = kind.min_length or 0, kind.max_length
    if len(value) < low or (high is not None and len(value) > high):
        yield path, f"got {len(value)} items, want {_span(low, high, 'items')}"
    for index, item in enumerate(value):
        yield from _walk(kind.item_type, item, f"{path}[{index}]")


def _has_shape(kind: inspect.Type, value: Any) -> bool:
    """True when ``value`` is of the right sort for ``kind``, whatever is inside it."""
    match kind:
        case inspect.StructType() | inspect.DataclassType() | inspect.TypedDictType():
            return isinstance(value, dict)
        case inspect.DictType():
            return isinstance(value, dict)
        case inspect.IntType() | inspect.FloatType():
            return isinstance(value, int | float) and not isinstance(value, bool)
        case inspect.StrType():
            return isinstance(value, str)
        case inspect.LiteralType() | inspect.EnumType():
            return value in _choices(kind)
    if isinstance(kind, _Lists):
        return isinstance(value, list | tuple)
    return _fits_scalar(kind, value)


def _fits_scalar(kind: inspect.Type, value: Any) -> bool:
    match kind:
        case inspect.NoneType():
            return value is None
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.IntType():
            return isinstance(value, int) and not isinstance(value, bool) and _in(kind, value)
        case inspect.FloatType():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return number and _in(kind, value)
        case inspect.StrType():
            if not isinstance(value, str) or len(value) < (kind.min_length or 0):
                return False
            if kind.max_length is not None and len(value) > kind.max_length:
                return False
            return kind.pattern is None or re.search(kind.pattern, value) is not None
        case inspect.CustomType():
            return not list(_convert(kind.cls, value, ""))
    if type(kind) in _WRITTEN:
        return not list(_convert(_WRITTEN[type(kind)][0], value, ""))
    return True  # the class around it decides, see `_convert`


def _in(kind: inspect.IntType | inspect.FloatType, value: float) -> bool:
    return (
        (kind.ge is None or value >= kind.ge)
        and (kind.gt is None or value > kind.gt)
        and (kind.le is None or value <= kind.le)
        and (kind.lt is None or value < kind.lt)
        and (kind.multiple_of is None or value % kind.multiple_of == 0)
    )


def _choices(kind: inspect.LiteralType | inspect.EnumType) -> list[Any]:
    if isinstance(kind, inspect.LiteralType):
        return list(kind.values)
    return [member.value for member in kind.cls]


def wanted(kind: inspect.Type) -> str:
    """What ``kind`` accepts, for people: "an integer from 1 to 256"."""
    match kind:
        case inspect.IntType():
            return _number("an integer", kind)
        case inspect.FloatType():
            return _number("a number", kind)
        case inspect.BoolType():
            return "true or false"
        case inspect.NoneType():
            return "null"
        case inspect.StrType():
            length = ""
            if kind.min_length or kind.max_length is not None:
                length = f" of {_span(kind.min_length or 0, kind.max_length, 'characters')}"
            return f"a string{length}" + (f" like {kind.pattern}" if kind.pattern else "")
        case inspect.LiteralType() | inspect.EnumType():
            choices = [repr(one) for one in _choices(kind)]
            return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
        case inspect.UnionType():
            return " or ".join(wanted(member) for member in kind.types)
        case inspect.AnyType():
            return "a value"
        case inspect.CustomType():
            # A type that reads its own form can say what that is.
            return str(getattr(kind.cls, "__wire_words__", f"a value for {kind.cls.__name__}"))
    if isinstance(kind, _Lists | inspect.TupleType):
        return "a list"
    if isinstance(kind, inspect.DictType | _Fields):
        return "a mapping"
    if type(kind) in _WRITTEN:
        return _WRITTEN[type(kind)][1]
    return f"a {type(kind).__name__.removesuffix('Type').lower()}"


def _number(noun: str, kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        return f"{noun} from {kind.ge} to {kind.le}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    bounds = [
        f"{word} {getattr(kind, name)}"
        for name, word in words.items()
        if getattr(kind, name) is not None
    ]
    if kind.multiple_of is not None:
        bounds.append(f"a multiple of {kind.multiple_of}")
    return f"{noun} {' and '.join(bounds)}" if bounds else noun


def _span(low: int, high: int | None, noun: str) -> str:
    if high is None:
        return f"at least {low} {noun}"
    return f"{low} to {high} {noun}" if low else f"at most {high} {noun}"


def decode_wire_type(kind: type, raw: Any) -> Any:
    """A decoding hook for msgspec: types that say by themselves how they are written."""
    decode_value = getattr(kind, "__wire_decode__", None)
    if decode_value is None:
        raise NotImplementedError(f"cannot decode a config value as {kind.__qualname__}")
    return decode_value(raw)
