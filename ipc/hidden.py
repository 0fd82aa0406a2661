"""What hides itself, where it arrives as part of something that nobody has declared.

Knows: how to hide itself, and what it travels as.
Does not know: which type it had.
Invariants: only `reveal` and the wire codec (`__wire_encode__`) give what is hidden.
"""

from __future__ import annotations

from typing import Any


class Hidden:
    """What a `Secret` becomes that crosses a channel as part of an ``Any``, a bare ``dict`` or
    ``list``: as hidden as before to logs, metrics, the API and the store. It can go out again as
    it is; where a `Secret` is declared, it is one again."""

    __slots__ = ("_builtin",)

    def __init__(self, builtin: Any) -> None:
        self._builtin = builtin

    def reveal(self) -> Any:
        """What is hidden. Call it as late as possible and never put the result in a message."""
        return self._builtin

    def __bool__(self) -> bool:
        return bool(self._builtin)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Hidden):
            return NotImplemented
        return bool(self._builtin == other._builtin)

    def __hash__(self) -> int:
        return hash(("Hidden", self._builtin))

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __copy__(self) -> Hidden:
        return self

    def __deepcopy__(self, memo: object) -> Hidden:
        return self  # immutable

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("cannot pickle a secret: it would end up in a dump; use the wire codec")

    def __wire_encode__(self) -> Any:
        return self._builtin
