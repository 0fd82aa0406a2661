"""The one function that says what a node may do in this tick.

Knows: the reasons to hold back, and which of them wins.
Does not know: nodes, clocks, how the reasons came about.
Invariants: I4, a stop is never gated by health, staleness or backoff; the first reason that
applies is the one shown. Source: DESIGN.md §4.
"""

from __future__ import annotations

import msgspec

from fsmv2.supervisor.core.counting import several


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """What is so at this moment. Seconds where the name says so; None: does not apply.
    ``circuit_open`` names a failed child; ``repairs``: what this node would derive may be what
    helps it, or the machine."""

    stopping: bool = False
    in_flight: str | None = None
    children_left: int = 0
    infrastructure_open: str | None = None
    circuit_open: str | None = None
    repairs: bool = False
    backoff_s: float | None = None
    never_derived: bool = False
    held_by: tuple[str, ...] = ()
    stale_s: float | None = None
    degraded: bool = False
    never_observed: bool = False
    awaiting_observation: bool = False


class Gate(msgspec.Struct, frozen=True):
    """May the desired state be derived, may a decision be taken, may it start an action?
    ``why`` is the reason for the first "no", empty when all is allowed."""

    derive: bool
    decide: bool
    act: bool
    why: str


_OPEN = Gate(True, True, True, "")


def gate(now: Conditions) -> Gate:
    """The gate for ``now``; see the table in tests/core/test_gate.py."""
    derive = now.circuit_open is None or now.repairs
    if now.in_flight is not None:
        derive = derive and now.backoff_s is None
        derive = derive and (now.infrastructure_open is None or now.repairs)
        return Gate(derive, False, False, f"{now.in_flight} is in flight")
    if now.stopping:
        if now.children_left:
            why = f"waiting for {several(now.children_left, 'child', 'children')} to stop"
            return Gate(now.backoff_s is None, False, False, why)
        return Gate(now.backoff_s is None, True, True, "")
    if now.backoff_s is not None:
        why = f"its code failed, next look in {now.backoff_s:.1f} s"
        return Gate(False, False, False, why)
    if now.infrastructure_open is not None:
        # A new spec may be what helps: who is to go, goes, and nobody begins anything.
        return Gate(now.repairs, False, False, f"infrastructure: {now.infrastructure_open}")
    if now.never_derived:
        return Gate(derive, False, False, "no desired state yet")
    if now.held_by:
        return Gate(derive, False, False, f"waiting for {', '.join(now.held_by)} to run")
    if now.never_observed:
        return Gate(derive, False, False, "waiting for the first observation")
    if now.stale_s is not None:
        how = "degraded" if now.degraded else "paused"
        why = f"{how}: last observed {now.stale_s:.1f} s ago"
        return Gate(derive, False, False, why)
    if now.awaiting_observation:
        return Gate(derive, False, False, "waiting for an observation newer than the last action")
    if now.circuit_open is not None:
        return Gate(derive, True, False, f"circuit open: {now.circuit_open}")
    return _OPEN
