"""Scenario 50 and its mirror for refusals: what one direction is refused is its own, as long as the
other is served with the same token; a token that is refused everywhere is the session's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from storyline import Line

from fsmv2.communicator.testing.faults import Fault
from fsmv2.communicator.testing.relay import Relay


@pytest.mark.parametrize("status", [401, 403])
def test_refused_pushes_stop_no_pull(
    relay: Relay, tmp_path: Path, context: Any, status: int
) -> None:
    """One login, for it might have been the token; then pushing waits out its own errors, and
    pulling goes on at every poll interval. What waited is pushed when it is taken again."""
    line = Line(relay, tmp_path, context)
    line.post("kept")
    relay.fault("push", Fault(status=status), times=None)
    line.run(30)
    pulls = len(relay.requests("pull"))
    assert pulls > 20
    line.run(270)
    assert line.trail[-1] == "degraded"
    assert len(relay.requests("pull")) - pulls > 200
    assert len(relay.requests("login")) == 2
    assert 5 <= len(relay.requests("push")) <= 7
    relay.send("ada@example.com", "action", "in")
    line.run(2)
    assert line.received() == ["in"]
    relay.heal()
    line.run(75)
    assert line.trail[-1] == "syncing"
    assert [entry.payload for entry in relay.pushed()] == ["kept"]
    assert len(relay.requests("login")) == 2


def test_refused_pulls_stop_no_push(relay: Relay, tmp_path: Path, context: Any) -> None:
    """Also where a message comes seldom, so that nothing tells whose the refusal is for minutes: it
    is pushed within two poll intervals, and logins are a minute apart."""
    line = Line(relay, tmp_path, context)
    relay.fault("pull", Fault(status=403), times=None)
    line.run(20)
    for number in range(8):
        line.run(34.25)
        line.post(number)
        line.run(2)
        assert [entry.payload for entry in relay.pushed()] == list(range(number + 1))
    assert line.trail[-1] == "degraded"
    assert len(relay.requests("login")) <= 8
    assert len(relay.requests("pull")) <= 16
    relay.heal()
    line.run(75)
    assert line.trail[-1] == "syncing"
    assert len(relay.requests("pull")) > 16


def test_busy_pushes_need_no_login_for_refused_pulls(
    relay: Relay, tmp_path: Path, context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each push that is taken proves the token."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)  # hundreds, and a disk may be slow
    line = Line(relay, tmp_path, context)
    relay.fault("pull", Fault(status=403), times=None)
    line.step_s = 1.0
    for number in range(150):
        line.post(number)
        line.run(1)
    assert len(relay.pushed()) >= 149
    assert len(relay.requests("pull")) >= 4
    assert len(relay.requests("login")) == 2


def test_token_revoked_while_a_direction_is_refused_leads_to_one_login(
    relay: Relay, tmp_path: Path, context: Any
) -> None:
    """The first refusal of the other direction is about the token, and answered at once, however
    long the row of the first one is."""
    line = Line(relay, tmp_path, context)
    line.post("kept")
    relay.fault("push", Fault(status=403), times=None)
    line.run(200)
    logins = len(relay.requests("login"))
    relay.revoke_tokens()
    relay.send("ada@example.com", "action", "in")
    line.run(3)
    assert len(relay.requests("login")) == logins + 1
    assert line.received() == ["in"]
    line.run(300)
    assert len(relay.requests("login")) == logins + 1


def test_token_refused_both_ways_is_the_sessions(
    relay: Relay, tmp_path: Path, context: Any
) -> None:
    """Nothing is sent with it any more; a login a minute, and all goes on with the first that is
    good."""
    line = Line(relay, tmp_path, context)
    for endpoint in ("push", "pull"):
        relay.fault(endpoint, Fault(status=401), times=None)
    line.post("kept")
    line.run(50)
    assert line.trail[-1] == "authenticating"
    line.run(550)
    assert 9 <= len(relay.requests("login")) <= 13
    assert len(relay.requests("pull")) <= len(relay.requests("login")) + 1
    relay.heal()
    line.run(75)
    assert [entry.payload for entry in relay.pushed()] == ["kept"]
