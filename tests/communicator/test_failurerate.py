"""The failure rate: when it alarms, that it alarms once, that it never grows."""

from __future__ import annotations

import random

import pytest

from fsmv2.communicator.failurerate import LOGIN, SYNC, FailureRate, Rule


def test_alarm_is_given_once_and_armed_again_below_the_limit() -> None:
    """Nine of ten among at least 100; a steady outage is one alarm, the next outage another."""
    rate = FailureRate()
    alarms = []
    for number, failed in enumerate([True] * 300 + [False] * 40 + [True] * 600):
        before, rate = rate, rate.with_outcome(failed, SYNC)
        if rate.alarmed and not before.alarmed:
            alarms.append(number)
    assert alarms[0] == 99
    assert len(alarms) == 2
    assert rate.count == 600


def test_few_outcomes_are_no_rate() -> None:
    """Five logins, a hundred syncs, before anybody is called."""
    for rule, least in ((LOGIN, 5), (SYNC, 100)):
        rate = FailureRate()
        for _ in range(least - 1):
            rate = rate.with_outcome(True, rule)
            assert not rate.alarmed
        assert rate.with_outcome(True, rule).alarmed


@pytest.mark.parametrize("seed", range(20))
def test_window_is_the_last_outcomes(seed: int) -> None:
    """Against the plain list, at every step."""
    dice = random.Random(seed)
    rule = Rule(outcomes_max=17, outcomes_min=3)
    rate, seen = FailureRate(), []
    share = dice.random()
    for _ in range(60):
        seen.append(dice.random() < share)
        rate = rate.with_outcome(seen[-1], rule)
        window = seen[-17:]
        assert (rate.count, rate.failures) == (len(window), sum(window))
        assert rate.alarmed is (len(window) >= 3 and sum(window) >= 0.9 * len(window))
        assert len(rate.failed) <= 3
