"""One record in, one line of bytes out.

Knows: the JSON form, the console form, how to cut and how to escape.
Does not know: descriptors, structlog, when a record is written.
Invariants: a line has no line break inside and is at most `LINE_BYTES_MAX` bytes with its end;
nothing in a record can reach the terminal as a control character; no record makes this raise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from fsmv2.ipc import to_builtins

# What a pipe takes in one piece, whoever else writes to it (PIPE_BUF).
LINE_BYTES_MAX = 4096
TRACEBACK_LINES_MAX = 12
CUT = "…"

_HEAD = ("seq", "ts", "timestamp", "level", "event")
# Also C1 controls, line and paragraph separators and the marks that reorder text: a terminal
# or an editor obeys them, and JSON encoders let them through.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_UNSAFE_IN_JSON = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "").replace("\ud800-\udfff", ""))
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

_STRING_CHARS_STEPS = (2000, 1000, 500, 250, 120, 60, 24)
_MORE_CHARS_STEPS = (16_000, 8_000, 4_000)
_ITEMS_STEPS = (32, 12, 4, 1)


def timestamp(now: float) -> str:
    """``now``, seconds since the epoch, as ISO 8601 in UTC with milliseconds."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def escape(text: str) -> str:
    """``text`` with everything visible that a terminal would obey or break a line at."""
    return _UNSAFE.sub(_escape_one, text) if _UNSAFE.search(text) else text


def _escape_one(match: re.Match[str]) -> str:
    letter = match[0]
    code = ord(letter)
    return _SHORT.get(letter) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


# --- JSON -----------------------------------------------------------------------------------


def json_line(record: Mapping[str, Any]) -> bytes:
    """``record`` as one line of JSON.

    A record that is too long gets ``"cut": true``: its longest strings end in "…", then its
    lists lose their ends, and as a last resort only the head (`timestamp`, `level`, `event`)
    and the first fields stay.
    """
    return cut_line(record, LINE_BYTES_MAX)


def cut_line(record: Mapping[str, Any], bytes_max: int) -> bytes:
    """The same with another limit, which is no less than a log line's."""
    line = _encode(record)
    return line if len(line) <= bytes_max else _cut(plain(record), bytes_max)


def plain(value: Any) -> Any:
    """``value`` as JSON-ready builtins; what cannot be one shows as its `repr`, a Secret as
    ``Secret(…)``. Never raises."""
    try:
        return to_builtins(value)
    except Exception:  # any type may come from a user's action, and a log line must not raise
        return _plain_by_hand(value, 6)


