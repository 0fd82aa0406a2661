"""When a healthy proc is replaced, and that the spread only ever shortens its life."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core.recycling import NEVER, Recycling, due, oldest_s

SPREAD = st.floats(0, 1, exclude_max=True)
SHARE = st.floats(0, 1)
LIMIT = st.one_of(st.none(), st.integers(1, 10_000))


@given(SPREAD, st.integers(0, 10**9), st.floats(0, 1e9), st.integers(0, 1 << 50))
def test_without_limits_a_proc_lives_forever(
    spread: float, actions: int, seconds: float, memory: int
) -> None:
    """However long and large."""
    assert due(NEVER, spread, actions=actions, seconds=seconds, memory_bytes=memory) is None
    assert oldest_s(NEVER, spread) is None


@pytest.mark.parametrize(
    ("rules", "actions", "seconds", "memory", "why"),
    [
        (Recycling(actions=10, spread=0.0), 9, 1e9, 1 << 40, None),
        (Recycling(actions=10, spread=0.0), 10, 0.0, None, "10 actions"),
        (Recycling(seconds=60.0, spread=0.0), 10**9, 59.9, 1 << 40, None),
        (Recycling(seconds=60.0, spread=0.0), 0, 60.0, None, "60 s"),
        (Recycling(memory_bytes=1000, spread=0.0), 10**9, 1e9, 1000, None),
        (Recycling(memory_bytes=1000, spread=0.0), 0, 0.0, 1001, "1001 bytes resident"),
        (Recycling(memory_bytes=1000, spread=0.0), 10**9, 1e9, None, None),
    ],
)
def test_each_limit_counts_for_itself_and_is_told(
    rules: Recycling, actions: int, seconds: float, memory: int | None, why: str | None
) -> None:
    """At the count and the age, over the memory; what was not read is no reason."""
    assert due(rules, 0.0, actions=actions, seconds=seconds, memory_bytes=memory) == why


@given(LIMIT, LIMIT, LIMIT, SHARE, SPREAD, st.integers(0, 20_000), st.integers(0, 20_000))
def test_no_spread_lets_a_proc_live_longer(
    actions: int | None,
    seconds: int | None,
    memory: int | None,
    share: float,
    spread: float,
    had: int,
    kept: int,
) -> None:
    """What is due without a spread is due with any; and nothing is due that has used up less
    than the share that may be taken off."""
    rules = Recycling(actions, seconds, memory, share)
    plain = due(rules, 0.0, actions=had, seconds=had, memory_bytes=kept)
    spread_out = due(rules, spread, actions=had, seconds=had, memory_bytes=kept)
    if plain is not None:
        assert spread_out is not None
    shortest = 1.0 - share
    if (
        (actions is None or had < actions * shortest)
        and (seconds is None or had < seconds * shortest)
        and (memory is None or kept <= memory * shortest)
    ):
        assert spread_out is None


@given(st.integers(1, 5), SHARE, SPREAD)
def test_a_proc_runs_at_least_one_action(limit: int, share: float, spread: float) -> None:
    """A full share taken off must not recycle procs that have done nothing, for ever."""
    rules = Recycling(actions=limit, spread=share)
    assert due(rules, spread, actions=0, seconds=0.0, memory_bytes=None) is None
    everything = Recycling(actions=limit, spread=1.0)
    assert due(everything, 1.0, actions=0, seconds=0.0, memory_bytes=None) is None


@given(st.floats(0.1, 1e6), SHARE, SPREAD)
def test_an_idle_proc_is_due_at_its_oldest_age(seconds: float, share: float, spread: float) -> None:
    """The two ways to ask agree: the timer that is set for that age finds it due."""
    rules = Recycling(seconds=seconds, spread=share)
    oldest = oldest_s(rules, spread)
    assert oldest is not None
    assert seconds * (1 - share) <= oldest <= seconds
    assert due(rules, spread, actions=0, seconds=oldest, memory_bytes=None) is not None


def test_procs_born_together_do_not_end_together() -> None:
    """Each has its own spread."""
    rules = Recycling(seconds=100.0)
    ages = {oldest_s(rules, draw / 10) for draw in range(10)}
    assert len(ages) == 10
    assert all(age is not None and 80.0 < age <= 100.0 for age in ages)
