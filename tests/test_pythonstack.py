"""The walk through a foreign memory: whatever lies there, it ends, and never raises."""

from __future__ import annotations

import asyncio.base_events
import hashlib
import inspect
import os
import struct
import threading
import time
import types
import typing
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsmv2.supervisor.stacks import outsidereader, pythonstack
from fsmv2.supervisor.stacks.processmemory import PAGE_BYTES, ProcessMemory
from fsmv2.supervisor.stacks.pythonlayout import OWNED_BY_C_STACK, Layout, supposed_layout
from fsmv2.supervisor.stacks.pythonstack import (
    FRAMES_MAX,
    FRAMES_TOTAL_MAX,
    TEXT_CHARACTERS_MAX,
    THREADS_MAX,
    THREADS_WALKED_MAX,
    Frame,
    Stacks,
    StackWalk,
    ThreadStack,
    line_at,
    printable,
)

FOREVER = float("inf")
LAYOUT = supposed_layout()
# Per frame: code, its type and fields, three objects, the instruction, marker and way on.
READS_MAX = 2 * THREADS_WALKED_MAX + 30 * FRAMES_TOTAL_MAX + 3 * THREADS_MAX * (2 * FRAMES_MAX + 3)


class Counted:
    """A memory that counts how often it is asked."""

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        self._read = read
        self.reads = 0
        self.longest = 0

    def __call__(self, address: int, size: int) -> bytes:
        self.reads += 1
        self.longest = max(self.longest, size)
        return self._read(address, size)


def walk(read: Callable[[int, int], bytes], layout: Layout = LAYOUT) -> Stacks:
    """One look from the own anchor, held against the bounds that are promised."""
    memory = Counted(read)
    stacks = StackWalk(memory, layout, layout.main_interpreter, FOREVER).stacks()
    assert memory.reads <= READS_MAX
    assert memory.longest <= pythonstack.LINE_TABLE_BYTES_MAX
    assert len(stacks.threads) <= THREADS_MAX
    assert all(len(thread.frames) <= FRAMES_MAX for thread in stacks.threads)
    text = outsidereader.as_text(stacks)
    assert text.isascii()
    assert len(text) <= outsidereader.TEXT_BYTES_MAX
    return stacks


# --- garbage ----------------------------------------------------------------------------------


