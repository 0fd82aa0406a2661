"""What the relay does not take: whose fault it is, and what becomes of the message."""

from __future__ import annotations

import contextlib
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pushing import Pusher

from fsmv2.communicator import spool
from fsmv2.communicator.actions import push as push_module
from fsmv2.communicator.outcomes import Direction
from fsmv2.communicator.spool import segments
from fsmv2.communicator.testing import faults
from fsmv2.communicator.testing.faults import Fault
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport.codec import Message, encode_content
from fsmv2.communicator.transport.errors import Kind, Problem, TransportError
from fsmv2.communicator.transport.http import HttpTransport

JSON = (("Content-Type", "application/json"),)
PAGE = faults.captive_portal()


class Killed(BaseException):
    """As if the proc were gone at this instruction."""


@pytest.fixture
def pusher(relay: Relay, context: Any, tmp_path: Path) -> Pusher:
    return Pusher(relay, context, tmp_path)


def tries(pusher: Pusher, times: int = 30) -> int:
    """Push until nothing waits; how many tries it took."""
    for number in range(1, times + 1):
        if not pusher.push().waiting:
            return number
    raise AssertionError(f"{pusher.stands} after {times} tries")


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize(
    ("body", "headers"), [(b'{"error":"no"}', JSON), (PAGE.body, PAGE.headers)], ids=["own", "page"]
)
def test_a_relay_that_refuses_everything_empties_no_outbox(
    pusher: Pusher, relay: Relay, status: int, body: bytes, headers: Any
) -> None:
    """However long it does; when it is well again, all arrives once and in order."""
    pusher.post(*range(60))
    relay.fault("push", Fault(status=status, body=body, headers=headers), times=None)
    for errors in range(1, 6):
        stands = pusher.push()
        assert (stands.errors_in_row, stands.refused, stands.waiting) == (errors, 0, 60)
    assert pusher.kept() == []
    relay.heal()
    tries(pusher)
    assert pusher.arrived() == list(range(60))
    assert pusher.kept() == []


def test_a_refused_message_is_set_aside_once_another_is_taken(pusher: Pusher, relay: Relay) -> None:
    """Scenarios 32 and 59: of three the second is refused; the first and the third arrive, the
    second is kept, counted and told, without a word of what it says."""
    relay.backend.poison = lambda entry: entry.payload == 2
    pusher.post(1, 2, 3)
    stands = pusher.push()
    assert (stands.refused, stands.waiting, relay.pushed()) == (0, 3, [])  # a batch condemns nobody
    stands = pusher.push()
    assert (stands.refused, stands.moved, stands.waiting, stands.problem) == (1, 2, 0, None)
    assert pusher.arrived() == [1, 3]
    (kept,) = pusher.kept()
    assert encode_content("status", 2) in (pusher.outbox / kept).read_text()
    told = [fields for event, _, fields in pusher.context.logged if "set aside:" in event]
    assert [(one["file"], one["status"]) for one in told] == [(kept, 400)]
    assert encode_content("status", 2) not in str(pusher.context.logged)


def test_a_refused_message_with_none_behind_waits_for_one(pusher: Pusher, relay: Relay) -> None:
    """It may still be the relay's fault. The next message does not wait for a growing backoff."""
    relay.backend.poison = lambda entry: entry.payload == 1
    pusher.post(1)
    for errors in range(1, 6):
        stands = pusher.push()
        assert (stands.errors_in_row, stands.refused, stands.waiting) == (errors, 0, 1)
        assert stands.problem is not None
        assert stands.problem.retry_after_s == push_module.ALONE_S
        assert "1 in doubt until one is taken" in stands.problem.text
    pusher.post(2)
    assert pusher.push().refused == 1
    assert pusher.arrived() == [2]


def test_a_long_row_of_refused_messages_is_passed(pusher: Pusher, relay: Relay) -> None:
    """More than a try puts in doubt at first: a longer row of errors has it look further."""
    relay.backend.poison = lambda entry: entry.payload < 11
    pusher.post(*range(13))
    assert tries(pusher) <= 6
    assert pusher.arrived() == [11, 12]
    assert len(pusher.kept()) == 11


