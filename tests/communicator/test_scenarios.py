"""Scenarios of the wire description from one end to the other, each as it stands there."""

from __future__ import annotations

import base64
import tracemalloc
import uuid
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pushing import Pusher

from fsmv2.communicator import spool
from fsmv2.communicator.actions.pull import PullAction
from fsmv2.communicator.outcomes import Direction
from fsmv2.communicator.spool import Bounds, Policy, SpoolFull
from fsmv2.communicator.switchboard.inbound import Inbound
from fsmv2.communicator.switchboard.outbound import Outbound
from fsmv2.communicator.testing import faults
from fsmv2.communicator.testing.faults import Fault
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport.codec import CodecError, Message, decode_content, encode_content
from fsmv2.communicator.transport.compression import compress
from fsmv2.communicator.transport.errors import Kind
from fsmv2.communicator.transport.http import HttpTransport

WAIT_S = 20.0


@pytest.fixture
def pusher(relay: Relay, context: Any, tmp_path: Path) -> Pusher:
    return Pusher(relay, context, tmp_path)


class Puller:
    """Pulls with the same session."""

    def __init__(self, pusher: Pusher, inbox: Path) -> None:
        self.pusher, self.inbox = pusher, inbox
        self.stands = Direction()

    def pull(self) -> Direction:
        action = PullAction(self.pusher.access, str(self.inbox), self.stands)
        self.stands = action.execute(self.pusher.context)
        return self.stands

    def messages(self) -> list[Message]:
        files = spool.inbox_files(self.inbox)
        return [message for path in files for message in spool.read_messages(path)]


@pytest.fixture
def puller(pusher: Pusher, tmp_path: Path) -> Puller:
    return Puller(pusher, tmp_path / "in")


def message(number: int) -> Message:
    return Message(email="a@x", content=encode_content("status", number))


def test_32_a_poison_message_costs_the_others_not_even_their_trace(
    pusher: Pusher, relay: Relay
) -> None:
    """Pending of three, the second is 400: it is dropped with a counter (here: kept aside), one
    and three are sent, each with its trace id; a zero one is never sent (trap 21)."""
    traces = [str(uuid.uuid4()), str(uuid.uuid4()), "00000000-0000-0000-0000-000000000000"]
    relay.backend.poison = lambda entry: entry.payload == 1
    for number, trace in enumerate(traces):
        made = msgspec.structs.replace(message(number), trace_id=trace)
        spool.append(pusher.outbox, [spool.encode(made)])
    relay.fault("push", Fault(status=503))
    pusher.push()
    assert pusher.push().refused == 1
    assert [(one.payload, one.trace_id) for one in relay.pushed()] == [(0, traces[0]), (2, "")]
    assert traces[1] in (pusher.outbox / pusher.kept()[0]).read_text()


def test_32_trace_ids_are_read_nested_and_flat(puller: Puller, relay: Relay) -> None:
    """Trap 32: old relays nest them."""
    relay.send("ada@example.com", "action", 1)
    nested = relay.instance.queue[0]["metadata"]["traceId"]
    flat = str(uuid.uuid4())
    relay.instance.queue.append({"email": "ada", "content": "", "traceId": flat})
    puller.pull()
    assert [one.trace_id for one in puller.messages()] == [nested, flat]


def test_34_a_dead_backend_leaves_nothing_in_memory(pusher: Pusher, relay: Relay) -> None:
    """Ten ticks with five messages: after each the outbound channel is empty, what is pending is
    on disk, first in first out."""
    relay.fault("push", faults.nginx_502(), times=None)
    channel = Outbound(pusher.outbox)
    channel.start()
    for tick in range(10):
        for number in range(5):
            channel.put(message(5 * tick + number))
        assert channel.flush(WAIT_S)
        assert "0 of them in memory" in repr(channel)
        assert pusher.push().waiting == 5 * tick + 5
    assert channel.close() == 0
    relay.heal()
    pusher.push()
    assert pusher.arrived() == list(range(50))


def test_35_one_too_many_is_refused_to_its_sender_and_the_oldest_stays(pusher: Pusher) -> None:
    """1,001 pending: decided otherwise than in the scenario, which drops the oldest: whoever sends
    is told, counted once, and what was taken is delivered."""
    channel = Outbound(pusher.outbox, Bounds(messages_max=1_000, policy=Policy.REFUSE))
    channel.start()
    for number in range(1_000):
        channel.put(message(number))
    with pytest.raises(SpoolFull, match=r"1000 messages .* want at most 1000"):
        channel.put(message(1_000))
    assert channel.counts["refused"] == 1
    assert channel.flush(WAIT_S)
    assert channel.close() == 0
    pusher.push()
    assert pusher.arrived() == list(range(1_000))


