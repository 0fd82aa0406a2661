"""The child breaker: waits, attempts in a window, one warning, one escalation; it never sticks."""

from __future__ import annotations

import msgspec
import pytest
from fuzz_childbreaker import AWAY, COMES, FAILED, HELD, RUNS, WAITS, run_many

from fsmv2.supervisor.core import panic
from fsmv2.supervisor.core.childbreaker import (
    CALM,
    NEVER,
    Order,
    Sight,
    Track,
    look,
)
from fsmv2.supervisor.core.errors import WorkerFault
from fsmv2.supervisor.core.infrastructureevents import recovery_status

UNMADE = Sight("failed", "exists", "ValueError: no", "its constructor is called again", 1)


class Child:
    """One child's breaker, on a clock that goes on by itself to what is due."""

    def __init__(self) -> None:
        self.now = 100.0
        self.track = CALM
        self.orders: list[tuple[float, Order]] = []

    def see(self, sight: Sight, after_s: float = 0.0) -> Track:
        self.now += after_s
        self.track, orders = look(self.track, sight, self.now, lambda: 0.0)
        self.orders += [(self.now, order) for order in orders]
        return self.track

    def fail(self, times: int) -> None:
        """It fails, and each restart fails too."""
        self.see(FAILED)
        for _ in range(times):
            self.now = self.track.next_at
            self.see(FAILED)
            self.see(FAILED)

    def moments(self, order: Order) -> list[float]:
        return [at for at, what in self.orders if what == order]


def test_a_child_that_does_not_fail_has_no_incident() -> None:
    for sight in (RUNS, COMES, WAITS, AWAY):
        assert look(CALM, sight, 1.0, lambda: 0.0) == (CALM, ())


def test_restarts_wait_1_2_4_8_and_16_seconds_and_never_come_early() -> None:
    """Scenarios 63 and 68."""
    child = Child()
    child.fail(5)
    at = child.moments("restart")
    assert [round(moment - 100.0) for moment in at] == [1, 3, 7, 15, 31]
    child = Child()
    child.see(FAILED)
    child.see(FAILED, 0.99)
    assert child.moments("restart") == []
    child.see(FAILED, 0.01)
    assert len(child.moments("restart")) == 1


def test_jitter_shortens_a_wait_by_a_fifth_at_most() -> None:
    track, _ = look(CALM, FAILED, 0.0, lambda: 0.999)
    assert 0.8 <= track.next_at < 0.81


def test_the_fourth_attempt_warns_once_and_the_fifth_escalates_once() -> None:
    """Scenarios 70 and 128: no sixth, and the circuit stays open."""
    child = Child()
    child.fail(5)
    restarts = child.moments("restart")
    assert child.moments("warn") == [restarts[3]]
    assert child.moments("escalate") == [restarts[4]]
    for _ in range(50):
        child.see(FAILED, 30.0)
    assert len(child.moments("restart")) == 5
    assert len(child.moments("escalate")) == 1
    assert child.track.is_open


def test_a_child_that_recovers_by_itself_closes_even_after_the_escalation() -> None:
    child = Child()
    child.fail(5)
    child.see(RUNS, 1000.0)
    assert not child.track.is_open
    assert child.see(RUNS, 60.0) == CALM


def test_attempts_of_incidents_that_are_over_count_until_the_window_has_drained() -> None:
    """A child that falls over again and again is restarted ever more rarely, then not at all;
    scenario 71: after five minutes the counter begins again at 1."""
    child = Child()
    for _ in range(7):
        child.see(FAILED)
        if child.track.next_at < NEVER:
            child.see(FAILED, min(child.track.next_at - child.now, 30.0))
        child.see(RUNS, 1.0)
        child.see(RUNS, 10.0)
    assert len(child.moments("restart")) == 5
    child.see(FAILED, 300.0)
    assert child.track.attempts == ()
    assert child.track.next_at == child.now + 1.0


def test_a_child_that_does_not_run_30_seconds_after_its_start_has_failed_again() -> None:
    child = Child()
    child.see(FAILED)
    child.see(FAILED, 1.0)
    child.see(WAITS, 5.0)
    child.see(COMES, 5.0)
    assert child.track.settle_by == child.now + 30.0
    child.see(COMES, 30.0)
    assert child.track.next_at == child.now + 2.0
    child.see(COMES, 2.0)
    assert len(child.moments("restart")) == 2


def test_a_child_that_comes_up_in_time_is_left_to_it() -> None:
    child = Child()
    child.see(FAILED)
    child.see(COMES, 0.5)
    child.see(COMES, 29.0)
    child.see(RUNS, 0.5)
    assert [order for _, order in child.orders] == ["opened", "closed"]


def test_a_child_that_runs_and_fails_each_second_keeps_its_circuit_open() -> None:
    """It closes once; then only what has run for ten seconds counts as running."""
    child = Child()
    for _ in range(300):
        child.see(FAILED, 1.0)
        child.see(RUNS, 1.0)
    assert child.moments("closed") == [102.0]
    assert child.moments("opened") == [101.0, 103.0]
    assert len(child.moments("restart")) == 5
    assert len(child.moments("escalate")) == 1
    child.see(RUNS, 1.0)
    child.see(RUNS, 9.0)
    assert not child.track.is_open


