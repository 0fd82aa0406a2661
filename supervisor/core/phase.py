"""The phases of a state.

Knows: their names.
Does not know: states, what follows from a phase.
Invariants: a state has exactly one.
"""

from __future__ import annotations

import enum


class Phase(enum.StrEnum):
    """The coarse class of a state: all that a parent or an operator needs to know of it."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    DEGRADED = "degraded"
    STOPPING = "stopping"
