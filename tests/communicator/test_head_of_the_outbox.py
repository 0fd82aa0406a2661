"""What the relay does not take, at the head of the outbox: each try gets further, however little
time it has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pushing import Pusher

from fsmv2.communicator import spool
from fsmv2.communicator.actions import push as push_module
from fsmv2.communicator.actions.call import Call
from fsmv2.communicator.actions.push import PushAction
from fsmv2.communicator.outcomes import Direction
from fsmv2.communicator.testing import faults
from fsmv2.communicator.testing.faults import Fault
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport.codec import Message
from fsmv2.communicator.transport.errors import Kind, Problem, TransportError
from fsmv2.communicator.transport.http import HttpTransport

REFUSAL = Fault(status=400, body=b"{}", headers=(("Content-Type", "application/json"),))


class Line:
    """The way to the relay, on which large messages get no answer; counts the requests, and keeps
    time by them: a try begins no more than ``tries_max``, an attempt no more than ``sent_max``."""

    def __init__(self, pusher: Pusher, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pusher = pusher
        self.sent = 0
        self.tries_max = self.sent_max = 1 << 30
        self.bytes_max = 1 << 30
        real = HttpTransport.push

        def push(transport: HttpTransport, token: Any, messages: Sequence[Message], uuid: str):  # type: ignore[no-untyped-def]
            self.sent += 1
            if sum(len(each.content) for each in messages) > self.bytes_max:
                raise TransportError(Problem(Kind.NETWORK, "no answer within 10 s"))
            real(transport, token, messages, uuid)

        monkeypatch.setattr(HttpTransport, "push", push)
        monkeypatch.setattr(Call, "has_time", property(lambda _: self.sent < self.sent_max))

    def push(self) -> Direction:
        """One try; how it stands travels as between processes."""
        pusher, self.sent = self.pusher, 0
        now = PushAction(pusher.access, str(pusher.outbox)).run(
            pusher.context, pusher.stands, lambda: self.sent < self.tries_max
        )
        pusher.stands = msgspec.msgpack.decode(msgspec.msgpack.encode(now), type=Direction)
        return pusher.stands

    def tries(self, times: int = 40) -> int:
        """Push until nothing waits; how many tries it took."""
        for number in range(1, times + 1):
            if not self.push().waiting:
                return number
        raise AssertionError(f"{self.pusher.stands} after {times} tries")


@pytest.fixture
def pusher(relay: Relay, context: Any, tmp_path: Path) -> Pusher:
    return Pusher(relay, context, tmp_path)


@pytest.fixture
def line(pusher: Pusher, monkeypatch: pytest.MonkeyPatch) -> Line:
    return Line(pusher, monkeypatch)


def post_large(pusher: Pusher, count: int) -> None:
    content = "x" * push_module.LARGE_BYTES
    for _ in range(count):
        spool.append(pusher.outbox, [spool.encode(Message(email="a@x", content=content))])


@pytest.mark.parametrize(("requests", "refused", "tries"), [(1, 1, 4), (1, 4, 12), (2, 5, 9)])
def test_a_slow_relay_holds_up_none_behind_refused_ones(
    pusher: Pusher, relay: Relay, line: Line, requests: int, refused: int, tries: int
) -> None:
    """Scenarios 32 and 55: with time for so few requests the first alone would take up each try."""
    relay.backend.poison = lambda entry: entry.payload < refused
    line.tries_max = requests
    pusher.post(*range(refused + 3))
    assert line.tries() <= tries
    assert pusher.arrived() == list(range(refused, refused + 3))
    assert len(pusher.kept()) == refused


def test_more_refused_in_a_row_than_one_try_puts_in_doubt(
    pusher: Pusher, relay: Relay, line: Line
) -> None:
    """And more than any would: it goes on behind those of the tries before it."""
    refused = push_module.DOUBTED_MAX + 10
    relay.backend.poison = lambda entry: entry.payload < refused
    pusher.post(*range(refused + 3))
    assert line.tries() <= 8
    assert pusher.arrived() == list(range(refused, refused + 3))
    assert len(pusher.kept()) == refused


def test_a_slow_relay_that_refuses_everything_empties_no_outbox(
    pusher: Pusher, relay: Relay, line: Line
) -> None:
    """However many it has put in doubt; well again, it is asked the first before long."""
    line.tries_max = 2
    pusher.post(*range(20))
    relay.fault("push", REFUSAL, times=None)
    for errors in range(1, 12):
        stands = line.push()
        assert (stands.errors_in_row, stands.refused, stands.waiting) == (errors, 0, 20)
    assert stands.doubt.count == 11
    relay.heal()
    line.tries()
    assert (pusher.arrived(), pusher.kept()) == (list(range(20)), [])


def test_an_error_on_the_way_does_not_have_it_begin_anew(
    pusher: Pusher, relay: Relay, line: Line
) -> None:
    """What is in doubt stays so over an outage."""
    relay.backend.poison = lambda entry: entry.payload < 4
    line.tries_max = 2
    pusher.post(*range(6))
    for _ in range(3):
        line.push()
    known = pusher.stands.doubt
    assert known.count == 3
    relay.fault("push", faults.nginx_502())
    assert line.push().doubt.count == 3
    assert line.tries() <= 4
    assert (pusher.arrived(), len(pusher.kept())) == ([4, 5], 4)


def test_what_was_taken_is_not_sent_again_when_the_time_is_over(
    pusher: Pusher, relay: Relay, line: Line
) -> None:
    """Those in doubt are settled in as many attempts as that takes, with nothing behind them."""
    relay.backend.poison = lambda entry: entry.payload < 5
    pusher.post(*range(6))
    pusher.stands = Direction(3, Problem(Kind.SERVER_ERROR, "HTTP 503", 503))
    line.sent_max = 7
    stands = line.push()
    assert (stands.moved, stands.refused, stands.doubt.count) == (1, 1, 4)
    line.sent_max = 2
    assert [line.push().refused for _ in range(2)] == [2, 2]
    assert (pusher.stands.waiting, pusher.stands.problem) == (0, None)
    assert (pusher.arrived(), len(pusher.kept())) == ([5], 5)


def test_a_file_in_place_of_one_that_was_taken_is_sent(
    pusher: Pusher, relay: Relay, line: Line, tmp_path: Path
) -> None:
    """What was taken is known by more than its name."""
    relay.backend.poison = lambda entry: entry.payload == 0
    pusher.post(0)
    line.push()

    def replace(number: int) -> None:
        pusher.post(number)
        (newest,) = pusher.outbox.glob("*.jsonl")
        newest.replace(pusher.outbox / "status.json")

    first = next(pusher.outbox.glob("*.jsonl"))
    first.rename(pusher.outbox / "a.json")
    replace(1)
    line.sent_max = 2
    line.push()
    assert pusher.stands.doubt.taken
    replace(2)
    line.sent_max = 1 << 30
    line.tries()
    assert (pusher.arrived(), len(pusher.kept())) == ([1, 2], 1)


@pytest.mark.parametrize("large", [2, 7])
def test_many_too_large_for_the_line_are_passed(
    pusher: Pusher, line: Line, monkeypatch: pytest.MonkeyPatch, large: int
) -> None:
    """More than a try puts in doubt too."""
    monkeypatch.setattr(push_module, "DOUBTED_MAX", 3)
    monkeypatch.setattr(push_module, "LARGE_BYTES", 4096)
    line.bytes_max = 2048
    post_large(pusher, large)
    pusher.post(1, 2)
    assert line.tries() <= push_module.SLOW_AT_ERRORS + 3
    assert (pusher.arrived(), len(pusher.kept())) == ([1, 2], large)


def test_a_large_one_is_set_aside_only_where_another_passes_in_the_same_try(
    pusher: Pusher, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage may have begun since: it looks the same. What has passed comes no second time."""
    monkeypatch.setattr(push_module, "LARGE_BYTES", 4096)
    line.bytes_max = 2048
    post_large(pusher, 4)
    pusher.post(1)
    pusher.stands = Direction(3, Problem(Kind.NETWORK, "no answer within 10 s"))
    line.sent_max, line.tries_max = 2, 1
    assert (line.push().refused, pusher.arrived()) == (1, [1])
    line.bytes_max = 0
    for _ in range(3):
        assert (line.push().refused, pusher.arrived()) == (0, [1])
    pusher.post(2)
    assert line.push().refused == 0
    line.bytes_max, line.sent_max = 2048, 1 << 30
    line.tries()
    assert (pusher.arrived(), len(pusher.kept())) == ([1, 2], 4)
