"""The infrastructure breaker: when it opens, what it lets through, and that it cannot stick."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fsmv2.supervisor.core.breaker import (
    Breaker,
    BreakerState,
    Change,
    downtime_s,
    effective,
    force,
    give_back,
    lend,
    may_start,
    next_moment,
    step,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import fuzz_breaker

OPEN = Breaker(state="open", since=10.0, opened_at=10.0, causes=("memory",))
HALF_OPEN = Breaker(state="half_open", since=20.0, opened_at=10.0, tries=1, quota=1)
MEMORY = ("memory",)


def test_what_exceeds_its_limit_for_good_opens_it_and_what_does_for_a_moment_does_not() -> None:
    assert step(Breaker(), (), MEMORY, 1.0) == (Breaker(), None)
    breaker, change = step(Breaker(), MEMORY, MEMORY, 1.0)
    assert (breaker.state, change, breaker.causes, breaker.opened_at) == (
        "open",
        "opened",
        MEMORY,
        1.0,
    )
    assert not may_start(breaker, 1.0)


def test_it_is_half_open_as_soon_as_nothing_is_wrong() -> None:
    assert step(OPEN, (), MEMORY, 11.0)[1] is None
    breaker, change = step(OPEN, (), (), 12.0)
    assert (breaker.state, change, breaker.tries) == ("half_open", "half_opened", 1)


def test_half_open_admits_one_then_two_then_four_actions() -> None:
    """The next number once so many have come through."""
    breaker, attempt_id, admitted = HALF_OPEN, 0, []
    for _ in range(3):
        first = attempt_id
        while may_start(breaker, 21.0):
            attempt_id += 1
            breaker = lend(breaker, attempt_id, 21.0)
        admitted.append(attempt_id - first)
        for number in range(first + 1, attempt_id + 1):
            breaker, _change = give_back(breaker, number, None, 21.0)
    assert admitted == [1, 2, 4]


def test_a_lease_that_nobody_gives_back_expires() -> None:
    breaker = lend(HALF_OPEN, 7, 21.0)
    assert not may_start(breaker, 21.0)
    assert next_moment(breaker, 21.0) == 22.25
    assert not may_start(breaker, 22.2)
    assert may_start(breaker, 22.25)


def test_half_open_ends_closed_after_one_probe_period_whatever_the_actions_do() -> None:
    breaker, change = step(lend(HALF_OPEN, 7, 24.0), (), (), 25.0)
    assert (breaker.state, change, breaker.leases, breaker.causes) == ("closed", "closed", (), ())
    assert may_start(breaker, 25.0)
    assert downtime_s(breaker, 25.0) == 0.0


@pytest.mark.parametrize(("exceeded", "over"), [((), MEMORY), (MEMORY, MEMORY), (MEMORY, ())])
def test_out_of_half_open_any_excess_opens_it_again(
    exceeded: tuple[str, ...], over: tuple[str, ...]
) -> None:
    """It is the same incident, and half open as soon as that is over."""
    breaker, change = step(HALF_OPEN, exceeded, over, 21.0)
    assert (breaker.state, change, breaker.opened_at) == ("open", "reopened", 10.0)
    assert step(breaker, (), (), 22.0)[0].tries == 2


def test_an_action_that_the_machine_failed_opens_it_for_a_probe_period() -> None:
    """One without a lease says nothing."""
    assert give_back(HALF_OPEN, 7, "no proc lives", 21.0) == (HALF_OPEN, None)
    breaker, change = give_back(lend(HALF_OPEN, 7, 21.0), 7, "no proc lives", 22.0)
    assert (breaker.state, change, breaker.causes) == ("open", "reopened", ("no proc lives",))
    assert step(breaker, (), (), 26.9)[1] is None
    assert step(breaker, (), (), 27.0)[1] == "half_opened"


@pytest.mark.parametrize("own", ["closed", "open", "half_open"])
@pytest.mark.parametrize("forced", ["open", "closed"])
def test_an_operators_word_counts_until_its_time_is_over(own: BreakerState, forced: str) -> None:
    """Underneath it goes on by itself."""
    breaker = force(Breaker(state=own, since=0.0, quota=1), forced, 50.0, 0.0)  # type: ignore[arg-type]
    assert effective(breaker, 49.9) == forced
    assert may_start(breaker, 49.9) is (forced == "closed")
    assert effective(breaker, 50.0) == own
    assert step(breaker, (), (), 50.0)[0].forced is None
    assert effective(force(breaker, None, 0.0, 0.0), 1.0) == own


def test_only_half_open_costs_a_lease() -> None:
    assert lend(Breaker(), 1, 0.0) == Breaker()
    assert lend(force(HALF_OPEN, "closed", 50.0, 21.0), 1, 21.0).leases == ()


def test_readings_that_go_up_and_down_each_second_open_it_once() -> None:
    """Two flips in a minute at most: it opens, and stays so until they have settled."""
    breaker, changes = Breaker(), list[Change]()
    for second in range(120):
        now = MEMORY if second % 2 else ()
        breaker, change = step(breaker, now, now, float(second))
        if change in ("opened", "closed"):
            changes.append(change)
    assert changes == ["opened"]


@pytest.mark.parametrize("portion", range(4))
def test_no_random_history_breaks_a_promise(portion: int) -> None:
    """`benchmarks/fuzz_breaker.py` runs a million of them."""
    seeds = range(portion * 500, (portion + 1) * 500)
    assert fuzz_breaker.run_schedules(seeds) == 500
