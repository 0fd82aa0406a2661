"""A proc that was started in a fresh interpreter instead of forked from the template.

Knows: what a fork would have brought along: name, session, search path, metrics identity.
Does not know: actions, results.
Invariants: from `serve` on there is no difference to a forked proc; it dies with the root,
whichever thread of it has started us; it ends with ``os._exit``, as a forked one does, since
nothing here is the root's to clean up.
Sources: fcntl(2) (F_SETSIG, O_ASYNC), pipe(7), prctl(2).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import traceback
from pathlib import Path

from fsmv2.ipc.codec import decode
from fsmv2.ipc.linux import die_with_parent, set_name
from fsmv2.ipc.messages import Fork
from fsmv2.workerproc.proc import serve

# linux/fcntl.h; Python has no name for it.
F_SETSIG = 10


def spawned_main(
    order_body: bytes,
    fds: list[int],
    leash_fd: int,
    search: tuple[str, ...],
    run_folder: str,
    metrics_folder: str | None,
    parent_pid: int,
) -> None:
    """Be the proc of an encoded `Fork` order. ``leash_fd``: see `die_with_pipe`. ``parent_pid``
    0: do not die with the parent's thread that started us (it may end before its process)."""
    code = 1
    try:
        order: Fork = decode(order_body, Fork)
        set_name(order.name)
        os.setsid()
        with contextlib.suppress(OSError):
            die_with_pipe(leash_fd)
        os.close(leash_fd)
        if parent_pid:
            die_with_parent(parent_pid)
        sys.path += [folder for folder in search if folder not in sys.path]
        if metrics_folder is not None:
            from fsmv2.ipc import metricfile

            metricfile.install(order.slot, metrics_folder)
        scratch = Path(run_folder) / f"scratch-{order.slot}-{os.getpid()}"
        code = serve(order, str(scratch), fds)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
    except BaseException:
        with contextlib.suppress(Exception):
            traceback.print_exc()
    finally:
        os._exit(code)


def die_with_pipe(read_fd: int) -> None:
    """Have the kernel SIGKILL this process when nobody holds the other end of a pipe that
    nobody writes to, whatever this process does then. Raises OSError where it cannot.

    The signal belongs to the open file, which all who inherited ``read_fd`` share; so this opens
    one of its own, which stays open for good.
    """
    own_fd = os.open(f"/proc/self/fd/{read_fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.fcntl(own_fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(own_fd, F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(own_fd, fcntl.F_SETFL, fcntl.fcntl(own_fd, fcntl.F_GETFL) | os.O_ASYNC)
    with contextlib.suppress(BlockingIOError):
        if not os.read(own_fd, 1):
            os._exit(0)  # it was too late for the signal
