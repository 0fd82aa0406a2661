"""The walk through a foreign memory: whatever lies there, it ends, and never raises."""

from __future__ import annotations

import asyncio.base_events
import hashlib
import inspect
import mmap
import os
import struct
import threading
import time
import types
from collections.abc import Callable, Iterator
from ctypes import addressof, c_char

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsmv2.supervisor import outsidereader, pythonstack
from fsmv2.supervisor.processmemory import PAGE_BYTES, PAGES_MAX, ProcessMemory, is_file_call
from fsmv2.supervisor.pythonlayout import OWNED_BY_C_STACK, Layout, supposed_layout
from fsmv2.supervisor.pythonstack import (
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


THREADS_AT, FRAMES_AT = 1 << 32, 1 << 40


def endless(owner: int, frame_code: int) -> Callable[[int, int], bytes]:
    """A list of threads without an end, each with a stack without an end."""
    inside = LAYOUT.inside

    def read(address: int, size: int) -> bytes:
        page, offset = divmod(address, PAGE_BYTES)
        below = (page + 1) * PAGE_BYTES
        if address == LAYOUT.main_interpreter + inside.threads_head:
            word = THREADS_AT
        elif address >= FRAMES_AT:
            if offset == inside.frame_owner:
                return bytes([owner])
            word = below if offset == inside.frame_previous else frame_code
            # One more pointer up to the frame, with 3.11 and 3.12.
            word = address + 64 if offset == inside.cframe_frame else word
        elif offset == inside.thread_next:
            word = below
        elif offset == inside.thread_interpreter:
            word = LAYOUT.main_interpreter
        elif offset == inside.thread_frame:
            word = FRAMES_AT
        else:
            word = 7
        return struct.pack("<Q", word).ljust(size, b"\0")[:size]

    return read


@pytest.mark.parametrize("owner", [0, OWNED_BY_C_STACK])
def test_lists_without_an_end_are_left_in_time(owner: int) -> None:
    """More threads and more frames than any limit, markers among them."""
    stacks = walk(endless(owner, frame_code=1 << 50))
    assert len(stacks.threads) == THREADS_MAX
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

    def read(address: int, size: int) -> bytes:
        data = endless(0, frame_code=1 << 50)(address, size)
        is_top = address % PAGE_BYTES == LAYOUT.inside.thread_frame and address < FRAMES_AT
        return struct.pack("<Q", FRAMES_AT + moved * PAGE_BYTES) if is_top else data

    look = StackWalk(read, LAYOUT, LAYOUT.main_interpreter, FOREVER)
    assert look.stacks().threads
    assert look.still_stands()
    moved = 1
    assert not look.still_stands()


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
    text = outsidereader.as_text(Stacks((unknown, ThreadStack(3, (), False)), True))
    assert text == (
        "Thread 0x0000000000000002 (most recent call first):\n"
        '  File "f.py", line ??? in g\n\n'
        "Thread 0x0000000000000003 (most recent call first):\n"
        "  <no Python frame>"
    )


# --- memory ------------------------------------------------------------------------------------


def test_a_page_that_is_not_in_memory_is_not_waited_for() -> None:
    """Whoever reads it would have to have it fetched, from wherever it comes."""
    with (
        mmap.mmap(-1, 3 * PAGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block,
        ProcessMemory(os.getpid(), FOREVER) as memory,
    ):
        block.madvise(mmap.MADV_NOHUGEPAGE)
        view = (c_char * len(block)).from_buffer(block)
        start = addressof(view)
        block[0] = block[PAGE_BYTES - 1] = 7
        assert memory.read(start, 1) == b"\x07"
        assert memory.read(start + PAGE_BYTES - 1, 2) == b"\x07"
        assert memory.read(start + PAGE_BYTES, 1) == b""
        block[PAGE_BYTES] = 8
        assert memory.read(start + PAGE_BYTES - 1, 2) == b"\x07"
        memory.forget()
        assert memory.read(start + PAGE_BYTES - 1, 2) == b"\x07\x08"
        del view


def test_pages_have_a_limit() -> None:
    """Memory that leads on and on is not read on and on."""
    with ProcessMemory(os.getpid(), FOREVER) as memory:
        at = id(memory)
        for number in range(PAGES_MAX):
            memory.read((number + 1) * PAGE_BYTES, 1)
        assert memory.read(at, 8) == b""


@given(address=st.integers(-(2**70), 2**70), size=st.integers(-5, 3 * PAGE_BYTES))
@settings(max_examples=200, deadline=None)
def test_any_address_gives_bytes(address: int, size: int) -> None:
    """Not more than were asked for, and no error."""
    with ProcessMemory(os.getpid(), FOREVER) as memory:
        assert len(memory.read(address, size)) <= max(0, size)


def test_after_its_time_a_memory_gives_nothing() -> None:
    """Also what is there."""
    with ProcessMemory(os.getpid(), time.monotonic()) as memory:
        assert memory.read(id(memory), 8) == b""


@pytest.mark.parametrize(
    ("line", "machine", "is_file"),
    [
        (b"0 0x3 0x7ffd 0x1 0x0 0x0 0x0 0x7ffd 0x7f\n", "x86_64", True),
        (b"63 0x3 0x7ffd 0x1 0x0 0x0 0x0 0x7ffd 0x7f\n", "aarch64", True),
        (b"63 0x3 0x7ffd 0x1 0x0 0x0 0x0 0x7ffd 0x7f\n", "x86_64", False),
        (b"9 0x0 0x1000 0x3 0x22 0xffff 0x0 0x7ffd 0x7f\n", "x86_64", False),
        (b"-1 0x7ffd 0x7f\n", "x86_64", False),
        (b"running\n", "x86_64", False),
        (b"0 0x3\n", "riscv64", False),
        (b"", "x86_64", False),
    ],
)
def test_calls_on_files_are_told_from_those_that_hold_the_memory(
    line: bytes, machine: str, is_file: bool
) -> None:
    """mmap waits with the lock of the memory, read without."""
    assert is_file_call(line, machine) is is_file
