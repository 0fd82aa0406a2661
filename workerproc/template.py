"""The template: single-threaded, preloaded, forks procs on demand.

Knows: fork orders and their descriptors.
Does not know: actions, results, who runs where.
Invariants: it never runs an action; it keeps no descriptor it passed on; it dies with the root
and exits when its control socket ends; procs are the root's children, not its own, so its
death costs no proc.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from fsmv2.ipc.codec import decode, encode
from fsmv2.ipc.linux import die_with_parent, set_name
from fsmv2.ipc.messages import PROC_FDS, Fork, Forked, Preloaded
from fsmv2.workerproc.proc import proc_main

ORDER_BYTES_MAX = 4096


def template_main(
    control_fd: int,
    root_pid: int,
    preload: tuple[str, ...],
    search: tuple[str, ...],
    run_folder: str,
    metrics_folder: str | None,
    from_main_thread: bool,
) -> None:
    """Preload ``preload`` (module names, ``search`` added to the path), then serve forks."""
    control = socket.socket(fileno=control_fd)
    control.setblocking(True)
    os.set_inheritable(control_fd, False)
    set_name("fsmv2-template")
    if from_main_thread:
        # Made by a helper thread, we would be killed when that thread ends; then the end of
        # the control socket has to do.
        die_with_parent(root_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if metrics_folder is not None:
        # Imported only here: a pool without metrics does not pay for the library.
        from fsmv2.ipc import metricfile

        metricfile.install("template", metrics_folder)
    sys.path += [folder for folder in search if folder not in sys.path]
    failed = {name: why for name in preload if (why := _import(name))}
    gc.collect()
    gc.freeze()  # the procs share these pages; a collection must not touch them
    control.send(encode(Preloaded(os.getpid(), failed, threading.active_count())))
    while True:
        data, fds, _flags, _address = socket.recv_fds(control, ORDER_BYTES_MAX, len(PROC_FDS))
        if not data:
            return
        order = decode(data, Fork)
        pid, error = _fork_proc(control, order, list(fds), run_folder, metrics_folder is not None)
        for fd in fds:
            os.close(fd)
        control.send(encode(Forked(order.slot, pid, error)))


def _import(name: str) -> str:
    """Import ``name``; returns why it failed, or nothing."""
    try:
        importlib.import_module(name)
    except BaseException as error:
        last = traceback.format_exception_only(type(error), error)[-1].strip()
        return last or type(error).__name__
    return ""


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
            if with_metrics:
                from fsmv2.ipc import metricfile

                metricfile.set_identity(order.slot)
            scratch = Path(run_folder) / f"scratch-{order.slot}-{os.getpid()}"
            code = proc_main(order, middle_pid, str(scratch), fds)
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
    except BaseException:
        with contextlib.suppress(Exception):
            traceback.print_exc()
    finally:
        os._exit(code)
