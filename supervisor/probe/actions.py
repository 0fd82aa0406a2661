"""The looks at the machine, as actions: they run in a proc, with a deadline, and are killed at it.

Knows: their parameters.
Does not know: what a look reads: `looks`.
Invariants: read-only; a path that may hang (a dead mount) has an action of its own; the root, which
only sends them, loads nothing of what reads.
"""

from __future__ import annotations

from fsmv2.supervisor.core.action import Action, ActionContext
from fsmv2.supervisor.core.readings import Facts

DEADLINE_S = 2.0
# What reads, for a proc to import beforehand; psutil is a part of it.
READER = "fsmv2.supervisor.probe.looks"


class ReadMachine(Action, frozen=True):
    """Read what the machine lets process ``pid`` use, and what the processes ``procs`` (pids by
    name) use. ``proc`` is where procfs is mounted."""

    timeout_s = DEADLINE_S

    pid: int
    procs: dict[str, int] = {}
    proc: str = "/proc"

    def execute(self, ctx: ActionContext) -> Facts:
        """One look."""
        from fsmv2.supervisor.probe.looks import look_at_machine

        return look_at_machine(self.pid, self.procs, self.proc)


class ReadDisk(Action, frozen=True):
    """Read how full the file system at ``path`` is. Hangs where the file system does."""

    timeout_s = DEADLINE_S

    path: str

    def execute(self, ctx: ActionContext) -> Facts:
        """One look."""
        from fsmv2.supervisor.probe.looks import look_at_disk

        return look_at_disk(self.path)
