"""What the pool knows of an action type: may it hide a secret, may it wait in a pipe."""

from __future__ import annotations

import enum
from typing import Any, Literal, Optional, Union

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.ipc.redact import may_hide
from fsmv2.supervisor import Action, ActionContext, Limits, Secret
from fsmv2.supervisor.core.errors import SpecError
from fsmv2.supervisor.pool.kinds import PIPE_S, SHORT_S, ActionKind, Kinds


class Plain(Action, frozen=True):
    number: int = 0
    names: tuple[str, ...] = ()

    def execute(self, ctx: ActionContext) -> None:
        """Nothing."""


class Holder(Action, frozen=True):
    by_name: dict[str, list[Secret]] = msgspec.field(default_factory=dict)

    def execute(self, ctx: ActionContext) -> None:
        """Nothing."""


class Guarded(Action, frozen=True):
    limits = Limits(memory_bytes=1 << 30)

    def execute(self, ctx: ActionContext) -> None:
        """Nothing."""


class Limited(Action, frozen=True):
    limits = Limits(open_files=100)

    def execute(self, ctx: ActionContext) -> None:
        """Nothing."""


class One(Action, frozen=True):
    limits = Limits(concurrency=1)

    def execute(self, ctx: ActionContext) -> None:
        """Nothing."""


class Leaf(msgspec.Struct):
    number: int
    text: str | None


class HidingLeaf(msgspec.Struct):
    number: int
    token: Secret


class Branch(msgspec.Struct):
    leaves: dict[str, Leaf]


class HidingBranch(msgspec.Struct):
    leaves: tuple[int, list[HidingLeaf | None]]


class Ring(msgspec.Struct):
    inner: Ring | None = None


class Colour(enum.Enum):
    RED = "red"


# --- hiding ---------------------------------------------------------------------------------

CLEAN = st.sampled_from([int, float, bool, str, bytes, type(None), Literal["a", 1], Leaf, Branch])
HIDING = st.sampled_from([Secret, Any, object, HidingLeaf, HidingBranch])


def wrapped(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Types made of other types."""
    return st.one_of(
        inner.map(lambda kind: list[kind]),  # type: ignore[valid-type]
        inner.map(lambda kind: tuple[kind, ...]),  # type: ignore[valid-type]
        inner.map(lambda kind: frozenset[kind]),  # type: ignore[valid-type]
        inner.map(lambda kind: dict[str, kind]),  # type: ignore[valid-type]
        inner.map(lambda kind: Optional[kind]),  # noqa: UP045 (both spellings are met with)
        st.tuples(inner, CLEAN).map(lambda two: tuple[two[0], two[1]]),  # type: ignore[misc]
        st.tuples(inner, CLEAN).map(lambda two: Union[two[0], two[1]]),  # noqa: UP007
    )


NESTED_CLEAN = st.recursive(CLEAN, wrapped, max_leaves=3)


@given(NESTED_CLEAN)
def test_a_type_made_of_plain_ones_hides_nothing(kind: Any) -> None:
    """Whatever the nesting, up to a depth that nobody writes."""
    assert not may_hide(kind)


@given(st.data())
def test_a_type_with_a_secret_anywhere_in_it_may_hide_one(data: st.DataObject) -> None:
    """However deep, and beside whatever else."""
    kind = data.draw(HIDING)
    for _ in range(data.draw(st.integers(0, 12))):
        kind = data.draw(wrapped(st.just(kind)))
    assert may_hide(kind)


@pytest.mark.parametrize("kind", [list, dict, tuple, Any, object, Colour, Ring, type, int | Any])
def test_what_is_not_known_to_be_plainmay_hide(kind: Any) -> None:
    """A container of anything, a type that holds itself, a type nobody has thought of."""
    assert may_hide(kind)


# --- short and long -------------------------------------------------------------------------


def ran(kind: ActionKind, seconds: float, times: int) -> ActionKind:
    for _ in range(times):
        kind.ran(seconds)
    return kind


def test_a_type_may_wait_in_a_pipe_once_some_short_runs_have_shown_it_to_be_short() -> None:
    """What is not known counts as long; one short run proves nothing."""
    kind = ActionKind(Plain)
    assert not kind.may_wait_in_pipe
    assert not ran(kind, 0.00001, 1).may_wait_in_pipe
    assert ran(kind, 0.00001, 10).may_wait_in_pipe


def test_one_long_run_makes_a_type_long_and_short_ones_make_it_short_again() -> None:
    """The others would have waited for it."""
    kind = ran(ActionKind(Plain), 0.00001, 50)
    assert not ran(kind, 1.0, 1).may_wait_in_pipe
    assert not ran(kind, 0.00001, 20).may_wait_in_pipe
    assert ran(kind, 0.00001, 200).may_wait_in_pipe


@given(st.lists(st.floats(0, 2 * SHORT_S), max_size=100))
def test_a_type_may_wait_exactly_while_its_mean_run_is_short(runs: list[float]) -> None:
    """The mean lies between the shortest and the longest run, once there were enough."""
    kind = ActionKind(Plain)
    for seconds in runs:
        kind.ran(seconds)
        assert kind.may_wait_in_pipe is (kind.mean_ran_s < SHORT_S)
    for seconds in runs[:1]:
        ran(kind, seconds, 200)
        assert kind.mean_ran_s == pytest.approx(seconds, abs=1e-8)


@pytest.mark.parametrize("action", [Holder, Guarded, Limited])
def test_a_type_that_is_looked_at_while_it_runs_never_waits_in_a_pipe(
    action: type[Action],
) -> None:
    """Whose secret, whose memory, whose limit would it be?"""
    assert not ran(ActionKind(action), 0.00001, 100).may_wait_in_pipe


@given(st.floats(0, SHORT_S, exclude_max=True), st.integers(0, 63))
def test_what_waits_in_a_pipe_is_done_soon_whatever_its_type(mean_s: float, most: int) -> None:
    """An urgent attempt waits behind it, on whichever proc."""
    kind = ActionKind(Plain)
    kind.mean_ran_s = mean_s
    assert min(most, 15) <= kind.depth(most) <= most
    assert kind.depth(most) * mean_s <= PIPE_S


def test_a_type_that_prints_never_waits_in_a_pipe_again() -> None:
    """Whose line would it be?"""
    kind = ran(ActionKind(Plain), 0.00001, 100)
    kind.spoke()
    assert not kind.may_wait_in_pipe
    assert not ran(kind, 0.00001, 100).may_wait_in_pipe


def test_a_type_is_full_at_its_limit_and_only_then() -> None:
    """Without a limit it never is."""
    plain, one = ActionKind(Plain), ActionKind(One)
    plain.running = 10_000
    assert not plain.is_full
    assert not one.is_full
    one.running = 1
    assert one.is_full
    assert "<One: 1 running, 0 held back>" in repr(one)


# --- the register ---------------------------------------------------------------------------


def test_each_type_has_one_record() -> None:
    """Made when it is first seen."""
    kinds = Kinds({}, {})
    assert kinds[Plain] is kinds[Plain]
    assert kinds[Plain] is not kinds[One]
    assert list(kinds) == [Plain, One]


def test_a_type_that_cannot_be_sent_is_refused_each_time() -> None:
    """And leaves no record."""

    class Local(Action, frozen=True):
        def execute(self, ctx: ActionContext) -> None:
            """Cannot be imported by a proc."""

    kinds = Kinds({}, {})
    for _ in range(2):
        with pytest.raises(SpecError):
            kinds[Local]
    assert not kinds
