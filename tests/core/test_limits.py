"""When a limit counts as exceeded, and when no more."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core.limits import (
    DEFAULT_LIMITS,
    FORGET_S,
    READINGS,
    Limit,
    Track,
    follow,
    limit_of,
    shown,
    unknown_reading,
)
from fsmv2.supervisor.core.poolreadings import POOL_NAMES, PoolFacts, PoolHistory
from fsmv2.supervisor.core.readings import MACHINE_NAMES

LIMIT = Limit(open=0.9, close=0.8, for_s=3.0)
FRESH = Track("memory", LIMIT)
EXCEEDED = Track("memory", LIMIT, 0.95, 10.0, 5.0, 8.0)
VALUES = st.one_of(st.none(), st.floats(0, 2))


def after(track: Track, *readings: tuple[float, float | None]) -> Track:
    for moment, value in readings:
        track = follow(track, value, moment)
    return track


def test_a_limit_is_exceeded_after_its_hold_time_and_not_before() -> None:
    """A break in between begins the time anew."""
    assert not after(FRESH, (0.0, 0.9), (2.9, 1.0)).is_exceeded
    assert after(FRESH, (0.0, 0.9), (3.0, 0.9)).is_exceeded
    assert not after(FRESH, (0.0, 0.9), (2.0, 0.89), (3.0, 0.9)).is_exceeded
    assert after(Track("pids", Limit(open=0.9, close=0.8, for_s=0.0)), (0.0, 0.9)).is_exceeded


def test_between_the_thresholds_nothing_changes() -> None:
    assert after(EXCEEDED, (11.0, 0.85), (99.0, 0.8)).is_exceeded
    assert not after(EXCEEDED, (11.0, 0.79)).is_exceeded
    assert not after(FRESH, (0.0, 0.85), (99.0, 0.89)).is_exceeded


def test_a_missing_reading_neither_exceeds_a_limit_nor_ends_an_excess() -> None:
    """NaN is missing too. A machine in trouble may well be read only now and then: what is over
    its limit before a gap and after it was so all along."""
    assert after(EXCEEDED, (11.0, None), (12.0, math.nan)).is_exceeded
    assert not after(FRESH, (0.0, 0.95), (1.0, None), (3.5, None)).is_exceeded
    assert after(FRESH, (0.0, 0.95), (1.0, None), (3.5, 0.95)).is_exceeded
    assert not after(FRESH, (0.0, 0.95), (1.0, None), (3.5, 0.85), (4.0, 0.95)).is_exceeded
    assert not after(FRESH, (0.0, 0.95), (FORGET_S, None), (FORGET_S + 1.0, 0.95)).is_exceeded
    assert after(FRESH, (0.0, None)).value is None


def test_an_excess_that_is_not_seen_any_more_is_forgotten() -> None:
    """A file that became unreadable does not keep the breaker open for ever."""
    assert after(EXCEEDED, (10.0 + FORGET_S - 0.1, None)).is_exceeded
    assert not after(EXCEEDED, (10.0 + FORGET_S, None)).is_exceeded


@given(st.lists(VALUES, max_size=30))
def test_no_history_exceeds_a_limit_without_a_reading_over_it(values: list[float | None]) -> None:
    track = FRESH
    for number, value in enumerate(values):
        track = follow(track, value, float(number))
        if track.is_exceeded:
            assert any(seen is not None and seen >= LIMIT.open for seen in values[: number + 1])
        if value is not None and value < LIMIT.close:
            assert not track.is_exceeded


def test_a_limit_is_found_by_its_name_then_by_its_kind_then_in_the_defaults() -> None:
    """None takes one away."""
    own, kind = Limit(open=0.5, close=0.4), Limit(open=0.6, close=0.5)
    assert limit_of("disk:/data", {"disk:/data": own, "disk": kind}) == own
    assert limit_of("disk:/data", {"disk": kind}) == kind
    assert limit_of("disk:/data", {}) == DEFAULT_LIMITS["disk"]
    assert limit_of("memory", {"memory": None}) is None
    assert limit_of("cpu", {}) is None


@pytest.mark.parametrize(
    ("opens", "closes", "for_s"),
    [(0.8, 0.9, 1.0), (math.nan, 0.9, 1.0), (math.inf, 0.9, 1.0), (0.9, 0.8, math.nan)],
)
def test_a_limit_that_can_be_none_is_refused(opens: float, closes: float, for_s: float) -> None:
    with pytest.raises(ValueError, match="want finite numbers and close <= open"):
        Limit(open=opens, close=closes, for_s=for_s)


def test_a_limit_of_a_reading_nobody_makes_is_refused_with_those_there_are() -> None:
    assert unknown_reading("memory", ()) == ""
    assert unknown_reading("disk", ()) == ""
    assert unknown_reading("inodes:/data", ("/data",)) == ""
    assert "memory" in unknown_reading("memroy", ())
    assert "want one of /data" in unknown_reading("disk:/dtaa", ("/data",))


def test_what_is_wrong_is_told_with_its_figures() -> None:
    assert shown(EXCEEDED) == "memory at 95%, limit 90%"
    assert shown(Track("pool.deaths", Limit(open=30.0, close=10.0), 41.0)) == (
        "pool.deaths at 41, limit 30"
    )
    assert shown(FRESH) == "memory has no reading"


def test_a_limit_can_be_set_for_whatever_is_read_and_for_nothing_else() -> None:
    pool = PoolHistory()
    pool.add(PoolFacts(), 0.0)
    assert tuple(pool.readings()) == POOL_NAMES
    assert set(READINGS) == {*MACHINE_NAMES, *POOL_NAMES, "disk", "inodes"}
    assert DEFAULT_LIMITS.keys() <= set(READINGS)


def test_the_readme_has_each_reading_and_the_default_limits() -> None:
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")
    table = text.partition("### When the machine is in trouble")[2].partition("\n## ")[0]
    for name in READINGS:
        assert f"`{name}`" in table, name
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    for name, limit in DEFAULT_LIMITS.items():
        (row,) = [row for row in rows if f"`{name}`" in row]
        assert row.endswith(
            f"| {limit.open:.0%} | {limit.close:.0%} | {limit.for_s:g} s |".replace("%", " %")
        ), row
