"""A look at a disk that does what a dead mount's does."""

from __future__ import annotations

import signal

from fsmv2.supervisor.core.action import ActionContext
from fsmv2.supervisor.core.readings import Facts
from fsmv2.supervisor.probe.actions import ReadDisk
from fsmv2.supervisor.probe.looks import look_at_disk


class ReadMount(ReadDisk, frozen=True):
    """Never answers for a path called "dead"."""

    def execute(self, ctx: ActionContext) -> Facts:
        """One look, or none."""
        while self.path.endswith("/dead"):
            signal.pause()
        return look_at_disk(self.path)
