"""Which deaths put an action type into quarantine, how long it waits, what releases it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core.quarantine import (
    CLEAN,
    WILLED,
    QuarantineRules,
    Record,
    died,
    survived,
)

RULES = QuarantineRules(after=3, window_s=100.0, base_s=1.0, max_s=8.0)
VERDICTS = st.sampled_from(["timed_out", "crashed:SIGSEGV", "exited:1"])
SPREAD = st.floats(0, 1, exclude_max=True)


def deaths(*moments: float, verdict: str = "timed_out", record: Record = CLEAN) -> Record:
    for moment in moments:
        record = died(record, verdict, moment, 0.0, RULES)
    return record


def test_as_many_equal_deaths_in_a_row_as_the_rules_say_begin_a_quarantine() -> None:
    """One less does not."""
    assert not deaths(10.0, 11.0).is_quarantined
    record = deaths(10.0, 11.0, 12.0)
    assert record.is_quarantined
    assert (record.verdict, record.since, record.deaths) == ("timed_out", 12.0, (10.0, 11.0, 12.0))
    assert record.not_before == 13.0


def test_a_rule_of_one_death_quarantines_at_once() -> None:
    """The first is the last."""
    record = died(CLEAN, "exited:1", 5.0, 0.0, QuarantineRules(after=1))
    assert record.is_quarantined


def test_another_cause_of_death_starts_the_count_anew() -> None:
    """Only equal deaths count, the different one is the first of its own row."""
    record = deaths(3.0, verdict="exited:1", record=deaths(1.0, 2.0))
    assert (record.verdict, record.deaths) == ("exited:1", (3.0,))
    assert not deaths(4.0, 5.0, record=record).is_quarantined


def test_deaths_older_than_the_window_do_not_count() -> None:
    """A death a day is no reason."""
    assert not deaths(0.0, 1.0, 100.0).is_quarantined
    assert deaths(0.0, 1.0, 99.9).is_quarantined


@pytest.mark.parametrize("verdict", sorted(WILLED))
def test_a_willed_death_neither_counts_nor_ends_a_row(verdict: str) -> None:
    """It says nothing about the action."""
    record = deaths(1.0, 2.0)
    assert deaths(3.0, 4.0, 5.0, verdict=verdict, record=record) == record
    kept = deaths(3.0, record=record)
    assert deaths(4.0, verdict=verdict, record=kept) == kept


@pytest.mark.parametrize("succeeded", [True, False])
def test_an_attempt_that_ends_by_itself_ends_a_row(succeeded: bool) -> None:
    """Also one that fails: it did not die."""
    assert survived(deaths(1.0, 2.0), succeeded) == CLEAN


def test_only_a_success_releases_a_quarantined_type() -> None:
    """A failure told in good order is no proof, and changes nothing."""
    record = deaths(1.0, 2.0, 3.0)
    assert survived(record, succeeded=False) == record
    assert survived(record, succeeded=True) == CLEAN


def test_each_further_death_doubles_the_wait_up_to_the_longest() -> None:
    """Counted from the death."""
    record = deaths(1.0, 2.0, 3.0)
    waits = []
    for moment in (10.0, 20.0, 30.0, 40.0, 1e6):
        record = deaths(moment, record=record)
        waits.append(record.not_before - moment)
    assert waits == [2.0, 4.0, 8.0, 8.0, 8.0]
    assert record.since == 3.0


def test_a_quarantined_type_that_dies_of_something_else_stays_in_quarantine() -> None:
    """The newest cause is shown, and the wait grows all the same."""
    record = deaths(10.0, verdict="exited:1", record=deaths(1.0, 2.0, 3.0))
    assert record.is_quarantined
    assert (record.verdict, record.since, record.not_before) == ("exited:1", 3.0, 12.0)


@given(
    st.lists(
        st.tuples(
            st.one_of(VERDICTS, st.sampled_from(sorted(WILLED)), st.booleans()),
            st.floats(0, 60),
            SPREAD,
        ),
        max_size=40,
    )
)
def test_every_history_agrees_with_a_row_counted_by_hand(
    history: list[tuple[str | bool, float, float]],
) -> None:
    """In quarantine exactly from the moment that the newest ``after`` deaths in a row are equal
    and inside the window, until a success; the wait is never longer than the longest."""
    record, row, quarantined, now = CLEAN, [], False, 0.0
    for what, later_s, spread in history:
        now += later_s
        if isinstance(what, bool):
            record = survived(record, what)
            row = []
            quarantined = quarantined and not what
        else:
            record = died(record, what, now, spread, RULES)
            if what not in WILLED:
                row.append((what, now))
                last = row[-RULES.after :]
                quarantined = quarantined or (
                    len(last) == RULES.after
                    and len({verdict for verdict, _moment in last}) == 1
                    and all(now - moment < RULES.window_s for _verdict, moment in last)
                )
                if quarantined:
                    assert now < record.not_before <= now + RULES.max_s
        assert record.is_quarantined is quarantined
        assert len(record.deaths) <= RULES.after