def test_a_relay_that_is_well_again_in_mid_doubt_costs_no_message(
    pusher: Pusher, relay: Relay
) -> None:
    """Those in doubt are sent once more before anything is set aside."""
    pusher.post(*range(6))
    relay.fault("push", Fault(status=400, body=b"{}", headers=JSON), times=3)
    tries(pusher)
    assert sorted(pusher.arrived()) == list(range(6))
    assert pusher.arrived() == [2, 0, 1, 3, 4, 5]  # one has overtaken those in doubt
    assert pusher.kept() == []


def test_an_error_while_those_in_doubt_are_settled_keeps_them(pusher: Pusher, relay: Relay) -> None:
    """A relay that goes away then has not refused again; what told is not sent again."""
    relay.backend.poison = lambda entry: entry.payload == 0
    pusher.post(0, 1, 2)
    pusher.push()
    for fault in (Fault(status=400, body=b"{}", headers=JSON), Fault()):
        relay.fault("push", fault)
    relay.fault("push", faults.nginx_502())
    stands = pusher.push()
    assert (stands.refused, stands.waiting) == (0, 3)
    assert stands.problem is not None
    assert stands.problem.kind is Kind.SERVER_ERROR
    tries(pusher)
    assert pusher.arrived() == [1, 2]
    assert len(pusher.kept()) == 1


