"""A login that renews a session and fails takes nothing from the session there is: it is used until
it expires, and only a refusal by the relay ends it before."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from storyline import Line

from fsmv2.communicator.actions import authenticate
from fsmv2.communicator.actions.authenticate import AuthenticateAction
from fsmv2.communicator.testing.backend import DEMO_TOKEN, DEMO_UUID
from fsmv2.communicator.testing.faults import Fault
from fsmv2.communicator.testing.relay import Relay
from fsmv2.supervisor import Secret

HOUR_S = 3600.0
NIGHT = 1_800_057_600.0  # midnight, UTC
DOWN = Fault(status=503)


class Night:
    """A line and a relay whose wall clock is the line's, from ``begins_at`` on."""

    def __init__(self, folder: Path, context: Any, life_s: float, begins_at: float) -> None:
        self.line: Line | None = None
        self.begins_at = begins_at
        self.relay = Relay(token_life_s=life_s, clock=self.clock_s)
        self.relay.start()
        self.line = Line(self.relay, folder, context)
        self.line._started_at = begins_at
        self.line.step_s = 10.0
        self.line.config = msgspec.structs.replace(self.line.config, poll_interval_s=60.0)

    def clock_s(self) -> float:
        return self.begins_at if self.line is None else self.line.wall_s

    def run(self, seconds: float) -> Line:
        assert self.line is not None
        self.line.run(seconds)
        return self.line

    def asked(self, endpoint: str) -> int:
        return len(self.relay.requests(endpoint))


