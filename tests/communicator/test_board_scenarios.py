"""Scenarios of the wire description, this side of the folders, each as it stands there."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playedline import Line
from relaycaller import Clock

from fsmv2.communicator import spool
from fsmv2.communicator.actions.authenticate import AuthenticateAction
from fsmv2.communicator.actions.call import Access
from fsmv2.communicator.actions.push import PushAction
from fsmv2.communicator.outcomes import Credentials, Direction
from fsmv2.communicator.spool import Bounds
from fsmv2.communicator.switchboard import Outbound, StatusPublisher
from fsmv2.communicator.testing.backend import DEMO_TOKEN
from fsmv2.communicator.testing.faults import Fault
from fsmv2.communicator.testing.relay import Relay
from fsmv2.communicator.transport.codec import Message, decode_content, encode_content
from fsmv2.supervisor import Secret

WAIT_S = 20.0


class Seen:
    """A line with subscribers on a clock that is moved by hand, and their statuses."""

    def __init__(self, folder: Path, bounds: Bounds | None = None) -> None:
        self.clock = Clock()
        self.line = Line(folder, bounds, clock=self.clock)
        self.publisher = StatusPublisher(
            lambda full: "full" if full else "increment",
            self.line.subscribers,
            self.line.outbound,
            self.line.identity,
            self.clock,
        )

    def subscribe(self, email: str = "ada@x", **payload: Any) -> None:
        self.line.send(encode_content("subscribe", payload), email=email)
        self.line.run()

    def round(self) -> list[Any]:
        """One second: what came of it at the relay, which takes all there is."""
        self.publisher.tick()
        self.clock.now += 1.0
        return self.push()

    def push(self) -> list[Any]:
        assert self.line.outbound.flush(WAIT_S)
        taken = spool.outgoing(self.line.folder / "out", 999, 1 << 30)[0]
        spool.acknowledge(taken)
        self.line.outbound._count()
        return [decode_content(one.message.content)[1] for one in taken]


@pytest.fixture
def seen(tmp_path: Path) -> Iterator[Seen]:
    seen = Seen(tmp_path)
    yield seen
    seen.line.outbound.close()


def test_72_silence_ends_the_statuses(seen: Seen) -> None:
    """Subscribe, 5 minutes of silence: after it, and a minute for the culling, nothing is there; a
    renewal half-way would have them go on."""
    seen.subscribe()
    assert [len(seen.round()) for _ in range(299)] == [1] * 299
    seen.subscribe(resubscribed=True)
    assert [len(seen.round()) for _ in range(360)] == [1] * 300 + [0] * 60
    assert seen.line.subscribers._entries == {}
    seen.subscribe()
    assert seen.round() == ["full"]


def test_73_who_has_the_full_set_gets_increments_only(seen: Seen) -> None:
    """Also as the first that this process hears of that user: it has been restarted since."""
    seen.subscribe(resubscribed=True)
    assert [seen.round(), seen.round()] == [["increment"], ["increment"]]
    seen.subscribe()
    assert [seen.round(), seen.round()] == [["full"], ["increment"]]
    seen.subscribe(resubscribed=True)
    assert seen.round() == ["increment"]


def test_74_a_first_status_for_which_there_is_no_room_is_sent_when_there_is(
    tmp_path: Path,
) -> None:
    """The queue is full: not marked bootstrapped, so the full set comes later, not an increment."""
    seen = Seen(tmp_path, Bounds(messages_max=2))
    seen.line.outbound.put(Message(email="other"), replaceable=True)
    assert seen.line.outbound.flush(WAIT_S)
    seen.subscribe()
    for _ in range(3):
        seen.publisher.tick()
    (ada,) = seen.line.subscribers.get_subscribers()
    assert (ada.bootstrapped, seen.line.counts["statuses_dropped"]) == (False, 3)
    spool.acknowledge(spool.outgoing(tmp_path / "out", 9, 1 << 20)[0])
    seen.line.outbound._count()
    assert [seen.round(), seen.round()] == [["full"], ["increment"]]
    seen.line.outbound.close()


def test_75_no_message_tears_the_instance_while_it_changes(seen: Seen) -> None:
    """Replies and statuses go out while another thread sets one UUID and another in turn, as fast
    as it can: each message has the one or the other, whole."""
    uuids = ["a" * 36, "b" * 36]
    seen.line.identity.set_instance_uuid(uuids[0])
    seen.subscribe()
    seen.publisher.tick()
    seen.line.router._accepted.begun_max = 60
    for number in range(60):
        seen.line.order(f"u{number}")
    ends = threading.Event()

    def change() -> None:
        number = 0
        while not ends.is_set():
            number += 1
            seen.line.identity.set_instance_uuid(uuids[number % 2])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    changer = threading.Thread(target=change)
    try:
        changer.start()
        for _ in range(80):
            seen.line.router.step()
            seen.publisher.tick()
    finally:
        ends.set()
        sys.setswitchinterval(interval)
        changer.join()
    seen.line.identity.set_instance_uuid(uuids[1])
    seen.publisher.tick()
    assert seen.line.outbound.flush(WAIT_S)
    taken = spool.outgoing(seen.line.folder / "out", 999, 1 << 30)[0]
    assert {one.message.umh_instance for one in taken} == set(uuids)
    kinds = [decode_content(one.message.content)[0] for one in taken]
    assert (kinds.count("status"), kinds.count("action-reply")) == (82, 120)


def test_54_a_gap_of_a_login_drops_nothing(relay: Relay, context: Any, tmp_path: Path) -> None:
    """Producers at 20 a second, half of it statuses, for a minute in which the token was revoked
    and no login succeeds; behind the queue of 20 that the original had here is a disk."""
    made_for = Credentials(relay.url, Secret(DEMO_TOKEN))
    channel = Outbound(tmp_path)
    channel.start()

    def produce(number: int) -> None:
        kind = ("action-reply", "status")[number % 2]
        content = encode_content(kind, number)
        channel.put(Message(email=kind, content=content), replaceable=kind == "status")

    def login() -> Access | None:
        outcome = AuthenticateAction(made_for).execute(context)
        if outcome.session is None:
            return None
        return Access(made_for, outcome.session, 7, outcome.instance_uuid)

    access = login()
    assert access is not None
    relay.revoke_tokens()
    relay.fault("login", Fault(status=503), times=10)
    stands, logins = Direction(), 0
    for second in range(60):
        for number in range(20):
            produce(20 * second + number)
        if second % 5 == 0:
            assert channel.flush(WAIT_S)
            stands = PushAction(access, str(tmp_path), stands).execute(context)
            again = login()
            logins += again is not None
            access = again or access
    assert (channel.counts["refused"], logins) == (0, 2)
    assert channel.close() == 0
    while stands.waiting or stands.problem:
        stands = PushAction(access, str(tmp_path), stands).execute(context)
    assert [entry.payload for entry in relay.pushed()] == list(range(1_200))
