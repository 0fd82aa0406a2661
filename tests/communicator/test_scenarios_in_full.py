"""Scenarios of the wire description whose every clause is to be seen in one place."""

from __future__ import annotations

import base64
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import prometheus_client
import pytest
from playedline import Line as RouterLine
from storyline import Line

from fsmv2.communicator import spool
from fsmv2.communicator.spool.bounds import Bounds
from fsmv2.communicator.switchboard.outbound import Outbound
from fsmv2.communicator.testing import faults
from fsmv2.communicator.testing.faults import Fault
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport import codec, http
from fsmv2.communicator.transport.codec import Message, encode_content
from fsmv2.communicator.transport.compression import compress

JSON = (("Content-Type", "application/json"),)


def test_of_three_that_wait_the_refused_one_is_dropped_with_its_counter(
    relay: Relay, tmp_path: Path, context: Any
) -> None:
    """Scenario 32: 1 and 3 are sent, in order; 2 is kept for people, counted and told; nobody is
    degraded for long."""
    line = Line(relay, tmp_path, context)
    line.run(2)
    relay.backend.poison = lambda message: message.payload == 2
    for number in (1, 2, 3):
        line.post(number)
    line.run(60)
    assert [entry.payload for entry in relay.pushed()] == [1, 3]
    (kept,) = [path for path in (tmp_path / "out").iterdir() if path.suffix == ".refused"]
    assert encode_content("status", 2) in kept.read_text()
    counted = prometheus_client.generate_latest().decode()
    assert 'set_aside_total{direction="push",path="root/line"} 1.0' in counted
    assert any("set aside" in event for event, _, _ in context.logged)
    assert line.trail[-1] == "syncing"


@pytest.mark.parametrize(("sick", "well"), [("pull", "push"), ("push", "pull")])
@pytest.mark.parametrize("fault", [faults.nginx_502(), faults.dropped(), Fault(status=403)])
def test_a_sick_direction_degrades_alone(
    relay: Relay, tmp_path: Path, context: Any, sick: str, well: str, fault: Fault
) -> None:
    """Scenario 50 and its mirror: the worker is degraded for the sick one, whose error is in the
    reason; the other is well, moves what comes at its own pace and has no error to its name."""
    line = Line(relay, tmp_path, context)
    line.post("first")
    relay.fault(sick, fault, times=None)
    for number in range(30):
        line.run(5)
        if well == "push":
            line.post(number)
        else:
            relay.send("ada@example.com", "action", number)
    line.run(2)
    assert line.trail[-1] == "degraded"
    assert f"{sick} failed" in line.reasons[-1]
    assert f"{well} ok" in line.reasons[-1]
    if well == "push":
        assert [entry.payload for entry in relay.pushed()] == ["first", *range(30)]
    else:
        assert line.received() == list(range(30))
        assert relay.pushed() == []
    counted = prometheus_client.generate_latest().decode()
    assert f'errors_in_row{{direction="{well}",path="root/line"}} 0.0' in counted
    assert f'errors_total{{direction="{well}"' not in counted


def test_a_gap_in_the_session_costs_producers_nothing(
    relay: Relay, tmp_path: Path, context: Any
) -> None:
    """Scenario 54: the token is revoked and three logins fail, while 20 messages a second come, and
    have room for 20 s; nothing is refused or dropped, all is pushed once and in order, and the
    backlog of the gap is gone at once."""
    line = Line(relay, tmp_path, context)
    line.run(2)
    channel = Outbound(tmp_path / "out", Bounds(messages_max=400, policy="refuse"))
    channel.start()
    relay.revoke_tokens()
    relay.fault("login", Fault(status=503), times=3)
    backlog = 0
    for number in range(120):
        for each in range(5):
            channel.put(Message(email="a@x", content=encode_content("status", 5 * number + each)))
        channel.flush(20.0)
        line.run(0.25)
        channel._count()  # as it does each quarter of a second, which pass faster here
        backlog = max(backlog, spool.usage(tmp_path / "out").messages)
    line.run(2)
    assert line.trail[3:] == ["authenticating", "syncing"]
    assert 100 < backlog < 400, "there was a gap, and room for it"
    assert channel.counts["refused"] == 0
    assert channel.close() == 0
    assert [entry.payload for entry in relay.pushed()] == list(range(600))
    assert spool.usage(tmp_path / "out").messages == 0


def test_a_queue_of_a_second_outlasts_a_session_that_is_made_anew(
    relay: Relay, tmp_path: Path, context: Any
) -> None:
    """Scenario 54, to the letter: 20 messages a second, room for 20, and a token that is revoked
    again and again; none is refused, all arrive in order."""
    line = Line(relay, tmp_path, context)
    line.config = msgspec.structs.replace(line.config, poll_interval_s=0.25)
    line.step_s = 0.05
    line.run(2)
    channel = Outbound(tmp_path / "out", Bounds(messages_max=20, policy="refuse"))
    channel.start()
    most = 0
    for number in range(150):
        if number % 50 == 7:
            relay.revoke_tokens()
        channel.put(Message(email="a@x", content=encode_content("status", number)))
        most = max(most, channel.present.messages)
        assert channel.flush(20.0)
        line.run(0.05)
        if number % 5 == 4:
            channel._count()
    line.run(2)
    assert channel.close() == 0
    assert line.trail[3:] == ["authenticating", "syncing"] * 3
    assert 5 < most <= 20
    assert channel.counts["refused"] == 0
    assert [entry.payload for entry in relay.pushed()] == list(range(150))


