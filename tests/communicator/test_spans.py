"""How reasons tell times to come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.communicator.states.spans import at_least, within

UNITS = {"s": 1, "min": 60, "h": 3600}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-3.0, ""),
        (0.0, ""),
        (5.0, ""),
        (5.1, "; next sync within 10 s"),
        (60.0, "; next sync within 60 s"),
        (120.0, "; next sync within 120 s"),
        (121.0, "; next sync within 3 min"),
        (300.0, "; next sync within 5 min"),
        (3600.0, "; next sync within 60 min"),
        (7201.0, "; next sync within 3 h"),
    ],
)
def test_what_comes_soon_is_not_told_and_else_no_later_than_when(seconds: float, said: str) -> None:
    assert within("next sync", seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (59.0, "55 s"), (299.9, "4 min"), (7200.0, "120 min"), (82_787.0, "22 h")],
)
def test_what_is_left_is_told_as_at_least(seconds: float, said: str) -> None:
    assert at_least(seconds) == said


@given(st.floats(0.0, 1e7))
def test_what_is_told_is_true(seconds: float) -> None:
    number, unit = at_least(seconds).split()
    assert int(number) * UNITS[unit] <= seconds
    if told := within("it comes", seconds):
        *_, number, unit = told.split()
        assert seconds <= int(number) * UNITS[unit] <= seconds * 2
