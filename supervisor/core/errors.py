"""The errors this package raises on purpose, split by whose fault it is.

Knows: the classes and their exit codes.
Does not know: who prints them.
Invariants: every message says what cannot be done, where, what was got and what is wanted.
"""

from __future__ import annotations


class FsmError(Exception):
    """Base of every error raised on purpose by fsmv2."""


class SpecError(FsmError):
    """A spec, a config or a name that the user can correct. Exit code 2."""


class TemplateError(SpecError):
    """A template that does not parse, does not render, or renders to something unusable."""


class StartError(FsmError):
    """The machine refuses: port taken, folder not writable, disk full. Exit code 3."""


class WorkerFault(FsmError):
    """Worker code raised, or returned something that is not one of the agreed forms."""


class BugError(AssertionError):
    """An invariant of our own code does not hold. Never caught, never the user's fault."""


def check(claim: bool, message: str) -> None:
    """Raise `BugError` unless `claim` holds. A function, so that `python -O` keeps it."""
    if not claim:
        raise BugError(f"invariant broken: {message}")
