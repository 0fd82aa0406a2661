"""Whole incidents: the real decisions and the real actions against the relay, on a clock that
is moved by hand. The engine is not in here; it has its own tests."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from storyline import STEP_S, Line

from fsmv2.communicator import spool
from fsmv2.communicator.actions import authenticate
from fsmv2.communicator.testing import faults
from fsmv2.communicator.testing.backend import DEMO_TOKEN
from fsmv2.communicator.testing.faults import Fault
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport import token
from fsmv2.communicator.transport.codec import Message, encode_content
from fsmv2.supervisor import Secret


def test_outage_degrades_and_recovers_without_a_loss(
    relay: Relay, tmp_path: Path, context: Any
) -> None:
    """Two minutes of 502: Degraded after three errors, few attempts, then every message."""
    line = Line(relay, tmp_path, context)
    line.post(0)
    line.run(3)
    assert line.trail == ["stopped", "authenticating", "syncing"]
    for endpoint in ("push", "pull"):
        relay.fault(endpoint, faults.nginx_502(), times=None)
    before = len(relay.requests("push"))
    for number in range(1, 13):
        line.post(number)
        relay.send("ada@example.com", "action", number)
        line.run(10)
    assert line.trail[3:] == ["degraded"]
    # 2 + 4 + 8 + 16 + 32 s: five waits fit into two minutes, and one more is under way.
    assert 5 <= len(relay.requests("push")) - before <= 7
    assert any("HTTP 502" in reason and "looks like nginx" in reason for reason in line.reasons)
    relay.heal()
    line.run(75)
    assert line.trail[4:] == ["syncing"]
    assert [entry.payload for entry in relay.pushed()] == list(range(13))
    assert line.received() == list(range(1, 13))


def test_revoked_token_leads_to_one_login_and_no_loss(
    relay: Relay, tmp_path: Path, context: Any
) -> None:
    """Scenario 17: though it has 23 h to live, and within a second."""
    line = Line(relay, tmp_path, context)
    line.run(3)
    relay.revoke_tokens()
    line.post("after")
    relay.send("ada@example.com", "action", "after")
    line.run(3)
    assert line.trail[3:] == ["authenticating", "syncing"]
    assert len(relay.requests("login")) == 2
    assert [entry.payload for entry in relay.pushed()] == ["after"]
    assert line.received() == ["after"]


def test_tokens_that_are_refused_in_use_make_no_login_storm(
    relay: Relay, tmp_path: Path, context: Any
) -> None:
    """Ten minutes of 403 on every sync: about one login a minute."""
    line = Line(relay, tmp_path, context)
    for endpoint in ("push", "pull"):
        relay.fault(endpoint, Fault(status=403), times=None)
    line.run(600)
    assert 9 <= len(relay.requests("login")) <= 13


@pytest.mark.parametrize(("status", "kind"), [(401, "invalid_token"), (404, "instance_deleted")])
def test_refused_login_parks_until_the_config_changes(
    relay: Relay, tmp_path: Path, context: Any, status: int, kind: str
) -> None:
    """Scenarios 3, 4 and 5: one attempt, one warning, no more requests; then a changed token is
    exactly one new attempt, and one that is good brings it up."""
    line = Line(relay, tmp_path, context)
    relay.fault("login", Fault(status=status), times=None)
    line.run(600)
    assert line.trail == ["stopped", "authenticating"]
    assert len(relay.requests("login")) == 1
    assert [event for event, level, _ in context.logged if level == "warning"] == ["login failed"]
    assert kind in line.reasons[-1]
    assert "parked" in line.reasons[-1]
    good = line.config
    line.config = msgspec.structs.replace(good, auth_token=Secret("another"))
    line.run(600)
    assert len(relay.requests("login")) == 2
    relay.heal()
    line.config = good
    line.run(2)
    assert line.trail[-1] == "syncing"


def test_login_parked_at_one_relay_is_tried_once_at_another(
    relay: Relay, tmp_path: Path, context: Any
) -> None:
    """Scenario 5, the relay's URL: exactly one new attempt, and none at the one that was left."""
    line = Line(relay, tmp_path, context)
    relay.fault("login", Fault(status=401), times=None)
    line.run(60)
    good = line.config
    with Relay() as other:
        other.fault("login", Fault(status=401), times=None)
        line.config = msgspec.structs.replace(good, relay_url=other.url)
        line.run(600)
        assert len(other.requests()) == 1
        assert len(relay.requests()) == 1
        assert "parked" in line.reasons[-1]
        relay.heal()
        line.config = good
        line.run(2)
        assert line.trail == ["stopped", "authenticating", "syncing"]
        assert len(other.requests()) == 1


