"""What `fsmv2 explain` says of a communicator in trouble, and which page it leads to."""

from __future__ import annotations

from typing import Any

import pytest

from fsmv2.communicator import WORKERS
from fsmv2.communicator.actions.authenticate import AuthenticateAction
from fsmv2.communicator.actions.reset import ResetAction
from fsmv2.communicator.actions.sync import SyncAction
from fsmv2.communicator.outcomes import (
    Direction,
    LoginOutcome,
    ResetOutcome,
    Session,
    SyncOutcome,
)
from fsmv2.communicator.transport.errors import Kind, Problem
from fsmv2.supervisor import ChildSpec, Secret, UserSpec
from fsmv2.supervisor.core.facts import Explanation
from fsmv2.supervisor.telemetry.explain import explain_path
from fsmv2.supervisor.testing import Simulation

PATH = "root/up"
PAGE = "/runbooks/relay-unreachable.md"
AWAY = Problem(Kind.NETWORK, "no connection: Connection refused")
REFUSED = Problem(Kind.INVALID_TOKEN, "HTTP 401 (invalid_token)", 401)


class Site:
    """A tree of one communicator. Its login and syncs end as ``login`` and ``sync`` say."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.login: Problem | None = None
        self.sync: Problem | None = None
        self.sim = Simulation(
            WORKERS,
            [ChildSpec("up", "communicator", UserSpec({"outbox": "out", **config}))],
            interval_s=0.5,
            answers={
                AuthenticateAction: self.authenticate,
                SyncAction: self.synced,
                ResetAction: lambda action: ResetOutcome(action.generation),
            },
        )

    def authenticate(self, action: AuthenticateAction) -> LoginOutcome:
        if action.refused is not None:
            return action.refused
        if self.login is None:
            return LoginOutcome(action.credentials, Session(Secret("jwt"), 4e9, 4e9))
        mark = Secret("mark") if self.login is REFUSED else None
        errors = action.errors_in_row + 1
        return LoginOutcome(action.credentials, None, self.login, errors, refused_mark=mark)

    def synced(self, action: SyncAction) -> SyncOutcome:
        errors = 0 if self.sync is None else action.push.errors_in_row + 1
        push = Direction(errors, self.sync, 0.0)
        return SyncOutcome(action.access.credentials, action.access.login_id, push=push)

    def explained(self) -> Explanation:
        found = explain_path(self.sim.engine, PATH, self.sim.clock.now, {}, "/runbooks/")
        assert isinstance(found, Explanation)
        return found


def test_a_communicator_that_cannot_log_in_or_sync_leads_to_its_page() -> None:
    """None while it runs: there is no trouble then."""
    site = Site({})
    site.login = AWAY
    site.sim.run(30)
    found = site.explained()
    assert (found.state, found.why.rule, found.why.runbook) == (
        "authenticating", "own_decision", PAGE,
    )  # fmt: skip
    assert "Connection refused" in found.why.text
    assert "next login within" in found.why.text
    site.login = None
    site.sim.until(lambda: site.explained().state == "syncing", 80)
    site.sim.run(5)
    assert site.explained().runs
    assert site.explained().why.runbook != PAGE
    site.sync = AWAY
    site.sim.until(lambda: site.explained().state == "degraded", 80)
    assert site.explained().why.runbook == PAGE


def test_a_login_that_hangs_leads_to_the_page_of_the_communicator() -> None:
    """To that of its type, not to the one of all actions that take long."""
    site = Site({})
    site.sim.pool.answer(AuthenticateAction, None, takes_s=float("inf"))
    site.sim.run(10)
    found = site.explained()
    assert (found.why.rule, found.why.runbook) == ("action_in_flight", PAGE)


@pytest.mark.parametrize(
    "config", [{"auth_token": "t" * 20}, {"auth_token_file": "/run/token"}, {}]
)
def test_a_parked_login_says_until_when(config: dict[str, str]) -> None:
    """Wherever the token comes from, and though a file or a variable is looked at each 10 s."""
    site = Site(config)
    site.login = REFUSED
    for passed_min, left_min in ((0, 60), (20, 40), (30, 10)):
        site.sim.run(passed_min * 60 + 8)
        text = site.explained().why.text
        assert "parked until the relay or the token is changed; the same token is sent" in text
        assert f"sent again within {left_min} min" in text
        assert "next login" not in text
        assert site.explained().why.runbook == PAGE


def test_a_login_without_a_token_says_when_it_is_looked_for_again() -> None:
    """There is none that could be sent again."""
    site = Site({})
    site.login = Problem(Kind.INVALID_TOKEN, "cannot log in without a token: want one")
    site.sim.run(2)
    text = site.explained().why.text
    assert "want one; parked until the relay or the token is changed; next login within 10" in text
    assert "sent again" not in text
