"""The stand-in's other faults, its evidence, and the console that sits behind it."""

from __future__ import annotations

import http.client
import select
import socket
import ssl
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from relaycaller import WAIT_S, Caller, Clock, calling

from fsmv2.communicator.testing import faults
from fsmv2.communicator.testing.console import Console
from fsmv2.communicator.testing.faults import Fault
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport.codec import encode_content


@pytest.fixture
def caller(relay: Relay) -> Iterator[Caller]:
    with calling(relay) as one:
        one.log_in()
        yield one


def test_large_and_poisonous_batches_are_refused_whole(relay: Relay, caller: Caller) -> None:
    """413 above the limit; 400 for one message it does not take; nothing of either is kept."""
    relay.backend.push_bytes_max = 1000
    relay.backend.poison = lambda message: message.payload == "bad"
    assert caller.push("x" * 500, "y" * 500).status == 413
    assert caller.push("a", "bad", "b").status == 400
    assert relay.pushed() == []
    assert caller.push("a", "b").status == 200
    assert [entry.payload for entry in relay.pushed()] == ["a", "b"]


def test_reply_of_a_pull_can_be_lost_after_it_left_the_queue(relay: Relay, caller: Caller) -> None:
    """What an at-most-once pull costs, to be measured against."""
    relay.send("ada@example.com", "action", 1)
    relay.fault("pull", faults.dropped(commit=True))
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        caller.pull()
    caller.connection.close()
    assert caller.pull().json == {"UMHMessages": []}


def test_pull_waits_only_where_it_is_asked_to(relay: Relay, caller: Caller) -> None:
    """A long poll with the header, an answer at once without; a message ends the wait."""
    relay.backend.long_poll_s = WAIT_S
    assert caller.pull().json == {"UMHMessages": []}
    sender = threading.Timer(0.05, relay.send, ("ada@example.com", "action", 1))
    sender.start()
    try:
        got = caller.pull(**{"X-Features": "longpoll;"})
    finally:
        sender.join()
    assert len(got.json["UMHMessages"]) == 1
    relay.backend.long_poll_s = 0.05
    assert caller.pull(**{"X-Features": "longpoll;"}).json == {"UMHMessages": []}


def test_connections_are_refused_and_taken_again_at_the_same_place(relay: Relay) -> None:
    """Queues, tokens and the ledger outlive it, as a restart of a relay's front would have it."""
    url = relay.url
    with calling(relay) as caller:
        caller.log_in()
        cookie = caller.cookie
        relay.refuse()
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            caller.pull()
    with calling(relay) as caller, pytest.raises(ConnectionRefusedError):
        caller.pull()
    relay.accept()
    assert relay.url == url
    with calling(relay) as caller:
        caller.cookie = cookie
        assert caller.pull().status == 200
    assert relay.observed.connections() == {1, 2}


def test_bodies_can_be_reset_in_the_middle_and_connections_closed_after(
    relay: Relay, caller: Caller
) -> None:
    """A reset after five bytes, or none, and not the end of a file, which is what a cut body ends
    with; an answer that promised keep-alive and did not keep it."""
    relay.send("ada@example.com", "action", 1)
    for fault in (Fault(drop=True, cut_bytes=5), faults.dropped()):
        relay.fault("pull", fault)
        with pytest.raises(ConnectionError) as caught:
            caller.pull()
        assert type(caught.value) is ConnectionResetError  # one that was closed derives from it
        caller.connection.close()
    relay.fault("pull", Fault(cut_bytes=5))
    with pytest.raises(http.client.IncompleteRead):
        caller.pull()
    caller.connection.close()
    relay.fault("pull", Fault(close_after=True))
    got = caller.pull()
    assert (got.status, got.headers["Connection"]) == (200, None)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        caller.pull()


def test_headers_and_body_can_drip(relay: Relay, caller: Caller) -> None:
    """Byte for byte, and whole in the end."""
    relay.fault("pull", Fault(drip_s=0.0001, drip_head=True))
    assert caller.pull().json == {"UMHMessages": []}
    relay.fault("pull", Fault(drip_s=0.0001))
    assert caller.pull().json == {"UMHMessages": []}


def test_chance_is_the_same_for_the_same_seed(relay: Relay, caller: Caller) -> None:
    """And gives way to a fault that was set."""
    mishaps = [Fault(status=500), Fault(status=503)]

    def statuses() -> list[int]:
        return [caller.pull().status for _ in range(30)]

    relay.chance(7, 0.5, mishaps)
    first = statuses()
    assert set(first) == {200, 500, 503}
    relay.chance(7, 0.5, mishaps)
    assert statuses() == first
    relay.chance(8, 0.5, mishaps)
    assert statuses() != first
    relay.chance(7, 1.0, mishaps)
    relay.fault("pull", Fault(status=404))
    assert caller.pull().status == 404
    relay.heal()
    assert statuses() == [200] * 30
    with pytest.raises(ValueError, match="rate"):
        relay.chance(7, 1.5, mishaps)


def test_rate_and_simultaneity_are_asserted() -> None:
    """Both hold up to the limit and name what broke them beyond it."""
    clock = Clock()
    with Relay(clock=clock) as relay, calling(relay) as one, calling(relay) as two:
        one.log_in()
        two.cookie = one.cookie
        for _ in range(3):
            one.pull()
            clock.now += 10
        relay.observed.assert_rate(1, 10, "pull")
        with pytest.raises(AssertionError, match=r"2 requests of pull within 10.000 s"):
            relay.observed.assert_rate(1, 10.5, "pull")
        relay.observed.assert_at_most()
        relay.backend.long_poll_s = WAIT_S
        one.connection.putrequest("GET", "/api/v2/instance/pull")
        for name, value in (*one.cookie.items(), ("X-Features", "longpoll;")):
            one.connection.putheader(name, value)
        one.connection.endheaders()
        assert relay.wait_for(lambda r: r.observed.most_at_a_time("pull") == 1 and is_held(r))
        two.pull()
        relay.observed.assert_at_most(each_max=2)
        with pytest.raises(AssertionError, match="2 requests of pull at a time"):
            relay.observed.assert_at_most()
        relay.send("ada@example.com", "action", 1)
        assert one.connection.getresponse().status == 200