def test_55_a_slow_push_overflows_no_queue(pusher: Pusher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three seconds for each call, twenty messages a second: sixty come during each one, into a
    queue of 200; each call takes all that is there."""
    real = HttpTransport.push
    calls = most = 0
    bounds = Bounds(messages_max=200)

    def post(call: int) -> None:
        lines = [spool.encode(message(60 * call + number)) for number in range(60)]
        spool.append(pusher.outbox, lines, bounds=bounds)

    def push(*arguments: Any) -> None:
        nonlocal calls, most
        calls += 1
        if calls <= 20:
            post(calls)
        most = max(most, spool.usage(pusher.outbox).messages)
        real(*arguments)

    monkeypatch.setattr(HttpTransport, "push", push)
    post(0)
    assert pusher.push().waiting == 0
    assert pusher.arrived() == list(range(60 * 21))
    assert most == 120


def test_58_a_status_of_60_mb_is_an_error_of_its_own(pusher: Pusher, relay: Relay) -> None:
    """Over the relay's limit: the batches and singles around it arrive, it is kept aside, told
    with its size, in four tries."""
    relay.backend.push_bytes_max = 1 << 20
    pusher.post(1)
    spool.append(pusher.outbox, [spool.encode(Message(email="a@x", content="x" * 60_000_000))])
    pusher.post(2)
    for _ in range(4):
        if not pusher.push().waiting:
            break
    assert pusher.arrived() == [1, 2]
    (kept,) = pusher.kept()
    assert (pusher.outbox / kept).stat().st_size > 60_000_000
    (told,) = [fields for event, _, fields in pusher.context.logged if "set aside:" in event]
    assert (told["status"], told["bytes"] // 1_000_000) == (413, 60)
    (pusher.outbox / kept).unlink()  # not for the tests' folder to keep


def test_61_a_bomb_passes_unopened_and_is_refused_where_it_is_read(
    puller: Puller, relay: Relay
) -> None:
    """Neither pull nor inbox unpack contents, and the message behind it is as good as ever."""
    bomb = base64.b64encode(compress(b'{"Payload":"' + bytes(1 << 24) + b'"}')).decode()
    relay.instance.queue.append({"email": "ada", "content": bomb})
    relay.send("ada@example.com", "action", "next")
    assert puller.pull().moved == 2
    first, second = puller.messages()
    with pytest.raises(CodecError):
        decode_content(first.content, 1 << 20)
    assert decode_content(second.content) == ("action", "next")


def test_62_5000_messages_in_one_pull_all_reach_the_consumer(puller: Puller, relay: Relay) -> None:
    """In order; nothing more is pulled until they are dealt with, and that is no error."""
    relay.backend.pull_messages_max = 5_000
    for number in range(5_001):
        relay.send("ada@example.com", "action", number)
    assert puller.pull().moved == 5_000
    assert (puller.pull().held, len(relay.requests("pull"))) == (True, 1)
    channel = Inbound(puller.inbox)
    for number in range(5_000):
        found = channel.receive()
        assert found is not None
        assert decode_content(found.message.content)[1] == number
        found.done()
    assert channel.receive() is None
    assert channel.sweep() == 1
    assert (puller.pull().held, puller.stands.moved) == (False, 1)


@pytest.mark.parametrize(("more", "pulls"), [(1, True), (0, False)])
def test_an_inbox_has_room_by_bytes_too(
    puller: Puller, relay: Relay, more: int, pulls: bool
) -> None:
    """A few large messages fill it as many small ones do; one that is nearly full takes a reply."""
    relay.send("ada@example.com", "action", "x" * 700)
    puller.pull()
    bytes_max = spool.usage(puller.inbox).bytes + more
    relay.send("ada@example.com", "action", 3)
    pull = PullAction(puller.pusher.access, str(puller.inbox), bytes_max=bytes_max)
    stands = pull.execute(puller.pusher.context)
    assert (stands.held, stands.moved) == (not pulls, int(pulls))


def test_63_two_megabytes_of_garbage_cost_little_memory(puller: Puller, relay: Relay) -> None:
    """An unknown error, and the next pull works."""
    garbage = Fault(status=200, body=b"\xff" * (2 << 20), headers=(("Content-Type", "text/json"),))
    relay.send("ada@example.com", "action", 0)
    puller.pull()  # what is loaded once is
    relay.fault("pull", garbage)
    tracemalloc.start()
    try:
        stands = puller.pull()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert stands.problem is not None
    assert stands.problem.kind is Kind.UNKNOWN
    assert peak < 16 << 20
    relay.send("ada@example.com", "action", 1)
    assert (puller.pull().problem, len(puller.messages())) == (None, 2)
