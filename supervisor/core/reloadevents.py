"""What happened to the config while the supervisor runs.

Knows: these events; `events` has the others, and the base of all.
Does not know: logs, metrics, pages.
Invariants: those of `events`; faults and keys are worded by who knows which values are secret.
"""

from __future__ import annotations

from typing import ClassVar

from fsmv2.supervisor.core.events import Event, Level


class ReloadApplied(Event, frozen=True, kw_only=True):
    """A config was read anew and taken over: the counts are those of its plan, ``changes`` names
    the first of what is not untouched, ``settings`` the keys outside ``workers`` that changed.
    ``cause`` is a signal, the file, or who asked."""

    cause: str
    added: int
    updated: int
    replaced: int
    removed: int
    untouched: int
    changes: str = ""
    settings: str = ""


class ReloadRefused(Event, frozen=True, kw_only=True):
    """A config was read anew and cannot be used; nothing was changed. ``faults`` are all that
    were found, each with its place, separated by line breaks."""

    level: ClassVar[Level] = "error"
    cause: str
    faults: str
    error_scope: str = "config"
    impact: str = "reload"
