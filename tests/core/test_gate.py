"""The gate: what a node may do, as a table; a stop is held up by nothing but its own order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core.gate import Conditions, gate

YES, NO = True, False

# conditions, derive, decide, act, what the reason holds
TABLE: list[tuple[dict[str, Any], bool, bool, bool, str]] = [
    ({}, YES, YES, YES, ""),
    ({"in_flight": "Push"}, YES, NO, NO, "Push is in flight"),
    ({"in_flight": "Push", "backoff_s": 1.0}, NO, NO, NO, "Push is in flight"),
    ({"in_flight": "Push", "infrastructure_open": "disk"}, NO, NO, NO, "Push is in flight"),
    ({"in_flight": "Push", "stopping": True}, YES, NO, NO, "Push is in flight"),
    ({"stopping": True}, YES, YES, YES, ""),
    ({"stopping": True, "children_left": 2}, YES, NO, NO, "waiting for 2 children"),
    ({"stopping": True, "backoff_s": 1.0}, NO, YES, YES, ""),
    ({"stopping": True, "infrastructure_open": "disk"}, YES, YES, YES, ""),
    ({"stopping": True, "never_derived": True}, YES, YES, YES, ""),
    ({"stopping": True, "held_by": ("a",)}, YES, YES, YES, ""),
    ({"stopping": True, "stale_s": 60.0}, YES, YES, YES, ""),
    ({"stopping": True, "never_observed": True}, YES, YES, YES, ""),
    ({"stopping": True, "awaiting_observation": True}, YES, YES, YES, ""),
    ({"backoff_s": 1.5}, NO, NO, NO, "next look in 1.5 s"),
    ({"infrastructure_open": "disk full"}, NO, NO, NO, "infrastructure: disk full"),
    ({"never_derived": True}, YES, NO, NO, "no desired state yet"),
    ({"circuit_open": "a has failed"}, NO, YES, NO, "circuit open: a has failed"),
    ({"circuit_open": "a has failed", "repairs": True}, YES, YES, NO, "a has failed"),
    ({"circuit_open": "a has failed", "stale_s": 12.34}, NO, NO, NO, "paused"),
    ({"circuit_open": "a has failed", "in_flight": "Push"}, NO, NO, NO, "Push is in flight"),
    ({"circuit_open": "a has failed", "stopping": True}, YES, YES, YES, ""),
    ({"held_by": ("db", "bus")}, YES, NO, NO, "waiting for db, bus to run"),
    ({"never_observed": True}, YES, NO, NO, "waiting for the first observation"),
    ({"stale_s": 12.34}, YES, NO, NO, "paused: last observed 12.3 s ago"),
    ({"stale_s": 33.3, "degraded": True}, YES, NO, NO, "degraded: last observed 33.3 s ago"),
    ({"awaiting_observation": True}, YES, NO, NO, "newer than the last action"),
]


@pytest.mark.parametrize(
    ("now", "derive", "decide", "act", "why"), TABLE, ids=[" ".join(row[0]) for row in TABLE]
)
def test_the_table(now: dict[str, Any], derive: bool, decide: bool, act: bool, why: str) -> None:
    """One row per reason to hold back."""
    got = gate(Conditions(**now))
    assert (got.derive, got.decide, got.act) == (derive, decide, act)
    assert why in got.why
    assert bool(got.why) is not act


def conditions(**fixed: Any) -> st.SearchStrategy[Conditions]:
    seconds = st.none() | st.floats(0, 100)
    fields: dict[str, st.SearchStrategy[Any]] = {
        "stopping": st.booleans(),
        "in_flight": st.none() | st.just("Push"),
        "children_left": st.integers(0, 3),
        "infrastructure_open": st.none() | st.just("no procs"),
        "circuit_open": st.none() | st.just("a has failed"),
        "repairs": st.booleans(),
        "backoff_s": seconds,
        "never_derived": st.booleans(),
        "held_by": st.sampled_from([(), ("a",), ("a", "b")]),
        "stale_s": seconds,
        "never_observed": st.booleans(),
        "awaiting_observation": st.booleans(),
    }
    return st.builds(Conditions, **fields | {name: st.just(v) for name, v in fixed.items()})


@given(conditions(stopping=True, in_flight=None, children_left=0))
def test_a_stop_is_never_gated(now: Conditions) -> None:
    """I4: no health, staleness, backoff, infrastructure or missing observation holds it up."""
    got = gate(now)
    assert got.decide
    assert got.act


@given(conditions())
def test_who_may_not_decide_may_not_act_and_is_told_why(now: Conditions) -> None:
    """An action comes from a decision; a "no" always has a reason, a "yes" never."""
    got = gate(now)
    assert got.decide or not got.act
    assert bool(got.why) is not got.decide


@given(conditions(in_flight="Push"))
def test_with_an_action_in_flight_nothing_else_is_decided(now: Conditions) -> None:
    """I2: at most one action of a worker is in flight, stopping or not."""
    assert not gate(now).act


@given(conditions(backoff_s=3.0))
def test_code_that_failed_is_not_asked_to_derive(now: Conditions) -> None:
    """The backoff of a worker's code covers its derivation, whatever else is so."""
    assert not gate(now).derive
