"""The token bucket of starts against its one promise, and against what a caller would expect."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core.startrate import full, next_moment, take

RATES = st.floats(0.1, 1_000)
BURSTS = st.integers(1, 50)
STEPS = st.lists(st.floats(-5, 5), max_size=60)


@given(RATES, BURSTS, STEPS)
def test_in_any_span_at_most_the_burst_and_the_rate_times_the_span_are_granted(
    per_s: float, burst: int, steps: list[float]
) -> None:
    """Also when moments go backwards now and then."""
    now, rate, granted_at = 100.0, full(per_s, burst, 100.0), []
    latest = now
    for step_s in steps:
        now += step_s
        latest = max(latest, now)
        rate, granted = take(rate, now)
        if granted:
            granted_at.append(latest)
    for first, begin in enumerate(granted_at):
        for last in range(first, len(granted_at)):
            span_s = granted_at[last] - begin
            assert last - first + 1 <= burst + per_s * span_s + 1e-6


@given(RATES, BURSTS)
def test_a_full_bucket_grants_its_burst_at_once_and_no_more(per_s: float, burst: int) -> None:
    """Nothing refills in no time."""
    rate = full(per_s, burst, 7.0)
    told = []
    for _ in range(burst + 3):
        rate, granted = take(rate, 7.0)
        told.append(granted)
    assert told == [True] * burst + [False] * 3


@given(RATES, BURSTS, STEPS)
def test_the_next_moment_is_when_a_start_is_granted_and_not_before(
    per_s: float, burst: int, steps: list[float]
) -> None:
    """Who waits until then gets it; who asks clearly earlier does not."""
    now, rate = 100.0, full(per_s, burst, 100.0)
    for step_s in steps:
        now = max(now, now + step_s)
        rate, _granted = take(rate, now)
    moment = next_moment(rate)
    wait_s = moment - rate.at
    assert take(rate, moment + 1e-6 / per_s + 1e-9)[1]
    if wait_s > 0:
        assert not take(rate, rate.at + wait_s * 0.99)[1]


def test_a_start_that_is_asked_for_late_with_an_earlier_moment_loses_nothing() -> None:
    """What is left is left, whatever the clock of the one who asks says."""
    rate, _ = take(full(1.0, 5.0, 100.0), 100.0)
    for _ in range(4):
        rate, granted = take(rate, 50.0)
        assert granted


def test_a_refused_start_costs_nothing() -> None:
    """Asking often does not put the next one off."""
    rate, granted = take(full(1.0, 1.0, 0.0), 0.0)
    assert granted
    moment = next_moment(rate)
    for tenth in range(1, 10):
        rate, granted = take(rate, tenth / 10)
        assert not granted
    assert abs(next_moment(rate) - moment) < 1e-9
    assert take(rate, 1.001)[1]


def test_a_moment_before_the_last_one_gives_nothing_extra() -> None:
    """Going back and forth does not make time."""
    rate, _ = take(full(1.0, 1.0, 10.0), 10.0)
    for _ in range(20):
        rate, granted = take(rate, 5.0)
        assert not granted
        rate, granted = take(rate, 10.0)
        assert not granted
