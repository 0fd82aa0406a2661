"""The life of a proc: the table is complete, and each way out of it is taken once."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core.errors import BugError
from fsmv2.supervisor.core.procfsm import (
    ALIVE,
    IGNORED,
    TABLE,
    ProcEffect,
    ProcEvent,
    ProcState,
    diagram,
    step,
)

S, E, F = ProcState, ProcEvent, ProcEffect
LANE = frozenset({S.IDLE, S.BUSY, S.WITNESSING})

# What only a mistake of the pool could bring about: it gives actions to idle procs only, and
# asks for the state before it takes a hello or an answer for one.
BUGS = (
    {(state, E.ACTION_GIVEN) for state in S if state is not S.IDLE}
    | {(state, E.HELLO_CAME) for state in LANE}
    | {(state, E.ANSWER_CAME) for state in (S.STARTING, S.IDLE)}
)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(S, E)))
def test_each_pair_is_in_the_table_or_ignored_or_a_bug(state: S, event: E) -> None:
    """Exactly one of the three: nothing was forgotten, nothing is said twice."""
    pair = (state, event)
    assert [pair in TABLE, pair in IGNORED, pair in BUGS].count(True) == 1
    if pair in BUGS:
        with pytest.raises(BugError, match=f"{state} cannot see {event}"):
            step(state, event)
    elif pair in IGNORED:
        assert step(state, event) == (state, ())
    else:
        assert step(state, event) == TABLE[pair]


def test_out_of_killed_there_is_only_dead() -> None:
    """I6: a killed proc is never used again."""
    assert {target for (state, _e), (target, _f) in TABLE.items() if state is S.KILLED} == {S.DEAD}


def test_out_of_dead_there_is_nothing() -> None:
    """Dead procs have no rows."""
    assert not [pair for pair in TABLE if pair[0] is S.DEAD]


def test_out_of_leaving_there_is_no_way_back() -> None:
    """A proc that was told to go, or lost its channel, gets no action any more."""
    targets = {target for (state, _e), (target, _f) in TABLE.items() if state is S.LEAVING}
    assert targets == {S.KILLED, S.DEAD}


@pytest.mark.parametrize("state", [state for state in S if state is not S.DEAD])
def test_the_kernels_word_is_final_in_every_state(state: S) -> None:
    """Whatever it was doing, a proc whose death was reported is dead and is buried."""
    target, effects = step(state, E.EXITED)
    assert target is S.DEAD
    assert effects[-1] is F.BURY


@pytest.mark.parametrize("state", [state for state in S if state is not S.DEAD])
def test_every_proc_can_be_killed(state: S) -> None:
    """A kill is sent, or was sent already."""
    target, effects = step(state, E.KILL_ORDERED)
    assert target is S.KILLED
    assert (F.KILL in effects) is (state is not S.KILLED)


@given(st.lists(st.sampled_from(list(E)), max_size=40))
def test_every_life_keeps_its_books(life: list[E]) -> None:
    """A proc joins its lane at most once, leaves it exactly once if it had joined, is killed at
    most once, and is buried at its death and only then."""
    state = S.STARTING
    done: list[F] = []
    for event in life:
        if (state, event) in BUGS:
            continue
        state, effects = step(state, event)
        done += effects
        assert done.count(F.JOIN_LANE) <= 1
        assert (state in LANE) is (F.JOIN_LANE in done and F.LEAVE_LANE not in done)
        assert (state in ALIVE) is (state in LANE or state is S.STARTING)
    assert done.count(F.KILL) <= 1
    assert done.count(F.BURY) == (state is S.DEAD)
    if state is S.DEAD:
        assert done.count(F.LEAVE_LANE) == done.count(F.JOIN_LANE)
        assert done[-1] is F.BURY


@given(st.lists(st.sampled_from(list(E)), max_size=40))
def test_answers_are_given_by_working_procs_only(life: list[E]) -> None:
    """At most one answer per action given."""
    state, given_out, answered = S.STARTING, 0, 0
    for event in life:
        if (state, event) in BUGS:
            continue
        given_out += (state, event) == (S.IDLE, E.ACTION_GIVEN)
        state, effects = step(state, event)
        answered += effects.count(F.ANSWER)
        assert answered <= given_out


def test_an_answer_before_the_kill_counts() -> None:
    """The attempt did end by itself, even past its deadline."""
    assert step(S.WITNESSING, E.ANSWER_CAME) == (S.IDLE, (F.ANSWER,))


def test_the_lane_is_left_before_the_kill() -> None:
    """The spare takes over at the kill, never at the reap."""
    for (state, _event), (_target, effects) in TABLE.items():
        if F.KILL in effects and state in LANE:
            assert effects.index(F.LEAVE_LANE) < effects.index(F.KILL)


def test_the_diagram_has_every_row() -> None:
    """It is made from the table, so it cannot rot."""
    lines = diagram().splitlines()
    assert len(lines) == len(TABLE) + 3
    assert "    busy --> witnessing: deadline_passed" in lines
