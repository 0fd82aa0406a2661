"""Texts of worker code, made fit to be shown: in the log, the API, the store.

Knows: how long a text may be, that half a surrogate pair (as in a file name that is no UTF-8) can
be encoded by nobody.
Does not know: who shows it.
Invariants: what comes out can be encoded, and is no longer than asked.
"""

from __future__ import annotations

from typing import Any

REASON_CHARS_MAX = 1000
ERROR_CHARS_MAX = 8 * 1024
WORD_CHARS_MAX = 200


def presentable(text: str, characters_max: int) -> str:
    """``text``, cut where it is too long, half surrogate pairs escaped."""
    if not text.isascii():
        cut = text[: characters_max + 1]
        text = cut.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= characters_max else text[: characters_max - 1] + "…"


def plain_text(text: Any) -> Any:
    """A text without the code that a subclass of str brings; anything else as it is."""
    return str.__str__(text) if isinstance(text, str) else text


def is_word(text: str) -> bool:
    """Whether ``text`` may stand for a state."""
    return bool(text.strip()) and len(text) <= WORD_CHARS_MAX and text.isprintable()
