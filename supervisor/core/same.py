"""Whether two values are the same to a template or a worker, not only equal to Python.

Knows: mappings, lists, Structs and what is inside them.
Does not know: what the values are for.
Invariants: ``1``, ``1.0`` and ``true`` are three values: a change from one to another is a change;
of values that cannot be compared nobody knows that they are the same. Never raises.
"""

from __future__ import annotations

from typing import Any

import msgspec

_PLAIN = frozenset({str, int, float, bool, bytes, type(None)})


def same(one: Any, other: Any) -> bool:
    """Whether ``one`` and ``other`` are equal, in type too, all the way down."""
    if one is other:
        return True
    try:
        return bool(one == other) and _same_types(one, other)
    except BaseException:  # a value's own code may raise anything at all
        return False


def _same_types(one: Any, other: Any) -> bool:
    """Of two equal values: whether all parts are of one type each."""
    if one is other:
        return True
    kind = type(one)
    if kind is not type(other):
        return False
    if kind in _PLAIN:
        return True
    # Loops, not all(): asked of every part of every spec that is declared anew.
    if isinstance(one, dict):
        for key, item in one.items():
            if key not in other or not _same_types(item, other[key]):
                return False
        return True
    if isinstance(one, msgspec.Struct):
        one, other = msgspec.structs.astuple(one), msgspec.structs.astuple(other)
    if isinstance(one, list | tuple):
        for part, counterpart in zip(one, other, strict=True):
            if not _same_types(part, counterpart):
                return False
    return True
