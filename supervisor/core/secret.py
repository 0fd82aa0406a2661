"""A string that must not be seen.

Knows: how to hide itself in `repr`, `str`, `format` and every encoder but the wire's.
Does not know: what it protects.
Invariants: only `reveal()` and the wire codec (`__wire_encode__`) return the text.
"""

from __future__ import annotations

import hmac


class Secret:
    """A credential: compares and hashes by value, prints as ``Secret(…)``.

    It travels between the root and a proc in clear (both belong to the same user) and
    nowhere else: logs, metrics, the HTTP API, certificates and the store show ``Secret(…)``.
    Declare it as `Secret`: where it arrives as part of an ``Any`` it is as hidden and has
    `reveal` too, but is of another type.
    """

    __slots__ = ("_text",)
    __wire_words__ = "a text"  # what stands for it in a config

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"cannot make a Secret: got {type(text).__name__}, want str")
        self._text = text

    def reveal(self) -> str:
        """The text itself. Call it as late as possible and never put the result in a message."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(("Secret", self._text))

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self  # immutable

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("cannot pickle a Secret: it would end up in a dump; use the wire codec")

    def __wire_encode__(self) -> str:
        return self._text

    @classmethod
    def __wire_decode__(cls, raw: object) -> Secret:
        if not isinstance(raw, str):
            raise ValueError(f"Expected `str`, got `{type(raw).__name__}`")
        return cls(raw)
