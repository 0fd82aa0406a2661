"""Follows the frames of another interpreter through its memory.

Knows: how thread states, frames, code objects and line tables hang together.
Does not know: processes, how memory is read, what the stacks are for.
Invariants: believes nothing: each pointer is checked by what it leads to, each length is capped,
each loop ends; memory that makes no sense ends a stack, and never raises. A pointer is taken for
an object only if the object's type is the very one of this interpreter, so that no number of
random memory passes for a code object.

The line table's format is described in CPython's ``Objects/locations.md`` (3.11 and 3.12) and
``InternalDocs/code_objects.md`` (3.13).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import NamedTuple

from fsmv2.supervisor.stacks.pythonlayout import OWNED_BY_C_STACK, Layout

# May give fewer bytes than asked for; must not raise.
Read = Callable[[int, int], bytes]

FRAMES_MAX = 100  # of one thread, as faulthandler has it
FRAMES_TOTAL_MAX = 2_000
THREADS_MAX = 100
THREADS_WALKED_MAX = 1_000
TEXT_CHARACTERS_MAX = 500  # of one name, as faulthandler has it
LINE_TABLE_BYTES_MAX = 256 * 1024
UNKNOWN = "???"

_WORD = struct.Struct("<Q")
_INT = struct.Struct("<i")
_TYPE_AT = 8
_SIZE_AT = 16
_STR_STATE_AT = 32
_PAGE_BYTES = 4096
_CODE_UNIT_BYTES = 2
_CLOCK_EVERY = 256  # entries of a line table

# ``PyASCIIObject.state`` without its lowest two bits (interned) and the top ones: character size,
# compact, ASCII. Compact means that the characters follow the head.
_STR_STATES = {0b11001: (1, True), 0b01001: (1, False), 0b01010: (2, False), 0b01100: (4, False)}
_CODECS = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}
_CONTROL = {number: f"\\x{number:02x}" for number in (*range(32), 127)}


class Frame(NamedTuple):
    """One call; texts are printable ASCII, ``line`` is None where it is not known."""

    filename: str
    line: int | None
    name: str


class ThreadStack(NamedTuple):
    """One thread, most recent call first. ``is_cut``: there may be more frames below."""

    ident: int
    frames: tuple[Frame, ...]
    is_cut: bool


class Stacks(NamedTuple):
    """The main thread first, then the others, newest first.

    ``is_sound`` is False where something did not fit together: the process changed its stacks
    while they were read, or there was no time to read on.
    """

    threads: tuple[ThreadStack, ...]
    is_sound: bool


class _Code(NamedTuple):
    filename: str
    name: str
    table: bytes
    first_line: int
    start: int
    end: int


class _Call(NamedTuple):
    """A frame as it was read, before its line is looked up."""

    code: _Code
    instruction: int


class _Senseless(Exception):
    """What was read is not what must stand there, or could not be read."""


class StackWalk:
    """One look at all threads of the interpreter whose main state is at ``anchor``.

    ``until_s`` is a moment of `time.monotonic`; what was found by then is what there is.
    """

    def __init__(self, read: Read, layout: Layout, anchor: int, until_s: float) -> None:
        self._read = read
        self._layout = layout
        self._anchor = anchor
        self._until_s = until_s
        self._slide = anchor - layout.main_interpreter
        self._frames_left = FRAMES_TOTAL_MAX
        self._codes: dict[int, _Code] = {}
        self._lines: dict[_Call, int | None] = {}
        self._tops: dict[int, int] = {}
        self._is_sound = True

    def stacks(self) -> Stacks:
        """All threads, as far as they could be read; none if this is no interpreter."""
        # A loader moves a binary by whole pages.
        if self._anchor <= 0 or self._slide % _PAGE_BYTES:
            return Stacks((), False)
        states = self.thread_states()
        if not states:
            return Stacks((), False)
        # New threads are put in at the head, so the last one is the main thread. It comes first
        # here, because an action runs in it: where there is no room for all, it must be there.
        wanted = [states[-1], *states[:-1]][:THREADS_MAX]
        # Lines last: looking them up in a long function takes longer than all reading, and the
        # process runs on meanwhile. Where time ends before them, the names at least are there.
        read = [self._thread(state) for state in wanted]
        threads = tuple(
            ThreadStack(ident, self._with_lines(calls), is_cut) for ident, calls, is_cut in read
        )
        return Stacks(threads, self._is_sound)

    def thread_states(self) -> list[int]:
        """The addresses of the threads' states, newest first, as far as they could be read."""
        inside = self._layout.inside
        found: list[int] = []
        try:
            state = self._word(self._anchor + inside.threads_head)
            while state:
                # Each one names its interpreter: a list that leads astray is noticed here.
                if self._word(state + inside.thread_interpreter) != self._anchor:
                    raise _Senseless
                if len(found) >= THREADS_WALKED_MAX:
                    raise _Senseless
                found.append(state)
                state = self._word(state + inside.thread_next)
        except _Senseless:
            self._is_sound = False
        return found

    def frames_from(self, frame: int) -> tuple[tuple[Frame, ...], bool]:
        """The frame at ``frame`` and those that called it, and whether there may be more."""
        calls, is_cut = self._calls_from(frame)
        return self._with_lines(calls), is_cut

    def _calls_from(self, frame: int) -> tuple[list[_Call], bool]:
        found: list[_Call] = []
        try:
            return found, self._walk(frame, found)
        except _Senseless:
            self._is_sound = False
            return found, True

    def _thread(self, state: int) -> tuple[int, list[_Call], bool]:
        ident = 0
        try:
            ident = self._word(state + self._layout.inside.thread_ident)
            top = self._tops[state] = self._top(state)
        except _Senseless:
            self._is_sound = False
            return ident, [], True
        return (ident, *self._calls_from(top))

    def still_stands(self) -> bool:
        """Whether each thread is still in the call in which `stacks` found it. To be asked of
        memory that is read anew: where it is not, the stack may be of two moments."""
        try:
            return all(self._top(state) == top for state, top in self._tops.items())
        except _Senseless:
            return False

    def _top(self, state: int) -> int:
        inside = self._layout.inside
        top = self._word(state + inside.thread_frame)
        return top if inside.cframe_frame is None else self._word(top + inside.cframe_frame)

    def _walk(self, frame: int, calls: list[_Call]) -> bool:
        """Add to ``calls`` until the first call or a limit; True for a limit."""
        inside = self._layout.inside
        seen: set[int] = set()
        while frame:
            if len(calls) >= FRAMES_MAX or self._frames_left <= 0:
                return True
            # At most one marker of a call from C comes with each frame.
            if frame in seen or len(seen) > 2 * FRAMES_MAX:
                raise _Senseless
            seen.add(frame)
            if not self._is_marker(frame):
                calls.append(self._call(frame))
                self._frames_left -= 1
            frame = self._word(frame + inside.frame_previous)
        return False

    def _is_marker(self, frame: int) -> bool:
        """Whether ``frame`` runs nothing and only marks the way from C to Python."""
        at = self._layout.inside.frame_owner
        return at is not None and self._bytes(frame + at, 1)[0] == OWNED_BY_C_STACK

    def _call(self, frame: int) -> _Call:
        inside = self._layout.inside
        address = self._word(frame + inside.frame_code)
        code = self._codes.get(address)
        if code is None:
            code = self._codes[address] = self._code(address)
        return _Call(code, self._word(frame + inside.frame_instruction))

    def _with_lines(self, calls: list[_Call]) -> tuple[Frame, ...]:
        for call in calls:
            if call not in self._lines:
                self._lines[call] = self._line(call.code, call.instruction)
        return tuple(Frame(c.code.filename, self._lines[c], c.code.name) for c in calls)

    def _line(self, code: _Code, instruction: int) -> int | None:
        # Before its first instruction a frame points to the unit in front of its code.
        if not code.start - _CODE_UNIT_BYTES <= instruction < code.end:
            self._is_sound = False
            return None
        return line_at(code.table, code.first_line, instruction - code.start, self._until_s)

    def _code(self, address: int) -> _Code:
        fields = self._layout.code
        self._expect_type(address, self._layout.code_type)
        units = self._word(address + _SIZE_AT)
        return _Code(
            filename=self._text(self._word(address + fields.filename)),
            name=self._text(self._word(address + fields.name)),
            table=self._line_table(self._word(address + fields.linetable)),
            first_line=_INT.unpack(self._bytes(address + fields.first_line, _INT.size))[0],
            start=address + fields.start,
            end=address + fields.start + units * _CODE_UNIT_BYTES,
        )

    def _line_table(self, address: int) -> bytes:
        self._expect_type(address, self._layout.bytes_type)
        size = self._word(address + _SIZE_AT)
        # Shorter than promised is no fault: lines beyond what can be read are not known.
        return self._read(address + self._layout.bytes_data, min(size, LINE_TABLE_BYTES_MAX))

    def _text(self, address: int) -> str:
        """A str as printable ASCII, the way faulthandler prints it; ``???`` for other shapes."""
        self._expect_type(address, self._layout.str_type)
        length = self._word(address + _SIZE_AT)
        state = _INT.unpack(self._bytes(address + _STR_STATE_AT, _INT.size))[0]
        shape = _STR_STATES.get(state >> 2 & 0b11111)
        if shape is None:
            return UNKNOWN
        width, is_ascii = shape
        at = self._layout.ascii_data if is_ascii else self._layout.wide_data
        data = self._bytes(address + at, min(length, TEXT_CHARACTERS_MAX + 1) * width)
        try:
            text = data.decode(_CODECS[width], "surrogatepass" if width > 1 else "strict")
        except UnicodeDecodeError:
            return UNKNOWN
        return printable(text)

    def _expect_type(self, address: int, kind: int) -> None:
        if self._word(address + _TYPE_AT) != kind + self._slide:
            raise _Senseless

    def _word(self, address: int) -> int:
        return int(_WORD.unpack(self._bytes(address, _WORD.size))[0])

    def _bytes(self, address: int, size: int) -> bytes:
        if time.monotonic() >= self._until_s:
            raise _Senseless
        data = self._read(address, size)
        if len(data) != size:
            raise _Senseless
        return data


