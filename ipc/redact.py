"""Keeps secrets out of texts.

Knows: which fields of a value hide themselves (they have ``__wire_encode__``).
Does not know: who reads the text.
Invariants: a secret shorter than `SECRET_CHARS_MIN` is not searched for: replacing every "a"
would destroy the text and protect nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec

SECRET_CHARS_MIN = 4
HIDDEN = "Secret(…)"


def secrets_in(value: Any, depth: int = 6) -> tuple[str, ...]:
    """The texts inside ``value`` that must not be shown."""
    if depth == 0:
        return ()
    encode_value = getattr(value, "__wire_encode__", None)
    if encode_value is not None:
        text = encode_value()
        return (text,) if isinstance(text, str) and len(text) >= SECRET_CHARS_MIN else ()
    parts: list[Any] = []
    if isinstance(value, msgspec.Struct):
        parts = [getattr(value, name) for name in value.__struct_fields__]
    elif isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, list | tuple):
        parts = list(value)
    found: list[str] = []
    for part in parts:
        if part.__class__ not in (str, int, float, bool, bytes, type(None)):
            found += secrets_in(part, depth - 1)
    return tuple(found)


def redact(text: str, secrets: tuple[str, ...]) -> str:
    """``text`` with every secret replaced."""
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return text
