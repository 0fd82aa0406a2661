"""Keeps secrets out of texts.

Knows: which fields of a value hide themselves (they have ``__wire_encode__``), which types could
have such a field.
Does not know: who reads the text.
Invariants: a secret shorter than `SECRET_CHARS_MIN` is not searched for: replacing every "a"
would destroy the text and protect nothing.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterable
from typing import Any

import msgspec

from fsmv2.ipc.hidden import Hidden

SECRET_CHARS_MIN = 4
DEPTH_MAX = 64
_PLAIN = frozenset({str, int, float, bool, bytes, type(None)})
_CONTAINERS = frozenset({list, tuple, dict, set, frozenset, typing.Union})
HIDDEN = "Secret(…)"


def secrets_in(value: Any) -> tuple[str, ...]:
    """The texts inside ``value`` that must not be shown, the longest first. Never raises."""
    found: set[str] = set()
    _collect(value, found, DEPTH_MAX)
    return tuple(sorted(found, key=lambda text: (-len(text), text)))


def texts_in(value: Any) -> tuple[str, ...]:
    """All texts inside ``value``, plain containers as a decoder without a type makes them, for
    when it cannot be told which of them are secret."""
    found: set[str] = set()
    todo = [value]
    while todo:
        part = todo.pop()
        if isinstance(part, Hidden):
            todo.append(part.reveal())
        elif isinstance(part, str):
            found.update(_forms_of(part))
        elif isinstance(part, dict):
            todo += [*part, *part.values()]
        elif isinstance(part, list | tuple):
            todo += part
    return tuple(sorted(found, key=lambda text: (-len(text), text)))


def _forms_of(text: str) -> set[str]:
    # Also as it looks line by line, and quoted (a KeyError's text is a repr).
    forms = {text, *text.splitlines(), repr(text)[1:-1], json.dumps(text)[1:-1]}
    return {form for form in forms if len(form) >= SECRET_CHARS_MIN}


def _collect(value: Any, found: set[str], depth: int) -> None:
    kind = value.__class__
    if kind in _PLAIN or depth == 0:
        return
    try:
        text, parts = _open(value)
    except BaseException:  # a value's own code; what it does not tell, nobody can quote
        return
    if isinstance(text, str):
        found.update(_forms_of(text))
    for part in parts:
        _collect(part, found, depth - 1)


def _open(value: Any) -> tuple[Any, Iterable[Any]]:
    """What ``value`` hides, and the parts it is made of."""
    encode_value = getattr(value, "__wire_encode__", None)
    if encode_value is not None:
        return encode_value(), ()
    parts: Iterable[Any] = ()
    if isinstance(value, msgspec.Struct):
        parts = [getattr(value, name, None) for name in value.__struct_fields__]
    elif dataclasses.is_dataclass(value):
        parts = [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    elif isinstance(value, dict):
        parts = [*value, *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        parts = list(value)
    return None, parts


def may_hide(kind: Any, depth: int = 8) -> bool:
    """Whether a value of type ``kind`` could hold a secret. Only what cannot is sorted out."""
    if kind in _PLAIN or typing.get_origin(kind) is typing.Literal:
        return False
    if depth == 0:
        return True
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return any(may_hide(field.type, depth - 1) for field in msgspec.structs.fields(kind))
    parts = [part for part in typing.get_args(kind) if part is not ...]
    is_container = typing.get_origin(kind) in _CONTAINERS or isinstance(kind, types.UnionType)
    return not (parts and is_container) or any(may_hide(part, depth - 1) for part in parts)


def redact(text: str, secrets: tuple[str, ...]) -> str:
    """``text`` with every secret replaced; a secret inside another one goes with it."""
    for secret in sorted(secrets, key=len, reverse=True):
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return text


def text_of(error: BaseException, secrets: tuple[str, ...]) -> str:
    """What ``error`` says, every secret replaced. Never raises."""
    try:
        return redact(str(error), secrets)
    except BaseException:  # its ``__str__`` is somebody else's code
        return "<the exception's text could not be made>"
