"""The first function of a proc that has an interpreter of its own.

Knows: what the template does for the procs it forks, done here by the proc itself; the leash.
Does not know: actions, why it was not forked.
Invariants: nothing is preloaded; it dies with the root, whichever thread of it has started us;
from `serve` on it is a proc like any other.
Sources: fcntl(2) (F_SETSIG, O_ASYNC), pipe(7).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import traceback
from pathlib import Path

from fsmv2.ipc.linux import die_with_parent, set_name
from fsmv2.ipc.messages import Fork
from fsmv2.workerproc.proc import serve

# linux/fcntl.h; Python has no name for it.
F_SETSIG = 10


def spawned_main(
    slot: str,
    name: str,
    root_pid: int,
    group: str,
    result_bytes_max: int,
    fds: tuple[int, ...],
    leash_fd: int,
    search: tuple[str, ...],
    run_folder: str,
    metrics_folder: str | None,
    from_main_thread: bool,
) -> None:
    """Become the proc for ``slot``; never returns. ``fds`` are in the order of
    `ipc.messages.PROC_FDS`."""
    code = 1
    try:
        set_name(name)
        os.setsid()
        with contextlib.suppress(OSError):
            die_with_pipe(leash_fd)
        os.close(leash_fd)
        if os.getppid() != root_pid:
            os._exit(0)
        if from_main_thread:
            die_with_parent(root_pid)  # prctl(2): bound to the thread that has made us
        sys.path += [folder for folder in search if folder not in sys.path]
        if metrics_folder is not None:
            # Imported only here: a pool without metrics does not pay for the library.
            from fsmv2.ipc import metricfile

            metricfile.install(slot, metrics_folder)
        order = Fork(slot, name, root_pid, group, result_bytes_max)
        scratch = Path(run_folder) / f"scratch-{slot}-{os.getpid()}"
        code = serve(order, str(scratch), list(fds))
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
    except BaseException:
        with contextlib.suppress(Exception):
            traceback.print_exc()
    finally:
        # A thread that an action left behind must not keep the proc.
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
