"""Growing waits: arithmetic with promises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core.backoff import delay_s

FAILURES = st.integers(-3, 10_000)
SPREAD = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(
    ("failures", "wait"),
    [(0, 0), (1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 32), (7, 60), (8, 60), (9999, 60)],
)
def test_the_waits_double_up_to_the_cap(failures: int, wait: float) -> None:
    """1, 2, 4, 8 … 60 seconds."""
    assert delay_s(failures, 0.0) == wait


@given(FAILURES, SPREAD, st.floats(0.01, 100), st.floats(1, 10), st.floats(0.01, 1000))
def test_a_wait_is_never_negative_and_never_over_its_cap(
    failures: int, spread: float, base_s: float, factor: float, max_s: float
) -> None:
    """Whatever the numbers are, and however long it has failed."""
    wait = delay_s(failures, spread, base_s=base_s, factor=factor, max_s=max_s)
    assert 0 <= wait <= max_s
    assert (wait > 0) is (failures > 0)


@given(st.integers(1, 500), SPREAD)
def test_more_failures_never_wait_less(failures: int, spread: float) -> None:
    """With the same spread."""
    assert delay_s(failures, spread) <= delay_s(failures + 1, spread)


@given(st.integers(1, 50), SPREAD, st.floats(0, 1))
def test_the_spread_takes_off_at_most_its_share(
    failures: int, spread: float, jitter: float
) -> None:
    """Nobody comes back much earlier than the plain wait."""
    plain = delay_s(failures, 0.0)
    assert plain * (1 - jitter) <= delay_s(failures, spread, jitter=jitter) <= plain
