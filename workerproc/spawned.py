"""A proc that was started in a fresh interpreter instead of forked from the template.

Knows: what a fork would have brought along: name, session, search path, metrics identity.
Does not know: actions, results.
Invariants: from `serve` on there is no difference to a forked proc; it ends with ``os._exit``,
as that one does, since nothing here is the root's to clean up.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from pathlib import Path

from fsmv2.ipc.codec import decode
from fsmv2.ipc.linux import die_with_parent, set_name
from fsmv2.ipc.messages import Fork
from fsmv2.workerproc.proc import serve


def spawned_main(
    order_body: bytes,
    fds: list[int],
    search: tuple[str, ...],
    run_folder: str,
    metrics_folder: str | None,
    parent_pid: int,
) -> None:
    """Be the proc of an encoded `Fork` order. ``parent_pid`` 0: do not die with the parent's
    thread that started us (it may end before its process); the end of the channel has to do."""
    code = 1
    try:
        order: Fork = decode(order_body, Fork)
        set_name(order.name)
        os.setsid()
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