def test_while_a_child_runs_on_trial_nothing_is_due_but_the_end_of_it() -> None:
    child = Child()
    child.see(FAILED)
    child.see(RUNS, 0.1)
    child.see(FAILED, 0.1)
    began = child.now + 0.1
    child.see(RUNS, 0.1)
    assert child.track.is_open
    assert child.track.wake_at() == began + 10.0
    assert child.track.runs_since == began
    assert "it runs again" in child.track.unless
    child.see(FAILED, 5.0)
    assert child.track.runs_since is None
    assert child.track.next_at > child.now
    child.see(RUNS, 0.1)
    child.see(RUNS, 10.0)
    assert not child.track.is_open


def test_after_an_escalation_nobody_is_called_or_restarts_until_the_window_is_over() -> None:
    """It runs now and then, and falls over again: a person knows already."""
    child = Child()
    child.fail(5)
    (called,) = child.moments("escalate")
    while child.now < called + 270.0:
        child.see(RUNS, 5.0)
        child.see(RUNS, 15.0)
        child.see(FAILED, 5.0)
    assert child.moments("escalate") == [called]
    assert len(child.moments("restart")) == 5
    assert child.track.next_at == called + 300.0
    child.see(FAILED, child.track.next_at - child.now)
    assert len(child.moments("restart")) == 6


def test_attempts_of_an_incident_that_outlasts_the_window_are_still_shown() -> None:
    child = Child()
    child.fail(5)
    child.see(FAILED, 1000.0)
    assert child.track.attempts == ()
    assert child.track.attempts_shown() == 5


def test_one_that_cannot_be_made_warns_at_the_fourth_try_and_escalates_at_the_fifth() -> None:
    child = Child()
    for tries in range(1, 30):
        child.see(msgspec.structs.replace(UNMADE, tries=tries), 60.0)
    assert child.moments("warn") == [100.0 + 4 * 60.0]
    assert child.moments("escalate") == [100.0 + 5 * 60.0]
    assert child.moments("restart") == []
    assert child.track.attempts_shown() == 29


def test_one_that_could_not_be_made_even_at_the_first_look_escalates_with_it() -> None:
    child = Child()
    child.see(msgspec.structs.replace(UNMADE, tries=7))
    assert [order for _, order in child.orders] == ["opened", "escalate"]


def test_a_child_that_falters_while_it_comes_up_is_not_waited_for_anew() -> None:
    child = Child()
    child.see(FAILED)
    child.see(FAILED, 1.0)
    child.see(COMES, 1.0)
    by = child.track.settle_by
    while child.now < by - 3.0:
        child.see(FAILED, 1.0)
        child.see(COMES, 1.5)
        assert child.now < child.track.wake_at() <= by
    assert child.track.settle_by == by
    child.see(COMES, by - child.now)
    assert len(child.moments("restart")) == 2


def test_one_that_may_not_be_restarted_any_more_while_it_comes_has_nothing_due() -> None:
    child = Child()
    child.see(FAILED)
    child.see(FAILED, 1.0)
    child.see(COMES, 1.0)
    child.see(FAILED, 0.1)
    child.see(Sight("comes", unless="its config is refused"), 0.1)
    assert child.track.wake_at() == NEVER


def test_one_that_is_not_to_be_restarted_keeps_its_circuit_open_until_it_runs() -> None:
    child = Child()
    for _ in range(10):
        child.see(HELD, 60.0)
    assert [order for _, order in child.orders] == ["opened"]
    assert child.track.wake_at() == NEVER
    child.see(RUNS, 60.0)
    assert not child.track.is_open


def test_one_that_nobody_wants_to_run_any_more_ends_its_incident() -> None:
    child = Child()
    child.fail(2)
    child.see(AWAY, 0.1)
    assert not child.track.is_open
    assert len(child.track.attempts) == 2


@pytest.mark.parametrize("block", range(4))
def test_random_histories_keep_every_promise(block: int) -> None:
    """`benchmarks/fuzz_childbreaker.py` runs a million."""
    assert run_many(range(block * 500, block * 500 + 500)) == 500


@pytest.mark.parametrize(
    ("attempts", "status"),
    [(0, "attempting_recovery"), (2, "attempting_recovery"), (3, "persistent_failure"),
     (4, "persistent_failure"), (5, "escalation_imminent"), (9, "escalation_imminent")],
)  # fmt: skip
def test_recovery_status_follows_the_attempts(attempts: int, status: str) -> None:
    assert recovery_status(attempts) == status


# --- the panic breaker ----------------------------------------------------------------------


def test_three_raises_in_five_minutes_open_the_panic_breaker_and_it_drains() -> None:
    raises: tuple[float, ...] = ()
    for at in (0.0, 100.0):
        raises = panic.raised(raises, at)
        assert not panic.is_open(raises)
    raises = panic.raised(raises, 200.0)
    assert panic.is_open(raises)
    assert panic.heals_at(raises) == 300.0
    assert panic.is_open(panic.counting(raises, 299.9))
    assert not panic.is_open(panic.counting(raises, 300.0))


def test_raises_that_are_spread_out_never_open_the_panic_breaker() -> None:
    raises: tuple[float, ...] = ()
    for number in range(100):
        raises = panic.raised(raises, number * 150.0)
        assert not panic.is_open(raises)


@pytest.mark.parametrize(
    ("error", "kind"),
    [(ValueError(), "error"), (SystemExit(), "exit"), (KeyboardInterrupt(), "exit"),
     (MemoryError(), "resource"), (RecursionError(), "resource"), (WorkerFault(), "contract")],
)  # fmt: skip
def test_what_was_raised_is_told_by_kind(error: BaseException, kind: str) -> None:
    assert panic.kind_of(error) == kind
