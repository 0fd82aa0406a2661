"""What a pool's counts come to over the last minute."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core.poolreadings import WINDOW_S, PoolFacts, PoolHistory


@given(st.lists(st.tuples(st.floats(0.1, 20.0), st.integers(0, 5)), min_size=2, max_size=80))
def test_a_rate_is_what_happened_in_the_last_minute(steps: list[tuple[float, int]]) -> None:
    """Not less than that, and not more than the time since the last count before it holds."""
    history, now, deaths, counts = PoolHistory(), 1000.0, 0, []
    for wait_s, died in steps:
        now += wait_s
        deaths += died
        counts.append((now, deaths))
        history.add(PoolFacts(deaths=deaths), now)
    told = history.readings()["pool.deaths"].value
    before = [count for at, count in counts if at <= now - WINDOW_S]

    assert told == deaths - (before[-1] if before else counts[0][1])


def test_a_pool_that_is_well_says_so_in_each_reading() -> None:
    history = PoolHistory()
    assert history.readings() == {}, "before anything was counted, nothing is known"
    history.add(PoolFacts(), 5.0)

    assert {reading.value for reading in history.readings().values()} == {0.0}
    assert {reading.scope for reading in history.readings().values()} == {"pool"}


def test_times_are_told_as_they_are() -> None:
    history = PoolHistory()
    history.add(PoolFacts(queue_age_s=4.0, stuck_s=2.5), 5.0)
    readings = history.readings()

    assert readings["pool.queue_age_s"].value == 4.0
    assert readings["pool.stuck_s"].value == 2.5
