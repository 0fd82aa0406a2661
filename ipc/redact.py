"""Keeps secrets out of texts.

Knows: which fields of a value hide themselves (they have ``__wire_encode__``).
Does not know: who reads the text.
Invariants: a secret shorter than `SECRET_CHARS_MIN` is not searched for: replacing every "a"
would destroy the text and protect nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable
from typing import Any

import msgspec

SECRET_CHARS_MIN = 4
DEPTH_MAX = 64
_PLAIN = frozenset({str, int, float, bool, bytes, type(None)})
HIDDEN = "Secret(…)"


def secrets_in(value: Any) -> tuple[str, ...]:
    """The texts inside ``value`` that must not be shown, the longest first."""
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
        if isinstance(part, str):
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
    encode_value = getattr(value, "__wire_encode__", None)
    if encode_value is not None:
        text = encode_value()
        if isinstance(text, str):
            found.update(_forms_of(text))
        return
    parts: Iterable[Any] = ()
    if isinstance(value, msgspec.Struct):
        parts = (getattr(value, name) for name in value.__struct_fields__)
    elif dataclasses.is_dataclass(value):
        parts = (getattr(value, field.name) for field in dataclasses.fields(value))
    elif isinstance(value, dict):
        parts = itertools.chain(value, value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        parts = value
    for part in parts:
        _collect(part, found, depth - 1)


def redact(text: str, secrets: tuple[str, ...]) -> str:
    """``text`` with every secret replaced; a secret inside another one goes with it."""
    for secret in sorted(secrets, key=len, reverse=True):
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return text
