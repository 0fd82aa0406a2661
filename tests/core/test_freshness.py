"""How old an observation may be: thresholds and spread, as arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.freshness import ObservationRules, spread_s


@pytest.mark.parametrize(
    ("interval_s", "stale_s", "dead_s"), [(1.0, 10, 20), (4.0, 10, 20), (8.0, 20, 30)]
)
def test_rare_observations_move_both_thresholds(
    interval_s: float, stale_s: float, dead_s: float
) -> None:
    """Two of them may be missed before a worker is paused."""
    limits = ObservationRules().thresholds("lamp", interval_s)
    assert (limits.interval_s, limits.stale_s, limits.dead_s) == (interval_s, stale_s, dead_s)


def test_the_configs_interval_goes_before_the_types_own() -> None:
    rules = ObservationRules(intervals={"lamp": 3.0})
    assert rules.thresholds("lamp", 1.0).interval_s == 3.0
    assert rules.thresholds("fan", 1.0).interval_s == 1.0


@pytest.mark.parametrize(("stale_s", "dead_s"), [(0.0, 1.0), (-1.0, 1.0), (5.0, 5.0), (6.0, 5.0)])
def test_thresholds_in_the_wrong_order_are_refused(stale_s: float, dead_s: float) -> None:
    """Both figures are in the message."""
    with pytest.raises(SpecError, match=rf"stale_s {stale_s:g} and dead_s {dead_s:g}"):
        ObservationRules(stale_s=stale_s, dead_s=dead_s)


@given(st.floats(0.01, 3600), st.floats(0, 0.5), st.floats(0, 1, exclude_max=True))
def test_an_observation_is_never_later_than_its_interval(
    interval_s: float, share: float, random: float
) -> None:
    assert interval_s * (1 - share) <= spread_s(interval_s, share, random) <= interval_s
