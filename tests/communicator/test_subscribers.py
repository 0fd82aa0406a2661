"""Subscribers and statuses, on a clock that is moved by hand."""

from __future__ import annotations

import hashlib
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from relaycaller import WAIT_S, Clock

from fsmv2.communicator import spool
from fsmv2.communicator.spool import Bounds
from fsmv2.communicator.switchboard import (
    Counts,
    Identity,
    Outbound,
    StatusPublisher,
    Subscribers,
    subscribers,
)
from fsmv2.communicator.transport.codec import Message, decode_content, encode_content


class Room:
    """A publisher with what it needs; its statuses are numbered per round."""

    def __init__(self, folder: Path, messages_max: int = 1000) -> None:
        self.clock = Clock()
        self.counts = Counts(self.clock)
        self.subscribers = Subscribers(self.clock)
        self.outbound = Outbound(folder, Bounds(messages_max=messages_max), self.counts)
        self.identity = Identity("first")
        self.asked: list[bool] = []
        self.publisher = StatusPublisher(
            self.status, self.subscribers, self.outbound, self.identity, self.clock
        )

    def status(self, full: bool) -> Any:
        self.asked.append(full)
        return "full" if full else "increment"

    def round(self) -> list[tuple[str, Any]]:
        """One tick, and what came of it: email and status."""
        before = len(self.outbound._waiting)
        self.publisher.tick()
        self.clock.now += 1.0
        return [self.read(one.line)[1:] for one in list(self.outbound._waiting)[before:]]

    @staticmethod
    def read(line: bytes) -> tuple[str, str, Any]:
        message = spool.outbox.codec.decode_message(line)
        kind, payload = decode_content(message.content)
        assert kind == "status"
        return message.umh_instance, message.email, payload

    def make_room(self) -> None:
        """As if all had been pushed."""
        self.outbound._waiting.clear()
        self.outbound._bytes = 0


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path / "out")


def test_a_subscriber_gets_a_full_status_once_and_then_increments(room: Room) -> None:
    """Without subscribers nothing is made at all; a status is made once for all of them."""
    assert room.round() == []
    assert room.asked == []
    room.subscribers.add_or_refresh("ada", False)
    assert room.round() == [("ada", "full")]
    room.subscribers.add_or_refresh("bob", False)
    assert room.round() == [("bob", "full"), ("ada", "increment")]
    room.subscribers.add_or_refresh("cid", True)
    assert room.round() == [(name, "increment") for name in ("bob", "cid", "ada")]
    assert room.asked == [True, True, False, False]


def test_a_subscriber_that_is_silent_is_served_no_longer_than_its_time(room: Room) -> None:
    """Scenario 72: 5 minutes after the last subscription, and being served renews nothing."""
    room.subscribers.add_or_refresh("ada")
    rounds = [room.round() for _ in range(370)]
    assert [bool(each) for each in rounds] == [True] * 300 + [False] * 70
    assert len(room.asked) == 300
    assert room.subscribers._entries == {}  # culled too
    room.subscribers.add_or_refresh("ada")
    assert room.round() == [("ada", "full")]


def test_a_resubscription_gets_increments_only(room: Room) -> None:
    """Scenario 73, and trap 32: who says that it has the full set is not sent it again."""
    room.subscribers.add_or_refresh("ada")
    room.round()
    room.subscribers.add_or_refresh("ada", True)
    assert room.round() == [("ada", "increment")]
    room.subscribers.add_or_refresh("ada", False)
    assert room.round() == [("ada", "full")]


def test_a_status_that_finds_no_room_does_not_count_as_sent(tmp_path: Path) -> None:
    """Scenario 74: the first one is sent full again; so is one after a lost increment."""
    room = Room(tmp_path, messages_max=4)  # two of them for statuses
    for name in ("ada", "bob", "cid"):
        room.subscribers.add_or_refresh(name)
    assert room.round() == [("ada", "full"), ("bob", "full")]
    assert room.counts["statuses_dropped"] == 1
    assert room.round() == []
    assert room.counts["statuses_dropped"] == 4
    room.make_room()
    assert room.round() == [("cid", "full"), ("ada", "full")]
    room.make_room()
    assert room.round() == [("bob", "full"), ("cid", "increment")]


