"""Starts the root's few long-lived processes: the one file that knows `multiprocess`.

Knows: the spawn context, how a descriptor is handed to a new process.
Does not know: what the processes do.
Invariants: always an explicit context; a fresh interpreter, never a fork of the root; only
descriptors that are named are inherited; no queue, lock, pool or manager of that package.
"""

from __future__ import annotations

import os
import signal
import weakref
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

import multiprocess
from multiprocess.popen_spawn_posix import Popen
from multiprocess.reduction import DupFd

_context = multiprocess.get_context("spawn")


class SentFd:
    """A descriptor as an argument of `start`: it arrives in the new process as an int."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> tuple[Callable[[Any], int], tuple[Any]]:
        # DupFd registers the descriptor with the process that is being spawned right now.
        return (_receive_fd, (DupFd(self.fd),))


def _receive_fd(sent: Any) -> int:
    fd = int(sent.detach())
    os.set_inheritable(fd, False)
    return fd


class PlainFd(SentFd):
    """As `SentFd`, under the number it has here, for a process that needs nothing of ours to
    receive it."""

    def __reduce__(self) -> tuple[Callable[[Any], int], tuple[Any]]:
        return int, (DupFd(self.fd).detach(),)


class Named:
    """A function as a target, by its name ``module:function``: it is imported in the new process
    and not here, and none of our modules besides."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return resolve_name, (self.name,)


class Child:
    """A started process: its pid, and a pidfd that turns readable when it ends."""

    def __init__(self, process: Any) -> None:
        self._process = process
        self.pid: int = process.pid
        self.pidfd = os.pidfd_open(self.pid)

    def reap(self) -> int | None:
        """The exit code (negative: the signal), or None while it lives."""
        code: int | None = self._process.exitcode
        if code is None and self.pidfd >= 0 and not self._exists():
            code = 0  # somebody else in this process waited for all children: it is lost
        if code is not None and self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
            self._process.join()  # forgets it in the package's own list of children
        return code

    def _exists(self) -> bool:
        try:
            signal.pidfd_send_signal(self.pidfd, 0)
        except ProcessLookupError:
            return False
        return True

    def wait(self) -> int | None:
        """Wait until it is dead and reaped. Only for the end of the root's own life."""
        self._process.join()
        return self.reap()

    def kill(self) -> None:
        """SIGKILL. Harmless once it is dead."""
        self._process.kill()


def is_importing_main() -> bool:
    """Whether this is a process of ours that imports the program's main module right now: what
    stands there without a guard runs once more."""
    return bool(getattr(multiprocess.process.current_process(), "_inheriting", False))


def start(name: str, target: Callable[..., None], *args: Any) -> Child:
    """Start ``target(*args)`` in a fresh interpreter. Takes 1 to 10 ms, the process itself
    needs some 100 ms more until it runs. Raises OSError when the machine cannot."""
    process = _context.Process(target=target, name=name, args=args, daemon=False)
    process.start()
    _started.add(process)
    return Child(process)


def start_unwatched(name: str, target: Named, *args: Any) -> int:
    """`start` for a process that the caller waits for by its pid, which this returns."""
    process = _context.Process(target=target, name=name, args=args, daemon=False)
    # Not `process.start()`: that lists it among those which the package polls at each start of
    # another, and the exit status would be gone.
    popen = Popen(process)
    popen.close()
    return int(popen.pid)


_started: weakref.WeakSet[Any] = weakref.WeakSet()


def _forget_in_child() -> None:
    # The package would want to wait for them at the exit of this forked process, fail, and say so.
    multiprocess.process._children.difference_update(_started)  # noqa: SLF001


os.register_at_fork(after_in_child=_forget_in_child)
