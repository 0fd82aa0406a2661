"""The memory of a process: what is there now, and never a wait for what is not."""

from __future__ import annotations

import mmap
import os
import time
from ctypes import addressof, c_char

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsmv2.supervisor.stacks.processmemory import PAGE_BYTES, PAGES_MAX, ProcessMemory, is_file_call

FOREVER = float("inf")


def test_a_page_that_is_not_in_memory_is_not_waited_for() -> None:
    """Whoever reads it would have to have it fetched."""
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
        (b"9 0x0 0x1000 0x3 0x22 0xffff 0x0 0x7ffd 0x7f\n", "x86_64", False),
        (b"-1 0x7ffd 0x7f\n", "x86_64", False),
        (b"0 0x3\n", "riscv64", False),
        (b"", "x86_64", False),
    ],
)
def test_calls_on_files_are_told_from_those_that_hold_the_memory(
    line: bytes, machine: str, is_file: bool
) -> None:
    """mmap waits with the lock of the memory, read without."""
    assert is_file_call(line, machine) is is_file
