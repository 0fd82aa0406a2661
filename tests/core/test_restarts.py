"""Restart policies: types, strategies, and a budget that no window exceeds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.core.restarts import (
    Counted,
    RestartBudget,
    carried_out,
    comes_back,
    counting,
    drained_at,
    forget,
    plan,
    restarted_along,
    room_at,
)
from fsmv2.supervisor.core.spec import DesiredState

BUDGET = RestartBudget(restarts=3, window_s=100.0)
ORDER = ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("restart", "normal", "abnormal"),
    [("permanent", True, True), ("transient", False, True), ("temporary", False, False)],
)
def test_the_restart_type_says_after_which_ends_a_child_comes_back(
    restart: Any, normal: bool, abnormal: bool
) -> None:
    """As in OTP."""
    assert comes_back(restart, "normal") is normal
    assert comes_back(restart, "abnormal") is abnormal


@pytest.mark.parametrize(
    ("strategy", "name", "along"),
    [
        ("one_for_one", "b", ()),
        ("one_for_all", "b", ("a", "c", "d")),
        ("rest_for_one", "b", ("c", "d")),
        ("rest_for_one", "a", ("b", "c", "d")),
        ("rest_for_one", "d", ()),
    ],
)
def test_the_strategy_says_which_siblings_restart_along(
    strategy: Any, name: str, along: tuple[str, ...]
) -> None:
    """In start order; never the one that has failed."""
    assert restarted_along(strategy, ORDER, name) == along


def test_the_first_restart_is_at_once_and_the_next_ones_wait_longer() -> None:
    """1, 2, 4 … seconds, counted per child in the window."""
    past: tuple[Counted, ...] = ()
    waits = []
    for _ in range(5):
        planned = plan(past, RestartBudget(), "a", 10.0, 0.0)
        assert planned is not None
        waits.append(planned[-1].at - 10.0)
        past = carried_out(planned, "a", 10.0)
    assert waits == [0, 1, 2, 4, 8]
    other = plan(past[:4], RestartBudget(), "b", 10.0, 0.0)
    assert other is not None
    assert other[-1] == Counted("b", 10.0)


def test_the_budget_is_the_parents_not_the_childs() -> None:
    """Three children that fail once each spend it as one that fails three times does."""
    past: tuple[Counted, ...] = ()
    for name in "abc":
        planned = plan(past, BUDGET, name, 0.0, 0.0)
        assert planned is not None
        past = carried_out(planned, name, 0.0)
    assert plan(past, BUDGET, "d", 99.9, 0.0) is None
    assert plan(past, BUDGET, "d", 100.0, 0.0) == (Counted("d", 100.0),)


def test_a_restart_that_is_planned_counts_until_it_is_carried_out() -> None:
    """However long it is put off; from then on it counts for a window."""
    planned = plan((), RestartBudget(restarts=1, window_s=10.0), "a", 0.0, 0.0)
    assert planned is not None
    assert plan(planned, RestartBudget(restarts=1, window_s=10.0), "b", 1000.0, 0.0) is None
    late = carried_out(planned, "a", 1000.0)
    assert late == (Counted("a", 1000.0, True),)
    assert carried_out(late, "a", 1001.0) == late


def test_what_a_child_has_cost_can_be_forgotten() -> None:
    """And what its siblings have cost stays."""
    past = (Counted("a", 1.0, True), Counted("b", 2.0, True), Counted("a", 3.0))
    assert forget(past, "a") == (Counted("b", 2.0, True),)


def test_a_window_has_drained_when_its_last_restart_is_out_of_it() -> None:
    """There is room as soon as the oldest is out; without any allowed restart, never."""
    past = tuple(Counted("a", at, True) for at in (1.0, 2.0, 3.0))
    assert drained_at(past, BUDGET, 50.0) == 103.0
    assert room_at(past, BUDGET, 50.0) == 101.0
    assert room_at(past, BUDGET, 101.0) == 101.0
    assert room_at(past[:2], BUDGET, 50.0) == 50.0
    assert drained_at((), BUDGET, 50.0) == 150.0
    none = RestartBudget(restarts=0)
    assert drained_at((), none, 50.0) == room_at((), none, 50.0) == float("inf")
    assert plan((), none, "a", 0.0, 0.0) is None


@given(
    st.integers(1, 4),
    st.floats(1, 50),
    st.lists(
        st.tuples(st.sampled_from("abc"), st.floats(0, 20), st.floats(0, 30), st.floats(0, 0.99)),
        max_size=60,
    ),
)
def test_no_window_holds_more_restarts_than_the_budget(
    restarts: int, window_s: float, history: list[tuple[str, float, float, float]]
) -> None:
    """I7: whoever fails when, and however late a planned restart is carried out."""
    budget = RestartBudget(restarts=restarts, window_s=window_s)
    past: tuple[Counted, ...] = ()
    due: dict[str, float] = {}
    carried: list[float] = []
    now = 0.0
    for name, gap_s, late_s, spread in history:
        now += gap_s
        for other, moment in sorted(due.items(), key=lambda item: item[1]):
            if moment <= now:
                past = carried_out(past, other, moment)
                carried.append(moment)
                del due[other]
        if name in due:
            continue  # it does not run, so it cannot fail
        planned = plan(past, budget, name, now, spread)
        if planned is not None:
            past = planned
            due[name] = planned[-1].at + late_s
        assert len(counting(past, budget, now)) <= budget.restarts
    for end in carried:
        assert sum(end - window_s < moment <= end for moment in carried) <= restarts


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"restarts": -1}, "restarts is -1, want 0 to 1000"),
        ({"restarts": 1001}, "restarts is 1001"),
        ({"restarts": 2.5}, "restarts is 2.5"),
        ({"restarts": True}, "restarts is True"),
        ({"window_s": 0}, "window_s is 0, want 1 to 86400"),
        ({"window_s": float("nan")}, "window_s is nan"),
        ({"window_s": "60"}, "window_s is '60'"),
    ],
)
def test_a_budget_out_of_range_is_refused(fields: dict[str, Any], told: str) -> None:
    """By its constructor too: worker code calls it."""
    with pytest.raises(SpecError) as caught:
        RestartBudget(**fields)
    assert told in str(caught.value)


def test_a_budget_of_a_file_is_checked_by_its_type() -> None:
    """With the place of what is wrong, as every setting."""
    with pytest.raises(msgspec.ValidationError, match=r"restarts"):
        msgspec.convert({"restarts": -1}, RestartBudget)
    assert msgspec.convert({}, RestartBudget) == RestartBudget(5, 300.0)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"strategy": "all"}, "strategy is 'all', want one of one_for_one, one_for_all, rest_for"),
        ({"restart_budget": {"restarts": 5}}, "restart_budget is dict, want RestartBudget"),
        ({"restart_budget": None}, "restart_budget is NoneType"),
    ],
)
def test_a_desired_state_with_another_policy_is_refused(fields: dict[str, Any], told: str) -> None:
    """Where it is made, so that the fault is its worker's."""
    with pytest.raises(SpecError) as caught:
        DesiredState("on", **fields)
    assert told in str(caught.value)
