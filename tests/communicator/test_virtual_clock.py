"""Delays, drips and long polls of the relay's stand-in, hours of them, in no time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from relaycaller import WAIT_S, Caller, Got, calling

from fsmv2.communicator.testing.clock import VirtualClock
from fsmv2.communicator.testing.faults import Fault
from fsmv2.communicator.testing.relay import Relay

HOUR_S = 3600.0
LONG_POLL = {"X-Features": "longpoll;"}


class Slow:
    """A relay on a clock of its own, and a caller that is logged in and asks from a thread."""

    def __init__(self, clock: VirtualClock, relay: Relay, caller: Caller) -> None:
        self.clock, self.relay, self.caller = clock, relay, caller
        self._threads = ThreadPoolExecutor(1)

    def pull(self, **headers: str) -> Future[Got]:
        return self._threads.submit(self.caller.pull, **headers)

    def passes(self, seconds: float) -> None:
        """Let time pass for somebody who waits."""
        assert self.clock.await_waiting()
        self.clock.advance(seconds)


@pytest.fixture
def slow() -> Iterator[Slow]:
    clock = VirtualClock()
    with Relay(clock=clock, token_life_s=10 * HOUR_S) as relay, calling(relay) as caller:
        caller.log_in()
        yield Slow(clock, relay, caller)


def test_a_delay_passes_with_the_clock(slow: Slow) -> None:
    """Not before; and not at all in real time."""
    slow.relay.fault("pull", Fault(delay_s=HOUR_S))
    asked = slow.pull()
    slow.passes(HOUR_S - 1.0)
    slow.passes(0.5)
    assert slow.clock.await_waiting()
    assert not asked.done()
    slow.clock.advance(0.5)
    assert asked.result(WAIT_S).status == 200
    assert not slow.clock.await_waiting(timeout_s=0.0)


def test_a_body_drips_with_the_clock(slow: Slow) -> None:
    """A byte a minute: as many minutes as bytes, but one."""
    slow.relay.fault("pull", Fault(drip_s=60.0))
    asked, minutes = slow.pull(), 0
    while not asked.done():
        if slow.clock.await_waiting(timeout_s=0.01):
            slow.clock.advance(60.0)
            minutes += 1
    assert asked.result().json == {"UMHMessages": []}
    assert minutes >= len('{"UMHMessages":[]}') - 1
    assert slow.clock() == VirtualClock()() + 60.0 * minutes


def test_a_long_poll_ends_with_the_clock_or_with_a_message(slow: Slow) -> None:
    """And the token that came along has aged by as much."""
    slow.relay.backend.long_poll_s = 6 * HOUR_S
    asked = slow.pull(**LONG_POLL)
    slow.passes(6 * HOUR_S)
    assert asked.result(WAIT_S).json == {"UMHMessages": []}
    asked = slow.pull(**LONG_POLL)
    assert slow.clock.await_waiting()
    slow.relay.send("ada@example.com", "action", 1)
    assert len(asked.result(WAIT_S).json["UMHMessages"]) == 1
    asked = slow.pull(**LONG_POLL)
    slow.passes(4 * HOUR_S)
    assert asked.result(WAIT_S).status == 401


def test_what_waits_on_the_clock_ends_with_the_relay_and_with_a_heal(slow: Slow) -> None:
    """Though nobody moves it."""
    slow.relay.fault("pull", Fault(delay_s=HOUR_S), times=2)
    asked = slow.pull()
    assert slow.clock.await_waiting()
    slow.relay.heal()
    assert asked.result(WAIT_S).status == 200
    slow.relay.fault("pull", Fault(delay_s=HOUR_S, drip_s=HOUR_S))
    asked = slow.pull()
    assert slow.clock.await_waiting()
    slow.relay.close()
    assert asked.exception(WAIT_S) is not None
    assert repr(slow.clock).endswith("0 waiting>")
