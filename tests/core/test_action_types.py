"""What an action type may declare of itself, and how a declaration that cannot work is refused."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core.action import (
    LANE_NAME,
    NO_LIMITS,
    TIMEOUT_S_MAX,
    Action,
    Limits,
    Retry,
    check_action_type,
)
from fsmv2.supervisor.core.errors import SpecError


def declared(**class_variables: Any) -> type[Action]:
    """An action type as a user would write it at the top of a module."""
    names = {"__module__": __name__, **class_variables}
    return type("Declared", (Action,), names, frozen=True)


def refusal(kind: type[Action]) -> str | None:
    """Why the type is refused; None if it is not."""
    try:
        check_action_type(kind)
    except SpecError as error:
        return str(error)
    return None


def test_an_action_that_declares_nothing_has_no_limits_and_no_extension() -> None:
    """Everything beyond the timeout is asked for, not given."""
    kind = declared()
    assert refusal(kind) is None
    assert kind.limits is NO_LIMITS
    assert kind.limits == Limits()
    assert (kind.timeout_s_max, kind.heartbeat_s, kind.lane) == (None, None, "actions")


def test_an_action_may_declare_all_of_it() -> None:
    """As a class body; nothing of it becomes a field that crosses the channel."""
    kind = declared(
        timeout_s=2.0,
        timeout_s_max=60,
        heartbeat_s=0.5,
        lane="uploads",
        limits=Limits(1 << 30, 5, 10, 4, 19, 1 << 29, 2),
    )
    assert refusal(kind) is None
    assert kind.__struct_fields__ == ()


@given(st.one_of(st.floats(), st.integers(), st.none(), st.text(max_size=3), st.booleans()))
def test_a_ceiling_is_seconds_from_the_timeout_up(got: Any) -> None:
    """A ceiling below the timeout would shorten it."""
    number = isinstance(got, int | float) and not isinstance(got, bool)
    fine = got is None or (number and math.isfinite(got) and 2.0 <= got <= TIMEOUT_S_MAX)
    why = refusal(declared(timeout_s=2.0, timeout_s_max=got))
    assert (why is None) is fine
    if why is not None:
        assert f"timeout_s_max is {got!r}, want seconds from 2 to 86400" in why


@pytest.mark.parametrize("bad", [0, 0.001, -1.0, math.nan, math.inf, "1", True], ids=repr)
def test_an_unusable_heartbeat_is_refused(bad: Any) -> None:
    """Nobody can promise to be heard from every millisecond."""
    assert "heartbeat_s is" in (refusal(declared(heartbeat_s=bad)) or "")


@pytest.mark.parametrize("bad", ["", "Uploads", "a b", "1st", "-a", "a" * 64, None, 3], ids=repr)
def test_a_lane_without_a_usable_name_is_refused(bad: Any) -> None:
    """Lanes are named in configs, logs and metrics."""
    assert "lane is" in (refusal(declared(lane=bad)) or "")
    assert LANE_NAME.fullmatch("uploads-2_b")


@given(
    st.sampled_from(Limits.__struct_fields__),
    st.one_of(st.integers(-(1 << 70), 1 << 70), st.integers(-3, 30)),
)
def test_a_limit_is_a_whole_number_in_its_range(name: str, got: int) -> None:
    """The error names the limit, what it is and both ends of what it may be."""
    why = refusal(declared(limits=Limits(**{name: got})))
    if why is not None:
        assert f"limits.{name} is {got}, want a whole number from " in why
        low, high = (int(part) for part in why.rpartition("from ")[2].split(" to "))
        assert not low <= got <= high


@pytest.mark.parametrize("name", Limits.__struct_fields__)
@pytest.mark.parametrize("bad", [1.5, "5", True, -1], ids=repr)
def test_a_limit_of_another_kind_is_refused(name: str, bad: Any) -> None:
    """True is no number of files, and half a process cannot be had."""
    assert f"limits.{name} is {bad!r}" in (refusal(declared(limits=Limits(**{name: bad}))) or "")


@pytest.mark.parametrize("bad", [None, {"cpu_s": 1}, 5], ids=repr)
def test_limits_of_another_type_are_refused(bad: Any) -> None:
    """A mapping would be a limit that nobody holds."""
    assert "limits is" in (refusal(declared(limits=bad)) or "")


def test_an_unknown_limit_is_refused() -> None:
    """A limit that is misspelt would not be held either."""
    with pytest.raises(TypeError):
        Limits(memory=1 << 30)  # type: ignore[call-arg]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"memory": 1 << 30}, Limits)


def test_a_type_that_was_refused_is_refused_again() -> None:
    """What is remembered of a check is only that it passed."""
    kind = declared(limits=Limits(niceness=20))
    first = refusal(kind)
    assert first is not None
    assert refusal(kind) == first


@pytest.mark.parametrize("bad", [{"base_s": 1.0}, None, 3, Retry], ids=repr)
def test_a_retry_of_another_type_is_refused(bad: Any) -> None:
    """A mapping would be found out at the action's first failure, in the middle of the tree."""
    assert "retry is" in (refusal(declared(retry=bad)) or "")


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("base_s", -1.0),
        ("base_s", "1"),
        ("factor", 0.5),
        ("max_s", math.nan),
        ("jitter", 1.5),
        ("attempts", 0),
        ("attempts", 1.5),
        ("attempts", True),
    ],
)
def test_a_retry_that_cannot_be_counted_is_refused_by_name(name: str, bad: Any) -> None:
    assert f"retry.{name} is {bad!r}" in (refusal(declared(retry=Retry(**{name: bad}))) or "")
