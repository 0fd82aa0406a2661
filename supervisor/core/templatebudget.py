"""What a template may spend: a budget of steps, and operations with a bounded result.

Theory of operation. A clock would make a rendering depend on the machine, so work is counted
instead. Whatever can take more than a moment pays before it runs: a turn of a loop pays for its
body, a filter, a method, a comparison and a literal pay for what they walk over, sixteen
characters of text count as one step. Shared parts of a value are paid for each time they are
met: comparing and hashing walk them each time too.

Knows: the budget of the rendering under way, what plain values weigh.
Does not know: the template engine, variables.
Invariants: `STEPS_MAX` bounds one rendering, whole configs included; nothing here reads a clock.
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from typing import Any

RENDERED_BYTES_MAX = 256 * 1024
STEPS_MAX = 100_000
RANGE_MAX = 10_000
INTEGER_BITS_MAX = 256
DIGITS_MAX = 30
_TEXT_SHIFT = 4  # 16 characters are one step
_SEQUENCES = (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)

_left: contextvars.ContextVar[list[int]] = contextvars.ContextVar("steps_left")


class Forbidden(Exception):
    """A template wants what no template may have."""


def new_budget() -> None:
    """A rendering begins."""
    _left.set([STEPS_MAX])


def charge(steps: int) -> None:
    """Pay; raises `Forbidden` when the budget is spent."""
    left = _left.get()
    left[0] -= steps
    if left[0] < 0:
        raise Forbidden(f"over {STEPS_MAX} steps of work")


def charge_for(value: Any, *, by_character: bool = False) -> None:
    """Pay for walking over ``value``, the values inside it included."""
    if isinstance(value, str):
        charge(1 + (len(value) if by_character else len(value) >> _TEXT_SHIFT))
        return
    todo = [value]
    while todo:
        charge(1)
        found = todo.pop()
        if isinstance(found, str | bytes):
            charge(len(found) >> _TEXT_SHIFT)
        elif isinstance(found, dict):
            charge(2 * len(found))
            todo += found.keys()
            todo += found.values()
        elif isinstance(found, _SEQUENCES):
            charge(len(found))
            todo += found
        elif isinstance(found, range):
            charge(len(found))


def weighed(value: Any) -> Any:
    """``value``, paid for."""
    charge_for(value)
    return value


def counted(items: Iterable[Any], steps: int = 1) -> Iterator[Any]:
    """``items``; each costs ``steps`` when it is taken."""
    for item in items:
        charge(steps)
        yield item


def metered(function: Callable[..., Any], *, by_character: bool = False) -> Callable[..., Any]:
    """``function``, paying for its arguments, a text it returns, and the items of a lazy one."""

    @functools.wraps(function)
    def paying(*args: Any, **options: Any) -> Any:
        for value in (*args, *options.values()):
            charge_for(value, by_character=by_character)
        result = function(*args, **options)
        if isinstance(result, str):
            charge(len(result) >> _TEXT_SHIFT)
        elif isinstance(result, Iterator):
            return counted(result)
        return result

    return paying


def bounded(text: str) -> str:
    """``text``, unless it is longer than any output may be."""
    if len(text) > RENDERED_BYTES_MAX:
        raise Forbidden(f"a text of over {RENDERED_BYTES_MAX} characters")
    return text


def bounded_range(*args: int) -> range:
    """``range``, of at most `RANGE_MAX` numbers."""
    span = range(*args)
    if len(span) > RANGE_MAX:
        raise Forbidden(f"range of {len(span)}, want at most {RANGE_MAX}")
    return span


def bounded_number(value: Any, operator: str) -> None:
    """Refuse what arithmetic could grow without bound: anything but a number of some size."""
    if not isinstance(value, int | float):
        raise Forbidden(f"{operator!r} wants numbers (and '+' two texts)")
    if isinstance(value, int) and value.bit_length() > INTEGER_BITS_MAX:
        raise Forbidden(f"{operator!r} of a number over {INTEGER_BITS_MAX} bits")


def join(texts: Iterable[str], separator: str = "") -> str:
    """``separator.join(texts)``, ended as soon as it is too long."""
    size = 0
    parts: list[str] = []
    for text in texts:
        parts.append(text)
        size += len(text) + len(separator)
        if size > RENDERED_BYTES_MAX:
            raise Forbidden(f"a text of over {RENDERED_BYTES_MAX} characters")
    return separator.join(parts)


def replace(text: str, old: str, new: str) -> str:
    """``text.replace(old, new)``, measured before it is made."""
    if not all(isinstance(part, str) for part in (text, old, new)):
        raise Forbidden("'replace' wants texts")
    if len(text) + text.count(old) * len(new) > RENDERED_BYTES_MAX:
        raise Forbidden(f"a text of over {RENDERED_BYTES_MAX} characters")
    return text.replace(old, new)


def rounded(value: Any, precision: int = 0) -> float:
    """``round``: with a huge precision it would compute a huge power."""
    if abs(precision) > DIGITS_MAX:
        raise Forbidden(f"'round' to {precision} digits, want at most {DIGITS_MAX}")
    return round(float(value), precision)