def printable(text: str) -> str:
    """``text`` as ASCII, in one line, with escapes for all the rest: no name can pass for a line
    of the stack or move a terminal's cursor. Cut after `TEXT_CHARACTERS_MAX` characters."""
    shown = text[:TEXT_CHARACTERS_MAX].encode("ascii", "backslashreplace").decode()
    return shown.translate(_CONTROL) + ("..." if len(text) > TEXT_CHARACTERS_MAX else "")


def line_at(table: bytes, first_line: int, offset: int, until_s: float) -> int | None:
    """The line of the instruction at ``offset`` bytes into its code, None if the line table does
    not say it. Gives up at ``until_s``.

    An entry begins with 1kkkklll: kind and number of code units less one. The line is counted up
    or down from the entry before; columns are passed over.
    """
    if offset < 0:
        return first_line
    line, end, at, entries = first_line, 0, 0, 0
    while at < len(table):
        head = table[at]
        if head < 0x80:
            return None
        kind = head >> 3 & 15
        end += ((head & 7) + 1) * _CODE_UNIT_BYTES
        at += 1
        if 10 <= kind <= 12:
            line += kind - 10
        elif kind in (13, 14):
            delta, at = _signed(table, at)
            line += delta
        if offset < end:
            return None if kind == 15 else line
        while at < len(table) and table[at] < 0x80:
            at += 1
        entries += 1
        if entries % _CLOCK_EVERY == 0 and time.monotonic() >= until_s:
            return None
    return None


def _signed(table: bytes, at: int) -> tuple[int, int]:
    """A number in groups of six bits, lowest first; bit 6 says that more follow, and the lowest
    bit of the number is its sign. Also gives where the next field begins."""
    value = shift = 0
    while at < len(table) and shift < 36:
        part = table[at]
        at += 1
        value |= (part & 63) << shift
        shift += 6
        if not part & 64:
            break
    return (-(value >> 1) if value & 1 else value >> 1), at
