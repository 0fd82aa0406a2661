"""Sanity checks: what may not be so of several children at once.

Knows: what a check is, when it can be asked, how to say what one lacks.
Does not know: nodes, what follows when one fails.
Invariants: a check sees data only; one whose participants are not all running is not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from fsmv2.supervisor.core.childrenview import ChildInfo
from fsmv2.supervisor.core.errors import WorkerFault
from fsmv2.supervisor.core.phase import Phase
from fsmv2.supervisor.core.words import REASON_CHARS_MAX, presentable


class ChildSight(ChildInfo, frozen=True):
    """What a check sees of one child: what its parent sees, and its last observed status."""

    status: Any = None


class SanityCheck(msgspec.Struct, frozen=True):
    """``check`` is a pure function: it is given the ``participants`` (names of children) by name,
    and returns what is wrong, or None. What is wrong makes the child ``blames`` count as failed."""

    name: str
    participants: tuple[str, ...]
    check: Callable[[Mapping[str, ChildSight]], str | None]
    blames: str


def ask(check: SanityCheck, children: Mapping[str, ChildSight | None]) -> str | None:
    """What ``check`` says; None too where a participant is missing or not running. Raises whatever
    it raises, and `WorkerFault` for an answer that is none."""
    sights: dict[str, ChildSight] = {}
    for name in check.participants:
        sight = children.get(name)
        if sight is None or sight.phase is not Phase.RUNNING:
            return None
        sights[name] = sight
    answer: object = check.check(sights)
    if answer is None:
        return None
    if not isinstance(answer, str) or not answer.strip():
        raise WorkerFault(
            f"sanity check {check.name} returned {type(answer).__name__}, want a text or None"
        )
    return presentable(answer, REASON_CHARS_MAX)


def sanity_fault(checks: Any) -> str:
    """What is wrong with a worker's ``sanity_checks``; "" when nothing is."""
    if not isinstance(checks, tuple):
        return f"sanity_checks is {type(checks).__name__}, want a tuple of SanityCheck"
    names: set[str] = set()
    for check in checks:
        if not isinstance(check, SanityCheck):
            return f"sanity_checks holds {type(check).__name__}, want SanityCheck"
        if check.name in names:
            return f"sanity_checks has {check.name!r} twice"
        names.add(check.name)
        function: object = check.check
        if not callable(function):
            return f"sanity check {check.name!r}: check is {function!r}, want a function"
        if check.blames not in check.participants:
            return (
                f"sanity check {check.name!r} blames {check.blames!r}, want one of its "
                f"participants: {', '.join(check.participants) or 'it has none'}"
            )
    return ""