def test_a_timeout_after_the_relay_took_it_is_one_to_whoever_tells_twins_apart(
    relay: Relay, tmp_path: Path, context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario 57: sent again, at most twice, and by (actionUUID, state, hash of the payload) each
    is there once, in its order."""
    monkeypatch.setattr(http, "CONNECT_S", 0.2)
    line = Line(relay, tmp_path, context)
    patient = line.config
    line.run(2)
    states = ("action-confirmed", "action-executing", "action-success")
    for state in states:
        line.post({"actionUUID": "7c1d", "actionReplyState": state, "actionReplyPayload": 1})
    relay.fault("push", Fault(delay_s=3600, commit=True))
    line.config = msgspec.structs.replace(line.config, timeout_s=0.2)
    line.run(1)
    line.config = patient
    assert len(relay.pushed()) == 3
    assert spool.usage(tmp_path / "out").messages == 3, "no answer, so all are kept"
    relay.heal()
    line.run(5)
    assert spool.usage(tmp_path / "out").messages == 0
    pushed = relay.pushed()
    seen = [
        (e.payload["actionUUID"], e.payload["actionReplyState"], e.content_hash) for e in pushed
    ]
    assert len(seen) == 6
    assert [state for _, state, _ in dict.fromkeys(seen)] == list(states)


def test_a_bomb_is_refused_at_the_cap_and_the_next_order_is_routed(tmp_path: Path) -> None:
    """Scenario 61: of bytes, of values and of levels; each is one unreadable message, in bounded
    memory, and holds up nothing behind it. A value that would be one is never sent."""
    bombs = (
        b'{"MessageType":"action","Payload":"' + b"x" * (65 << 20) + b'"}',
        b'{"MessageType":"action","Payload":[' + b"[]," * 1_000_000 + b"0]}",
        b'{"MessageType":"action","Payload":' + b"[" * 101 + b"]" * 101 + b"}",
    )
    line = RouterLine(tmp_path)
    line.send(*(base64.b64encode(compress(bomb)).decode() for bomb in bombs))
    del bombs
    line.order("u1")
    tracemalloc.start()
    try:
        line.run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * codec.CONTENT_BYTES_MAX
    assert line.counts["unreadable"] == 3
    assert len(line.pool.taken) == 1
    line.pool.end(value=[0] * 1_000_000)
    line.run()
    assert line.states() == ["confirmed", "executing", "failure"]
    assert line.left() == 0
    line.outbound.close()


@pytest.mark.parametrize(
    "body",
    [
        b'{"UMHMessages":[' + b"[]," * (2 << 20) + b"0]}",
        b'{"UMHMessages":[{"email":' + b'{"a":' * (1 << 20),
        b"\xff\x00[" * (2 << 20),
    ],
    ids=["small objects", "deep", "garbage"],
)
def test_a_hostile_reply_takes_no_more_memory_than_a_few_of_its_size(
    relay: Relay, tmp_path: Path, context: Any, body: bytes
) -> None:
    """Scenario 63: from the socket to the disk; an unknown error, and the next pull works."""
    line = Line(relay, tmp_path, context)
    line.run(2)
    relay.fault("pull", Fault(status=200, body=body, headers=JSON))
    tracemalloc.start()
    try:
        line.run(2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * len(body)
    assert any("pull failed 1 in a row (cannot read" in reason for reason in line.reasons)
    relay.send("ada@example.com", "action", "next")
    line.run(5)
    assert line.received() == ["next"]
    assert line.trail[-1] == "syncing"


def test_an_hour_starts_one_thread_for_each_sync_and_leaves_none(
    relay: Relay, tmp_path: Path, context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario 76: also while a thousand messages move each way and the relay is out for a time:
    none for a message, none that watches, and none that is left."""
    started: list[str] = []
    start = threading.Thread.start

    def counting(self: threading.Thread) -> None:
        if "process_request" not in self.name:  # the relay's own
            started.append(self.name)
        start(self)

    line = Line(relay, tmp_path, context)
    line.config = msgspec.structs.replace(line.config, poll_interval_s=20.0)
    line.step_s = 20.0
    line.run(60)
    http.close_all()
    before = {thread.name for thread in threading.enumerate() if "request" not in thread.name}
    monkeypatch.setattr(threading.Thread, "start", counting)
    syncs = len(line.tries)
    received: list[Any] = []
    for minute in range(60):
        lines = [spool.encode(Message(content=encode_content("status", n))) for n in range(15)]
        spool.append(tmp_path / "out", lines)
        for number in range(15):
            relay.send("ada@example.com", "action", 15 * minute + number)
        if minute in (20, 25):
            relay.fault("pull", faults.dropped(), times=4)
            relay.fault("push", faults.nginx_502(), times=4)
        line.run(60)
        received += line.received()
        for path in spool.inbox_files(tmp_path / "in"):
            path.unlink()
    assert len(relay.pushed()) == 900
    assert received == list(range(900))
    assert set(started) == {"pull"}
    assert len(started) <= len(line.tries) - syncs
    after = {thread.name for thread in threading.enumerate() if "request" not in thread.name}
    assert after == before
