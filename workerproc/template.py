"""The template: single-threaded, preloaded, forks procs on demand.

Knows: fork orders and their descriptors.
Does not know: actions, results, who runs where.
Invariants: it never runs an action; it forks only if no import left a thread or another trace
that a fork copies badly; it keeps no descriptor it passed on; it dies with the root and exits
when its control socket ends; procs are the root's children, not its own, so its death costs no
proc.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

from fsmv2.ipc.codec import decode, encode
from fsmv2.ipc.linux import children_of, die_with_parent, set_name, set_subreaper
from fsmv2.ipc.messages import PROC_FDS, Fork, Forked, Importing, Message, Preloaded
from fsmv2.workerproc.evidence import DUMP_SIGNAL
from fsmv2.workerproc.preload import import_all
from fsmv2.workerproc.proc import proc_main

ORDER_BYTES_MAX = 4096
FAILURES_MAX = 40


def template_main(
    control_fd: int,
    output_fd: int,
    root_pid: int,
    preload: tuple[str, ...],
    search: tuple[str, ...],
    run_folder: str,
    metrics_folder: str | None,
    from_main_thread: bool,
) -> None:
    """Preload ``preload`` (module names, ``search`` added to the path), then serve forks.

    What modules print at import goes to ``output_fd``: the root's own output may be a log.
    """
    control = socket.socket(fileno=control_fd)
    control.setblocking(True)
    os.set_inheritable(control_fd, False)
    set_name("fsmv2-template")
    # Marks what an import starts as ours, and keeps the terminal's signals away from it.
    os.setsid()
    if from_main_thread:
        # Made by a helper thread, we would be killed when that thread ends; then the end of
        # the control socket has to do.
        die_with_parent(root_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _print_to(output_fd)
    if metrics_folder is not None:
        # Imported only here: a pool without metrics does not pay for the library.
        from fsmv2.ipc import metricfile

        metricfile.install("template", metrics_folder)
    sys.path += [folder for folder in search if folder not in sys.path]
    if _preload(control, preload):
        gc.collect()
        gc.freeze()  # the procs share these pages; a collection must not touch them
        _serve(control, run_folder, metrics_folder is not None)
    else:
        control.recv(1)  # until the root ends it: then it knows which module to leave out


def _print_to(output_fd: int) -> None:
    os.dup2(output_fd, 1)
    os.dup2(output_fd, 2)
    os.close(output_fd)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    # A crash at import leaves its stack there, and so does a hang once the root asks; each proc
    # has a place of its own later on.
    faulthandler.enable(file=2, all_threads=True)
    faulthandler.register(DUMP_SIGNAL, file=2, all_threads=True)


def _preload(control: socket.socket, names: tuple[str, ...]) -> bool:
    """Import ``names`` and tell the root. False: forking this process is not safe."""
    # The program that uses the pool is imported before us, by whoever started this process.
    threads = len(os.listdir("/proc/self/task"))
    children = len(children_of(os.getpid()))
    failed: dict[str, str] = {}
    if threads > 1 or children:
        unsafe = {"__main__": f"{threads} OS threads and {children} child processes, want 1 and 0"}
    else:
        # A daemon that an import starts shows as our child this way.
        set_subreaper(True)
        failed, unsafe = import_all(names, lambda name: _tell(control, Importing(name)))
        set_subreaper(False)
    # One datagram holds it all: the first failures say most.
    failed = dict(list(failed.items())[:FAILURES_MAX])
    threads = len(os.listdir("/proc/self/task"))
    _tell(control, Preloaded(os.getpid(), failed, threads, unsafe))
    return not unsafe


def _tell(control: socket.socket, message: Message) -> None:
    control.send(encode(message))


def _serve(control: socket.socket, run_folder: str, with_metrics: bool) -> None:
    """Fork on order until the control socket ends."""
    while True:
        data, fds, _flags, _address = socket.recv_fds(control, ORDER_BYTES_MAX, len(PROC_FDS))
        if not data:
            return
        order = decode(data, Fork)
        pid, error = _fork_proc(control, order, list(fds), run_folder, with_metrics)
        for fd in fds:
            os.close(fd)
        _tell(control, Forked(order.slot, pid, error))


def _fork_proc(
    control: socket.socket, order: Fork, fds: list[int], run_folder: str, with_metrics: bool
) -> tuple[int, str]:
    """Fork twice, so that the root adopts the proc; returns its pid, or 0 and why not."""
    told_read, told_write = os.pipe()
    try:
        middle = os.fork()
    except OSError as error:
        os.close(told_read)
        os.close(told_write)
        return 0, f"fork: {error.strerror}"
    if middle == 0:
        _in_the_middle(control, order, fds, run_folder, with_metrics, told_read, told_write)
    os.close(told_write)
    os.waitpid(middle, 0)
    with os.fdopen(told_read, "rb") as file:
        told = file.read()
    return (int(told), "") if told else (0, "fork: the process in the middle could not fork")


def _in_the_middle(
    control: socket.socket,
    order: Fork,
    fds: list[int],
    run_folder: str,
    with_metrics: bool,
    told_read: int,
    told_write: int,
) -> Any:
    code = 1
    try:
        set_name(order.name)  # before the fork, so that the proc never has another
        middle_pid = os.getpid()
        pid = os.fork()
        if pid:
            os.write(told_write, str(pid).encode())
            code = 0
        else:
            for fd in (told_read, told_write, control.detach()):
                os.close(fd)
            code = _as_proc(order, fds, run_folder, with_metrics, middle_pid)
    except BaseException:
        with contextlib.suppress(Exception):
            traceback.print_exc()
    finally:
        os._exit(code)


def _as_proc(
    order: Fork, fds: list[int], run_folder: str, with_metrics: bool, middle_pid: int
) -> int:
    if with_metrics:
        from fsmv2.ipc import metricfile

        metricfile.set_identity(order.slot)
    scratch = Path(run_folder) / f"scratch-{order.slot}-{os.getpid()}"
    code = proc_main(order, middle_pid, str(scratch), fds)
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    return code