def test_refused_token_in_a_file_is_not_sent_again_but_its_successor_is(
    relay: Relay, tmp_path: Path, context: Any
) -> None:
    """The root does not see the file, so the proc looks, and asks nobody."""
    line = Line(relay, tmp_path, context)
    file = tmp_path / "token"
    file.write_text("revoked-token")
    line.config = msgspec.structs.replace(line.config, auth_token=None, auth_token_file=str(file))
    line.run(300)
    assert len(relay.requests("login")) == 1
    assert len(line.tries) == pytest.approx(30, abs=2)
    for text in ("", "revoked-token"):  # as who rewrites a file may be seen by a look
        file.write_text(text)
        line.run(30)
    file.unlink()
    line.run(30)
    file.write_text("revoked-token")
    line.run(30)
    assert len(relay.requests("login")) == 1
    file.write_text(DEMO_TOKEN)
    line.run(12)
    assert len(relay.requests("login")) == 2
    assert line.trail[-1] == "syncing"


@pytest.mark.parametrize("from_file", [False, True])
def test_parked_login_is_tried_after_an_hour(
    relay: Relay, tmp_path: Path, context: Any, from_file: bool
) -> None:
    """The token may have been mended at the other end; nobody would tell us."""
    line = Line(relay, tmp_path, context)
    if from_file:
        file = tmp_path / "token"
        file.write_text(DEMO_TOKEN)
        line.config = msgspec.structs.replace(
            line.config, auth_token=None, auth_token_file=str(file)
        )
    relay.fault("login", Fault(status=401))
    line.step_s = 20
    line.run(3500)
    assert len(relay.requests("login")) == 1
    line.run(200)
    assert line.trail[-1] == "syncing"


def shared_clock(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Line], Callable[[], float]]:
    """A clock for a relay and for logins: that of the line put into the list, once there is one."""
    lines: list[Line] = []

    def clock_s() -> float:
        return lines[0].wall_s if lines else time.time()

    monkeypatch.setattr(authenticate, "wall_clock_s", clock_s)
    return lines, clock_s


