"""Whether two values are the same to a template or a worker, not only equal to Python.

Knows: mappings, lists, Structs and what is inside them.
Does not know: what the values are for.
Invariants: ``1``, ``1.0`` and ``true`` are three values: a change from one to another is a change.
"""

from __future__ import annotations

from typing import Any

import msgspec


def same(one: Any, other: Any) -> bool:
    """Whether ``one`` and ``other`` are equal, in type too, all the way down."""
    return one is other or (one == other and _same_types(one, other))


def _same_types(one: Any, other: Any) -> bool:
    """Of two equal values: whether all parts are of one type each."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return all(key in other and _same_types(item, other[key]) for key, item in one.items())
    if isinstance(one, list | tuple):
        return all(_same_types(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, msgspec.Struct):
        names = one.__struct_fields__
        return all(_same_types(getattr(one, name), getattr(other, name)) for name in names)
    return True
