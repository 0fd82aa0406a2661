"""The communicator in the real engine, on a simulated clock, its real actions at a real relay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fsmv2.communicator import Communicator, spool
from fsmv2.communicator.actions import authenticate
from fsmv2.communicator.actions.authenticate import AuthenticateAction
from fsmv2.communicator.actions.flush import FlushAction
from fsmv2.communicator.actions.reset import ResetAction
from fsmv2.communicator.actions.sync import SyncAction
from fsmv2.communicator.outcomes import SyncOutcome
from fsmv2.communicator.states.flushing import FLUSHING_S_MAX
from fsmv2.communicator.testing import faults
from fsmv2.communicator.testing.backend import DEMO_TOKEN
from fsmv2.communicator.testing.relay import Relay
from fsmv2.supervisor import ChildSpec, Phase, UserSpec
from fsmv2.supervisor.core.events import StateChanged
from fsmv2.supervisor.testing import Simulation
from fsmv2.supervisor.tree.context import STOP_ACTION_WAIT_S

PATH = "root/uplink"


class Site:
    """A tree of one communicator; its actions are run where they would be simulated."""

    def __init__(self, relay: Relay, folder: Path, context: Any) -> None:
        self.relay = relay
        self.folder = folder
        self.sim = Simulation(
            [Communicator],
            [self.spec()],
            interval_s=0.5,
            answers={
                kind: lambda action: action.execute(context)
                for kind in (AuthenticateAction, SyncAction, ResetAction, FlushAction)
            },
        )

    def spec(self, **config: Any) -> ChildSpec:
        config = {
            "relay_url": self.relay.url,
            "auth_token": DEMO_TOKEN,
            "outbox": str(self.folder / "out"),
            "inbox": str(self.folder / "in"),
            **config,
        }
        return ChildSpec("uplink", "communicator", UserSpec(config=config))

    @property
    def state(self) -> str:
        return self.sim.node(PATH).state_name if PATH in self.sim.tree() else ""

    def until(self, state: str, seconds: float) -> None:
        self.sim.until(lambda: self.state == state, seconds)

    def post(self, payload: Any) -> None:
        spool.post(self.folder / "out", email="a@x", message_type="status", payload=payload)

    def break_down(self) -> None:
        """Every push and pull fails."""
        for endpoint in ("push", "pull"):
            self.relay.fault(endpoint, faults.nginx_502(), times=None)


@pytest.fixture
def site(relay: Relay, tmp_path: Path, context: Any, monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site(relay, tmp_path, context)

    def wall() -> float:
        return made.sim.clock.wall

    monkeypatch.setattr(authenticate, "wall_clock_s", wall)
    monkeypatch.setattr(relay.backend, "clock", wall)
    return made


def test_it_comes_up_when_the_relay_does(relay: Relay, site: Site) -> None:
    """Scenario 52: not healthy while nobody answers, healthy later, by itself."""
    relay.refuse()
    site.sim.run(60)
    assert site.state == "authenticating"
    assert site.sim.node(PATH).phase is Phase.STARTING
    relay.accept()
    site.until("syncing", 80)


def test_a_long_outage_restarts_nothing(relay: Relay, site: Site) -> None:
    """An outage of the relay is none of ours: no restart, no second login, no open circuit; the
    message that waited is pushed once."""
    site.until("syncing", 5)
    generation = site.sim.node(PATH).generation
    site.break_down()
    site.post(1)
    site.until("degraded", 60)
    site.sim.run(1200)
    assert site.state == "degraded"
    assert site.sim.node(PATH).generation == generation
    assert len(relay.requests("login")) == 1
    relay.heal()
    site.until("syncing", 80)
    assert [entry.payload for entry in relay.pushed()] == [1]


def test_a_stop_wins_over_an_incident_and_it_comes_back(relay: Relay, site: Site) -> None:
    """Scenarios 51 and 53: asked to stop while everything fails, it reaches stopped once, asks
    nothing any more, and comes back when it is declared again."""
    site.until("syncing", 5)
    site.break_down()
    site.until("degraded", 60)
    site.sim.reload([])
    site.sim.run(15)
    assert PATH not in site.sim.tree()
    asked = len(relay.requests())
    site.sim.run(300)
    assert len(relay.requests()) == asked
    relay.heal()
    site.sim.reload([site.spec()])
    site.until("syncing", 5)
    site.sim.stop()
    site.sim.until(lambda: site.sim.stopped, 30)


def test_a_stop_sends_what_waits_and_pulls_nothing_more(relay: Relay, site: Site) -> None:
    """Scenario 40: fifty were posted since the last sync; all are sent, in order, and what waits
    at the relay stays there."""
    site.until("syncing", 5)
    site.sim.run(10)
    for number in range(50):
        site.post(number)
    relay.send("ada@example.com", "action", "stays at the relay")
    pulls = len(relay.requests("pull"))
    site.sim.stop()
    site.sim.until(lambda: site.sim.stopped, 30)
    assert [entry.payload for entry in relay.pushed()] == list(range(50))
    assert len(relay.requests("pull")) == pulls
    assert len(relay.instance.queue) == 1


@pytest.mark.parametrize("hangs", [False, True], ids=["outage", "hangs"])
def test_a_stop_is_held_up_by_no_outage(relay: Relay, site: Site, hangs: bool) -> None:
    """While pushing waits out an error nothing is tried; a flush that hangs is killed in time."""
    site.until("syncing", 5)
    if hangs:
        site.sim.pool.answer(FlushAction, None, takes_s=float("inf"))
    else:
        site.break_down()
    site.post(1)
    site.until("syncing" if hangs else "degraded", 60)
    asked = len(relay.requests("push"))
    site.sim.stop()
    site.sim.until(lambda: site.sim.stopped, 8)
    assert len(relay.requests("push")) == asked


@pytest.mark.parametrize("takes_s", [4.0, float("inf")])
def test_a_stop_waits_for_a_sync_under_way_and_not_for_ever(
    relay: Relay, site: Site, takes_s: float
) -> None:
    """Scenario 40: one that has not ended after 5 s is ended, and then too it is flushed; that it
    has a moment to take what arrives leaves time for it."""
    site.until("syncing", 5)

    def moved_nothing(action: SyncAction) -> SyncOutcome:
        return SyncOutcome(action.access.credentials, action.access.login_id)

    site.sim.pool.answer(SyncAction, moved_nothing, takes_s=takes_s)
    site.sim.run(2)
    site.post(1)
    site.sim.stop()
    site.sim.until(lambda: site.sim.stopped, 12)
    assert [entry.payload for entry in relay.pushed()] == [1]
    assert spool.outgoing(site.folder / "out", 9, 1 << 20)[1] == 0
    assert STOP_ACTION_WAIT_S + SyncAction.grace_s < FLUSHING_S_MAX


@pytest.mark.parametrize("how", ["declared", "enabled"])
def test_a_stop_that_is_taken_back_and_forth_is_gone_through_once(
    relay: Relay, site: Site, context: Any, how: str
) -> None:
    """Scenario 51: while its flush takes two seconds it is to be there, or not, three times; it
    flushes once, stops once, comes back, and what was posted meanwhile arrives once."""
    site.until("syncing", 5)
    site.sim.pool.answer(FlushAction, lambda action: action.execute(context), takes_s=2.0)
    entered = len(site.sim.events)
    for number in range(3):
        off = [] if how == "declared" else [msgspec.structs.replace(site.spec(), enabled=False)]
        site.sim.reload(off)
        site.sim.run(0.5)
        if number == 1:
            assert site.state == "flushing"
            site.post("meanwhile")
        site.sim.reload([site.spec()])
        site.sim.run(0.5)
    site.until("syncing", 10)
    site.sim.run(5)
    states = [one.to_state for one in site.sim.events[entered:] if isinstance(one, StateChanged)]
    assert states == ["flushing", "stopped", "authenticating", "syncing"]
    assert [entry.payload for entry in relay.pushed()] == ["meanwhile"]
    assert site.state == "syncing"


def test_a_changed_config_is_used_at_once_out_of_a_park(relay: Relay, site: Site) -> None:
    """Scenario 5, by a reload."""
    site.sim.reload([site.spec(auth_token="revoked")])
    site.sim.run(600)
    refused = [one for one in relay.requests("login") if one.status == 401]
    assert len(refused) == 1
    assert "parked" in site.sim.node(PATH).reason
    site.sim.reload([site.spec()])
    site.until("syncing", 2)


def test_a_changed_relay_is_tried_at_once_after_logins_that_were_killed(
    relay: Relay, site: Site, context: Any
) -> None:
    """The engine waits too after each that hung, up to a minute; the new relay is not that one."""
    site.sim.pool.answer(AuthenticateAction, None, takes_s=float("inf"))
    site.sim.run(600)
    site.sim.until(lambda: site.sim.node(PATH).attempt is not None, 120)
    site.sim.until(lambda: site.sim.node(PATH).attempt is None, 120)
    site.sim.pool.answer(AuthenticateAction, lambda action: action.execute(context))
    site.sim.run(2)
    assert relay.requests("login") == []
    site.sim.reload([site.spec(relay_url=relay.url + "/")])
    site.until("syncing", 2)
    assert len(relay.requests("login")) == 1


def test_hung_syncs_are_killed_degrade_and_recover(relay: Relay, site: Site, context: Any) -> None:
    """A relay, or a resolver, that holds an attempt beyond its deadline: the proc is killed, both
    directions count an error, and the next attempts come at their backoff."""
    site.until("syncing", 5)
    site.sim.pool.answer(SyncAction, None, takes_s=float("inf"))
    site.until("degraded", 200)
    assert "attempt timed_out" in site.sim.node(PATH).reason
    site.sim.pool.answer(SyncAction, lambda action: action.execute(context))
    site.until("syncing", 150)
    assert len(relay.requests("login")) == 1


def test_a_failing_renewal_costs_no_health(relay: Relay, site: Site) -> None:
    """Scenario 18 in the engine: the login fails at the refresh moment, and the worker is running,
    pulls, and is not in another state for more than that one try; then one login renews it."""
    relay.backend.token_life_s = 200
    site.until("syncing", 5)
    site.sim.run(80)
    relay.fault("login", faults.nginx_502(), times=None)
    site.until("authenticating", 40)
    site.until("syncing", 5)
    pulls = len(relay.requests("pull"))
    phases = set()
    for _ in range(60):
        site.sim.run(1)
        phases.add(site.sim.node(PATH).phase)
    assert phases == {Phase.RUNNING}
    # A second after the end of the one before, at the next tick: each 1.5 s here.
    assert len(relay.requests("pull")) - pulls >= 38
    assert "renewal failed" in site.sim.node(PATH).reason
    relay.heal()
    logins = len(relay.requests("login"))
    site.sim.run(75)
    assert len(relay.requests("login")) == logins + 1
    assert site.state == "syncing"
    assert {request.status for request in relay.requests("pull")} == {200}