def test_short_lived_token_is_renewed_at_half_its_life(
    tmp_path: Path, context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario 19: 5 min of life: 24 logins in an hour, and never an expired token at the relay."""
    lines, clock_s = shared_clock(monkeypatch)
    with Relay(token_life_s=300, clock=clock_s) as relay:
        lines.append(Line(relay, tmp_path, context))
        lines[0].config = msgspec.structs.replace(lines[0].config, poll_interval_s=20.0)
        lines[0].run(3600)
        assert 23 <= len(relay.requests("login")) <= 25
        assert {request.status for request in relay.requests("pull")} == {200}


def test_tokens_that_are_dead_before_their_first_use_are_asked_for_ever_less(
    tmp_path: Path, context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They made a login a second, for ever."""
    lines, clock_s = shared_clock(monkeypatch)
    monkeypatch.setattr(token, "life_s", lambda *_: 0.001)
    with Relay(clock=clock_s) as relay:
        lines.append(line := Line(relay, tmp_path, context))
        line.step_s = 1.0
        line.run(600)
        assert 10 <= len(relay.requests("login")) <= 16
        monkeypatch.setattr(token, "life_s", lambda *_: 3600.0)
        line.run(90)
        assert line.trail[-1] == "syncing"
        logins = len(relay.requests("login"))
        line.run(600)
        assert len(relay.requests("login")) == logins


def test_one_sick_direction_does_not_slow_the_other(
    relay: Relay, tmp_path: Path, context: Any
) -> None:
    """Scenario 50: while every pull fails, a message is pushed within two poll intervals."""
    line = Line(relay, tmp_path, context)
    relay.fault("pull", faults.nginx_502(), times=None)
    line.run(60)
    assert line.trail[-1] == "degraded"
    assert len(relay.requests("pull")) <= 7
    line.post("now")
    line.run(2)
    assert [entry.payload for entry in relay.pushed()] == ["now"]


def test_healthy_line_makes_one_sync_per_poll_interval(
    relay: Relay, tmp_path: Path, context: Any
) -> None:
    """One login, one action a second, one connection; both directions ride together."""
    line = Line(relay, tmp_path, context)
    line.run(60)
    assert 45 <= len(relay.requests("pull")) <= 61
    assert len(relay.requests("pull")) == len([t for t in line.tries if t[1] == "SyncAction"])
    assert {request.connection for request in relay.requests()} == {1}


def test_failing_logins_are_tried_ever_more_rarely_and_told_twice(
    relay: Relay, tmp_path: Path, context: Any
) -> None:
    """Scenarios 6 and 12: 2, 4, 8, 16, 32, 60, 60 s from the last attempt, never parked; one
    warning at the first and one alert at the fifth, none in between."""
    line = Line(relay, tmp_path, context)
    relay.fault("login", Fault(status=503), times=None)
    line.run(320)
    moments = [at for at, _ in line.tries]
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    for gap, wait_s in zip(gaps, (2, 4, 8, 16, 32, 60, 60), strict=False):
        assert wait_s <= gap <= wait_s * 1.2 + STEP_S
    assert len(gaps) >= 7
    assert line.trail == ["stopped", "authenticating"]
    told = [event for event, level, _ in context.logged if level in ("warning", "error")]
    assert told == ["login failed", "logins keep failing"]


def test_login_comes_back_when_the_relay_asked_it_to(
    relay: Relay, tmp_path: Path, context: Any
) -> None:
    """Scenario 7: from the first error on, and longer than a 429 waits by itself: nothing before
    the 90 s are over, one after."""
    line = Line(relay, tmp_path, context)
    relay.fault("login", faults.rate_limit("90"))
    line.run(89)
    assert len(relay.requests("login")) == 1
    line.run(20)
    assert len(relay.requests("login")) == 2
    assert line.trail[-1] == "syncing"


def test_login_that_meets_a_captive_portal_is_tried_ever_more_rarely(
    relay: Relay, tmp_path: Path, context: Any
) -> None:
    """Scenario 10: a page with status 200 is none of the known errors, and passes like one: with
    backoff, never parked."""
    line = Line(relay, tmp_path, context)
    relay.fault("login", faults.captive_portal(), times=None)
    line.run(70)
    moments = [at for at, _ in line.tries]
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    for gap, wait_s in zip(gaps, (2, 4, 8, 16, 32), strict=True):
        assert wait_s <= gap <= wait_s * 1.2 + STEP_S
    assert len(relay.requests()) == len(moments)
    assert line.trail == ["stopped", "authenticating"]
    assert not any("parked" in reason for reason in line.reasons)
    assert "unknown" in line.reasons[-1]
    relay.heal()
    line.run(75)
    assert line.trail[2:] == ["syncing"]


def test_dead_network_is_asked_once_a_minute_and_reset_at_five_and_ten(
    tmp_path: Path, context: Any
) -> None:
    """Scenarios 45, 47 and 36: ten minutes in which every connection is reset; never closer than
    60 s after the sixth error, one reset at 5 errors and one at 10; then every message, in
    order."""
    lines: list[Line] = []
    with Relay(clock=lambda: lines[0].wall_s if lines else time.time()) as relay:
        line = Line(relay, tmp_path, context)
        lines.append(line)
        _live_through_ten_dead_minutes(relay, line)


def _live_through_ten_dead_minutes(relay: Relay, line: Line) -> None:
    line.run(2)
    for endpoint in ("push", "pull"):
        relay.fault(endpoint, faults.dropped(), times=None)
    before = {endpoint: len(relay.requests(endpoint)) for endpoint in ("push", "pull")}
    for number in range(50):
        line.post(number)
    began = len(line.tries)
    line.run(600)
    for endpoint, asked in before.items():
        moments = [one.at for one in relay.requests(endpoint)[asked:]]
        assert len(moments) >= 12
        gaps = [later - at for at, later in itertools.pairwise(moments)]
        assert all(gap >= 60.0 for gap in gaps[5:]), endpoint
        assert all(gap < 60.0 for gap in gaps[:4]), endpoint
    syncs = [at for at, name in line.tries[began:] if name == "SyncAction"]
    # Push and pull part by their spread, so each has its own minute.
    assert len(syncs) <= 2 * 14
    resets = [name for _, name in line.tries if name == "ResetAction"]
    assert len(resets) in (2, 3, 4), "each direction comes to 5 and to 10, together or not"
    relay.heal()
    line.run(75)
    assert line.trail[-1] == "syncing"
    assert [entry.payload for entry in relay.pushed()] == list(range(50))
    assert [name for _, name in line.tries].count("AuthenticateAction") == 1


def test_a_page_of_502_a_hundred_times_is_one_alert_each_way(
    relay: Relay, tmp_path: Path, context: Any
) -> None:
    """Scenario 46: with the status and whose page it is in the reason."""
    line = Line(relay, tmp_path, context)
    line.step_s = 20
    line.post(1)
    line.run(100)
    line.post(2)
    for endpoint in ("push", "pull"):
        relay.fault(endpoint, faults.nginx_502(), times=None)
    context.logged.clear()
    line.run(9000)
    assert len(relay.requests("pull")) > 100
    told = [event for event, level, _ in context.logged if level in ("warning", "error")]
    assert sorted(event for event in told if event != "connections reset") == [
        "pull failed",
        "pull keeps failing",
        "push failed",
        "push keeps failing",
    ]
    alerts = [fields for event, _, fields in context.logged if event.endswith("keeps failing")]
    assert {fields["status"] for fields in alerts} == {502}
    assert all("looks like nginx" in fields["detail"] for fields in alerts)
    assert "looks like nginx" in line.reasons[-1]
    assert relay.pushed()[-1].payload == 1


def test_login_gap_loses_nothing(relay: Relay, tmp_path: Path, context: Any) -> None:
    """Scenarios 17 and 54: a revoked token, logins that fail for a while, producers that do not
    stop: what was posted is pushed once, in order, after one login that succeeds."""
    line = Line(relay, tmp_path, context)
    line.run(2)
    relay.revoke_tokens()
    relay.fault("login", Fault(status=503), times=3)
    for number in range(60):
        line.post(number)
        line.run(0.5)
    line.run(2)
    assert line.trail[-1] == "syncing"
    assert [entry.payload for entry in relay.pushed()] == list(range(60))
    assert relay.stats()["logins"] == 2
    assert {entry.instance_uuid for entry in relay.pushed()} == {relay.instance.uuid}


def test_changed_relay_is_used_at_once(relay: Relay, tmp_path: Path, context: Any) -> None:
    """Trap 27: in the middle of an incident, with its own login, and the old one's errors do not
    count there."""
    line = Line(relay, tmp_path, context)
    line.run(2)
    relay.close()
    line.post("kept")
    line.run(30)
    assert line.trail[-1] == "degraded"
    with Relay() as other:
        line.config = msgspec.structs.replace(line.config, relay_url=other.url)
        line.run(1.5)
        assert line.trail[-2:] == ["authenticating", "syncing"]
        assert [entry.payload for entry in other.pushed()] == ["kept"]


def test_chance_costs_neither_a_message_nor_the_order(
    relay: Relay, tmp_path: Path, context: Any
) -> None:
    """Every third request meets one of a dozen mishaps, for an hour: what is posted arrives, in
    order; what was sent twice was in flight when its answer was lost; pulls lose only what the
    relay dropped after it had answered, which here it does not."""
    line = Line(relay, tmp_path, context)
    mishaps = [
        make()
        for name, make in faults.PRESETS.items()
        if name not in ("truncated-json", "unauthorized")
    ]
    mishaps = [fault for fault in mishaps if fault.status != 401]
    line.run(1)
    relay.chance(7, 0.34, mishaps)
    for number in range(60):
        line.post(number)
        if number % 3 == 0:
            relay.send("ada@example.com", "action", number)
        line.run(30)
    relay.heal()
    line.run(400)
    seen = [entry.payload for entry in relay.pushed()]
    assert list(dict.fromkeys(seen)) == list(range(60))
    relay.observed.assert_at_most()


def test_an_inbox_that_fills_up_after_errors_is_no_trouble_of_the_relays(
    relay: Relay, tmp_path: Path, context: Any
) -> None:
    """Nothing is asked while it is full, so nothing fails: no connections are reset for it, what is
    said is that the inbox is full, and the row of errors is over."""
    line = Line(relay, tmp_path, context)
    line.config = msgspec.structs.replace(line.config, inbox_messages_max=200)
    relay.fault("pull", faults.dropped(), times=None)
    line.run(50)
    assert line.trail[-1] == "degraded"
    assert [name for _, name in line.tries].count("ResetAction") == 1  # at five errors
    inbox = tmp_path / "in"
    encoded = [spool.encode(Message(email="x", content=encode_content("action", 1)))] * 100
    for _ in range(2):
        spool.append(inbox, encoded)
    relay.heal()
    asked = len(relay.requests("pull"))
    line.run(120)
    assert [name for _, name in line.tries].count("ResetAction") == 1
    assert line.trail[-1] == "syncing"
    assert "pull ok, 0 moved, 200 waiting (inbox full)" in line.reasons[-1]
    assert len(relay.requests("pull")) == asked
    spool.finish(spool.inbox_files(inbox))
    line.run(2)
    assert len(relay.requests("pull")) > asked