def test_a_status_that_no_message_can_hold_is_dropped_and_holds_up_nothing(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario 58: it is counted, and whoever was to have it gets a full one next; what is put
    behind it leaves."""
    monkeypatch.setattr(spool.outbox, "MESSAGE_BYTES_MAX", 600)
    large = [hashlib.sha256(bytes([number])).hexdigest() for number in range(20)]
    room.subscribers.add_or_refresh("ada")
    room.subscribers.add_or_refresh("bob", True)
    small = room.publisher._status
    room.publisher._status = lambda full: large
    assert room.round() == []
    assert (room.counts["statuses_dropped"], room.counts["statuses"]) == (2, 0)
    assert [each.bootstrapped for each in room.subscribers.get_subscribers()] == [False, False]
    room.outbound.put(Message(email="ada", content=encode_content("action-reply", 1)))
    room.publisher._status = small
    assert room.round() == [("ada", "full"), ("bob", "full")]
    room.outbound.start()
    assert room.outbound.close(WAIT_S) == 0
    left = spool.outgoing(room.outbound.folder, 99, 1 << 20)[0]
    kinds = [decode_content(each.message.content)[0] for each in left]
    assert kinds == ["action-reply", "status", "status"]


def test_a_wish_that_comes_while_a_status_is_sent_is_not_forgotten(room: Room) -> None:
    """A subscription between the making and the sending asks for the next one."""
    room.subscribers.add_or_refresh("ada")
    real = room.status

    def status(full: bool) -> Any:
        if len(room.asked) == 0:
            room.subscribers.add_or_refresh("ada", False)
        return real(full)

    room.publisher._status = status
    assert [room.round(), room.round(), room.round()] == [
        [("ada", "full")],
        [("ada", "full")],
        [("ada", "increment")],
    ]


def test_a_slow_round_is_cut_short_and_those_left_out_come_first(room: Room) -> None:
    """One second for a round; who missed an increment gets a full status."""
    for name in ("ada", "bob", "cid"):
        room.subscribers.add_or_refresh(name, True)
    real = room.outbound.put

    def slow(*args: Any, **kwargs: Any) -> None:
        room.clock.now += 0.6
        real(*args, **kwargs)

    room.outbound.put = slow  # type: ignore[method-assign]
    assert room.round() == [("ada", "increment"), ("bob", "increment")]
    assert room.counts["late_rounds"] == 1
    assert room.round() == [("cid", "full"), ("ada", "increment")]


@pytest.mark.parametrize(
    "bad",
    [ValueError("s3cret"), SystemExit("s3cret"), object()],
    ids=["raises", "exits", "no JSON"],
)
def test_a_status_that_cannot_be_made_costs_its_round_only(
    room: Room, caplog: pytest.LogCaptureFixture, bad: object
) -> None:
    """It is counted, told once without what the error says, and tried again."""

    def status(full: bool) -> Any:
        if isinstance(bad, BaseException):
            raise bad
        return bad

    room.subscribers.add_or_refresh("ada")
    room.publisher._status = status
    assert [room.round(), room.round()] == [[], []]
    assert room.counts["status_failures"] == 2
    assert "s3cret" not in caplog.text
    assert len(caplog.records) == 1
    room.publisher._status = room.status
    assert room.round() == [("ada", "full")]


def test_subscribers_are_bounded(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused; those that are there can renew."""
    monkeypatch.setattr(subscribers, "SUBSCRIBERS_MAX", 2)
    answers = [room.subscribers.add_or_refresh(name) for name in ("ada", "bob", "cid", "ada")]
    assert answers == [True, True, False, True]
    assert len(room.subscribers) == 2


def test_those_whose_time_is_over_hold_no_place(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even until they are culled."""
    monkeypatch.setattr(subscribers, "SUBSCRIBERS_MAX", 1)
    room.subscribers.add_or_refresh("ada")
    room.clock.now += subscribers.TTL_S - 1.0
    assert not room.subscribers.add_or_refresh("bob")  # culls, and ada is still there
    room.clock.now += 1.0
    assert room.subscribers.add_or_refresh("bob")


def test_an_increment_that_cannot_be_made_is_made_good_by_a_full_status(room: Room) -> None:
    """What has changed in that round is in no later increment."""

    def fails(_: bool) -> Any:
        raise ValueError

    room.subscribers.add_or_refresh("ada")
    assert [room.round(), room.round()] == [[("ada", "full")], [("ada", "increment")]]
    room.publisher._status = fails
    assert room.round() == []
    room.publisher._status = room.status
    assert [room.round(), room.round()] == [[("ada", "full")], [("ada", "increment")]]


def test_a_new_login_changes_the_instance_of_what_comes_next(room: Room) -> None:
    """And an empty UUID changes nothing."""
    room.subscribers.add_or_refresh("ada")
    for name in ("", "second", ""):
        room.identity.set_instance_uuid(name)
        room.publisher.tick()
    seen = [room.read(one.line)[0] for one in room.outbound._waiting]
    assert seen == ["first", "second", "second"]


def test_the_instance_is_read_whole_while_it_changes() -> None:
    """Scenario 75: one writer, several readers, as fast as they can."""
    identity = Identity("a" * 36)
    seen: set[str] = set()
    ends = threading.Event()

    def read() -> None:
        while not ends.is_set():
            seen.add(identity.get_instance_uuid())

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for number in range(20_000):
            identity.set_instance_uuid("ab"[number % 2] * 36)
    finally:
        ends.set()
        sys.setswitchinterval(interval)
    for reader in readers:
        reader.join()
    assert seen <= {"a" * 36, "b" * 36}
    assert seen