@given(seed=st.binary(max_size=8), short=st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_a_memory_of_noise_gives_nothing(seed: bytes, short: int) -> None:
    """Each address holds something else, and some reads come back short."""

    def read(address: int, size: int) -> bytes:
        noise = hashlib.shake_128(seed + address.to_bytes(16, "little", signed=True)).digest(size)
        return noise[: size - short] if noise[:1] < b"\x20" else noise

    assert walk(read).threads == ()


@given(words=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40))
@settings(max_examples=200, deadline=None)
def test_a_memory_that_leads_anywhere_is_left(words: list[int]) -> None:
    """Arbitrary words, among them ones that are right: types, the anchor, each other."""
    right = (LAYOUT.main_interpreter, LAYOUT.code_type, LAYOUT.str_type, LAYOUT.bytes_type, 0, 4096)

    def read(address: int, size: int) -> bytes:
        word = words[address // 8 % len(words)]
        word = right[word % 7] if word % 7 < len(right) else word
        return (struct.pack("<Q", word) * (size // 8 + 1))[:size]

    walk(read)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_real_memory_with_any_words_changed_is_survived(
    waiting: int, data: st.DataObject
) -> None:
    """What a torn read looks like: nearly all is right, and one of the next words is not."""
    faults = data.draw(
        st.dictionaries(st.integers(0, 400), st.integers(0, 2**64 - 1) | st.binary(max_size=9))
    )
    count = 0
    assert waiting  # a stack that is whole without the faults
    with ProcessMemory(os.getpid(), FOREVER) as memory:

        def read(address: int, size: int) -> bytes:
            nonlocal count
            fault = faults.get(count)
            count += 1
            if fault is None:
                return memory.read(address, size)
            if isinstance(fault, bytes):
                return fault[:size]
            return struct.pack("<Q", fault)[:size].ljust(size, b"\xff")

        walk(read)
        count = 0
        StackWalk(read, LAYOUT, LAYOUT.main_interpreter, FOREVER).frames_from(waiting)


@given(
    table=st.binary(max_size=300),
    first_line=st.integers(-(2**31), 2**31 - 1),
    offset=st.integers(-10, 2_000),
)
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_survived_as_a_line_table(table: bytes, first_line: int, offset: int) -> None:
    """A line, or that it is not known; never an exception."""
    line = line_at(table, first_line, offset, FOREVER)
    assert line is None or isinstance(line, int)


@given(text=st.text(st.characters(), max_size=2 * TEXT_CHARACTERS_MAX))
@settings(deadline=None)
def test_any_name_is_one_line_of_printable_ascii(text: str) -> None:
    """No name can pass for another line of a stack, nor move a cursor."""
    shown = printable(text)
    assert shown.isascii()
    assert shown.isprintable()


# --- memory made to keep a reader busy ----------------------------------------------------------


THREADS_AT, POINTERS_AT, FRAMES_AT = 1 << 32, 1 << 36, 1 << 40
# A layout with markers, which 3.11 does not have.
MARKED = LAYOUT._replace(inside=LAYOUT.inside._replace(frame_owner=70))


def endless(owner: int, memory: ProcessMemory) -> Callable[[int, int], bytes]:
    """A list of threads without an end, each with a stack without an end; the rest is real."""
    inside = MARKED.inside
    via = POINTERS_AT if inside.cframe_frame is not None else FRAMES_AT

    def read(address: int, size: int) -> bytes:
        page, offset = divmod(address, PAGE_BYTES)
        below = (page + 1) * PAGE_BYTES
        if address == LAYOUT.main_interpreter + inside.threads_head:
            word = THREADS_AT
        elif THREADS_AT <= address < POINTERS_AT:
            word = {
                inside.thread_next: below,
                inside.thread_interpreter: LAYOUT.main_interpreter,
                inside.thread_frame: via,
            }.get(offset, 7)
        elif POINTERS_AT <= address < FRAMES_AT:
            word = FRAMES_AT
        elif FRAMES_AT <= address < FRAMES_AT << 1:
            if offset == inside.frame_owner:
                return bytes([owner])
            word = below if offset == inside.frame_previous else id(endless.__code__)
        else:
            return memory.read(address, size)
        return struct.pack("<Q", word)[:size]

    return read


@pytest.mark.parametrize(("owner", "frames"), [(0, FRAMES_TOTAL_MAX), (OWNED_BY_C_STACK, 0)])
def test_lists_without_an_end_are_left_in_time(owner: int, frames: int) -> None:
    """More threads and more frames than any limit, or nothing but markers."""
    with ProcessMemory(os.getpid(), FOREVER) as memory:
        stacks = walk(endless(owner, memory), MARKED)
    assert len(stacks.threads) == THREADS_MAX
    assert sum(len(thread.frames) for thread in stacks.threads) == frames
    assert not stacks.is_sound


@pytest.fixture(scope="module")
def waiting() -> Iterator[int]:
    """The topmost frame of a thread that waits: the reader's own frames come and go."""
    end, begun = threading.Event(), threading.Event()

    def in_vain() -> None:
        begun.set()
        end.wait()

    thread = threading.Thread(target=in_vain)
    thread.start()
    begun.wait()
    until_s = time.monotonic() + 60.0
    while not (top := frame_in("in_vain", thread)) and time.monotonic() < until_s:
        time.sleep(0.001)
    yield top
    end.set()
    thread.join()


def frame_in(name: str, thread: threading.Thread) -> int:
    """The address of the topmost frame of ``thread`` once that has called from ``name``, else 0."""
    inside = LAYOUT.inside
    with ProcessMemory(os.getpid(), FOREVER) as memory:
        look = StackWalk(memory.read, LAYOUT, LAYOUT.main_interpreter, FOREVER)
        for state in look.thread_states():
            if word_at(memory, state + inside.thread_ident) == thread.ident:
                top = word_at(memory, state + inside.thread_frame)
                if inside.cframe_frame is not None:
                    top = word_at(memory, top + inside.cframe_frame)
                names = [frame.name for frame in look.frames_from(top)[0]]
                return top if names[:3] == ["wait", "wait", name] else 0
    return 0


def word_at(memory: ProcessMemory, address: int) -> int:
    """The pointer at ``address``, read now."""
    memory.forget()
    return int(struct.unpack("<Q", memory.read(address, 8))[0])


def test_a_stack_that_bites_its_tail_is_left(waiting: int) -> None:
    """A frame whose caller is itself comes once."""
    inside = LAYOUT.inside
    with ProcessMemory(os.getpid(), FOREVER) as memory:

        def read(address: int, size: int) -> bytes:
            if address == waiting + inside.frame_previous:
                return struct.pack("<Q", waiting)
            return memory.read(address, size)

        look = StackWalk(read, LAYOUT, LAYOUT.main_interpreter, FOREVER)
        frames, is_cut = look.frames_from(waiting)
    assert [frame.name for frame in frames] == ["wait"]
    assert is_cut


def test_no_read_comes_after_the_time_is_over() -> None:
    """Wherever the time runs out: at most what was begun is ended."""
    with ProcessMemory(os.getpid(), FOREVER) as memory:
        for first in (0, 1, 3, 10, 40):
            until_s = time.monotonic() + 0.02
            counted = Counted(memory.read)
            late = _late_after(first, counted, until_s)
            StackWalk(late, LAYOUT, LAYOUT.main_interpreter, until_s).stacks()
            assert counted.reads <= first + 2


def _late_after(reads: int, then: Counted, until_s: float) -> Callable[[int, int], bytes]:
    def read(address: int, size: int) -> bytes:
        while then.reads >= reads and time.monotonic() < until_s:
            time.sleep(0.005)
        return then(address, size)

    return read


def test_a_thread_that_has_moved_on_is_noticed() -> None:
    """The topmost frame that was read first is compared with what is there afterwards."""
    moved = 0
    with ProcessMemory(os.getpid(), FOREVER) as memory:
        still = endless(0, memory)

        def read(address: int, size: int) -> bytes:
            data = still(address, size)
            is_top = data == struct.pack("<Q", FRAMES_AT)
            return struct.pack("<Q", FRAMES_AT + moved * PAGE_BYTES) if is_top else data

        look = StackWalk(read, LAYOUT, LAYOUT.main_interpreter, FOREVER)
        assert look.stacks().threads
        assert look.still_stands()
        moved = 1
        assert not look.still_stands()


class Moving:
    """A memory whose threads are in another call each of the first few times it is read anew."""

    def __init__(self, memory: ProcessMemory, moves: int) -> None:
        self._still = endless(0, memory)
        self._moves = moves
        self.looks = 0

    def read(self, address: int, size: int) -> bytes:
        self.looks += address == LAYOUT.main_interpreter + LAYOUT.inside.threads_head
        data = self._still(address, size)
        is_top = data == struct.pack("<Q", FRAMES_AT)
        return struct.pack("<Q", FRAMES_AT + self._moves * PAGE_BYTES) if is_top else data

    def forget(self) -> None:
        self._moves = max(0, self._moves - 1)


@pytest.mark.parametrize(("moves", "looks"), [(0, 1), (1, 2), (9, outsidereader.LOOKS_MAX)])
def test_a_look_is_taken_anew_while_threads_move_on(
    moves: int, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not for ever: then what was found is given."""
    # The endless stack is cut and has no lines, which alone would be a reason to look again.
    monkeypatch.setattr(Stacks, "is_sound", True)
    with ProcessMemory(os.getpid(), FOREVER) as memory:
        moving = Moving(memory, moves)
        look = outsidereader._look
        stacks = look(
            typing.cast("ProcessMemory", moving), LAYOUT, LAYOUT.main_interpreter, FOREVER
        )
    assert moving.looks == looks
    assert stacks.threads


@pytest.mark.parametrize("field", ["code_type", "str_type", "bytes_type"])
def test_a_stack_of_another_interpreter_is_no_stack(field: str, waiting: int) -> None:
    """Another binary has its types elsewhere: its objects are not taken for ours."""
    other = LAYOUT._replace(**{field: getattr(LAYOUT, field) + 16})
    with ProcessMemory(os.getpid(), FOREVER) as memory:
        look = StackWalk(memory.read, other, LAYOUT.main_interpreter, FOREVER)
        assert look.frames_from(waiting) == ((), True)


# --- lines and texts ---------------------------------------------------------------------------


def codes_of(module: types.ModuleType) -> Iterator[types.CodeType]:
    """All code objects of a module's source."""
    left = [compile(inspect.getsource(module), "x", "exec")]
    while left:
        code = left.pop()
        yield code
        left += [const for const in code.co_consts if isinstance(const, types.CodeType)]


@pytest.mark.parametrize("module", [asyncio.base_events, inspect])
def test_lines_are_those_of_the_interpreter(module: types.ModuleType) -> None:
    """Of each instruction in thousands of lines of real code."""
    tried = 0
    for code in codes_of(module):
        for unit, (line, *_) in enumerate(code.co_positions()):
            got = line_at(code.co_linetable, code.co_firstlineno, 2 * unit, FOREVER)
            assert got == line, (code.co_name, unit)
            tried += 1
    assert tried > 1_000


def test_a_text_has_a_limit_and_keeps_the_main_thread() -> None:
    """Whole threads, in order, as many as there is room for."""
    frame = Frame("f" * 500, 1, "n" * 500)
    full = ThreadStack(1, (frame,) * FRAMES_MAX, True)
    text = outsidereader.as_text(Stacks((full,) * THREADS_MAX, True))
    assert len(text) <= outsidereader.TEXT_BYTES_MAX
    assert text.startswith("Thread 0x0000000000000001 (most recent call first):\n")
    assert text.endswith("\n  ...")


def test_what_is_not_known_is_said() -> None:
    """A thread without frames, a line that nobody knows."""
    unknown = ThreadStack(2, (Frame("f.py", None, "g"),), False)
    head = "Thread 0x000000000000000{} (most recent call first):\n"
    text = outsidereader.as_text(Stacks((unknown, ThreadStack(3, (), False)), True))
    first, second = text.split("\n\n")
    assert first == head.format(2) + '  File "f.py", line ??? in g'
    assert second == head.format(3) + "  <no Python frame>"