def test_open_connections_are_counted_with_those_at_rest(relay: Relay) -> None:
    """From their beginning to their end, whatever goes over them, and not over the whole time."""

    def another() -> socket.socket:
        number = relay.observed.most_open_connections()
        made = socket.create_connection(relay._address, WAIT_S)
        assert relay.wait_for(lambda r: r.observed.most_open_connections() > number)
        return made

    with another(), another():
        relay.observed.assert_at_most()
    for _ in range(5):  # one after the other
        with calling(relay) as caller:
            caller.log_in()
    assert relay.observed.most_open_connections() == 2
    relay.observed.assert_at_most()
    with calling(relay) as one, calling(relay) as two, calling(relay) as three:
        for caller in (one, two, three):
            caller.log_in()
        assert relay.observed.most_at_a_time() == 1
        with pytest.raises(AssertionError, match="3 connections open at a time, want at most 2"):
            relay.observed.assert_at_most()
        relay.observed.assert_at_most(connections_max=3)


def is_held(relay: Relay) -> bool:
    return relay.observed.at_a_time("pull") == 1


def test_https_is_served(tmp_path: Any) -> None:
    """With a certificate of one's own; who does not trust it gets nowhere."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with Relay(tls=server) as relay:
        assert relay.url.startswith("https://127.0.0.1:")
        strict = ssl.create_default_context()
        with calling(relay, strict) as doubter, pytest.raises(ssl.SSLCertVerificationError):
            doubter.log_in()
        # A connection that says nothing holds nobody up.
        with socket.create_connection(relay._address), calling(relay, trusting) as caller:
            assert caller.log_in().status == 200


class Instance:
    """The other side of a console: pushes what it is told to."""

    def __init__(self, caller: Caller, instance_uuid: str) -> None:
        self.caller = caller
        self.instance_uuid = instance_uuid

    def says(self, message_type: str, payload: Any, email: str = "ada@example.com") -> None:
        message = {
            "umhInstance": self.instance_uuid,
            "email": email,
            "content": encode_content(message_type, payload),
        }
        assert self.caller.push_raw(message).status == 200

    def replies(self, order_id: str, *states: str) -> None:
        for state in states:
            self.says("action-reply", {"actionUUID": order_id, "actionReplyState": state})


def test_console_subscribes_sees_statuses_and_goes_offline_after_ten_seconds() -> None:
    """Scenario 8 of the stand-in's own list: silence of more than 10 s shows as offline; compressed
    statuses are read too."""
    clock = Clock()
    with Relay(clock=clock) as relay, calling(relay) as caller:
        caller.log_in()
        instance = Instance(caller, relay.instance.uuid)
        console = Console(relay)
        assert console.shows_offline
        assert console.tick()
        assert not console.tick()
        clock.now += 60
        assert console.tick()
        asked = [message["content"] for message in caller.pull().json["UMHMessages"]]
        assert asked == [encode_content("subscribe", {"resubscribed": r}) for r in (False, True)]
        instance.says("status", {"core": "x" * 5000})
        instance.says("status", {"core": 2}, email="bob@example.com")
        assert console.statuses() == [{"core": "x" * 5000}]
        clock.now += 10
        assert not console.shows_offline
        clock.now += 0.1
        assert console.shows_offline
        assert console.last_status_s() == pytest.approx(10.1)


@pytest.mark.parametrize(
    ("states", "fault"),
    [
        (("action-confirmed", "action-executing", "action-executing", "action-success"), ""),
        (("action-failure",), ""),
        ((), "got 0 ends"),
        (("action-executing",), "got 0 ends"),
        (("action-success", "action-success"), "got 2 ends"),
        (("action-success", "action-executing"), "after action-success"),
        (("action-executing", "action-confirmed", "action-success"), "confirmed after"),
        (("action-done", "action-success"), "unknown states"),
    ],
)
def test_console_checks_the_order_of_replies(
    relay: Relay, caller: Caller, states: tuple[str, ...], fault: str
) -> None:
    """Progress, then exactly one end."""
    console = Console(relay)
    order_id = console.order("deploy", {"name": "x"}, str(uuid.UUID(int=5)))
    Instance(caller, relay.instance.uuid).replies(order_id, *states)
    found = console.reply_faults()
    assert bool(found) is bool(fault)
    assert all(order_id in text for text in found)
    assert not fault or any(fault in text for text in found)
    assert console.replies(order_id) == list(states)
    assert console.duplicates() == len(states) - len(set(states))


@pytest.mark.proc
def test_command_serves_https_with_faults(tmp_path: Path) -> None:
    """The options of the program do what their names in the library do."""
    authority = trustme.CA()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    pem = tmp_path / "relay.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    line = [sys.executable, "-P", "-m", "fsmv2.communicator.testing.relay", "--tls", str(pem)]
    line += ["--fault", "login=nginx-502:1", "--fault", "pull=zscaler", "--chance", "1:0"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], WAIT_S)[0], "no line in time"
            url = process.stdout.readline().split()[-1]
            with calling(url, trusting) as caller:
                assert [caller.log_in().status for _ in range(3)] == [502, 200, 200]
                assert [caller.pull().status for _ in range(2)] == [403, 403]
        finally:
            process.terminate()
            assert process.wait(WAIT_S) == 0
