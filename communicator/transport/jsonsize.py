"""How much a JSON text would be as Python objects, said before it is decoded.

Knows: what JSON's brackets, commas, quotes and escapes are.
Does not know: what the text means, whether it is JSON at all.
Invariants: counting takes no more memory than a few times the text; nothing in a string counts; a
text within the limits makes at most `VALUES_MAX` objects and half as many keys, none deeper than
`DEPTH_MAX`.

A pair of bytes may stand for an object of 64 or 200: bytes alone bound no memory.
"""

from __future__ import annotations

from collections.abc import Iterator

VALUES_MAX = 1_000_000
DEPTH_MAX = 100
_CHUNK_BYTES = 64 * 1024
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")


def too_much(data: bytes) -> str:
    """What of ``data`` is beyond a limit, with both numbers; an empty text where nothing is."""
    opened = data.count(b"[") + data.count(b"{")
    if opened <= DEPTH_MAX and opened + data.count(b",") < VALUES_MAX:
        return ""  # as nearly all are: what is in strings has counted here, and was not too much
    values = 1
    brackets = bytearray()
    for part in _outside_strings(data):
        values += part.count(b",") + part.count(b"[") + part.count(b"{")
        if values > VALUES_MAX:
            return f"got more than {VALUES_MAX} values, want at most that many"
        brackets += part.translate(_ONE_KIND, _NOT_BRACKETS)
    return "" if _is_flat(bytes(brackets)) else f"got more than {DEPTH_MAX} levels, want fewer"


def _outside_strings(data: bytes) -> Iterator[bytes]:
    """``data`` without its strings, part by part."""
    if b"\\" in data:  # only in strings: neither of these can end one
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    in_string = 0
    for at in range(0, len(data), _CHUNK_BYTES):
        pieces = data[at : at + _CHUNK_BYTES].split(b'"')
        yield b"".join(pieces[in_string::2])
        in_string = (in_string + len(pieces) - 1) % 2


def _is_flat(brackets: bytes) -> bool:
    """Whether nothing is left of ``brackets`` once the innermost pairs have gone so many times."""
    for _ in range(DEPTH_MAX):
        left = brackets.replace(b"[]", b"")
        if len(left) == len(brackets):
            break
        brackets = left
    return not brackets
