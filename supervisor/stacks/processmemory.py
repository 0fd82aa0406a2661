"""Reads the memory of another process without stopping it, and without waiting.

Knows: ``/proc/PID/mem``, ``/proc/PID/pagemap``, the states of a process's threads.
Does not know: what lies in the memory.
Invariants: reads a page only if the kernel says that it is in memory now, so no read waits for a
disk, for a file system in user space or for userfaultfd; nothing is attached, stopped or written;
bytes, pages and time have a limit; a read gives fewer bytes rather than an error.

Why ``/proc/PID/mem`` and not process_vm_readv(2): the kernel asks for the same right for both
(ptrace(2), "Ptrace access mode checking"), but containers' seccomp filters often forbid the system
call, and an `os.pread` costs half of a call through ctypes.
"""

from __future__ import annotations

import os
import platform
import time
from types import TracebackType

PAGE_BYTES = os.sysconf("SC_PAGESIZE")
PAGES_MAX = 1_024
TASKS_MAX = 200
_ADDRESS_MAX = 2**63 - 2 * PAGE_BYTES
_PAGE_IS_PRESENT = 0x80  # bit 63 of a little-endian word: the top bit of its last byte
_ENTRY_BYTES = 8

# Calls that can hang in a file system and hold no lock of the address space meanwhile, by their
# numbers. Sources: asm/unistd_64.h for x86_64, asm-generic/unistd.h for aarch64.
_MACHINES = ("x86_64", "aarch64")
_FILE_CALLS = {
    "read": (0, 63), "write": (1, 64), "open": (2, None), "close": (3, 57), "stat": (4, None),
    "fstat": (5, 80), "lstat": (6, None), "lseek": (8, 62), "pread64": (17, 67),
    "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66), "access": (21, None),
    "fcntl": (72, 25), "flock": (73, 32), "fsync": (74, 82), "fdatasync": (75, 83),
    "truncate": (76, 45), "ftruncate": (77, 46), "getdents": (78, None), "chdir": (80, 49),
    "rename": (82, None), "mkdir": (83, None), "rmdir": (84, None), "creat": (85, None),
    "link": (86, None), "unlink": (87, None), "readlink": (89, None), "statfs": (137, 43),
    "getdents64": (217, 61), "openat": (257, 56), "mkdirat": (258, 34), "fstatat": (262, 79),
    "unlinkat": (263, 35), "renameat": (264, 38), "linkat": (265, 37), "readlinkat": (267, 78),
    "faccessat": (269, 48), "renameat2": (316, 276), "statx": (332, 291),
}  # fmt: skip


class ProcessMemory:
    """``with ProcessMemory(pid, until_s) as memory: memory.read(address, size)``.

    ``until_s`` is a moment of `time.monotonic`, after which every read gives b"". The constructor
    raises OSError where the process is gone or its memory is not ours to read.
    """

    __slots__ = ("_map_fd", "_memory_fd", "_pages", "_pages_left", "_until_s")

    def __init__(self, pid: int, until_s: float) -> None:
        self._until_s = until_s
        self._pages: dict[int, bytes] = {}
        self._pages_left = PAGES_MAX
        self._memory_fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._map_fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(self._memory_fd)
            raise

    def __enter__(self) -> ProcessMemory:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the two descriptors back; once."""
        os.close(self._memory_fd)
        os.close(self._map_fd)

    @property
    def fd(self) -> int:
        """The descriptor of the memory itself; reads through it may wait."""
        return self._memory_fd

    def forget(self) -> None:
        """Read everything anew from now on: the process has moved on meanwhile."""
        self._pages.clear()

    def read(self, address: int, size: int) -> bytes:
        """What is in memory from ``address`` on: at most ``size`` bytes, b"" if nothing."""
        if address < PAGE_BYTES or size <= 0 or address + size > _ADDRESS_MAX:
            return b""
        first, offset = divmod(address, PAGE_BYTES)
        found = self._page(first)[offset : offset + size]
        if offset + size <= PAGE_BYTES:
            return found
        parts = [found]
        for number in range(first + 1, (address + size - 1) // PAGE_BYTES + 1):
            if len(parts[-1]) == 0:
                return b"".join(parts)
            parts.append(self._page(number))
        return b"".join(parts)[:size]

    def _page(self, number: int) -> bytes:
        """One page, b"" if it is not there, not in memory, or one too many."""
        page = self._pages.get(number)
        if page is not None:
            return page
        if self._pages_left <= 0 or time.monotonic() >= self._until_s:
            return b""
        self._pages_left -= 1
        try:
            entry = os.pread(self._map_fd, _ENTRY_BYTES, number * _ENTRY_BYTES)
            if len(entry) == _ENTRY_BYTES and entry[-1] & _PAGE_IS_PRESENT:
                page = os.pread(self._memory_fd, PAGE_BYTES, number * PAGE_BYTES)
            else:
                page = b""
        except (OSError, OverflowError):
            page = b""
        if len(page) != PAGE_BYTES:
            page = b""
        self._pages[number] = page
        return page


def could_wait(pid: int) -> bool:
    """Whether a look into the memory of ``pid`` might wait for the process itself.

    A look takes the lock of its address space. Whoever waits uninterruptibly (state D) may hold
    that lock for as long as the file or the machine that it waits for pleases; in a call on a file
    it does not. True also where this cannot be told. Source: proc(5), ``/proc/pid/stat``,
    ``/proc/pid/syscall``.
    """
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        return len(tasks) > TASKS_MAX or any(_holds(f"/proc/{pid}/task/{task}") for task in tasks)
    except (OSError, ValueError):
        return True


def _holds(path: str) -> bool:
    try:
        # The name in brackets may hold anything, so count from its end.
        state = _content(f"{path}/stat").rpartition(b") ")[2][:1]
        return state == b"D" and not is_file_call(_content(f"{path}/syscall"), platform.machine())
    except (FileNotFoundError, ProcessLookupError):
        return False  # this thread has ended meanwhile


def is_file_call(line: bytes, machine: str) -> bool:
    """Whether ``line``, from ``/proc/PID/syscall``, names a call that works on a file. A thread in
    a page fault is in no call (-1); on an unknown ``machine`` no number says anything."""
    number = line.partition(b" ")[0].strip()
    if machine not in _MACHINES or not number.isdigit():
        return False
    column = _MACHINES.index(machine)
    return any(int(number) == numbers[column] for numbers in _FILE_CALLS.values())


def _content(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, PAGE_BYTES)
    finally:
        os.close(fd)
