"""A lock that a process holds for as long as it lives, and whose end the kernel tells at once.

Knows: robust mutexes in shared memory, the futexes below them.
Does not know: whose life it is, what is done about its end.
Invariants: nothing here can block but `wait_for_end`; where the kernel or the C library cannot,
nobody is told early, and that is all.

A process that is killed frees its memory first, then closes its files: two milliseconds pass until
others see its pipes end, and more the larger it is (measured: 2.1 ms for a proc of ours). Robust
mutexes are looked through before that, so that who waits for one that the dead held is woken
(measured: after 0.2 ms). Sources: the kernel's robust-futexes.rst and futex2.rst, futex(2),
pthread_mutexattr_setrobust(3).
"""

from __future__ import annotations

import ctypes
import errno
import platform
from collections.abc import Sequence

# linux/futex.h
_FUTEX_WAKE = 1
_FUTEX2_SIZE_U32 = 2
WAITERS = 0x8000_0000
OWNER_DIED = 0x4000_0000
# The largest mutex of any C library, and the most futexes that one call waits for.
MUTEX_BYTES = 64
WAITS_MAX = 128

# futex_waitv has one number everywhere.
_FUTEX = {"x86_64": 202, "aarch64": 98}.get(platform.machine())
_FUTEX_WAITV = 449
_PTHREAD_PROCESS_SHARED = 1
_PTHREAD_MUTEX_ROBUST = 1

_libc = ctypes.CDLL(None, use_errno=True)


class _Wait(ctypes.Structure):
    """struct futex_waitv"""

    _fields_ = [
        ("value", ctypes.c_uint64),
        ("address", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    ]


class Word(ctypes.c_uint32):
    """A futex of this process's own, to interrupt `wait_for_end` with."""

    @property
    def address(self) -> int:
        """Where it is."""
        return ctypes.addressof(self)

    def wake(self) -> None:
        """Change it and wake who waits for it."""
        self.value = (self.value + 1) & 0xFFFF_FFFF
        if _FUTEX is not None:
            _libc.syscall(_FUTEX, ctypes.c_void_p(self.address), _FUTEX_WAKE, 1, None, None, 0)


def take_hold(address: int) -> bool:
    """Hold the lock at ``address``, in shared memory, until the calling thread ends. False: the C
    library cannot."""
    attributes = ctypes.create_string_buffer(MUTEX_BYTES)
    mutex = ctypes.c_void_p(address)
    return (
        _FUTEX is not None
        and _libc.pthread_mutexattr_init(attributes) == 0
        and _libc.pthread_mutexattr_setpshared(attributes, _PTHREAD_PROCESS_SHARED) == 0
        and _libc.pthread_mutexattr_setrobust(attributes, _PTHREAD_MUTEX_ROBUST) == 0
        and _libc.pthread_mutex_init(mutex, attributes) == 0
        and _libc.pthread_mutex_lock(mutex) == 0
    )


def wait_for_end(words: Sequence[tuple[int, int]]) -> bool:
    """Sleep until the word at one of the addresses is woken, or is not what is paired with it
    (already, or an address is not there any more). False: this kernel has no such call, or does
    not let us."""
    waits = (_Wait * len(words))(
        *(_Wait(value, address, _FUTEX2_SIZE_U32, 0) for address, value in words)
    )
    if _FUTEX is None:
        return False
    if _libc.syscall(_FUTEX_WAITV, waits, len(words), 0, None, 0) >= 0:
        return True
    return ctypes.get_errno() in (errno.EAGAIN, errno.EFAULT, errno.EINTR)
