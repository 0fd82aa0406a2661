"""JSON that is not quite JSON: what of it can be read all the same.

Knows: what half a surrogate pair looks like, where the parts of an object or a list end.
Does not know: what a text means, how much of it there may be (`jsonsize`).
Invariants: pure, and only for what a decoder has refused, so that what is well pays nothing; a
mended text is as long as it was; a part is whole, between two commas of the outermost brackets,
whatever is in it, and where these do not close no part is given; the time is bounded by that for
reading the text a few times, `MENDS_MAX` and `STEPS_MAX`, the memory by a few times the text.

JavaScript writes half a pair for a text that is cut within a character, and Go reads U+FFFD there.
"""

from __future__ import annotations

import re

import msgspec

# More than any text has that was cut here and there: it is left as it is.
MENDS_MAX = 100_000
# Of the commas between parts, and the brackets of what is nested deeper than `_LEVELS` in them.
STEPS_MAX = 100_000
_LEVELS = 4
_FFFD = rb"\ufffd"
_LONE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_BLANKS = b" \t\r\n"
_NAME = re.compile(rb'[ \t\r\n]*+("[^"\\]*+(?:\\.[^"\\]*+)*+")[ \t\r\n]*+:', re.DOTALL)
_NESTED = rb'(?:[^"\[\]{}]++|"[^"]*+")*+'
for _ in range(_LEVELS - 1):
    _NESTED = rb'(?:[^"\[\]{}]++|"[^"]*+"|[\[{]' + _NESTED + rb"[\]}])*+"
# Up to the next comma that is neither in a string nor in brackets, to a bracket, or to the end: it
# matches everywhere, so nothing is looked for twice.
_STEP = re.compile(rb'(?:[^"\[\]{},]++|"[^"]*+"|[\[{]' + _NESTED + rb"[\]}])*+([\[\]{},]|\Z)")


def mended(data: bytes) -> bytes:
    """``data`` with U+FFFD for each escape of half a surrogate pair; itself where there is none."""
    if rb"\ud" not in data and rb"\uD" not in data:
        return data
    found: bytearray | None = None
    for number, lone in enumerate(_LONE.finditer(data.replace(b"\\\\", b"__"))):
        if number == MENDS_MAX:
            return data
        found = bytearray(data) if found is None else found
        found[lone.start() : lone.end()] = _FFFD
    return data if found is None else bytes(found)


def torn_list(data: bytes | msgspec.Raw) -> list[msgspec.Raw]:
    """What is between the commas of a list, not looked at; raises `ValueError` for none."""
    return _parts(data, b"[", b"]")


def torn_object(data: bytes | msgspec.Raw) -> list[tuple[str, msgspec.Raw]]:
    """The fields of an object in their order, by their names in small letters, the values not
    looked at; raises `ValueError` for none, also where a name cannot be read."""
    fields = []
    for part in _parts(data, b"{", b"}"):
        view = memoryview(part)
        name = _NAME.match(view)
        if name is None:
            raise ValueError("a part of an object has no name")
        key: str = msgspec.json.decode(mended(name[1]), type=str)
        fields.append((key.lower(), msgspec.Raw(view[name.end() :])))
    return fields


def _parts(data: bytes | msgspec.Raw, opens: bytes, closes: bytes) -> list[msgspec.Raw]:
    text = bytes(memoryview(data)).strip(_BLANKS)
    # As long as it was, and without escapes: each quote is where a string begins or ends.
    bare = text.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    if bare[:1] != opens or bare.count(b'"') % 2:
        raise ValueError("it does not begin, or a string does not end")
    view = memoryview(text)
    parts: list[msgspec.Raw] = []
    begin, depth = 1, 0
    for number, step in enumerate(_STEP.finditer(bare, 1)):
        what, at = step[1], step.start(1)
        if number == STEPS_MAX or not what:
            break
        if what in b"[{":
            depth += 1
        elif depth and what != b",":
            depth -= 1
        elif not depth:
            if what == b"," or parts or bare[begin:at].strip(_BLANKS):
                parts.append(msgspec.Raw(view[begin:at]))
            begin = at + 1
            if what != b",":
                if what != closes or begin != len(bare):
                    break
                return parts
    raise ValueError("it does not end, or is cut into too many parts")
