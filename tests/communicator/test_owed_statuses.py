"""A full status that is owed is sent, whatever the console says of itself in the meantime: it is
not told of what found no room."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playedline import PlayedPool
from relaycaller import Clock

from fsmv2.communicator import spool
from fsmv2.communicator.spool import Bounds, SpoolFull, segments
from fsmv2.communicator.switchboard import (
    Outbound,
    StatusPublisher,
    Subscribers,
    Switchboard,
    subscribers,
)
from fsmv2.communicator.switchboard.identity import Identity
from fsmv2.communicator.transport.codec import Message, decode_content, encode_content

WAIT_S = 20.0


def status(full: bool) -> str:
    return "full" if full else "increment"


class Room:
    """Subscribers and a publisher, whose outbox is full or not as a test says."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.subscribers = Subscribers(self.clock)
        self.outbound = Outbound(folder)
        self.full = False
        self.sent: list[tuple[str, Any]] = []
        self.on_put: Callable[[], None] = lambda: None
        self.outbound.put = self.put  # type: ignore[method-assign, assignment]
        self.publisher = StatusPublisher(
            status, self.subscribers, self.outbound, Identity("uuid-1"), self.clock
        )

    def put(self, message: Message, **_: Any) -> None:
        self.on_put()
        if self.full:
            raise SpoolFull("the outbox", spool.Usage(), Bounds(), 1.0)
        self.sent.append((message.email, decode_content(message.content)[1]))

    def round(self) -> list[tuple[str, Any]]:
        before = len(self.sent)
        self.publisher.tick()
        self.clock.now += 1.0
        return self.sent[before:]

    def subscribe(self, email: str = "ada", *, has_it: bool = False) -> None:
        assert self.subscribers.add_or_refresh(email, has_it)


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


FULL, INCREMENT = [("ada", "full")], [("ada", "increment")]


def test_a_renewal_does_not_stand_for_a_first_status_that_was_dropped(room: Room) -> None:
    """Scenario 74 and a renewal: she says that she has the full set, and has had none."""
    room.full = True
    room.subscribe()
    assert [room.round() for _ in range(60)] == [[]] * 60
    room.full = False
    room.subscribe(has_it=True)
    assert [room.round(), room.round()] == [FULL, INCREMENT]
    room.subscribe(has_it=True)
    assert room.round() == INCREMENT


def test_a_renewal_does_not_stand_for_an_increment_that_was_dropped(room: Room) -> None:
    """What it said is in no later increment: only a full status makes it good."""
    room.subscribe(has_it=True)
    assert room.round() == INCREMENT
    room.full = True
    assert room.round() == []
    room.subscribe(has_it=True)
    room.full = False
    assert [room.round(), room.round()] == [FULL, INCREMENT]


def test_an_outage_that_outlasts_the_subscription_does_not_settle_what_is_owed(room: Room) -> None:
    """No renewal comes through for longer than it lives, and others are served meanwhile: what
    they were told she has missed, whether her entry is still there or was culled."""
    for away_s in (305, 420):
        room.subscribe("ada")
        assert room.round() == FULL
        for number in range(away_s):
            if number % 60 == 0:
                room.subscribe("bob", has_it=number > 0)
            room.round()
        room.subscribe("ada", has_it=True)
        assert [("ada", "full") in room.round(), ("ada", "full") in room.round()] == [True, False]
        room.clock.now += 1_000.0
        room.subscribers.get_subscribers()  # all are gone


def test_a_renewal_in_the_middle_of_a_drop_does_not_hide_it(room: Room) -> None:
    """It comes between the look at the subscribers and the status that finds no room."""
    room.subscribe(has_it=True)
    room.full = True
    room.on_put = lambda: room.subscribe(has_it=True)
    assert room.round() == []
    room.on_put, room.full = lambda: None, False
    assert [room.round(), room.round()] == [FULL, INCREMENT]


def test_a_renewal_in_the_middle_of_a_full_status_asks_for_no_second_one(room: Room) -> None:
    """It wished for nothing, and what she was owed was just sent."""
    room.subscribe()
    room.on_put = lambda: room.subscribe(has_it=True)
    assert room.round() == FULL
    room.on_put = lambda: None
    assert room.round() == INCREMENT


def test_who_is_remembered_is_bounded(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are forgotten, and taken at their word: as is everybody after a restart."""
    monkeypatch.setattr(subscribers, "SUBSCRIBERS_MAX", 3)
    for number in range(5):
        room.subscribe(f"u{number}")
        room.clock.now += 400.0
        assert len(room.subscribers) == 0
        room.clock.now += 100.0
    assert len(room.subscribers._ended) == 3
    for name, wants in (("u1", "increment"), ("u4", "full")):
        room.subscribe(name, has_it=True)
        assert (name, wants) in room.round()


def until(true: Callable[[], bool], what: str) -> None:
    ends_at = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < ends_at, what
        time.sleep(0.005)


def test_the_switchboard_sends_what_is_owed_after_the_renewal(tmp_path: Path) -> None:
    """From folder to folder: the outbox is full when she subscribes, and has room when she
    renews. Only the rounds are the test's, so that none comes in between."""
    outbox, inbox = tmp_path / "out", tmp_path / "in"
    bounds = Bounds(messages_max=4)  # two of them for statuses
    segments.publish(outbox, segments.new_stem(()), [spool.encode(Message(content="waits"))] * 2)
    with Switchboard(outbox, inbox, PlayedPool(), {}, bounds=bounds) as switchboard:
        subscribers, outbound = switchboard.subscribers, switchboard.outbound
        publisher = StatusPublisher(status, subscribers, outbound, switchboard.identity)

        def says(number: int, **payload: Any) -> None:
            line = spool.encode(Message(email="ada", content=encode_content("subscribe", payload)))
            segments.publish(inbox, segments.new_stem(()), [line])
            until(lambda: switchboard.counts["subscribes"] == number, "it is routed")

        says(1)
        assert (publisher.tick(), switchboard.counts["statuses_dropped"]) == (0, 1)
        spool.acknowledge(spool.outgoing(outbox, 9, 1 << 20)[0])
        until(lambda: outbound.present.messages == 0, "there is room")
        says(2, resubscribed=True)
        assert (publisher.tick(), publisher.tick()) == (1, 1)
        assert outbound.flush(WAIT_S)
        sent = spool.outgoing(outbox, 9, 1 << 20)[0]
    assert [decode_content(one.message.content)[1] for one in sent] == ["full", "increment"]