def test_where_no_more_can_be_kept_nothing_is_set_aside_nor_deleted(
    pusher: Pusher, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says so, nothing is sent in vain to find out; with room it goes on."""
    monkeypatch.setattr(segments, "KEPT_FILES_MAX", 2)
    relay.backend.poison = lambda entry: entry.payload < 3
    pusher.post(*range(5))
    (pusher.outbox / "0.refused").touch()
    pusher.push()
    for _ in range(4):
        stands = pusher.push()
    assert stands.problem is not None
    assert stands.problem.kind is Kind.CHANNEL_FULL
    assert "want at most 2" in stands.problem.text
    assert (pusher.arrived(), pusher.kept(), stands.waiting) == ([], ["0.refused"], 5)
    monkeypatch.setattr(segments, "KEPT_FILES_MAX", 4)
    tries(pusher)
    assert (pusher.arrived(), len(pusher.kept())) == ([3, 4], 4)


def test_more_refused_ones_than_may_be_kept_are_kept_as_far_as_may_be(
    pusher: Pusher, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nobody could make room: nothing is kept there. What told arrives once."""
    monkeypatch.setattr(segments, "KEPT_FILES_MAX", 2)
    relay.backend.poison = lambda entry: entry.payload < 3
    pusher.post(*range(5))
    for _ in range(6):
        stands = pusher.push()
    assert stands.problem is not None
    assert stands.problem.kind is Kind.CHANNEL_FULL
    assert (pusher.arrived(), len(pusher.kept())) == ([3], 2)
    monkeypatch.setattr(segments, "KEPT_FILES_MAX", 3)
    tries(pusher)
    assert (pusher.arrived(), len(pusher.kept())) == ([3, 4], 3)


class SlowLine:
    """A line that a large message does not get through in time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.down = False
        self.bytes_max = push_module.LARGE_BYTES // 2
        real = HttpTransport.push

        def push(transport: HttpTransport, token: Any, messages: Sequence[Message], uuid: str):  # type: ignore[no-untyped-def]
            if self.down or sum(len(each.content) for each in messages) > self.bytes_max:
                raise TransportError(Problem(Kind.NETWORK, "no answer within 10 s"))
            real(transport, token, messages, uuid)

        monkeypatch.setattr(HttpTransport, "push", push)


def post_large(pusher: Pusher) -> None:
    content = "x" * push_module.LARGE_BYTES
    spool.append(pusher.outbox, [spool.encode(Message(email="a@x", content=content))])


def test_a_message_too_large_for_the_line_lets_those_behind_it_pass(
    pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario 58: after three errors in a row a small one finds out; the large one, tried once
    more, is kept aside, and the error names its size."""
    SlowLine(monkeypatch)
    post_large(pusher)
    post_large(pusher)
    pusher.post(1, 2)
    assert tries(pusher) == push_module.SLOW_AT_ERRORS + 1
    assert pusher.arrived() == [1, 2]
    assert len(pusher.kept()) == 2
    told = [fields for event, _, fields in pusher.context.logged if "set aside:" in event]
    assert [one["kind"] for one in told] == ["network", "network"]
    assert all(one["bytes"] > push_module.LARGE_BYTES for one in told)


def test_an_outage_sets_no_large_message_aside(
    pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is known of it while nothing passes; afterwards it is delivered."""
    line = SlowLine(monkeypatch)
    line.down = True
    post_large(pusher)
    pusher.post(1)
    for errors in range(1, 7):
        assert pusher.push().errors_in_row == errors
    line.down, line.bytes_max = False, 1 << 30
    tries(pusher)
    assert sorted(map(str, pusher.arrived())) == ["1", "None"]
    assert pusher.kept() == []


def test_a_large_message_with_none_behind_is_tried_for_ever(
    pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to tell whether it is the line."""
    SlowLine(monkeypatch)
    post_large(pusher)
    for errors in range(1, 7):
        assert pusher.push().errors_in_row == errors
    assert re.search(r"\(sending 1 messages, 262\d{3} bytes\)", str(pusher.stands.problem))
    assert pusher.kept() == []


def test_a_stop_in_mid_doubt_sends_no_more(pusher: Pusher, relay: Relay) -> None:
    """What is in doubt stays, and so does what told of it."""
    relay.backend.poison = lambda entry: entry.payload == 0
    pusher.post(0, 1)
    pusher.stands = Direction(1, Problem(Kind.SERVER_ERROR, "HTTP 503", 503))
    real = HttpTransport.push
    sent = 0

    def push(*arguments: Any) -> None:
        nonlocal sent
        sent += 1
        pusher.context.cancelled = sent == 2
        real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HttpTransport, "push", push)
        assert pusher.push().waiting == 2
    assert sent == 2
    pusher.context.cancelled = False
    tries(pusher)
    assert (pusher.arrived(), len(pusher.kept())) == ([1], 1)


def test_a_folder_called_like_a_message_is_told_once(pusher: Pusher) -> None:
    """And passed over: what waits beside it is sent."""
    pusher.post(1)
    (pusher.outbox / "0.json").mkdir()
    for _ in range(3):
        assert pusher.push().problem is None
    assert (pusher.arrived(), pusher.stands.strangers) == ([1], 1)
    told = [fields for event, _, fields in pusher.context.logged if "passed over" in event]
    assert told == [{"names": ["0.json"], "count": 1}]


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_each_message_arrives_or_is_kept(
    pusher: Pusher, relay: Relay, seed: int
) -> None:
    """Outages, relays that refuse everything, lost answers and kills at any call, with poison among
    the messages: what the relay takes has arrived, poison is kept and nothing else is, and only
    what was in flight comes twice."""
    rng = random.Random(seed)
    poison = {number for number in range(30) if rng.random() < 0.3} - {29}
    relay.backend.poison = lambda entry: entry.payload in poison
    real = {"push": HttpTransport.push, "acknowledge": spool.acknowledge}
    real["set_aside"] = spool.set_aside
    calls_left = in_flight = twice = 0

    def counted(name: str) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal calls_left, in_flight, twice
            calls_left -= 1
            if calls_left == 0:
                twice += in_flight + 1  # and the one that told of those in doubt
                raise Killed
            if name == "push":
                in_flight = len(arguments[2])
            try:
                return real[name](*arguments)
            except TransportError as error:
                twice += in_flight + 1 if error.problem.kind is not Kind.UNKNOWN else 0
                raise

        return call

    pusher.post(*range(10))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HttpTransport, "push", counted("push"))
        patch.setattr(spool, "acknowledge", counted("acknowledge"))
        patch.setattr(spool, "set_aside", counted("set_aside"))
        for number in range(10, 29):
            relay.heal()
            how = rng.choice(("well", "refuses", "down", "loses", "killed"))
            if how == "refuses":
                refusal = Fault(status=rng.choice((400, 413, 422)), body=b"{}", headers=JSON)
                relay.fault("push", refusal, times=None)
            elif how == "down":
                relay.fault("push", faults.nginx_502(), times=None)
            elif how == "loses":
                relay.fault("push", faults.dropped(commit=True))
            calls_left = rng.randint(1, 8) if how == "killed" else 0
            pusher.post(number)
            with contextlib.suppress(Killed):
                pusher.push()
        calls_left = 0
        relay.heal()
        pusher.post(29)
        tries(pusher)
    arrived = pusher.arrived()
    assert set(arrived) == set(range(30)) - poison
    kept = {json.loads((pusher.outbox / name).read_text())["content"] for name in pusher.kept()}
    assert kept == {encode_content("status", number) for number in poison}
    assert len(arrived) - len(set(arrived)) <= twice
