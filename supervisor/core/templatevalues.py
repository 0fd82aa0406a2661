"""What a template may write out, and what it may give back as a value.

Knows: which values those are, how each is made plain.
Does not know: jinja2, the language.
Invariants: an undefined variable is an error, also inside a list; what is walked is paid for or
counted, so that a value that holds itself many times over costs no more than the cap.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fsmv2.supervisor.core import templatebudget as budget
from fsmv2.supervisor.core.templatebudget import INTEGER_BITS_MAX, Forbidden
from fsmv2.supervisor.core.templatemarkers import refuse_marker

VALUES_MAX = 10_000
DEPTH_MAX = 32
SCALARS = (str, int, float, bool, type(None))


class Undefined:
    """A variable that is not there; its text raises an error that names it."""

    __slots__ = ()


def refuse_undefined(value: Any) -> None:
    """Raise for an undefined variable."""
    if isinstance(value, Undefined):
        str(value)  # raises, naming it


def writable(value: Any) -> Any:
    """What may be written out: text and numbers. A list would have to be walked to be written,
    and may hold itself many times over."""
    refuse_undefined(value)
    if isinstance(value, int) and value.bit_length() > INTEGER_BITS_MAX:
        raise Forbidden(f"a number over {INTEGER_BITS_MAX} bits")
    if not isinstance(value, SCALARS):
        if isinstance(value, list | tuple | dict):
            plain_value(value)  # an undefined variable inside is the better message
        raise Forbidden(
            f"cannot write out a {type(value).__name__}: want text or a number; for a list use "
            "'| join' or '| tojson'"
        )
    return value


def join(items: Iterable[Any], separator: str = "") -> str:
    """The filter ``join``."""
    return budget.join((str(writable(item)) for item in items), separator)


def to_text(value: Any) -> str:
    """The filter ``string``."""
    return str(writable(value))


def to_json(value: Any) -> str:
    """The filter ``tojson``."""
    return budget.bounded(json.dumps(plain_value(value)))


def plain_value(value: Any) -> Any:
    """``value`` with lists for every sequence and iterator, checked: a bounded number of values,
    none undefined, none that holds a template of its own or itself."""
    return _plain(value, [VALUES_MAX], 0)


def _plain(value: Any, left: list[int], depth: int) -> Any:
    left[0] -= 1
    if left[0] < 0 or depth > DEPTH_MAX:
        raise Forbidden(f"over {VALUES_MAX} values, or nested deeper than {DEPTH_MAX}")
    refuse_undefined(value)
    if isinstance(value, str):
        budget.bounded(value)
        refuse_marker(value)
        return value
    if isinstance(value, Mapping):
        return {
            _plain(key, left, depth + 1): _plain(item, left, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | range | set | frozenset | Iterator):
        return [_plain(item, left, depth + 1) for item in value]
    if isinstance(value, int) and value.bit_length() > INTEGER_BITS_MAX:
        raise Forbidden(f"a number over {INTEGER_BITS_MAX} bits")
    return value
