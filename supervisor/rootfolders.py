"""The folders a root makes before anything is started.

Knows: where they may be, what it means that one cannot be made.
Does not know: what is kept in them.
Invariants: made and tried out, or `StartError`.
"""

from __future__ import annotations

import contextlib
import os

from fsmv2.ipc import metricfile
from fsmv2.supervisor.core.errors import StartError
from fsmv2.supervisor.pool.runfolders import RunFolder


def make_run_folder(name: str, undo: contextlib.ExitStack) -> str:
    """The run folder of the root called ``name``; ``undo`` removes it."""
    try:
        folder = RunFolder(f"fsmv2-{name}-")
        folder.make()
    except OSError as error:
        raise StartError(f"cannot make a run folder: {error}") from None
    undo.callback(folder.remove)
    return folder.path


def make_metrics_folder(asked_for: str | None, run_folder: str) -> str:
    """Where metrics are kept: as the config or the environment asks, else in ``run_folder``."""
    folder = (
        asked_for
        or os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        or os.path.join(run_folder, "metrics")
    )
    try:
        metricfile.prepare_folder(folder)
    except OSError as error:
        raise StartError(str(error)) from None
    return folder