@pytest.fixture
def at(tmp_path: Path, context: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """``at(begins_at, life_s)``: a night in UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    made: list[Night] = []

    def make(begins_at: float, life_s: float) -> Night:
        made.append(Night(tmp_path, context, life_s, begins_at))
        monkeypatch.setattr(authenticate, "wall_clock_s", made[-1].clock_s)
        return made[-1]

    yield make
    for night in made:
        night.relay.close()
    monkeypatch.undo()
    time.tzset()


def test_a_night_of_failing_logins_costs_no_message_and_ends_with_one_login(at: Any) -> None:
    """Scenario 18 with a login that is out from before 3 until 8: both directions go on, logins are
    tried at their backoff, also when the hour is over; then there is exactly one that is real."""
    night = at(NIGHT + 2 * HOUR_S, 10 * HOUR_S)
    night.line.step_s = 20.0
    line = night.run(60)
    night.relay.fault("login", DOWN, times=None)
    for hour in range(6):
        line.post(hour)
        night.relay.send("ada@example.com", "action", hour)
        before = night.asked("pull")
        night.run(HOUR_S)
        assert night.asked("pull") - before > 40, hour
    assert [entry.payload for entry in night.relay.pushed()] == list(range(6))
    assert line.received() == list(range(6))
    tries = [at for at, name in line.tries if name == "AuthenticateAction"][1:]
    gaps = [after - before for before, after in itertools.pairwise(tries)]
    assert all(gap >= 2 for gap in gaps)
    assert all(60 <= gap <= 95 for gap in gaps[6:])
    assert 200 < len(tries) < 310
    # By way of authenticating once, as every renewal; then it stays where it is.
    assert line.trail == ["stopped", "authenticating", "syncing", "authenticating", "syncing"]
    assert "renewal failed" in line.reasons[-1]
    assert "HTTP 503" in line.reasons[-1]
    night.relay.heal()
    before = night.asked("login")
    night.run(3 * HOUR_S)
    assert night.asked("login") == before + 1
    assert line.trail[-1] == "syncing"
    assert "renewal" not in line.reasons[-1]
    assert {request.status for request in night.relay.requests("pull")} == {200}


def test_ten_minutes_before_the_end_too_and_not_a_second_beyond_it(at: Any) -> None:
    """Synced until the token is dead, then nothing is sent with it; all that waits moves with the
    first login that is good."""
    night = at(NIGHT + 12 * HOUR_S, 2 * HOUR_S)
    line = night.run(60)
    night.relay.fault("login", DOWN, times=None)
    night.run(2 * HOUR_S - 120)
    before = night.asked("pull")
    assert before > 100
    assert line.trail[-1] == "syncing"
    night.run(600)
    assert line.trail[-1] == "authenticating"
    assert "token has expired" in line.reasons
    assert night.asked("pull") - before <= 2
    line.post("waits")
    night.run(600)
    assert night.relay.pushed() == []
    night.relay.heal()
    night.run(120)
    assert [entry.payload for entry in night.relay.pushed()] == ["waits"]
    assert {request.status for request in night.relay.requests("pull")} == {200}


def test_errors_meanwhile_degrade_it_and_it_recovers_while_logins_fail(at: Any) -> None:
    """The table's states, by how the directions stand; no state is left for a login that fails."""
    night = at(NIGHT + 12 * HOUR_S, 24 * HOUR_S)
    night.run(60)
    night.line.passed_s += 24 * HOUR_S - 601 - 60  # within the margin
    night.relay.fault("login", DOWN, times=None)
    night.relay.fault("push", DOWN, times=None)
    night.line.post(1)
    line = night.run(200)
    assert line.trail[-1] == "degraded"
    assert "renewal failed" in line.reasons[-1]
    night.relay.heal()
    night.relay.fault("login", DOWN, times=None)
    night.run(100)
    assert line.trail[3:] == ["authenticating", "syncing", "degraded", "syncing"]
    assert [entry.payload for entry in night.relay.pushed()] == [1]


def test_a_refused_renewal_is_parked_and_the_session_goes_on(at: Any, tmp_path: Path) -> None:
    """One request; its token is not sent again, a changed one is, and the file is looked at."""
    night = at(NIGHT + 12 * HOUR_S, 24 * HOUR_S)
    file = tmp_path / "token"
    file.write_text(DEMO_TOKEN)
    night.line.config = msgspec.structs.replace(
        night.line.config, auth_token=None, auth_token_file=Secret(str(file))
    )
    night.run(60)
    night.line.passed_s += 24 * HOUR_S - 601 - 60
    night.line.step_s = 4.0  # it looks at the file each 10 s
    file.write_text("not-yet-known")
    before = night.asked("pull")
    line = night.run(300)
    assert night.asked("login") == 2
    assert night.asked("pull") - before >= 4
    assert line.trail[-1] == "syncing"
    assert "parked" in line.reasons[-1]
    file.write_text(DEMO_TOKEN)
    night.run(30)
    assert night.asked("login") == 3
    assert "parked" not in line.reasons[-1]


def test_a_session_the_relay_refuses_is_not_gone_on_with(at: Any) -> None:
    """Also when a failed renewal had kept it."""
    night = at(NIGHT + 12 * HOUR_S, 24 * HOUR_S)
    night.run(60)
    night.line.passed_s += 24 * HOUR_S - 601 - 60
    night.relay.fault("login", DOWN, times=None)
    line = night.run(120)
    assert line.trail[-1] == "syncing"
    night.relay.revoke_tokens()
    night.run(60)
    assert line.trail[-1] == "authenticating"
    before = night.asked("pull")
    night.run(120)
    assert night.asked("pull") == before


def test_a_direction_that_is_refused_alone_and_failing_logins_stop_no_other(at: Any) -> None:
    """Nothing tells whose the refusal of the pulls is, so a login is due; that it fails holds up no
    push."""
    night = at(NIGHT + 12 * HOUR_S, 24 * HOUR_S)
    night.relay.fault("pull", Fault(status=403), times=None)
    line = night.run(100)
    night.relay.fault("login", DOWN, times=None)
    logins = night.asked("login")
    for number in range(5):
        night.run(120)
        line.post(number)
        night.run(70)
        assert [entry.payload for entry in night.relay.pushed()] == list(range(number + 1))
    assert night.asked("login") > logins


def test_a_killed_renewal_takes_no_failure_rate_along(at: Any, context: Any) -> None:
    """Four that failed, one that is killed and the next that fails are five: the alert is given at
    that one, and once."""
    night = at(NIGHT + 12 * HOUR_S, 24 * HOUR_S)
    line = night.run(60)
    line.step_s = 0.5
    line.config = msgspec.structs.replace(line.config, poll_interval_s=1.0)  # the last sync tells
    night.line.passed_s += 24 * HOUR_S - 601 - 60
    night.relay.fault("login", DOWN, times=None)
    while night.asked("login") < 5:
        line.look()
        line.passed_s += line.step_s
    line.kill(AuthenticateAction, "crashed")
    night.run(5)
    assert "logins keep failing" not in [event for event, _, _ in context.logged]
    night.run(120)
    assert [event for event, _, _ in context.logged].count("logins keep failing") == 1
    outcome = line._results[AuthenticateAction].value
    assert outcome.rate.failures == outcome.rate.count == night.asked("login") - 1


@pytest.mark.parametrize("ends", ["timed_out", "crashed", "cancelled"])
def test_a_killed_renewal_takes_neither_session_nor_identity(at: Any, ends: Any) -> None:
    """Scenario 11 after it: the reply has no uuid, and the one that was known is kept."""
    night = at(NIGHT + 12 * HOUR_S, 24 * HOUR_S)
    line = night.run(60)
    line.kill(AuthenticateAction, ends)
    before = night.asked("pull")
    night.run(600)
    assert line.trail[3:] == []
    assert night.asked("pull") - before >= 9
    night.relay.backend.login_body = b"{}"
    line.passed_s += 24 * HOUR_S - 601 - 660
    night.run(60)
    outcome = line._results[AuthenticateAction].value
    assert outcome.problem is None
    assert outcome.instance_uuid == DEMO_UUID
