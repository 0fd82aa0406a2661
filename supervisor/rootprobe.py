"""The probe of a running root: its own processes, its own pool, the folders it depends on.

Knows: the pool, what a root needs the disk for.
Does not know: what a reading is good for.
Invariants: the root's own limits are read, whichever proc reads them.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from fsmv2.supervisor.config.settings import Settings
from fsmv2.supervisor.core.action import ActionResult
from fsmv2.supervisor.pool.pool import Pool
from fsmv2.supervisor.probe.machine import MachineProbe
from fsmv2.supervisor.probe.poolfacts import pool_facts
from fsmv2.supervisor.store.keeper import file_of
from fsmv2.supervisor.telemetry.telemetry import Telemetry


def own_disks(run_folder: str, metrics_folder: str, store_file: str) -> tuple[str, ...]:
    """Where the root keeps what it needs to go on: large results, metrics, the store."""
    # The run folder is new each time; what it lies in is not.
    folders = [os.path.dirname(os.path.abspath(run_folder))]
    if not metrics_folder.startswith(run_folder):
        folders.append(os.path.abspath(metrics_folder))
    if store_file:
        folders.append(os.path.dirname(os.path.abspath(store_file)))
    return tuple(dict.fromkeys(folders))


def root_probe(
    settings: Settings,
    pool: Pool,
    telemetry: Telemetry,
    metrics_folder: str,
    pass_on: Callable[[int, ActionResult], None],
) -> MachineProbe:
    """The probe of this process, which is the root of ``pool``. ``pass_on`` takes the results that
    are not the probe's. Looked at are the root's own disks and those of the config."""

    def processes() -> dict[str, int]:
        procs = {proc.slot: proc.pid for proc in pool.nursery.procs if proc.pid}
        return {"root": os.getpid(), "template": pool.nursery.keeper.pid, **procs}

    return MachineProbe(
        pool,
        pid=os.getpid(),
        procs=processes,
        pool_facts=lambda now: pool_facts(pool, telemetry.proc_deaths, now),
        disks=(
            *own_disks(pool.run_folder, metrics_folder, file_of(settings.store)),
            *settings.breaker.disks,
        ),
        interval_s=settings.breaker.interval_s,
        pass_on=pass_on,
        emit=telemetry,
    )