def _plain_by_hand(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if abs(value) < 1 << 63 else str(value)
    if isinstance(value, str):
        return _without_surrogates(value)
    if depth and isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
        return {name: _plain_by_hand(getattr(value, name), depth - 1) for name in names}
    if depth and isinstance(value, Mapping):
        return {
            _without_surrogates(str(key)): _plain_by_hand(item, depth - 1)
            for key, item in value.items()
        }
    if depth and isinstance(value, list | tuple):
        return [_plain_by_hand(item, depth - 1) for item in value]
    try:
        return _without_surrogates(repr(value))
    except Exception:  # a broken __repr__ is no reason to lose the record
        return f"<{type(value).__qualname__}>"


def _without_surrogates(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def as_json(record: Mapping[str, Any]) -> bytes:
    """``record`` as JSON, whatever is in it."""
    try:
        return msgspec.json.encode(record, enc_hook=repr)
    except Exception:  # surrogates, numbers over 64 bits, keys that are no strings, deep nesting
        return msgspec.json.encode(_plain_by_hand(record, 6))


def _encode(record: Mapping[str, Any]) -> bytes:
    encoded = as_json(record)
    if encoded.isascii() and b"\x7f" not in encoded:
        return encoded + b"\n"
    text = encoded.decode("utf-8")
    if _UNSAFE_IN_JSON.search(text):
        text = _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return text.encode("utf-8") + b"\n"


def _cut(record: dict[str, Any], bytes_max: int) -> bytes:
    head = {key: record[key] for key in _HEAD if key in record}
    rest = {key: value for key, value in record.items() if key not in _HEAD}
    more = [chars for chars in _MORE_CHARS_STEPS if chars < bytes_max // 2]
    for chars in (*more, *_STRING_CHARS_STEPS[:4]):
        line = _encode({**head, **_shorten(rest, chars, 10_000), "cut": True})
        if len(line) <= bytes_max:
            return line
    for items in _ITEMS_STEPS:
        for chars in _STRING_CHARS_STEPS[2:]:
            line = _encode({**head, **_shorten(rest, chars, items), "cut": True})
            if len(line) <= bytes_max:
                return line
    head = _shorten(head, 120, 1)
    few = {key[:60]: _shorten(value, 24, 0) for key, value in list(rest.items())[:12]}
    line = _encode({**head, **few, "cut": True})
    return line if len(line) <= bytes_max else _encode({**head, "cut": True})


def _shorten(value: Any, chars: int, items: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= chars else value[: chars - 1] + CUT
    if isinstance(value, list | tuple):
        short = [_shorten(item, chars, items) for item in value[:items]]
        return short if len(value) <= items else [*short, CUT]
    if isinstance(value, dict):
        few = list(value.items())[: max(items, 8)]
        return {str(key)[:chars]: _shorten(item, chars, items) for key, item in few}
    return value


# --- console --------------------------------------------------------------------------------

_GLYPHS = {"debug": "·", "info": " ", "warning": "!", "error": "✗"}
_COLOURS = {
    "debug": "2", "info": "0", "warning": "33", "error": "31",
    "running": "32", "starting": "36", "degraded": "33", "stopping": "35", "stopped": "2",
}  # fmt: skip
SUBJECT_CHARS_MAX = 36


class ConsoleForm:
    """Lines for people: time, glyph, who, what. The column of names grows with what was seen."""

    def __init__(self, colours: bool) -> None:
        self._colours = colours
        self._width = 12

    def line(self, level: str, now: float, subject: str, text: str, phase: str = "") -> bytes:
        """One line; ``phase`` colours the text like the page does. Escapes all of it."""
        subject = escape(subject)
        self._width = max(self._width, min(len(subject), SUBJECT_CHARS_MAX))
        clock = datetime.fromtimestamp(now).astimezone().strftime("%H:%M:%S.%f")[:-3]
        glyph = self._paint(_GLYPHS.get(level, " "), level)
        name = self._paint(f"{subject:<{self._width}}", "1")
        room = LINE_BYTES_MAX // 4
        text = escape(text if len(text) <= room else text[: room - 1] + CUT)
        loud = phase if phase in _COLOURS else level if level in ("debug", "error") else ""
        parts = (self._paint(clock, "2"), glyph, name)
        return self._bounded(f"{' '.join(parts)}  {self._paint(text, loud) if loud else text}")

    def detail(self, lines: list[str]) -> list[bytes]:
        """Indented lines under a record: a stack, a traceback."""
        return [self._bounded(f"{'':15}{self._paint(escape(line), '2')}") for line in lines]

    def _paint(self, text: str, colour: str) -> str:
        code = _COLOURS.get(colour, colour)
        return f"\x1b[{code}m{text}\x1b[0m" if self._colours and code != "0" else text

    def _bounded(self, text: str) -> bytes:
        line = text.encode("utf-8", "backslashreplace").rstrip()
        if len(line) >= LINE_BYTES_MAX:
            # The reset belongs to the cut: the colour of a cut line must not run into the next.
            end = f"{CUT}\x1b[0m" if self._colours else CUT
            whole = line[: LINE_BYTES_MAX - 12].decode("utf-8", "ignore")
            line = (whole + end).encode("utf-8")
        return line + b"\n"


def pairs(fields: Mapping[str, Any]) -> str:
    """``key=value`` for each field, for a record that has no sentence of its own."""
    return "  ".join(
        f"{key}={value if isinstance(value, str | int | float) else plain(value)}"
        for key, value in fields.items()
    )


def last_frames(traceback: str) -> list[str]:
    """The end of a traceback, where the error is, at most `TRACEBACK_LINES_MAX` lines."""
    return [line.rstrip() for line in traceback.splitlines() if line.strip()][-TRACEBACK_LINES_MAX:]
